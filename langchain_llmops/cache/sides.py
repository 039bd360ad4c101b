"""A store as callers of one colour use it: those of an event loop together, blocking ones each for itself."""

from __future__ import annotations

import asyncio
import math
import weakref
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from langchain_llmops.core.errors import LLMOpsError, StoreUnavailableError
from langchain_llmops.core.patience import Patience
from langchain_llmops.stores.base import Patient

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from langchain_llmops.cache.breaker import Breaker
    from langchain_llmops.stores.base import KeyValue

__all__ = ["AwayError", "BlockingSide", "LoopSide", "Side", "rounded"]

T = TypeVar("T")
Items = dict[str, bytes]

MOST_AT_ONCE: Final = 2
LONGEST_BATCH: Final = 512
EXACT_BELOW_S: Final = 10.0


class AwayError(StoreUnavailableError):
    """The store is left alone for a while."""


class LateError(StoreUnavailableError):
    """The caller goes on without the answer."""


class Side(Protocol):
    """What a level asks of its store; every method raises `LLMOpsError` where it could not be done."""

    def read(self, keys: Sequence[str]) -> Awaitable[list[bytes | None]]:
        """As `KeyValue.get_many`."""
        ...

    def write(self, items: Mapping[str, bytes], ttl_s: float) -> Awaitable[None]:
        """As `KeyValue.set_many`; a time to live may be `rounded` up."""
        ...

    def claim(self, key: str, value: bytes, ttl_s: float) -> Awaitable[bool]:
        """As `KeyValue.add`."""
        ...

    def remove(self, keys: Sequence[str]) -> Awaitable[None]:
        """As `KeyValue.delete`."""
        ...


class BlockingSide:
    """For callers without a loop; `kv` reads, `patient` does the rest, but for claims when something was late."""

    def __init__(
        self, kv: KeyValue, patient: KeyValue, reads: Breaker, changes: Breaker, clock: Callable[[], float]
    ) -> None:
        self._kv = kv
        self._patient = patient
        self._reads = reads
        self._changes = changes
        self._clock = clock

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """As `Side`."""
        return await self._asked(self._reads, self._kv.get_many, keys)

    async def write(self, items: Mapping[str, bytes], ttl_s: float) -> None:
        """As `Side`."""
        await self._asked(self._changes, self._patient.set_many, items, ttl_s)

    async def claim(self, key: str, value: bytes, ttl_s: float) -> bool:
        """As `Side`."""
        kv = self._patient if self._reads.calm and self._changes.calm else self._kv
        return await self._asked(self._changes, kv.add, key, value, ttl_s)

    async def remove(self, keys: Sequence[str]) -> None:
        """As `Side`."""
        await self._asked(self._changes, self._patient.delete, *keys)

    async def _asked(self, breaker: Breaker, call: Callable[..., Awaitable[T]], *args: Any) -> T:
        if not breaker.admits():
            raise AwayError("it is left alone for a while")
        began = self._clock()
        try:
            answer = await call(*args)
        except LLMOpsError as error:
            _blame(breaker, error, began)
            raise
        breaker.worked()
        return answer


