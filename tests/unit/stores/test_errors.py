"""What a user reads when a store cannot be used: one line that names the setting and the fix, never a password."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import traceback
from urllib.parse import quote

import pytest

from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError, StoreAuthError, StoreUnavailableError
from langchain_llmops.stores.base import open_store
from tests.support.servers import free_port, postgres_server, redis_server

SECRET = "h/u%n@t:er2"
QUOTED = quote(SECRET, safe="")
SETTING = "LLMOPS_SOME_URL"


def failure(url: str, *, blocking: bool, timeout_s: float = 5.0) -> Exception:
    try:
        store = open_store(url, setting=SETTING, blocking=blocking, timeout_s=timeout_s)
        assert SECRET not in repr(store)
        assert QUOTED not in repr(store)
        drive(_ping(store)) if blocking else asyncio.run(_ping(store))
    except Exception as error:
        return error
    pytest.fail(f"{url} was usable")


async def _ping(store) -> None:
    try:
        await store.ping()
    finally:
        await store.aclose()


def check(error: Exception, kind: type, *words: str) -> None:
    assert type(error) is kind, repr(error)
    line = str(error)
    assert "\n" not in line
    assert SETTING in line
    assert all(word in line for word in words), line
    shown = "".join(traceback.format_exception(error))
    assert SECRET not in shown
    assert QUOTED not in shown


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "use one of"),
        ("nonsense", "use one of"),
        (f"mysql://u:{QUOTED}@h/x", "use one of"),
        ("sqlite://host/x.db", "sqlite:///file.db"),
        ("sqlite:///", "sqlite:///file.db"),
        ("sqlite:///x.db?mode=ro", "sqlite:///file.db"),
        ("sqlite:///x.db?synchronous=never", "synchronous must be one of"),
        (f"redis://u:{QUOTED}@", "redis://user:password@host"),
        (f"redis://u:{QUOTED}@host:notaport/0", "redis://user:password@host"),
        ("redis://host/database", "redis://user:password@host"),
        (f"postgresql://u:{QUOTED}@host:notaport/x", "postgresql://user:password@host"),
        ("postgresql://u:a@b@host/x", "must be percent-encoded"),
        ("postgresql://host/x?max_connections=0", "max_connections must be a whole number"),
        ("postgresql://host/x?max_connections=many", "max_connections must be a whole number"),
        ("postgresql://host/x?sslmode=disable&answer_timeout_s=never", "answer_timeout_s a number of seconds"),
        ("postgresql://host/x?answer_timeout_s=inf", "answer_timeout_s a number of seconds"),
        ("s3://", "needs a bucket"),
        ("s3://bucket?no_such_option=1", "cannot use"),
        ("http://[half", "use one of"),
    ],
)
def test_a_wrong_url_names_the_setting_and_the_form(url, word):
    with pytest.raises(ConfigurationError) as caught:
        open_store(url, setting=SETTING)
    check(caught.value, ConfigurationError, word)


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("url", ["redis://u:{s}@127.0.0.1:{p}/0", "postgresql://u:{s}@127.0.0.1:{p}/x"])
def test_an_unreachable_host_is_named_without_the_password(url, blocking):
    port = free_port()
    error = failure(url.format(s=QUOTED, p=port), blocking=blocking)
    check(error, StoreUnavailableError, f"127.0.0.1:{port}", "start it or correct the URL")


@pytest.mark.parametrize("blocking", [False, True])
def test_an_unreachable_object_store_is_named_without_the_secret(blocking):
    url = f"s3://b/p?endpoint=http://127.0.0.1:{free_port()}&region=r&access_key_id=k&secret_access_key={QUOTED}"
    check(failure(url, blocking=blocking, timeout_s=1.0), StoreUnavailableError)


@pytest.mark.parametrize("blocking", [False, True])
def test_a_refused_password_is_said_so(blocking):
    with redis_server(password="right") as server:
        url = f"redis://:{QUOTED}@127.0.0.1:{server.port}/0"
        check(failure(url, blocking=blocking), StoreAuthError, "refused the credentials")


def test_a_refused_postgres_password_and_an_absent_database_are_said_so():
    with postgres_server(password="right") as server:
        url = f"postgresql://postgres:{QUOTED}@127.0.0.1:{server.port}/postgres"
        for blocking in (False, True):
            check(failure(url, blocking=blocking), StoreAuthError, "refused the credentials")
        absent = f"postgresql://postgres:right@127.0.0.1:{server.port}/absent"
        check(failure(absent, blocking=False), ConfigurationError, 'database "absent" does not exist', "create it")


def test_wrong_keys_and_an_absent_bucket_are_said_so(rclone_url):
    wrong = rclone_url.replace("llmopssecret", QUOTED)
    absent = rclone_url.replace("s3://llmops/", "s3://absent/")
    for blocking in (False, True):
        check(failure(wrong, blocking=blocking), StoreAuthError, "refused access")
        check(failure(absent, blocking=blocking), ConfigurationError, "bucket does not exist")


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("url", ["sqlite:////proc/nothing/x.db", "file:///proc/nothing"])
def test_a_folder_that_cannot_be_written_is_named(url, blocking):
    check(failure(url, blocking=blocking), ConfigurationError, "/proc/nothing", "you can write")


def test_a_missing_extra_is_the_line_that_installs_it():
    code = (
        "import sys\n"
        "sys.modules['psycopg'] = None\n"
        "from langchain_llmops.core.errors import MissingExtraError\n"
        "from langchain_llmops.stores.base import open_store\n"
        "try:\n    open_store('postgresql://h/x', setting='S')\n"
        "except MissingExtraError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "S: PostgreSQL needs an extra: pip install 'langchain-llmops[postgres]'"


@pytest.mark.parametrize("url", ["redis://h", "sqlite:///x.db", "file:///tmp", "memory://"])
def test_a_capability_that_is_not_there_is_refused_by_name(url):
    store = open_store(url)
    able = {
        "redis": {"kv", "maps", "journal"},
        "sqlite": {"kv", "sql"},
        "file": {"objects"},
        "memory": {"kv", "maps", "journal", "sql", "objects"},
    }
    for capability in {"kv", "maps", "journal", "sql", "objects"} - able[url.split(":", 1)[0]]:
        with pytest.raises(ConfigurationError, match="use"):
            getattr(store, capability)
