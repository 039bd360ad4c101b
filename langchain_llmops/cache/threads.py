"""The batches of `batches.LoopLine` for sync callers: one thread of a batch asks for all."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from langchain_llmops.cache.batches import Flight, Source, settle
from langchain_llmops.core.concurrency import drive

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["ThreadLine"]

T = TypeVar("T")


class _LeftError(Exception):
    """The thread that was to ask has been interrupted; who waits for it begins again."""


class ThreadLine(Generic[T]):
    """The flights of all threads; `source` never suspends. Arguments as in `LoopLine`.

    A call inside a running event loop waits for no other thread, which might need that loop to finish.
    """

    _flights: dict[str, Flight[Future[T]]]
    _waiting: list[Flight[Future[T]]]
    _asking: int

    def __init__(
        self, source: Source[T], *, window_s: float, max_batch: int, idle: Callable[[], object] = lambda: None
    ) -> None:
        self._source = source
        self._window_s = window_s
        self._max_batch = max_batch
        self._idle = idle
        self._reset()

    def get(self, texts: Mapping[str, str]) -> dict[str, T]:
        """The answers to texts given by key."""
        if self._pid != os.getpid():
            self._reset()
        caller = object()
        if _on_a_loop():
            return self._alone({key: _flight(key, text, caller) for key, text in texts.items()})
        while True:
            flights, mine = self._join(texts, caller)
            if mine:
                self._lead(mine)
            try:
                return {key: flight.done.result() for key, flight in flights.items()}
            except _LeftError:
                continue

    def _alone(self, flights: dict[str, Flight[Future[T]]]) -> dict[str, T]:
        misses = self._missing([*flights.values()])
        if misses:
            outcomes = drive(settle(self._source, misses))
            self._land(outcomes)
        return {key: flight.done.result() for key, flight in flights.items()}

    def _join(
        self, texts: Mapping[str, str], caller: object
    ) -> tuple[dict[str, Flight[Future[T]]], list[Flight[Future[T]]]]:
        flights: dict[str, Flight[Future[T]]] = {}
        mine: list[Flight[Future[T]]] = []
        with self._changed:
            for key, text in texts.items():
                flight = self._flights.get(key)
                if flight is None:
                    flight = self._flights[key] = _flight(key, text, caller)
                    mine.append(flight)
                flight.callers.add(caller)
                flights[key] = flight
        return flights, mine

    def _lead(self, mine: list[Flight[Future[T]]]) -> None:
        try:
            misses = self._missing(mine)
            batch = self._board(misses) if misses else []
        except BaseException:
            self._abandon(mine)
            raise
        if not batch:
            return
        try:
            try:
                outcomes = drive(settle(self._source, batch))
            finally:
                with self._changed:
                    self._asking -= 1
                    self._changed.notify_all()
            self._land(outcomes)
        except BaseException:
            self._abandon(batch)
            raise

    def _missing(self, flights: list[Flight[Future[T]]]) -> list[Flight[Future[T]]]:
        found = drive(self._source.look([flight.key for flight in flights]))
        hits = [(flight, value) for flight, value in zip(flights, found, strict=True) if value is not None]
        for flight, value in hits:
            flight.done.set_result(value)
        self._release([flight for flight, _ in hits])
        return [flight for flight in flights if not flight.done.done()]

    def _board(self, misses: list[Flight[Future[T]]]) -> list[Flight[Future[T]]]:
        """The batch that this thread asks for; empty when the thread that opened the batch takes `misses` along."""
        with self._changed:
            if self._waiting and len(self._waiting) + len(misses) <= self._max_batch:
                self._waiting += misses
                self._changed.notify_all()
                return []
            if not self._waiting and self._asking and len(misses) < self._max_batch:
                self._waiting += misses
                try:
                    self._changed.wait_for(self._may_leave, self._window_s)
                except BaseException:  # interrupted: those who boarded begin again
                    left, self._waiting = self._waiting, []
                    self._fail(left)
                    raise
                misses, self._waiting = self._waiting, []
            self._asking += 1
            return misses

    def _may_leave(self) -> bool:
        return not self._asking or len(self._waiting) >= self._max_batch

    def _land(self, outcomes: Sequence[tuple[Flight[Future[T]], T | Exception]]) -> None:
        answers = {}
        for flight, outcome in outcomes:
            if isinstance(outcome, Exception):
                flight.done.set_exception(outcome)
            else:
                answers[flight.key] = outcome
                flight.done.set_result(outcome)
        if answers:
            drive(self._source.keep(answers))
        self._release([flight for flight, _ in outcomes])

    def _release(self, flights: Sequence[Flight[Future[T]]]) -> None:
        with self._changed:
            for flight in flights:
                if self._flights.get(flight.key) is flight:
                    del self._flights[flight.key]
            if not self._flights:
                self._idle()

    def _abandon(self, flights: Sequence[Flight[Future[T]]]) -> None:
        with self._changed:
            self._fail(flights)

    def _fail(self, flights: Sequence[Flight[Future[T]]]) -> None:
        for flight in flights:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
            with suppress(InvalidStateError):
                flight.done.set_exception(_LeftError())

    def _reset(self) -> None:
        """A forked child has the parent's memory and none of its threads."""
        self._pid = os.getpid()
        self._changed = threading.Condition(threading.RLock())
        self._flights = {}
        self._waiting = []
        self._asking = 0


def _flight(key: str, text: str, caller: object) -> Flight[Future[T]]:
    return Flight(key, text, Future(), {caller})


def _on_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
