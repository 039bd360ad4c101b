"""A process that just ends, without `close()`: what it kept is kept, and nobody waits for what it asked."""

from __future__ import annotations

import subprocess
import sys

import pytest

from langchain_llmops.cache.lease import PREFIX as LEASE
from langchain_llmops.cache.tiered import TieredCache
from tests.support.models import ScriptedModel

BEGIN = """
import sys, threading
from langchain_llmops.cache.tiered import TieredCache
from tests.support.models import ScriptedModel, answer

def asks(said):
    ScriptedModel(said, cache=TieredCache.from_urls(sys.argv[1], timeout_s=5.0, lease_s=60.0)).invoke("hi")
"""
ENDS = {
    "at once": 'asks(answer("ok"))',
    "with an error": 'asks(answer("ok")); raise SystemExit(3)',
    "in another thread": """
def last():
    threading.main_thread().join()
    asks(answer("ok"))
threading.Thread(target=last).start()
""",
}


def ended(script, url) -> int:
    return subprocess.run([sys.executable, "-c", BEGIN + script, url], timeout=60, check=False).returncode


@pytest.mark.parametrize("how", ENDS)
def test_what_a_process_kept_before_its_end_is_kept(clean_redis_url, admin, how) -> None:
    assert ended(ENDS[how], clean_redis_url) == (3 if how == "with an error" else 0)
    assert admin.keys(f"*{LEASE}*") == []
    with TieredCache.from_urls(clean_redis_url, timeout_s=5.0) as cache:
        said = ScriptedModel(RuntimeError("it is known"), cache=cache).invoke("hi")
    assert said.response_metadata["llmops_cache"]["level"] == "L2"


def test_a_process_that_ends_by_its_failed_call_holds_no_lease(clean_redis_url, admin) -> None:
    assert ended('asks(RuntimeError("down"))', clean_redis_url) == 1
    assert admin.keys(f"*{LEASE}*") == []


@pytest.fixture
def admin(clean_redis_url):
    import redis

    with redis.Redis.from_url(clean_redis_url) as admin:
        yield admin
