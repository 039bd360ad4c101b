"""Real processes over a real Redis: what one invalidates is gone from the memory of the others, whatever breaks."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from langchain_llmops.cache.tiered import TieredCache
from tests.support.cache import keep
from tests.support.models import eventually

ROOT = Path(__file__).parents[2]
WORKER = """
import sys
from langchain_llmops.cache.tiered import TieredCache
cache = TieredCache.from_urls(sys.argv[1], timeout_s=5.0, tags_of=lambda prompt, _: [prompt], lease_s=0)
if sys.argv[2] == "poll":
    cache._push.wake = lambda: None
for line in sys.stdin:
    found = cache.lookup(line.strip(), "m")
    print(found and found[0].message.response_metadata["llmops_cache"]["level"], flush=True)
if sys.argv[2] != "leave":
    cache.close()
"""


class Worker:
    """A process with a cache that looks when told."""

    def __init__(self, url: str, mode: str) -> None:
        command = [sys.executable, "-W", "error", "-c", WORKER, url, mode]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, **pipes)

    def look(self, prompt: str) -> str:
        self.process.stdin.write(f"{prompt}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=30)
        return self.process.returncode, errors


@pytest.fixture
def workers(clean_redis_url):
    with contextlib.ExitStack() as stack:

        def start(mode: str) -> Worker:
            worker = Worker(clean_redis_url, mode)
            stack.callback(lambda: (worker.process.kill(), worker.process.wait()))
            return worker

        yield start


@pytest.fixture
def cache(clean_redis_url):
    with TieredCache.from_urls(clean_redis_url, timeout_s=5.0, tags_of=lambda prompt, _: [prompt], lease_s=0) as cache:
        keep(cache, "a", "b")
        yield cache


@pytest.mark.parametrize("mode", ["push", "poll", "cut", "mute"])
def test_what_one_process_invalidates_is_gone_from_the_memory_of_all(
    workers, cache, clean_redis_url, mode, monkeypatch
) -> None:
    """Pushed; asked for by callers alone; with the listeners' connections cut just before; with no message sent."""
    started = [workers(mode) for _ in range(2)]
    with redis.Redis.from_url(clean_redis_url) as admin:
        for worker in started:
            assert [worker.look("a"), worker.look("b")] == ["L2", "L2"]
            eventually(lambda worker=worker: [worker.look("a"), worker.look("b")] == ["L1", "L1"])
        if mode != "poll":
            eventually(lambda: all(w.look("a") == "L1" for w in started) and len(admin.client_list("pubsub")) == 2)
        if mode == "cut":
            assert admin.client_kill_filter(_type="pubsub") == 2
        if mode == "mute":
            monkeypatch.setattr(cache._push, "_blocking", None)
        cache.invalidate(["a"])
        done = time.monotonic()
        while time.monotonic() < done + 0.25:
            for worker in started:
                worker.look("a")
        assert [worker.look("a") for worker in started] == ["None", "None"]
        assert all(worker.look("b") in ("L1", "L2") for worker in started)
        assert [worker.end() for worker in started] == [(0, "")] * 2
        eventually(lambda: not admin.client_list("pubsub"))


def test_a_process_that_ends_without_closing_says_nothing(workers, cache, clean_redis_url) -> None:
    worker = workers("leave")
    assert worker.look("a") == "L2"
    with redis.Redis.from_url(clean_redis_url) as admin:
        eventually(lambda: worker.look("a") == "L1" and bool(admin.client_list("pubsub")))
        assert worker.end() == (0, "")
        eventually(lambda: not admin.client_list("pubsub"))
