"""A password that goes in comes out nowhere: not in errors, causes, reprs, URLs or logs."""

from __future__ import annotations

import asyncio
import logging
import traceback
from urllib.parse import quote

import pytest

from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError, LLMOpsError, StoreAuthError, StoreUnavailableError
from langchain_llmops.stores.base import open_store
from tests.support.servers import free_port, postgres_server, redis_cluster, redis_server

CANARIES = [
    "qzxwvk", "qzx/wvk", "qzx#wvk", "qzx?wvk", "qzx@wvk", "qzx:wvk", "qzx%wvk", "qzx%zzwvk", "qzx wvkä", "'qzx\"wvk",
]  # fmt: skip
SETTING = "LLMOPS_SOME_URL"
COLOURS = pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])


def forms(secret: str) -> set[str]:
    return {secret, quote(secret), quote(secret, safe=""), "qzx", "wvk"}


def attempt(url: str, *, blocking: bool = True, timeout_s: float = 2.0) -> tuple[LLMOpsError | None, str]:
    """The error that use of a URL ends in, and everything that could be seen of it."""
    seen = ""
    try:
        store = open_store(url, setting=SETTING, blocking=blocking, timeout_s=timeout_s)
        seen = f"{store!r} {store.url} {vars(store)}"
        drive(once(store)) if blocking else asyncio.run(once(store))
    except LLMOpsError as error:
        return error, seen + "".join(traceback.format_exception(error)) + repr(error)
    return None, seen


async def once(store) -> None:
    try:
        await store.ping()
    finally:
        await store.aclose()


def check(error: LLMOpsError | None, kind: type, seen: str, secret: str) -> None:
    assert type(error) is kind, seen
    line = str(error)
    assert line.startswith(f"{SETTING}: ")
    assert "\n" not in line
    shown = "\n".join(row for row in seen.splitlines() if not row.startswith("    "))  # our source, not its values
    leaked = {form for form in forms(secret) if form in shown}
    assert not leaked, shown


@COLOURS
@pytest.mark.parametrize("secret", CANARIES)
@pytest.mark.parametrize(
    "form",
    ["redis://user:{s}@127.0.0.1:{p}/0", "redis+cluster://:{s}@127.0.0.1:{p}", "postgresql://user:{s}@127.0.0.1:{p}/x"],
)
def test_an_unreachable_server_tells_no_password(form, secret, blocking, caplog):
    caplog.set_level(logging.DEBUG)
    url = form.format(s=quote(secret, safe=""), p=free_port())
    error, seen = attempt(url, blocking=blocking)
    check(error, StoreUnavailableError, seen + caplog.text, secret)
    assert f"127.0.0.1:{url.rpartition(':')[2].partition('/')[0]}" in str(error)


@pytest.mark.parametrize("secret", CANARIES[1:5])
@pytest.mark.parametrize(
    "form",
    ["redis://user:{s}@127.0.0.1:1/0", "rediss://:{s}@h/0", "redis+cluster://u:{s}@h:1", "postgresql://u:{s}@h:1/x"],
)
def test_a_password_that_was_not_escaped_is_named_as_the_mistake_and_not_shown(form, secret):
    error, seen = attempt(form.format(s=secret))
    check(error, ConfigurationError, seen, secret)
    assert "percent-encoded" in str(error)


@pytest.mark.parametrize("form", ["redis://user:{s}@127.0.0.1:{p}/0", "postgresql://user:{s}@127.0.0.1:{p}/x"])
def test_a_password_with_a_broken_escape_is_not_shown(form):
    error, seen = attempt(form.format(s="qzx%zzwvk", p=free_port()))
    assert isinstance(error, ConfigurationError | StoreUnavailableError)
    check(error, type(error), seen, "qzx%zzwvk")


@pytest.mark.parametrize(
    "option", ["secret_access_key", "aws_secret_access_key", "session_token", "token", "sas_key", "made_up"]
)
def test_no_option_of_an_object_store_is_shown(option):
    url = f"s3://bucket/p?endpoint=http://127.0.0.1:{free_port()}&region=r&access_key_id=kkkk&{option}=qzx%2Fwvk"
    error, seen = attempt(url, timeout_s=0.5)
    check(error, type(error), seen, "qzx/wvk")
    assert "kkkk" not in seen


