"""The cache of a process that forks, opens and closes loops, mixes colours, or is a notebook; over a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from langchain_llmops.cache.model import cached
from langchain_llmops.cache.tiered import TieredCache
from tests.support.cache import KEPT, texts
from tests.support.models import DEADLINE_S, ScriptedModel, eventually

OPTIONS = {"timeout_s": 5.0}
HITS = "hit:L2"


@pytest.fixture
def cache(clean_redis_url):
    with TieredCache.from_urls(clean_redis_url, **OPTIONS) as cache:
        yield cache


@pytest.fixture
def below(clean_redis_url):
    """A cache without memory, so that every look goes to Redis."""
    with TieredCache.from_urls(clean_redis_url, l1_max_bytes=0, **OPTIONS) as cache:
        yield cache


def echo(**fields) -> ScriptedModel:
    return ScriptedModel(lambda messages: messages[-1].text.upper(), **fields)


# forks


def in_child(work) -> int:
    """The id of a child that ends with 0 when `work()` is true."""
    child = os.fork()
    if not child:
        right = False
        try:
            right = work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(not right)
    return child


async def ended_well(children) -> bool:
    codes = [(await asyncio.wait_for(asyncio.to_thread(os.waitpid, child, 0), 6 * DEADLINE_S))[1] for child in children]
    return codes == [0] * len(codes)


def all_right(cache: TieredCache, name: str) -> bool:
    """Whether a process finds its own answers and no other's, sync, on threads and in tasks."""
    model = echo(cache=cache)
    questions = [f"{name} {number}" for number in range(60)]
    right = [question.upper() for question in questions]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            assert [one.text for one in pool.map(model.invoke, questions)] == right
            assert cache.flush(DEADLINE_S)

    async def ask() -> list[str]:
        return [one.text for one in await asyncio.gather(*map(model.ainvoke, questions))]

    assert asyncio.run(ask()) == right
    assert model.calls == len(questions)
    return True


async def test_a_parent_and_its_children_work_at_once_over_sockets_of_their_own(cache, below) -> None:
    for one in (cache, below):
        for number in range(30):
            one.update(f"before {number}", "m", KEPT)
            await one.aupdate(f"before {number}", "m", KEPT)
    model = ScriptedModel(cache=below)
    await asyncio.gather(*(model.ainvoke(str(number)) for number in range(30)))
    model.invoke("sync")
    # background work is on its way in the parent when the child begins
    children = [in_child(lambda name=name: all_right(below, name) and all_right(cache, f"{name}!")) for name in "ab"]
    assert await asyncio.to_thread(all_right, below, "parent")
    assert await asyncio.to_thread(all_right, cache, "parent!")
    assert await ended_well(children)
    assert texts(await below.alookup("before 1", "m")) == ["ok"]


async def test_a_child_finds_what_its_parent_keeps_and_the_parent_what_the_child_keeps(cache) -> None:
    cache.update("p", "m", KEPT)
    assert await asyncio.to_thread(cache.flush)

    def child() -> bool:
        found = texts(cache.lookup("p", "m")) == ["ok"]
        cache.update("of the child", "m", KEPT)
        return found and cache.flush(DEADLINE_S)

    assert await ended_well([in_child(child)])
    assert texts(await cache.alookup("of the child", "m")) == ["ok"]


async def test_a_child_that_ends_in_any_way_leaves_its_parents_connections_alone(below, clean_redis_url) -> None:
    below.update("p", "m", KEPT)
    assert await asyncio.to_thread(below.flush)
    assert texts(await below.alookup("p", "m")) == ["ok"]
    assert texts(below.lookup("p", "m")) == ["ok"]

    def child() -> bool:
        below.lookup("p", "m")
        below.close()
        return True

    with contextlib.closing(redis.Redis.from_url(clean_redis_url)) as client:
        before = client.info("stats")["total_connections_received"]
        assert await ended_well([in_child(child)])
        opened = client.info("stats")["total_connections_received"]
        assert opened > before, "the child had its own"
        for _ in range(3):
            assert texts(await below.alookup("p", "m")) == ["ok"]
            assert texts(below.lookup("p", "m")) == ["ok"]
        assert client.info("stats")["total_connections_received"] == opened, "and the parent still has those it had"
    assert "error:L2" not in below.stats()


async def test_a_child_asks_for_itself_what_its_parent_is_asking(below) -> None:
    """A lease that the parent holds ends with its call; the child waits for it as any other process does."""
    begun, go_on = threading.Event(), threading.Event()

    def slowly(messages):
        begun.set()
        assert go_on.wait(DEADLINE_S)
        return "of the parent"

    asking = asyncio.create_task(asyncio.to_thread(ScriptedModel(slowly, cache=below).invoke, "hi"))
    assert await asyncio.to_thread(begun.wait, DEADLINE_S)
    child = in_child(lambda: ScriptedModel("of the child", cache=below).invoke("hi").text == "of the parent")
    go_on.set()
    assert (await asking).text == "of the parent"
    assert await ended_well([child])


