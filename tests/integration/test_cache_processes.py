"""The cache of several processes over one Redis: one provider call for all, and what is invalidated is so for all."""

from __future__ import annotations

import asyncio
import time

import pytest

from langchain_llmops.cache.tiered import TieredCache
from tests.support.cache import KEPT, texts
from tests.support.models import Hang, ScriptedModel, answer

SEEN_S = 0.25


@pytest.fixture
def process(clean_redis_url):
    """Makes caches that know nothing of each other, as those of several processes."""
    made = []

    def process(**options) -> TieredCache:
        made.append(TieredCache.from_urls(clean_redis_url, **{"timeout_s": 5.0, **options}))
        return made[-1]

    yield process
    for cache in made:
        cache.close()


class Asked(ScriptedModel):
    """Takes a moment for every answer."""

    async def _agenerate(self, *args, **kwargs):
        await asyncio.sleep(0.2)
        return await super()._agenerate(*args, **kwargs)


async def test_four_processes_with_fifty_callers_each_make_one_call(process) -> None:
    model = Asked()
    callers = [model.model_copy(update={"cache": process()}) for _ in range(4)]
    answers = await asyncio.gather(*(caller.ainvoke("hi") for caller in callers for _ in range(50)))
    assert model.calls == 1
    assert {one.text for one in answers} == {"ok"}


async def test_a_process_whose_call_fails_leaves_the_next_one_to_ask(process) -> None:
    model = Asked(RuntimeError("down"), answer())
    callers = [model.model_copy(update={"cache": process()}) for _ in range(4)]
    outcomes = await asyncio.gather(*(caller.ainvoke("hi") for caller in callers), return_exceptions=True)
    assert sum(isinstance(one, RuntimeError) for one in outcomes) == 1
    assert model.calls == 2


async def test_a_process_that_died_is_waited_for_no_longer_than_its_lease(process) -> None:
    dead, alive = process(lease_s=0.3), process()
    held = asyncio.create_task(ScriptedModel(hang := Hang(), cache=dead).ainvoke("hi"))
    await hang.reached.wait()
    flight = next(iter(dead.answers._flights._flying.values()))
    flight.lease = None  # it is renewed no more
    model = ScriptedModel(cache=alive)
    assert (await asyncio.wait_for(model.ainvoke("hi"), 10)).text == "ok"
    assert model.calls == 1
    held.cancel()


async def test_a_long_call_keeps_its_lease(process) -> None:
    class Long(ScriptedModel):
        async def _agenerate(self, *args, **kwargs):
            await asyncio.sleep(1.0)
            return await super()._agenerate(*args, **kwargs)

    model = Long()
    callers = [model.model_copy(update={"cache": process(lease_s=0.3)}) for _ in range(3)]
    await asyncio.gather(*(caller.ainvoke("hi") for caller in callers))
    assert model.calls == 1


async def test_an_answer_that_may_not_be_kept_lets_all_processes_ask(process) -> None:
    model = Asked(answer("half", finish="length"))
    callers = [model.model_copy(update={"cache": process()}) for _ in range(4)]
    before = time.monotonic()
    await asyncio.gather(*(caller.ainvoke("hi") for caller in callers))
    assert model.calls == 4
    assert time.monotonic() - before < 4 * 0.2 + 2, "not one after another"


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_what_one_process_invalidates_is_gone_from_the_memory_of_all(process, colour) -> None:
    here, there = process(tags_of=tags_of), process(tags_of=tags_of)
    await here.aupdate("user:42 asks", "m", KEPT)
    await here.aupdate("user:43 asks", "m", KEPT)
    assert await asyncio.to_thread(here.flush)
    for name in ("user:42 asks", "user:43 asks"):
        assert texts(await there.alookup(name, "m")) == ["ok"]
    if colour == "async":
        await here.ainvalidate(["user:42"])
    else:
        await asyncio.to_thread(here.invalidate, ["user:42"])
    await asyncio.sleep(SEEN_S)
    for cache in (here, there, process(tags_of=tags_of)):
        # in a task of its own: who finds nothing is believed to ask the provider, for as long as its task goes on
        assert await asyncio.create_task(cache.alookup("user:42 asks", "m")) is None
        assert await cache.alookup("user:43 asks", "m") is not None


def tags_of(prompt, llm_string):
    return [prompt.split()[0]]


async def test_redis_emptied_forgets_and_goes_on(process, clean_redis_url) -> None:
    import redis

    cache = process(l1_max_bytes=0)
    model = ScriptedModel(cache=cache)
    await model.ainvoke("hi")
    assert await asyncio.to_thread(cache.flush)
    with redis.Redis.from_url(clean_redis_url) as client:
        client.flushdb()
    await model.ainvoke("hi")
    assert model.calls == 2
    assert await asyncio.to_thread(cache.flush)
    await model.ainvoke("hi")
    assert model.calls == 2


async def test_an_answer_in_the_third_level_comes_up_again(clean_redis_url, tmp_path) -> None:
    import redis

    def opened() -> TieredCache:
        return TieredCache.from_urls(clean_redis_url, f"sqlite:///{tmp_path / 'cache.db'}", timeout_s=5.0)

    with redis.Redis.from_url(clean_redis_url) as client:
        first = opened()
        await first.aupdate("p", "m", KEPT)
        await first.aclose()
        client.flushdb()
        second = opened()
        (hit,) = await second.alookup("p", "m")
        assert hit.message.response_metadata["llmops_cache"]["level"] == "L3"
        await second.aclose()
        third = opened()
        (hit,) = await third.alookup("p", "m")
        assert hit.message.response_metadata["llmops_cache"]["level"] == "L2"
        await third.aclose()


async def test_reads_of_one_moment_are_one_round_trip(process, clean_redis_url) -> None:
    import redis

    cache = process(l1_max_bytes=0)
    for number in range(64):
        await cache.aupdate(str(number), "m", KEPT)
    assert await asyncio.to_thread(cache.flush)
    with redis.Redis.from_url(clean_redis_url) as client:
        before = client.info("commandstats")["cmdstat_mget"]["calls"]
        found = await asyncio.gather(*(cache.alookup(str(number), "m") for number in range(64)))
        assert all(found)
        assert client.info("commandstats")["cmdstat_mget"]["calls"] - before <= 3
