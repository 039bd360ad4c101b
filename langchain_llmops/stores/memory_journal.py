"""`Journal` in lists."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

from langchain_llmops.stores.base import Appended, Durability

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MemoryJournal"]


class MemoryJournal:
    """For async and blocking callers alike; what is in it ends with the process, and it says so."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._last: dict[str, int] = {}
        self._expiring: set[str] = set()
        self._records: dict[str, list[tuple[int, bytes]]] = {}

    async def append(
        self,
        entries: Sequence[tuple[str, bytes]],
        replicas: int = 0,  # noqa: ARG002 - it has none
        *,
        ttl_s: float | None = None,
    ) -> Appended:
        """All of them at once; those that would expire stay as long as the process."""
        numbers, previous = [], []
        with self._lock:
            for key, record in entries:
                numbers.append(next(self._numbers))
                previous.append(self._last.get(key, 0))
                self._last[key] = numbers[-1]
                self._records.setdefault(key, []).append((numbers[-1], bytes(record)))
                if ttl_s is not None:
                    self._expiring.add(key)
        return Appended(numbers, previous, 0)

    async def last(self, key: str) -> int:
        """Also of records that were trimmed."""
        with self._lock:
            return self._last.get(key, 0)

    async def read(self, key: str, after: int = 0, limit: int = 1000) -> list[tuple[int, bytes]]:
        """Those above a number."""
        with self._lock:
            return [one for one in self._records.get(key, ()) if one[0] > after][:limit]

    async def trim(self, key: str, upto: int) -> None:
        """Forget those up to a number."""
        with self._lock:
            left = [one for one in self._records.pop(key, ()) if one[0] > upto]
            if left:
                self._records[key] = left

    async def pending(self, limit: int = 1000) -> list[str]:
        """Keys by their oldest record."""
        with self._lock:
            open_keys = self._records.keys() - self._expiring
            return sorted(open_keys, key=lambda key: self._records[key][0])[:limit]

    async def durability(self) -> Durability:
        """None."""
        return Durability(aof=False, replicas=0)
