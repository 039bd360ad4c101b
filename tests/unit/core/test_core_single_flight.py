"""One flight for identical calls of tasks, threads and loops at once."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from langchain_llmops.core.concurrency import DOOR, SingleFlight
from tests.support.models import DEADLINE_S, eventually


class Work:
    """Counts its runs; every run waits until `go` is set."""

    def __init__(self, go: bool = False) -> None:
        self.runs = 0
        self.began = threading.Event()
        self.go = threading.Event()
        if go:
            self.go.set()

    async def run(self) -> int:
        self.runs += 1
        mine = self.runs
        self.began.set()
        while not self.go.is_set():
            await asyncio.sleep(0.001)
        return mine

    def run_blocking(self) -> int:
        self.runs += 1
        mine = self.runs
        self.began.set()
        assert self.go.wait(DEADLINE_S)
        return mine


async def _ticks(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_fifty_concurrent_calls_of_a_loop_run_once() -> None:
    flights, work = SingleFlight(), Work()
    tasks = [asyncio.create_task(flights.run("key", work.run)) for _ in range(50)]
    await _ticks()
    work.go.set()
    assert await asyncio.gather(*tasks) == [1] * 50


def test_fifty_concurrent_calls_of_threads_run_once() -> None:
    flights, work = SingleFlight(), Work()
    with ThreadPoolExecutor(50) as threads:
        calls = [threads.submit(flights.run_blocking, "key", work.run_blocking) for _ in range(50)]
        eventually(lambda: len(flights._flights["key"].done._condition._waiters) == 49)  # everyone is aboard
        work.go.set()
        assert {call.result(DEADLINE_S) for call in calls} == {1}


async def test_threads_and_loops_share_one_flight() -> None:
    flights, work = SingleFlight(), Work()
    async_calls = [asyncio.create_task(flights.run("key", work.run)) for _ in range(10)]
    await _ticks()
    with ThreadPoolExecutor(10) as threads:
        sync_calls = [threads.submit(flights.run_blocking, "key", work.run_blocking) for _ in range(10)]
        crossing = [asyncio.create_task(DOOR.cross(flights.run("key", work.run))) for _ in range(10)]
        done = flights._flights["key"].done
        # ten threads, and all coroutines but the one that leads
        await asyncio.to_thread(
            eventually, lambda: (len(done._condition._waiters), len(done._done_callbacks)) == (10, 19)
        )
        await _ticks()
        work.go.set()
        assert await asyncio.gather(*async_calls, *crossing) == [1] * 20
        assert {await asyncio.wrap_future(call) for call in sync_calls} == {1}


async def test_a_loop_waits_for_a_thread_that_leads() -> None:
    flights, work = SingleFlight(), Work()
    leader = asyncio.create_task(asyncio.to_thread(flights.run_blocking, "key", work.run_blocking))
    await asyncio.to_thread(work.began.wait, DEADLINE_S)
    waiter = asyncio.create_task(flights.run("key", work.run))
    await _ticks()
    work.go.set()
    assert await asyncio.gather(leader, waiter) == [1, 1]


async def test_other_keys_fly_apart_and_a_landed_flight_is_forgotten() -> None:
    flights, work = SingleFlight(), Work(go=True)
    assert await asyncio.gather(flights.run("a", work.run), flights.run("b", work.run)) == [1, 2]
    assert await flights.run("a", work.run) == 3
    assert flights.run_blocking("a", work.run_blocking) == 4
    assert flights._flights == {}


async def test_a_failing_leader_fails_alone_and_the_next_one_leads() -> None:
    flights, go = SingleFlight(), asyncio.Event()
    runs = []

    async def fails_once() -> str:
        runs.append(1)
        if len(runs) == 1:
            await go.wait()
            raise ValueError("mine")
        await _ticks()
        return "answer"

    tasks = [asyncio.create_task(flights.run("key", fails_once)) for _ in range(20)]
    await _ticks()
    go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results[:1]] == [ValueError]
    assert results[1:] == ["answer"] * 19
    assert len(runs) == 2


async def test_a_cancelled_leader_is_cancelled_alone_and_the_next_one_leads() -> None:
    flights, work = SingleFlight(), Work()
    leader, *others = [asyncio.create_task(flights.run("key", work.run)) for _ in range(20)]
    await _ticks()
    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    await _ticks()
    work.go.set()
    assert await asyncio.gather(*others) == [2] * 19


async def test_a_cancelled_waiter_leaves_the_flight_in_the_air() -> None:
    flights, work = SingleFlight(), Work()
    leader, waiter, other = [asyncio.create_task(flights.run("key", work.run)) for _ in range(3)]
    await _ticks()
    waiter.cancel()
    await asyncio.wait([waiter])
    work.go.set()
    assert await asyncio.gather(leader, other) == [1, 1]
    assert waiter.cancelled()


def test_a_failing_leader_among_threads_fails_alone() -> None:
    flights, began, go = SingleFlight(), threading.Event(), threading.Event()
    runs = []

    def fails_once() -> str:
        runs.append(1)
        if len(runs) == 1:
            began.set()
            assert go.wait(DEADLINE_S)
            raise ValueError("mine")
        return "answer"

    with ThreadPoolExecutor(5) as threads:
        leader = threads.submit(flights.run_blocking, "key", fails_once)
        assert began.wait(DEADLINE_S)
        others = [threads.submit(flights.run_blocking, "key", fails_once) for _ in range(4)]
        eventually(lambda: len(flights._flights["key"].done._condition._waiters) == 4)
        go.set()
        with pytest.raises(ValueError, match="mine"):
            leader.result(DEADLINE_S)
        assert [other.result(DEADLINE_S) for other in others] == ["answer"] * 4


async def test_a_sync_call_on_the_leaders_own_loop_calls_by_itself_and_never_deadlocks() -> None:
    flights, work = SingleFlight(), Work()
    leader = asyncio.create_task(flights.run("key", work.run))
    await _ticks()
    assert flights.run_blocking("key", lambda: "by myself") == "by myself"
    work.go.set()
    assert await leader == 1


def test_a_waiter_whose_loop_died_hurts_nobody() -> None:
    """Its loop is closed when the flight lands."""
    flights, work = SingleFlight(), Work()
    with ThreadPoolExecutor(1) as threads:
        leader = threads.submit(flights.run_blocking, "key", work.run_blocking)
        assert work.began.wait(DEADLINE_S)

        async def gives_up() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(flights.run("key", work.run), 0.01)

        asyncio.run(gives_up())
        work.go.set()
        assert leader.result(DEADLINE_S) == 1
