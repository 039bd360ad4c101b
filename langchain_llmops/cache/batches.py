"""Many callers of a few texts each, as few calls of many texts: for the callers of one event loop, and for threads.

Each text is a flight from its first asker until its answer is kept: whoever asks for it meanwhile waits for that
answer. Texts that are not in the cache leave together, after the rule of Nagle (RFC 896): at once when no call is under
way, so that whoever is alone never waits, else when that call ends, the window is over or the batch is full.

A batch that is refused for what is in it is halved until each part is of one caller, so that one bad text fails those
who asked for it and nobody else: `log2 n` refused calls more for each bad text, up to a bound. A batch that fails for
another reason, such as a rate limit, fails everybody in it: asking again for each would make things worse.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from langchain_llmops.core.classify import classify
from langchain_llmops.core.types import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

__all__ = ["Flight", "LoopLine", "Source", "settle"]

T = TypeVar("T")
F = TypeVar("F")

# what a provider says of the texts, not of itself; `OTHER` is what a local model or a client raises by itself
OF_THE_TEXTS: Final = frozenset(
    {ErrorKind.INVALID_REQUEST, ErrorKind.CONTEXT_OVERFLOW, ErrorKind.MALFORMED, ErrorKind.REFUSAL, ErrorKind.OTHER}
)

HALVINGS_PER_LEVEL: Final = 2  # of the batch's tree: enough for two bad texts, and no storm when all are


class Source(Protocol[T]):
    """Where answers come from: a cache that raises nothing, and a provider."""

    async def look(self, keys: Sequence[str]) -> Sequence[T | None]:
        """What is cached."""
        ...

    async def ask(self, texts: Sequence[str]) -> Sequence[T]:
        """The provider's answers, one for each text."""
        ...

    async def keep(self, answers: Mapping[str, T]) -> None:
        """Put answers into the cache."""
        ...


@dataclass(eq=False, slots=True)
class Flight(Generic[F]):
    """One text under way; `done` is the future that all who ask for it wait for."""

    key: str
    text: str
    done: F
    callers: set[object] = field(default_factory=set)


async def settle(source: Source[T], batch: Sequence[Flight[F]]) -> list[tuple[Flight[F], T | Exception]]:
    """Every text of the batch with its answer or its error."""
    outcomes: list[tuple[Flight[F], T | Exception]] = []
    parts = [batch]
    halvings = HALVINGS_PER_LEVEL * len(batch).bit_length()
    while parts:
        part = parts.pop()
        try:
            answers = await source.ask([flight.text for flight in part])
        except Exception as error:  # noqa: BLE001 - handed to whoever asked
            if halvings and _is_mixed(part) and classify(error).kind in OF_THE_TEXTS:
                halvings -= 1
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            else:
                outcomes += [(flight, error) for flight in part]
        else:
            outcomes += zip(part, answers, strict=True)
    return outcomes


def _is_mixed(part: Sequence[Flight[F]]) -> bool:
    return len(part) > 1 and len(set(chain.from_iterable(flight.callers for flight in part))) > 1


