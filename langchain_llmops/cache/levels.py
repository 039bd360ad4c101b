"""One store as a level of the cache: nothing here raises into a call, and a store that fails is left alone."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from langchain_llmops.cache.breaker import Breaker
from langchain_llmops.cache.sides import AwayError, BlockingSide, LoopSide
from langchain_llmops.core.errors import LLMOpsError, StoreError
from langchain_llmops.stores.base import Patient

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_llmops.cache.sides import Side
    from langchain_llmops.stores.base import KeyValue, Store

__all__ = ["CLAIM_S", "PATIENCE_S", "Level"]

CLAIM_S: Final = 0.5  # it goes before a call of seconds
PATIENCE_S: Final = 2.0  # of what nobody waits for

_log = logging.getLogger(__name__)


class Level:
    """A key-value store below memory, for async and for blocking callers.

    Nothing here raises but `CancelledError`: what failed or was late is counted by `failed`, and told of once. While a
    `Breaker` is open nothing is asked for, which `skipped` counts. With one of two stores missing, callers of that
    colour have no such level. A reader waits for as long as the store's timeout says, who claims for `CLAIM_S`; a trip
    that is on its way, and a write, have `PATIENCE_S`. A store that is not `Patient` has one timeout for all.
    """

    def __init__(
        self,
        name: str,
        store: Store | None,
        blocking_store: Store | None,
        *,
        clock: Callable[[], float],
        failed: Callable[[str], None],
        skipped: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.written_bytes = 0
        self.stores = [one for one in (store, blocking_store) if one is not None]
        self._failed = failed
        self._skipped = skipped
        # who is full, or a replica, refuses changes and can be read: a change that fails says nothing of reads
        self._reads = reads = Breaker(clock, self._tell)
        self._changes = changes = Breaker(clock, self._tell, under=reads)
        self._kv = None if store is None else _within(store.kv, PATIENCE_S)
        self._blocking_kv = None if blocking_store is None else _within(blocking_store.kv, CLAIM_S)
        self._side: Side | None = None
        self._blocking: Side | None = None
        if store is not None and self._kv is not None:
            read_s = store.kv.timeout_s if isinstance(store.kv, Patient) else None
            claim_s = None if read_s is None else max(read_s, CLAIM_S)
            self._side = LoopSide(self._kv, reads, changes, clock, read_s=read_s, claim_s=claim_s)
        if blocking_store is not None and self._blocking_kv is not None:
            self._blocking = BlockingSide(blocking_store.kv, self._blocking_kv, reads, changes, clock)

    def usable(self, *, blocking: bool) -> bool:
        """Whether it may be asked now."""
        return (self._blocking if blocking else self._side) is not None and not self._changes.is_open()

    async def read(self, keys: Sequence[str], *, blocking: bool) -> list[bytes | None] | None:
        """Values in the order of keys, one round trip; None when the level is away."""
        side = self._blocking if blocking else self._side
        if side is not None:
            try:
                return await side.read(keys)
            except LLMOpsError as error:
                self._count(error)
        return None

    async def write(self, items: Mapping[str, bytes], ttl_s: float, *, blocking: bool) -> bool:
        """Whether it could be written; some stay a little longer."""
        side = self._blocking if blocking else self._side
        if side is not None:
            try:
                await side.write(items, ttl_s)
            except LLMOpsError as error:
                self._count(error)
            else:
                self.written_bytes += sum(map(len, items.values()))
                return True
        return False

    async def claim(self, key: str, value: bytes, ttl_s: float, *, blocking: bool) -> bool | None:
        """Set a key that is not there; whether this was the one, None when the level is away."""
        side = self._blocking if blocking else self._side
        if side is not None:
            try:
                return await side.claim(key, value, ttl_s)
            except LLMOpsError as error:
                self._count(error)
        return None

    async def remove(self, *keys: str, blocking: bool) -> None:
        """Remove keys, if the level can be asked."""
        side = self._blocking if blocking else self._side
        if side is not None:
            try:
                await side.remove(keys)
            except LLMOpsError as error:
                self._count(error)

    async def must_read(self, keys: Sequence[str]) -> list[bytes | None]:
        """Read for a blocking caller although it failed a moment ago; raises `StoreError`."""
        return [None] * len(keys) if self._blocking_kv is None else await self._blocking_kv.get_many(keys)

    async def must_write(self, items: Mapping[str, bytes], ttl_s: float, *, blocking: bool) -> None:
        """Write although it failed a moment ago; raises `StoreError`: for what must not be lost."""
        kv = self._blocking_kv if blocking else self._kv
        if kv is None:
            colour = "blocking" if blocking else "async"
            raise StoreError(f"level {self.name} of the cache has no store for {colour} callers; give it both")
        await kv.set_many(items, ttl_s)

    @property
    def answers(self) -> int:
        """How often it has answered, about."""
        return self._reads.answers + self._changes.answers

    def _count(self, error: LLMOpsError) -> None:
        (self._skipped if isinstance(error, AwayError) else self._failed)(self.name)

    def _tell(self, error: Exception) -> None:
        _log.warning("the cache goes on without its level %s until that answers again: %s", self.name, error)


def _within(kv: KeyValue, timeout_s: float) -> KeyValue:
    return kv.within(max(timeout_s, kv.timeout_s)) if isinstance(kv, Patient) else kv
