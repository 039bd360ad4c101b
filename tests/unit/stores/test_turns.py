"""Whose turn it is on a connection that serves one caller at a time."""

from __future__ import annotations

import asyncio
import threading

import pytest

from langchain_llmops.core.concurrency import drive
from langchain_llmops.stores.turns import InPlace, OnThread, Rules, Turn

PATIENCE_S = 0.2


class BusyError(Exception):
    pass


class OverError(Exception):
    pass


class Connection:
    def __init__(self) -> None:
        self.log: list[object] = []
        self.thread = threading.current_thread()
        self.closed = False

    def close(self) -> None:
        self.closed = True


def rules(connect=Connection, patience_s: float = PATIENCE_S) -> Rules[Connection]:
    return Rules(
        connect=connect, undo=lambda c: c.log.append("undo"), busy=BusyError, over=OverError, patience_s=patience_s
    )


def say(word: object):
    def job(connection: Connection) -> list[object]:
        connection.log.append(word)
        return list(connection.log)

    return job


def refuse(_connection: Connection) -> None:
    raise LookupError


async def test_jobs_of_one_transaction_stand_together_and_others_wait():
    turns = OnThread(rules(patience_s=30))

    async def transaction(name: str):
        owner = object()
        await turns.run(say((name, "begin")), Turn.BEGIN, owner)
        await asyncio.sleep(0)
        await turns.run(say((name, "inside")), Turn.INSIDE, owner)
        await turns.run(say((name, "end")), Turn.END, owner)

    await asyncio.gather(*(transaction(f"t{n}") for n in range(5)), *(turns.run(say(("alone", n))) for n in range(5)))
    log = await turns.run(say("last"))
    for n in range(5):
        at = log.index((f"t{n}", "begin"))
        assert log[at : at + 3] == [(f"t{n}", part) for part in ("begin", "inside", "end")]
    assert len(log) == 21
    await turns.aclose()


async def test_who_waits_for_a_transaction_that_does_nothing_gives_up_and_the_transaction_goes_on():
    turns = OnThread(rules())
    owner = object()
    await turns.run(say("begin"), Turn.BEGIN, owner)
    ended = await asyncio.gather(*(turns.run(say("alone")) for _ in range(3)), return_exceptions=True)
    assert [type(error) for error in ended] == [BusyError] * 3
    assert await turns.run(say("end"), Turn.END, owner) == ["begin", "end"]
    assert await turns.run(say("after")) == ["begin", "end", "after"]
    await turns.aclose()


async def test_a_beginning_that_fails_holds_nobody_up():
    turns = OnThread(rules())
    with pytest.raises(LookupError):
        await turns.run(refuse, Turn.BEGIN, object())
    assert await turns.run(say("alone")) == ["alone"]
    await turns.aclose()


async def test_an_end_that_fails_ends_all_the_same():
    turns = OnThread(rules())
    owner = object()
    await turns.run(say("begin"), Turn.BEGIN, owner)
    with pytest.raises(LookupError):
        await turns.run(refuse, Turn.END, owner)
    assert await turns.run(say("alone")) == ["begin", "alone"]
    await turns.aclose()


async def test_a_beginning_that_is_cancelled_while_it_runs_is_undone():
    turns = OnThread(rules())
    running, go_on = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        running.set()
        go_on.wait(10)
        connection.log.append("begin")

    task = asyncio.create_task(turns.run(slow, Turn.BEGIN, object()))
    await asyncio.to_thread(running.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    go_on.set()
    assert await turns.run(say("after")) == ["begin", "undo", "after"]
    await turns.aclose()


async def test_an_end_is_reached_though_its_caller_is_cancelled():
    turns = OnThread(rules())
    owner, reached = object(), threading.Event()
    await turns.run(say("begin"), Turn.BEGIN, owner)
    block = threading.Event()
    inside = asyncio.create_task(turns.run(lambda _: block.wait(10), Turn.INSIDE, owner))
    ending = asyncio.create_task(turns.run(lambda _: reached.set(), Turn.END, owner))
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    block.set()
    await inside
    assert await turns.run(say("after")) == ["begin", "after"]
    assert reached.is_set()
    await turns.aclose()


async def test_closing_ends_the_thread_and_a_transaction_with_it():
    made: list[Connection] = []

    def connect() -> Connection:
        made.append(Connection())
        return made[-1]

    turns = OnThread(rules(connect))
    owner = object()
    await turns.run(say("begin"), Turn.BEGIN, owner)
    waiting = asyncio.create_task(turns.run(say("waiting")))
    await asyncio.sleep(0)
    await turns.aclose()
    with pytest.raises(OverError):
        await waiting
    with pytest.raises(OverError):
        await turns.run(say("inside"), Turn.INSIDE, owner)
    with pytest.raises(OverError):
        await turns.run(say("end"), Turn.END, owner)
    assert made[0].closed
    made[0].thread.join(10)
    assert not made[0].thread.is_alive()
    assert await turns.run(say("again")) == ["again"]
    assert len(made) == 2
    await turns.aclose()


async def test_a_connection_that_cannot_be_made_is_tried_again_by_the_next():
    answers = [LookupError(), Connection()]

    def connect() -> Connection:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    turns = OnThread(rules(connect))
    with pytest.raises(LookupError):
        await turns.run(say("first"))
    assert await turns.run(say("second")) == ["second"]
    await turns.aclose()


def test_in_place_the_same_thread_cannot_wait_for_itself():
    turns = InPlace(rules())
    owner = object()
    drive(turns.run(say("begin"), Turn.BEGIN, owner))
    for turn in (Turn.ALONE, Turn.BEGIN):
        with pytest.raises(BusyError):
            drive(turns.run(say("other"), turn, object()))
    with pytest.raises(OverError):
        drive(turns.run(say("other"), Turn.INSIDE, object()))
    assert drive(turns.run(say("end"), Turn.END, owner)) == ["begin", "end"]
    with pytest.raises(OverError):
        drive(turns.run(say("late"), Turn.END, owner))
    assert drive(turns.run(say("alone"))) == ["begin", "end", "alone"]
    drive(turns.aclose())


def test_in_place_a_failure_gives_the_turn_back():
    turns = InPlace(rules())
    owner = object()
    with pytest.raises(LookupError):
        drive(turns.run(refuse))
    with pytest.raises(LookupError):
        drive(turns.run(refuse, Turn.BEGIN, owner))
    drive(turns.run(say("begin"), Turn.BEGIN, owner))
    with pytest.raises(LookupError):
        drive(turns.run(refuse, Turn.END, owner))
    assert drive(turns.run(say("alone"))) == ["begin", "alone"]
    drive(turns.aclose())
