"""Everything in this process: the reference meaning of every capability, and the double for tests."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from langchain_llmops.stores.objects import memory_objects
from langchain_llmops.stores.sqlite import IN_MEMORY, SqliteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_llmops.stores.base import KeyValue, Objects, Sql

__all__ = ["MemoryKeyValue", "MemoryStore"]


class MemoryKeyValue:
    """A `KeyValue` in a dictionary; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._items: dict[str, tuple[bytes, float | None]] = {}
        self._lock = threading.RLock()

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        with self._lock:
            found = self._items.get(key)
            if found is not None and found[1] is not None and found[1] <= self._clock():
                found = self._items.pop(key, None) and None
            return None if found is None else found[0]

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values in the order of the keys."""
        return [await self.get(key) for key in keys]

    async def set(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        """Store one value."""
        with self._lock:
            self._items[key] = (bytes(value), None if ttl_s is None else self._clock() + ttl_s)

    async def set_many(self, items: Mapping[str, bytes], ttl_s: float | None = None) -> None:
        """Store values."""
        for key, value in items.items():
            await self.set(key, value, ttl_s)

    async def add(self, key: str, value: bytes, ttl_s: float | None = None) -> bool:
        """Store a value only if there is none."""
        with self._lock:
            if await self.get(key) is not None:
                return False
            await self.set(key, value, ttl_s)
            return True

    async def increment(self, key: str, by: int = 1, ttl_s: float | None = None) -> int:
        """Add to a counter."""
        with self._lock:
            old = await self.get(key)
            total = int(old or 0) + by
            if old is None:
                await self.set(key, str(total).encode(), ttl_s)
            else:
                self._items[key] = (str(total).encode(), self._items[key][1])
            return total

    async def delete(self, *keys: str) -> int:
        """Remove keys; how many there were."""
        with self._lock:
            present = [key for key in keys if await self.get(key) is not None]
            for key in present:
                self._items.pop(key, None)
            return len(present)


class MemoryStore:
    """Keys and values, a SQLite database and objects, all in memory and gone with the process."""

    def __init__(self, *, setting: str, blocking: bool = False, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = "memory://"
        self._kv = MemoryKeyValue(clock)
        self._database = SqliteStore(IN_MEMORY, setting=setting, blocking=blocking)
        self._objects = memory_objects(blocking=blocking)

    def __repr__(self) -> str:
        return "MemoryStore()"

    @property
    def kv(self) -> KeyValue:
        """A dictionary."""
        return self._kv

    @property
    def sql(self) -> Sql:
        """SQLite in memory."""
        return self._database.sql

    @property
    def objects(self) -> Objects:
        """Objects in memory."""
        return self._objects

    async def ping(self) -> float:
        """Always there."""
        return 0.0

    async def aclose(self) -> None:
        """Forget the database."""
        await self._database.aclose()
