"""One provider call for many equal requests at once: who asks first leads, the others wait for its answer.

A `BaseCache` is told of a lookup and of an answer, and of nothing when a call fails. So the end of the leader's task
(or, for a sync caller, of the function that asked) is what releases those who wait. Nobody waits for an async text
model: it asks in its caller's own task, which may go on long after the call has failed, or wait for who waits for it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import weakref
from collections import OrderedDict
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from langchain_llmops.cache.codec import Entry
    from langchain_llmops.cache.engine import Generations

__all__ = ["Flight", "Flights", "Landing", "Leader", "Streaming", "running_loop"]

LOOK_S: Final = 0.02
LOOK_SELDOM_S: Final = 1.0  # a task tells of its end, unless its loop was closed before
LONGEST_WAIT_S: Final = 120.0
LONGEST_HOLD_S: Final = 5.0
LONGEST_CALL_S: Final = 3600.0
REMEMBERED: Final = 4096
MANY: Final = 64


@dataclass(frozen=True, slots=True)
class Landing:
    """How a flight ended: with an answer, or with none, so that the next of those who wait leads.

    `unkept`: with one that may not be kept, or the second time without any, so that all of them ask for themselves, at
    once. `failed`: its leader ended without a word. `score`: with one to another wording, as the semantic level scores
    it.
    """

    entry: Entry | None = None
    unkept: bool = False
    failed: bool = False
    score: float | None = None


class Leader:
    """Whoever asks the provider: a task, or, for sync callers, a function on a thread's stack (`frame`).

    `alone`: nobody may wait for it, as its task tells nothing of the call's end.
    """

    def __init__(self, frame: FrameType | None = None, *, alone: bool = False) -> None:
        self.alone = alone
        self.task = asyncio.current_task() if frame is None else None
        self.thread = threading.get_ident()
        self._frame = frame

    def working(self) -> bool:
        """Whether it may still bring an answer."""
        if self.task is not None:
            return not self.task.done() and not self.task.get_loop().is_closed()
        at = sys._current_frames().get(self.thread)  # noqa: SLF001 - documented, and the one way to see a thread's stack
        while at is not None and at is not self._frame:
            at = at.f_back
        return at is not None

    @property
    def token(self) -> tuple[str, int]:
        """The same for whoever is the same task, or works on the same thread."""
        return ("thread", self.thread) if self.task is None else ("task", id(self.task))

    def would_wait_for_itself(self, caller: Leader) -> bool:
        """Whether `caller` is it, or would keep it from going on by waiting."""
        if self.task is None:
            return self.thread == caller.thread
        if caller.task is None:
            return self.task.get_loop() is running_loop()
        return self.task is caller.task


class Streaming(Leader):
    """Whoever streams an answer: it ends with its generator, whose steps may be taken by one task after the other.

    Between two steps it is in its consumer's hands; after `LONGEST_HOLD_S` there nobody waits for it any more.
    """

    def __init__(self, *, blocking: bool) -> None:
        self.alone = False
        self.task = None if blocking else asyncio.current_task()
        self.thread = threading.get_ident()
        self._over = False
        self._held_since: float | None = None

    def working(self) -> bool:
        """Whether it may still bring an answer."""
        held_since = self._held_since
        return not self._over and (held_since is None or time.monotonic() - held_since < LONGEST_HOLD_S)

    @property
    def token(self) -> tuple[str, int]:
        """Its own: several streams of one task are apart."""
        return "stream", id(self)

    def hand_over(self) -> None:
        """A piece goes to the consumer."""
        self._held_since = time.monotonic()

    def go_on(self) -> None:
        """The consumer wants the next piece."""
        self._held_since = None

    def end(self) -> None:
        """The generator is at its end, or was closed."""
        self._over = True


@dataclass(eq=False, slots=True)
class Flight:
    """A request on its way to the provider.

    `generations`: by level, those of its tags when it left; `failures`: how many leaders failed while its own waited
    for them; `answered`: the answer is there, and is being written;
    `watched`: one who waits looks often whether the leader is still there, for all of them: a look at the stacks of
    hundreds of threads, by each of them, would leave the leader no time.
    """

    key: str
    leader: Leader
    began: float
    generations: Generations = field(default_factory=dict)
    failures: int = 0
    lease: bytes | None = None
    answered: bool = False
    watched: bool = False
    done: Future[Landing] = field(default_factory=Future)

    async def landed(self) -> Landing:
        """Its end, for async callers; a sync leader that went away without a word is noticed here."""
        done = asyncio.wrap_future(self.done)
        until = time.monotonic() + LONGEST_WAIT_S
        with self._watching() as look_s:
            while not done.done() and self._may_come(until):
                await asyncio.wait([done], timeout=look_s)
        return done.result() if done.done() else Landing(failed=True)

    def landed_blocking(self) -> Landing:
        """The same for sync callers."""
        until = time.monotonic() + LONGEST_WAIT_S
        with self._watching() as look_s:
            while not self.done.done() and self._may_come(until):
                futures.wait([self.done], timeout=look_s)
        return self.done.result() if self.done.done() else Landing(failed=True)

    def abandoned(self) -> Landing:
        """Its end when its leader ended without a word: the next leads, but of many in turn each would fail as slowly.

        Who cancels a call says nothing of the provider.
        """
        task = self.leader.task
        failed = task is None or not task.done() or not task.cancelled()
        return Landing(unkept=failed and self.failures > 0, failed=failed)

    @contextmanager
    def _watching(self) -> Iterator[float]:
        """Seconds between two looks: who finds the leader gone asks anew, which ends the flight for all others."""
        if self.watched or self.leader.task is not None:  # which tells of its end
            yield LOOK_SELDOM_S
            return
        self.watched = True
        try:
            yield LOOK_S
        finally:
            self.watched = False

    def _may_come(self, until: float) -> bool:
        return time.monotonic() < until and (self.answered or self.leader.working())


class Flights:
    """The requests of this process that are on their way: by key those that others wait for, and by leader all."""

    def __init__(self) -> None:
        self._reset()

    def count(self) -> int:
        """How many have landed: to be asked before a read, and given to `join` after it."""
        if self._pid != os.getpid():
            self._reset()  # a forked child has none of its parent's leaders
        return self._count

    def led(self, key: str, leader: Leader) -> Flight | None:
        """The flight of a key that `leader` leads."""
        return self._led.get((key, leader.token))

    def seen(self, key: str, leader: Leader) -> Generations | None:
        """What `leader` saw before its flight was ended by others; {} where that may be forgotten; None for no look."""
        known = self._lost.get((key, leader.token))
        return known or ({} if time.monotonic() < self._unsure_until else None)

    def join(self, key: str, caller: Leader, since: int, generations: Generations, failures: int = 0) -> Flight | None:
        """The flight of a key, led by `caller` if there is none; None when one has landed `since`: read again.

        `failures`: how many leaders failed while it waited for them.
        Nobody waits for one that left under other `generations`: what it brings was invalidated for who asks now.
        """
        with self._lock:
            if caller.alone:
                return self._begin(key, caller, generations)
            self._sweep(key)
            flight = self._flying.get(key)
            if flight is not None and not _apart(flight.generations, generations):
                return flight
            if flight is None and self._landed.get(key, -1) >= since:
                return None
            flight = self._flying[key] = self._begin(key, caller, generations)
            flight.failures = failures
            return flight

    def alone(self, key: str, caller: Leader, generations: Generations) -> None:
        """Have `caller` ask for itself, and nobody wait for it; one that leads already stays what it is."""
        with self._lock:
            if (key, caller.token) not in self._led:
                self._begin(key, caller, generations)

    def land(self, flight: Flight, landing: Landing) -> None:
        """End a flight; one that has ended already stays as it is."""
        with self._lock:
            self._end(flight, landing)

    def leave(self, flight: Flight) -> None:
        """Its leader is gone; unless it brought an answer before, the next of those who wait leads."""
        if not flight.answered:
            self.land(flight, flight.abandoned())

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._flying: dict[str, Flight] = {}
        self._led: OrderedDict[tuple[str, tuple[str, int]], Flight] = OrderedDict()
        self._lost: OrderedDict[tuple[str, tuple[str, int]], Generations] = OrderedDict()
        self._unsure_until = float("-inf")
        self._tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], set[str]] = weakref.WeakKeyDictionary()
        self._landed: OrderedDict[str, int] = OrderedDict()
        self._count = 0

    def _begin(self, key: str, leader: Leader, generations: Generations) -> Flight:
        place = key, leader.token
        flight = self._led[place] = Flight(key, leader, time.monotonic(), generations)
        self._lost.pop(place, None)
        if leader.task is not None and not isinstance(leader, Streaming):  # which tells itself
            self._watch(leader.task, key)
        if len(self._led) > REMEMBERED:
            self._lose(*self._led.popitem(last=False))  # of leaders that ended without a word
        return flight

    def _watch(self, task: asyncio.Task[Any], key: str) -> None:
        """One callback for all that a task leads: it may ask for many things before it ends."""
        keys = self._tasks.get(task)
        if keys is None:
            keys = self._tasks[task] = set()
            task.add_done_callback(self._task_ended)
        keys.add(key)

    def _task_ended(self, task: asyncio.Task[Any]) -> None:
        with self._lock:
            led = [self._led.get((key, ("task", id(task)))) for key in self._tasks.pop(task, ())]
        for flight in led:
            if flight is not None:
                self.leave(flight)

    def _lose(self, place: tuple[str, tuple[str, int]], flight: Flight) -> None:
        """Its leader may be at work all the same, and what it brings is as old as its look."""
        self._lost[place] = flight.generations
        if len(self._lost) > REMEMBERED:
            self._lost.popitem(last=False)
            self._unsure_until = time.monotonic() + LONGEST_CALL_S

    def sweep(self, key: str) -> None:
        """End what is on its way for a key if its leader went away, for all who wait."""
        with self._lock:
            self._sweep(key)

    def _sweep(self, key: str) -> None:
        """End flights whose sync leaders went away: that of `key`, and all when there are many."""
        asked = list(self._flying.values()) if len(self._flying) > MANY else [self._flying.get(key)]
        for flight in asked:
            if flight is not None and not flight.answered and not flight.leader.working():
                self._lose((flight.key, flight.leader.token), flight)
                self._end(flight, flight.abandoned())

    def _end(self, flight: Flight, landing: Landing) -> None:
        if flight.done.done():
            return
        if self._flying.get(flight.key) is flight:
            del self._flying[flight.key]
        place = flight.key, flight.leader.token
        if self._led.get(place) is flight:
            del self._led[place]
            keys = None if flight.leader.task is None else self._tasks.get(flight.leader.task)
            if keys is not None:
                keys.discard(flight.key)
        if landing.entry is not None:
            self._landed[flight.key] = self._count
            self._landed.move_to_end(flight.key)
            self._count += 1
            if len(self._landed) > REMEMBERED:
                self._landed.popitem(last=False)
        flight.done.set_result(landing)


def _apart(flight: Generations, asked: Generations) -> bool:
    """Whether the flight left without a tag of who asks, or when that had another generation."""
    return any(
        flight[level].get(tag) != generation
        for level, generations in asked.items()
        if level in flight
        for tag, generation in generations.items()
    )


def running_loop() -> asyncio.AbstractEventLoop | None:
    """That of the caller's thread, if one runs there."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
