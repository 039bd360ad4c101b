"""`Maps` in a dictionary."""

from __future__ import annotations

import heapq
import threading
import time
from typing import TYPE_CHECKING, Final

from langchain_llmops.stores.keys import milliseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_llmops.stores.base import MapChange

__all__ = ["MemoryMaps"]

SWEEP_MAPS: Final = 2  # for every write, so that they never pile up

Kept = tuple[dict[bytes, bytes], float | None]


class MemoryMaps:
    """For async and blocking callers alike; `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._maps: dict[str, Kept] = {}
        self._due: list[tuple[float, str]] = []

    async def read_map(self, key: str) -> dict[bytes, bytes]:
        """A copy."""
        with self._lock:
            return dict(self._get(key)[0])

    async def write_maps(self, changes: Sequence[MapChange]) -> None:
        """All of them at once."""
        lives = [None if change.ttl_s is None else milliseconds(change.ttl_s) / 1000 for change in changes]
        with self._lock:
            for change, life_s in zip(changes, lives, strict=True):
                self._change(change, life_s)

    async def drop_maps(self, *keys: str) -> None:
        """Forget them."""
        with self._lock:
            for key in keys:
                self._maps.pop(key, None)

    def _get(self, key: str) -> Kept:
        fields, until = self._maps.get(key, ({}, None))
        return (fields, until) if until is None or until > self._clock() else ({}, None)

    def _change(self, change: MapChange, life_s: float | None) -> None:
        before, until = ({}, None) if change.whole else self._get(change.key)
        fields = {**before, **change.fields}
        for name in change.gone:
            fields.pop(name, None)
        self._maps.pop(change.key, None)
        if fields:
            until = until if life_s is None else self._clock() + life_s
            self._maps[change.key] = (fields, until)
            if until is not None and life_s is not None:
                heapq.heappush(self._due, (until, change.key))
        self._sweep()

    def _sweep(self) -> None:
        for _ in range(SWEEP_MAPS):
            if not self._due or self._due[0][0] > self._clock():
                return
            until, key = heapq.heappop(self._due)
            if self._maps.get(key, ({}, None))[1] == until:
                del self._maps[key]
