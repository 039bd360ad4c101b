"""Prefetches that fail, hang, are cancelled, or lose their event loop or their process never reach a call."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from langchain_llmops.cache.prefetch import Asked
from langchain_llmops.core.concurrency import run_sync
from tests.support.prefetching import World


@pytest.fixture
def world(clock) -> World:
    world = World(clock)
    world.teach("ab")
    return world


async def hang(wanted) -> Asked:
    await asyncio.Event().wait()
    raise AssertionError("woken")


async def fail(wanted) -> Asked:
    raise ValueError("secret text")


@pytest.mark.parametrize("broken", ["ask", "key", "cached", "idle", "ask gives nothing back"])
async def test_what_the_callers_functions_raise_is_counted_and_told_once(clock, broken, caplog) -> None:
    def boom(*_) -> bool:
        raise ValueError("secret text")

    world = World(clock, **({broken: boom} if broken in {"key", "cached", "idle"} else {}))
    if broken == "ask":
        world.answer = fail
    elif broken == "ask gives nothing back":
        world.answer = lambda wanted: asyncio.sleep(0)
    world.teach("ab")
    with caplog.at_level(logging.WARNING):
        await world.walk("a", session="one")
        await world.walk("a", session="two")
    assert world.count("errors") == 2
    assert world.count("in_flight") == 0
    assert len(caplog.messages) == 1
    assert "secret" not in caplog.text


async def test_one_that_failed_counts_as_paid_and_wasted(world) -> None:
    world.answer = fail
    await world.walk("a")
    assert (world.count("wasted"), world.count("spent_usd")) == (1, 0.001)


async def test_ask_that_always_fails_is_stopped(world) -> None:
    world.answer = fail
    for n in range(100):
        await world.walk("a", session=str(n))
        world.clock.pass_s(1.0)
    assert world.count("stops") == 1
    assert len(world.asked) < 20


async def test_a_hanging_ask_holds_its_place_and_no_more_until_its_time_is_up(clock) -> None:
    world = World(clock, max_in_flight=1, timeout_s=0.01)
    world.teach("ab")
    world.teach("xy")
    world.answer = hang
    await world.walk("a")
    await world.walk("x")
    assert (len(world.asked), world.count("in_flight"), world.count("skipped:full")) == (1, 1, 1)
    (running,) = [task for task in asyncio.all_tasks() if task.get_name() == "llmops-prefetch"]
    await asyncio.wait([running], timeout=10)
    assert (world.count("in_flight"), world.count("errors"), world.count("wasted")) == (0, 1, 1)


async def test_closing_cancels_what_runs_and_starts_nothing_more(world) -> None:
    world.answer = hang
    await world.walk("a")
    await world.prefetcher.aclose()
    assert (world.count("in_flight"), world.count("cancelled"), world.count("errors")) == (0, 1, 0)
    assert [task for task in asyncio.all_tasks() if task.get_name() == "llmops-prefetch"] == []
    await world.walk("a", session="two")
    assert len(world.asked) == 1


async def test_one_that_does_not_stop_when_it_is_told_does_not_hold_the_close(world, monkeypatch) -> None:
    monkeypatch.setattr("langchain_llmops.cache.prefetch.CLOSE_WITHIN_S", 0.01)
    enough = asyncio.Event()

    async def stubborn(wanted) -> Asked:
        while not enough.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await enough.wait()
        return Asked(0.001)

    world.answer = stubborn
    await world.walk("a")
    await world.prefetcher.aclose()
    assert world.count("in_flight") == 1
    enough.set()
    await asyncio.wait([task for task in asyncio.all_tasks() if task.get_name() == "llmops-prefetch"])
    assert world.count("in_flight") == 0


def test_it_works_on_one_event_loop_after_the_other(world) -> None:
    for n in range(3):
        assert asyncio.run(world.walk("ab", session=str(n))) == [False, True]
        world.clock.pass_s(400.0)
    world.answer = hang
    for n in range(3):
        asyncio.run(world.walk("a", session=f"hung {n}"))  # its end cancels what still runs
    assert (world.count("used"), world.count("cancelled"), world.count("in_flight")) == (3, 3, 0)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_loop_that_was_closed_over_a_running_prefetch_gives_its_place_back(clock, caplog) -> None:
    world = World(clock, max_in_flight=1)
    world.teach("ab")
    world.answer = hang
    loop = asyncio.new_event_loop()
    loop.run_until_complete(world.walk("a"))
    loop.close()
    assert world.count("in_flight") == 1
    del world.answer
    assert asyncio.run(world.walk("ab", session="two")) == [True, True]
    assert (world.count("in_flight"), world.count("wasted"), world.count("used")) == (0, 1, 1)
    world.asked.clear()
    with caplog.at_level(logging.CRITICAL):
        gc.collect()


def test_sync_callers_have_it_run_on_the_librarys_own_loop(world) -> None:
    where, answered = [], threading.Event()

    async def answer(wanted) -> Asked:
        where.append(threading.current_thread().name)
        world.cache[wanted.name] = world.clock() + 300.0
        answered.set()
        return Asked(0.001)

    world.answer = answer
    world.request("a")
    assert answered.wait(10)
    run_sync(asyncio.sleep(0))
    assert world.request("b")
    assert where == ["llmops-door"]
    world.answer = hang
    world.clock.pass_s(400.0)
    world.request("a", "two")
    world.prefetcher.close()
    run_sync(asyncio.sleep(0))
    assert (world.count("used"), world.count("cancelled"), world.count("in_flight")) == (1, 1, 0)


@pytest.mark.usefixtures("threads_that_interrupt_each_other_often")
def test_many_threads_at_once_keep_the_sums(clock) -> None:
    world = World(clock, min_probability=0.01, max_in_flight=4)
    world.teach("abcd")

    async def walk(n: int) -> None:
        for turn in range(100):
            await world.walk("abcd", session=f"{n}.{turn}", group=f"g{n % 2}")
            clock.pass_s(1.0)

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda n: asyncio.run(walk(n)), range(6)))
    stats = world.prefetcher.stats()
    assert (stats["in_flight"], stats["errors"]) == (0, 0)
    assert stats["issued"] == stats["used"] + stats["wasted"] + stats["open"]
    assert stats["used"] > 0


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_has_no_prefetch_under_way_and_not_its_parents_dollars(world) -> None:
    async def parent() -> list:
        world.answer = hang
        await world.walk("a")
        told = _forked(world)
        await world.prefetcher.aclose()
        return told

    stats, (at_once, later) = asyncio.run(parent())
    assert (stats["issued"], stats["in_flight"], stats["open"]) == (0, 0, 0)
    assert (at_once, later) == (0, 1)
    assert world.count("cancelled") == 1


def _forked(world: World) -> list:
    """What a child tells that was forked while another thread was learning."""
    read, write = os.pipe()
    with world.prefetcher._lock:
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            try:
                os.write(write, json.dumps([world.prefetcher.stats(), _child(world)]).encode())
            finally:
                os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = json.loads(pipe.read())
    os.waitpid(child, 0)
    return told


def _child(world: World) -> tuple[float, float]:
    """How many prefetches the child has issued at once, and after an hour."""
    world.teach("ab")
    world.request("a", "child")
    at_once = world.count("issued")
    world.clock.pass_s(3_600.0)
    landed = threading.Event()

    async def answer(wanted) -> Asked:
        landed.set()
        return Asked(0.001)

    world.answer = answer
    world.request("a", "child two")
    landed.wait(10)
    return at_once, world.count("issued")