class LoopSide:
    """For callers on event loops: what is asked for in one turn, or while others are on their way, goes together.

    A read has `read_s` from when it is asked for and a claim `claim_s`, in strokes of `Patience` (None: as long as the
    store takes), and no longer than a read when something was late before it; a trip goes on without those who left.
    At most `MOST_AT_ONCE` trips read and as many change.
    """

    def __init__(
        self,
        kv: KeyValue,
        reads: Breaker,
        changes: Breaker,
        clock: Callable[[], float],
        *,
        read_s: float | None,
        claim_s: float | None,
    ) -> None:
        self._kv = kv
        self._reads = reads
        self._changes = changes
        self._clock = clock
        self._read_s = read_s
        self._claim_s = claim_s
        self._loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Lines] = weakref.WeakKeyDictionary()

    def read(self, keys: Sequence[str]) -> asyncio.Future[list[bytes | None]]:
        """As `Side`."""
        lines = self._lines()
        ask: _Ask[list[bytes | None]] = _Ask(lines.loop, self._reads, self._clock(), keys=keys)
        return _sent(ask, lines.reads, lines.read_patience)

    def write(self, items: Mapping[str, bytes], ttl_s: float) -> asyncio.Future[None]:
        """As `Side`."""
        lines = self._lines()
        ask: _Ask[None] = _Ask(lines.loop, self._changes, self._clock(), items=items, ttl_s=rounded(ttl_s))
        return _sent(ask, lines.changes, None)

    def claim(self, key: str, value: bytes, ttl_s: float) -> asyncio.Future[bool]:
        """As `Side`."""
        lines = self._lines()
        ask: _Ask[bool] = _Ask(
            lines.loop, self._changes, self._clock(), keys=(key,), items={key: value}, ttl_s=rounded(ttl_s)
        )
        calm = self._reads.calm and self._changes.calm
        return _sent(ask, lines.changes, lines.claim_patience if calm else lines.read_patience)

    def remove(self, keys: Sequence[str]) -> asyncio.Future[None]:
        """As `Side`."""
        lines = self._lines()
        ask: _Ask[None] = _Ask(lines.loop, self._changes, self._clock(), keys=keys)
        return _sent(ask, lines.changes, None)

    def _lines(self) -> _Lines:
        loop = asyncio.get_running_loop()
        lines = self._loops.get(loop)
        if lines is None:
            lines = self._loops[loop] = _Lines(loop, self._kv, self._clock, self._read_s, self._claim_s)
        return lines


class _Ask(Generic[T]):
    """What one caller wants: keys to read or to remove, items to write, or (both) a key to claim."""

    __slots__ = ("began", "breaker", "done", "items", "keys", "late", "openings", "ttl_s")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        breaker: Breaker,
        began: float,
        *,
        keys: Sequence[str] = (),
        items: Mapping[str, bytes] | None = None,
        ttl_s: float = 0.0,
    ) -> None:
        self.done: asyncio.Future[T] = loop.create_future()
        self.breaker = breaker
        self.openings = breaker.openings
        self.began = began
        self.keys = keys
        self.items = items
        self.ttl_s = ttl_s
        self.late = False

    def is_over(self) -> bool:
        return self.done.done()

    def expire(self) -> None:
        self.late = True
        error = LateError("it did not answer in time")
        self.done.set_exception(error)
        self.breaker.late(self.began, error)

    def answer(self, value: T) -> None:
        if not self.done.done():
            self.done.set_result(value)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error) if isinstance(error, Exception) else self.done.cancel()


class _Lines:
    """Of one event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        kv: KeyValue,
        clock: Callable[[], float],
        read_s: float | None,
        claim_s: float | None,
    ) -> None:
        self.loop = loop
        self.reads = _Line(loop, clock, lambda asks: _read(kv, asks))
        patient = kv if isinstance(kv, Patient) else None
        self.changes = _Line(loop, clock, lambda asks: _change(kv, patient, asks))
        self.read_patience = None if read_s is None else Patience(loop, read_s)
        self.claim_patience = None if claim_s is None else Patience(loop, claim_s)


class _Line:
    """Asks that wait, and the trips that carry them."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        carry: Callable[[Sequence[_Ask[Any]]], Awaitable[None]],
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._carry = carry
        self._waiting: list[_Ask[Any]] = []
        self._trips = set[asyncio.Task[None]]()
        self._leaving = False

    def join(self, ask: _Ask[Any]) -> None:
        self._waiting.append(ask)
        self._leave()

    def _leave(self) -> None:
        if self._leaving or not self._waiting or len(self._trips) >= MOST_AT_ONCE:
            return
        self._leaving = True
        trip = self._loop.create_task(self._trip())
        self._trips.add(trip)
        trip.add_done_callback(self._returned)

    def _returned(self, trip: asyncio.Task[None]) -> None:
        self._trips.discard(trip)
        self._leave()

    async def _trip(self) -> None:
        self._leaving = False
        asks, self._waiting = self._waiting[:LONGEST_BATCH], self._waiting[LONGEST_BATCH:]
        breaker, began = asks[0].breaker, self._clock()
        try:
            if breaker.openings == asks[0].openings:
                await self._carry(asks)
            else:  # it opened while they waited
                _fail(asks, AwayError("it is left alone for a while"))
                return
        except LLMOpsError as error:
            _blame(breaker, error, began)
            _fail(asks, error)
        except BaseException as error:  # the loop ends, or the store has a defect: nobody waits for ever
            _fail(asks, error)
            raise
        else:
            if not any(ask.late for ask in asks):
                breaker.worked()