def test_keys_in_the_place_of_a_user_are_refused_and_not_shown():
    error, seen = attempt("s3://key:qzxwvk@bucket/p")
    check(error, ConfigurationError, seen, "qzxwvk")


@COLOURS
@pytest.mark.parametrize("secret", ["qzxwvk", "qzx/w%r@vk:"])
def test_a_refused_password_is_not_shown_and_the_right_one_is_taken(secret, blocking, caplog):
    caplog.set_level(logging.DEBUG)
    with redis_server(password=secret) as redis, postgres_server(password=secret) as postgres:
        for form in (
            f"redis://:{{}}@127.0.0.1:{redis.port}/0",
            f"redis+cluster://:{{}}@127.0.0.1:{redis.port}",
            f"postgresql://postgres:{{}}@127.0.0.1:{postgres.port}/postgres",
        ):
            wrong = form.format(quote("wrong-" + secret, safe=""))
            error, seen = attempt(wrong, blocking=blocking)
            if "cluster" not in form:
                check(error, StoreAuthError, seen + caplog.text, "wrong-" + secret)
                right, _ = attempt(form.format(quote(secret, safe="")), blocking=blocking)
                assert right is None
            else:
                assert isinstance(error, StoreAuthError | StoreUnavailableError)
                check(error, type(error), seen, "wrong-" + secret)
        nobody, _ = attempt(f"redis://127.0.0.1:{redis.port}/0", blocking=blocking)
        assert type(nobody) is StoreAuthError
        stranger, seen = attempt(f"postgresql://stranger:{quote(secret, safe='')}@127.0.0.1:{postgres.port}/postgres")
        check(stranger, StoreAuthError, seen, secret)


@COLOURS
def test_wrong_keys_of_an_object_store_are_not_shown(rclone_url, blocking):
    url = rclone_url.replace("secret_access_key=", "secret_access_key=qzx%2Fwvk")
    error, seen = attempt(url, blocking=blocking)
    check(error, StoreAuthError, seen, "qzx/wvk")


@COLOURS
def test_a_redis_database_that_is_not_there_is_named(redis_url, blocking):
    error, _ = attempt(redis_url.rpartition("/")[0] + "/9999", blocking=blocking)
    assert type(error) is ConfigurationError
    assert "no database 9999" in str(error)


@COLOURS
def test_a_server_that_is_no_cluster_is_named(redis_url, blocking):
    error, _ = attempt(redis_url.replace("redis://", "redis+cluster://").rpartition("/")[0], blocking=blocking)
    assert isinstance(error, StoreUnavailableError | ConfigurationError)
    assert SETTING in str(error)


def test_any_node_of_a_cluster_is_a_way_in():
    with redis_cluster() as url:
        several = url.replace("redis+cluster://", f"redis+cluster://127.0.0.1:{free_port()},")
        store = open_store(several, blocking=True)
        drive(store.kv.set("k", b"v"))
        assert drive(store.kv.get("k")) == b"v"
        drive(store.aclose())


@pytest.mark.parametrize(
    "url",
    [
        "redis://", "redis:///0", "redis://h:0x1/0", "redis://h:99999/0", "redis://h/0?nonsense=1", "redis://h,h2/0",
        "redis+cluster://h/3", "redis://h/0/1", "postgresql://h/x?nonsense=1", "s3:///p", "file://relative", "file://",
        "sqlite://", "sqlite:///:memory:", "sqlite:///folder/", "memory", "localhost:6379", "://", "redis:/h",
    ],
)  # fmt: skip
def test_every_mistake_in_a_url_is_one_line_with_the_setting_and_a_form_to_copy(url):
    with pytest.raises(ConfigurationError) as caught:
        open_store(url, setting=SETTING)
    line = str(caught.value)
    assert line.startswith(f"{SETTING}: ")
    assert "\n" not in line
    assert "://" in line


@pytest.mark.parametrize(
    "url", ["postgresql:///x?host=/nowhere", "postgres://h/x", "rediss://h", "redis://[::1]:6379/1", "gs://b/p"]
)
def test_other_spellings_are_taken(url, monkeypatch):
    assert open_store(url, setting=SETTING).url
