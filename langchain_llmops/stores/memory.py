"""Everything in this process: the reference meaning of every capability, and a double for tests."""

from __future__ import annotations

import heapq
import threading
import time
from typing import TYPE_CHECKING, Final

from langchain_llmops.stores.keys import added, milliseconds
from langchain_llmops.stores.memory_journal import MemoryJournal
from langchain_llmops.stores.memory_maps import MemoryMaps
from langchain_llmops.stores.objects import memory_objects
from langchain_llmops.stores.opened import OpenedStore
from langchain_llmops.stores.sqlite import IN_MEMORY, SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["MemoryKeyValue", "MemoryStore"]

SWEEP_ROWS: Final = 2  # for every write, so that they never pile up


class MemoryKeyValue:
    """A `KeyValue` in a dictionary, for async and blocking callers alike; `clock` gives seconds.

    Expired items are invisible at once and are removed, some at a time, as others are written.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._items: dict[str, tuple[bytes, float | None]] = {}
        self._lock = threading.Lock()
        self._due: list[tuple[float, str]] = []

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        with self._lock:
            return self._get(key)

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values in the order of the keys."""
        with self._lock:
            return [self._get(key) for key in keys]

    async def set(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        """Store one value."""
        await self.set_many({key: value}, ttl_s)

    async def set_many(self, items: Mapping[str, bytes], ttl_s: float | None = None) -> None:
        """Store values."""
        until = self._until(ttl_s)
        with self._lock:
            for key, value in items.items():
                self._put(key, value, until)

    async def add(self, key: str, value: bytes, ttl_s: float | None = None) -> bool:
        """Store a value only if there is none."""
        until = self._until(ttl_s)
        with self._lock:
            if self._get(key) is not None:
                return False
            self._put(key, value, until)
            return True

    async def increment(self, key: str, by: int = 1, ttl_s: float | None = None) -> int:
        """Add to a counter; an expired one begins anew."""
        until = self._until(ttl_s)
        with self._lock:
            old = self._get(key)
            total = added(old, by)
            self._put(key, str(total).encode(), until if old is None else self._items[key][1])
            return total

    async def delete(self, *keys: str) -> int:
        """Remove keys; how many there were."""
        with self._lock:
            present = {key for key in keys if self._get(key) is not None}
            for key in present:
                del self._items[key]
            return len(present)

    def _until(self, ttl_s: float | None) -> float | None:
        return None if ttl_s is None else self._clock() + milliseconds(ttl_s) / 1000

    def _get(self, key: str) -> bytes | None:
        value, until = self._items.get(key, (None, None))
        return value if until is None or until > self._clock() else None

    def _put(self, key: str, value: bytes, until: float | None) -> None:
        self._items[key] = (bytes(value), until)
        if until is not None:
            heapq.heappush(self._due, (until, key))
        self._sweep()

    def _sweep(self) -> None:
        for _ in range(SWEEP_ROWS):
            if not self._due or self._due[0][0] > self._clock():
                return
            until, key = heapq.heappop(self._due)
            if self._items.get(key, (b"", None))[1] == until:
                del self._items[key]


class MemoryStore(OpenedStore):
    """Keys and values, maps, a journal, a SQLite database and objects, all in memory and gone with the process.

    Its `kv`, `maps` and `journal` serve both colours at once; a forked child goes on with copies of them and of `sql`.
    """

    def __init__(
        self,
        *,
        setting: str = "url",
        blocking: bool = False,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        database = SqliteStore(IN_MEMORY, setting=setting, blocking=blocking, timeout_s=timeout_s)
        super().__init__(
            "memory://",
            setting,
            reach=database.ping,
            close=database.aclose,
            kv=MemoryKeyValue(clock),
            maps=MemoryMaps(clock),
            journal=MemoryJournal(),
            sql=database.sql,
            objects=memory_objects(setting=setting, blocking=blocking),
        )