# loops


def test_one_cache_serves_loops_one_after_the_other_and_sync_calls_between_them(below) -> None:
    model = echo(cache=below)

    async def ask() -> list[str]:
        return [one.text for one in await asyncio.gather(*(model.ainvoke(f"q{number}") for number in range(10)))]

    for _ in range(4):
        assert asyncio.run(ask()) == [f"Q{number}" for number in range(10)]
        assert below.flush()
        assert model.invoke("q3").text == "Q3"
    assert model.calls == 10
    assert "error:L2" not in below.stats()


def test_a_loop_that_ends_in_the_middle_of_calls_leaves_the_cache_whole(below) -> None:
    model = echo(cache=below)

    async def leave() -> None:
        tasks = [asyncio.ensure_future(model.ainvoke(f"q{number}")) for number in range(20)]
        await asyncio.sleep(0)
        tasks[0].cancel()

    for _ in range(3):
        asyncio.run(leave())
    assert asyncio.run(model.ainvoke("q1")).text == "Q1"
    assert model.invoke("q0").text == "Q0"
    assert below.flush()
    assert below.stats().get("error:L2", 0) == 0


def test_loops_of_several_threads_share_one_cache(below) -> None:
    model = echo(cache=below)
    questions = [f"q{number}" for number in range(20)]

    async def ask() -> list[str]:
        return [one.text for one in await asyncio.gather(*map(model.ainvoke, questions))]

    with ThreadPoolExecutor(4) as pool:
        for said in pool.map(lambda _: asyncio.run(ask()), range(8)):
            assert said == [question.upper() for question in questions]
    assert model.calls == 20
    assert "error:L2" not in below.stats()


# notebooks


async def test_a_cell_asks_in_both_colours_and_streams(cache) -> None:
    """A cell runs within a loop, where it may await and may call what is sync."""
    model = echo(cache=cache)
    also = cached(echo(), cache=cache)
    for _ in range(2):
        assert model.invoke("hi").text == "HI"
        assert (await model.ainvoke("hi")).text == "HI"
        assert "".join(piece.text for piece in also.stream("hi")) == "HI"
        assert "".join([piece.text async for piece in also.astream("hi")]) == "HI"
        assert [one.text for one in model.batch(["hi", "ho"])] == ["HI", "HO"]
        assert cache.flush()
    assert (model.calls, also.calls) == (2, 0)
    cache.invalidate(["t"])
    await cache.ainvalidate(["t"])


async def test_a_sync_call_within_a_loop_does_not_wait_for_a_task_of_that_loop(below) -> None:
    class Waiting(ScriptedModel):
        async def _agenerate(self, *args, **kwargs):
            begun.set()
            await go_on.wait()
            return await super()._agenerate(*args, **kwargs)

    begun, go_on = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(Waiting("of the task", cache=below).ainvoke("hi"))
    await begun.wait()
    assert ScriptedModel("of the call", cache=below).invoke("hi").text == "of the call"
    go_on.set()
    assert (await task).text == "of the task"


async def test_a_cell_that_is_run_again_makes_another_cache_of_the_same_url(clean_redis_url) -> None:
    caches = []
    for _ in range(3):
        caches.append(TieredCache.from_urls(clean_redis_url, **OPTIONS))
        model = ScriptedModel(cache=caches[-1])
        await model.ainvoke("hi")
        model.invoke("hi")
        assert caches[-1].flush()
        assert model.calls == (len(caches) == 1)
    caches.pop(0).close()
    for cache in caches:
        assert ScriptedModel("other", cache=cache).invoke("hi").text == "ok"
        assert (await ScriptedModel("other", cache=cache).ainvoke("hi")).text == "ok"
        cache.close()
        await cache.aclose()


def test_caches_that_nobody_closes_leave_no_connections_when_they_are_forgotten(clean_redis_url) -> None:
    import gc

    with contextlib.closing(redis.Redis.from_url(clean_redis_url)) as client:

        def clients() -> int:
            gc.collect()
            return client.info("clients")["connected_clients"]

        before = clients()
        for _ in range(3):
            cache = TieredCache.from_urls(clean_redis_url, **OPTIONS)
            cache.update("p", "m", KEPT)
            assert cache.flush()
            assert asyncio.run(cache.alookup("p", "m"))
            assert cache.lookup("p", "m")
            cache.close()
            del cache
        eventually(lambda: clients() <= before)


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_who_waits_for_what_was_kept_does_not_wait_for_calls_that_are_on_their_way(colour, below) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly(messages):
        begun.set()
        assert go_on.wait(DEADLINE_S)
        return "late"

    await ScriptedModel(cache=below).ainvoke("kept")
    asking = asyncio.create_task(asyncio.to_thread(ScriptedModel(slowly, cache=below).invoke, "hi"))
    assert await asyncio.to_thread(begun.wait, DEADLINE_S)
    try:
        assert await (asyncio.to_thread(below.flush, 5.0) if colour == "sync" else below._behind.await_all(5.0))
    finally:
        go_on.set()
        await asking
