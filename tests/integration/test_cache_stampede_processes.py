"""Hundreds of equal calls at once, in four processes over one Redis, make one call of the provider."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.support.models import ScriptedModel

PROCESSES = 4
ANSWER_S = 1.0
DEADLINE_S = 120.0


class Counted(ScriptedModel):
    """Counts its calls in Redis, and takes a second for every answer."""

    url: str

    def _generate(self, *args, **kwargs):
        self._count()
        time.sleep(ANSWER_S)
        return super()._generate(*args, **kwargs)

    async def _agenerate(self, *args, **kwargs):
        self._count()
        await asyncio.sleep(ANSWER_S)
        return await super()._agenerate(*args, **kwargs)

    def _count(self) -> None:
        with redis.Redis.from_url(self.url) as server:
            server.incr("calls")


def ask(url: str, how: str, calls: int, start, heard) -> None:
    """In a child."""
    from langchain_llmops.cache.tiered import TieredCache

    with TieredCache.from_urls(url) as cache:
        model = Counted(cache=cache, url=url)
        start.wait(DEADLINE_S)
        if how == "threads":
            with ThreadPoolExecutor(calls) as threads:
                answers = list(threads.map(model.invoke, ["hi"] * calls))
        else:
            answers = asyncio.run(together(model, calls))
        heard.put([answer.text for answer in answers])


async def together(model: Counted, calls: int):
    return await asyncio.gather(*(model.ainvoke("hi") for _ in range(calls)))


@pytest.mark.parametrize(("how", "calls"), [("tasks", 50), ("tasks", 500), ("threads", 50), ("threads", 500)])
def test_four_processes_that_ask_the_same_at_once_make_one_call(clean_redis_url, how, calls) -> None:
    context = multiprocessing.get_context("spawn")
    start, heard = context.Barrier(PROCESSES), context.SimpleQueue()
    share = calls // PROCESSES
    asked = (clean_redis_url, how, share, start, heard)
    children = [context.Process(target=ask, args=asked, daemon=True) for _ in range(PROCESSES)]
    for child in children:
        child.start()
    for child in children:
        child.join(DEADLINE_S)
    assert [child.exitcode for child in children] == [0] * PROCESSES
    assert [heard.get() for _ in children] == [["ok"] * share] * PROCESSES
    with redis.Redis.from_url(clean_redis_url) as server:
        assert int(server.get("calls")) == 1