def _sent(ask: _Ask[T], line: _Line, patience: Patience | None) -> asyncio.Future[T]:
    if not ask.breaker.admits():
        raise AwayError("it is left alone for a while")
    line.join(ask)
    if patience is not None:
        patience.watch(ask)
    return ask.done


def _fail(asks: Sequence[_Ask[Any]], error: BaseException) -> None:
    for ask in asks:
        ask.fail(error)


def _blame(breaker: Breaker, error: LLMOpsError, began: float) -> None:
    """Time that ran out is told by the class of a driver's error, and those have no other thing in common."""
    if type(error.__cause__).__name__.endswith(("Timeout", "TimeoutError")):
        breaker.late(began, error)
    else:
        breaker.failed(error)


async def _read(kv: KeyValue, asks: Sequence[_Ask[Any]]) -> None:
    if len(asks) == 1:
        asks[0].answer(await kv.get_many(asks[0].keys))
        return
    places: dict[str, int] = {}
    for ask in asks:
        for key in ask.keys:
            places.setdefault(key, len(places))
    values = await kv.get_many(list(places))
    for ask in asks:
        ask.answer([values[places[key]] for key in ask.keys])


async def _change(kv: KeyValue, patient: Patient | None, asks: Sequence[_Ask[Any]]) -> None:
    """Claims first, for which somebody waits; of two for one key the first is the one that may get it."""
    await _claim(kv, patient, [ask for ask in asks if ask.keys and ask.items])
    removed = [ask for ask in asks if not ask.items]
    if removed:
        await kv.delete(*{key: None for ask in removed for key in ask.keys})
    written: dict[float, Items] = {}
    for ask in asks:
        if ask.items and not ask.keys:
            written.setdefault(ask.ttl_s, {}).update(ask.items)
    for ttl_s, items in written.items():
        await kv.set_many(items, ttl_s)
    for ask in asks:
        ask.answer(None)


async def _claim(kv: KeyValue, patient: Patient | None, asks: Sequence[_Ask[Any]]) -> None:
    claimed: dict[float, Items] = {}
    first: dict[str, _Ask[Any]] = {}
    for ask in asks:
        (key,) = ask.keys
        if first.setdefault(key, ask) is ask:
            claimed.setdefault(ask.ttl_s, {}).update(ask.items or {})
        else:
            ask.answer(False)  # noqa: FBT003 - what a claim is told
    for ttl_s, items in claimed.items():
        if patient is None:
            taken = [await kv.add(key, value, ttl_s) for key, value in items.items()]
        else:
            taken = await patient.add_many(items, ttl_s)
        for key, this in zip(items, taken, strict=True):
            first[key].answer(this)


def rounded(ttl_s: float) -> float:
    """At least as long, by 1/32 at most, so that few times differ; short ones, which mean something, stay."""
    if ttl_s < EXACT_BELOW_S:
        return ttl_s
    step = 2.0 ** math.floor(math.log2(ttl_s)) / 32
    return math.ceil(ttl_s / step) * step