class LoopLine(Generic[T]):
    """The flights of one event loop.

    The work is done by tasks of their own, in the context of the first caller: a caller that is cancelled takes nobody
    along, and what it asked for is still kept. Texts asked for in one turn of the loop are looked up by one read.

    Args:
        window_s: the longest that a text waits for others.
        max_batch: texts of different callers in one call; one caller's own list is never divided.
        idle: told when nothing is under way any more.
    """

    def __init__(
        self, source: Source[T], *, window_s: float, max_batch: int, idle: Callable[[], object] = lambda: None
    ) -> None:
        self._source = source
        self._window_s = window_s
        self._max_batch = max_batch
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._flights: dict[str, Flight[asyncio.Future[T]]] = {}
        self._arrived: list[list[Flight[asyncio.Future[T]]]] = []
        self._waiting: list[Flight[asyncio.Future[T]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._asking = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, texts: Mapping[str, str]) -> dict[str, T]:
        """The answers to texts given by key."""
        caller, flights = object(), []
        mine: list[Flight[asyncio.Future[T]]] = []
        for key, text in texts.items():
            flight = self._flights.get(key)
            if flight is None:
                flight = self._flights[key] = Flight(key, text, self._loop.create_future())
                flight.done.add_done_callback(_seen)
                mine.append(flight)
            flight.callers.add(caller)
            flights.append(flight)
        if mine:
            self._arrived.append(mine)
            if len(self._arrived) == 1:
                self._start(self._look())
        # `wait` leaves the futures alone when this caller is cancelled
        await asyncio.wait([flight.done for flight in flights], return_when=asyncio.FIRST_EXCEPTION)
        for flight in flights:
            if flight.done.done():
                flight.done.result()
        return {flight.key: flight.done.result() for flight in flights}

    async def _look(self) -> None:
        calls: list[list[Flight[asyncio.Future[T]]]] = []
        try:
            await self._last_of_a_burst()
            calls, self._arrived = self._arrived, []
            flights = [*chain.from_iterable(calls)]
            found = await self._source.look([flight.key for flight in flights])
        except BaseException as error:  # the loop ends
            calls, self._arrived = [*calls, *self._arrived], []
            self._drop([*chain.from_iterable(calls)], error)
            raise
        hits = {flight: value for flight, value in zip(flights, found, strict=True) if value is not None}
        for flight, value in hits.items():
            flight.done.set_result(value)
        self._release([*hits])
        for call in calls:
            self._board([flight for flight in call if flight not in hits])
        if not self._asking:
            self._leave()

    async def _last_of_a_burst(self) -> None:
        """While each turn of the loop brings another caller, wait for the next, within the window."""
        seen, until = 0, self._loop.time() + self._window_s
        while len(self._arrived) > seen and self._loop.time() < until:
            seen = len(self._arrived)
            await asyncio.sleep(0)

    def _board(self, misses: list[Flight[asyncio.Future[T]]]) -> None:
        if self._waiting and len(self._waiting) + len(misses) > self._max_batch:
            self._leave()
        self._waiting += misses
        if len(self._waiting) >= self._max_batch:
            self._leave()
        elif self._waiting and self._asking and self._timer is None:
            self._timer = self._loop.call_later(self._window_s, self._leave)

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiting:
            batch, self._waiting = self._waiting, []
            self._asking += 1
            self._start(self._ask(batch))

    async def _ask(self, batch: list[Flight[asyncio.Future[T]]]) -> None:
        try:
            try:
                outcomes = await settle(self._source, batch)
            finally:
                self._asking -= 1
            answers = {}
            for flight, outcome in outcomes:
                if isinstance(outcome, Exception):
                    flight.done.set_exception(outcome)
                else:
                    flight.done.set_result(outcome)
                    answers[flight.key] = outcome
            self._release([flight for flight, outcome in outcomes if isinstance(outcome, Exception)])
            if not self._asking:
                self._leave()
            if answers:
                await self._source.keep(answers)
        except BaseException as error:  # the loop ends
            self._drop(batch, error)
            raise
        self._release(batch)  # not before it is kept: else the next asker finds it neither here nor there

    def _release(self, flights: Sequence[Flight[asyncio.Future[T]]]) -> None:
        for flight in flights:
            if self._flights.get(flight.key) is flight:
                del self._flights[flight.key]
        if not self._flights:
            self._idle()

    def _drop(self, flights: Sequence[Flight[asyncio.Future[T]]], error: BaseException) -> None:
        for flight in flights:
            if isinstance(error, Exception) and not flight.done.done():
                flight.done.set_exception(error)
            flight.done.cancel()
        self._release(flights)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _seen(done: asyncio.Future[Any]) -> None:
    """An error nobody waits for any more is nobody's business."""
    if not done.cancelled():
        done.exception()
