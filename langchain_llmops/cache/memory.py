"""The first level of the cache: encoded answers in the memory of this process."""

from __future__ import annotations

import os
import threading
import time
import weakref
from array import array
from collections import OrderedDict
from dataclasses import dataclass
from sys import getsizeof
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Memory"]

T = TypeVar("T")

SMALL_SHARE: Final = 10  # newcomers have a tenth of the bytes
MOST_HITS: Final = 3
CHANCES: Final = 64  # entries in use that one put passes over before it takes the next, so that none takes long
ENTRY_BYTES: Final = 288  # an entry, its place in a queue and two among the ghosts: tracemalloc, CPython 3.11


@dataclass(slots=True, eq=False)
class _Entry(Generic[T]):
    data: T
    size: int
    until: float
    until_steady: float
    hits: int


class Memory(Generic[T]):
    """Immutable values by key, bounded in bytes and in time; who leaves is chosen by S3-FIFO (Yang et al., SOSP 2023).

    Newcomers wait in a small queue; those asked for again move to the main one, the others leave and are remembered
    for a while as ghosts, which enter the main queue if they return. A look takes no lock, and what was just put is
    there. An entry over a tenth of the bound is not kept: it would push every other newcomer out. A fork keeps all.

    Args:
        max_bytes: bound of `bytes`, which counts keys, data and what Python needs around them.
        clock, steady: seconds. An entry ends as soon as one of them says so: `clock` goes on while the machine sleeps,
            `steady` is never set back. What has ended is never given out, and holds its bytes until others need them.
    """

    def __init__(
        self, max_bytes: int, *, clock: Callable[[], float] = time.time, steady: Callable[[], float] = time.monotonic
    ) -> None:
        if max_bytes < 0:
            raise ConfigurationError(f"max_bytes must not be negative, but is {max_bytes}")
        self._max_bytes = max_bytes
        self._small_max = max_bytes // SMALL_SHARE
        self._clock = clock
        self._steady = steady
        self._lock = threading.Lock()
        self._begin()
        forked = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (begin := forked()) and begin())

    def __len__(self) -> int:
        return len(self._small) + len(self._main)

    def get(self, key: str) -> T | None:
        """What was put last under the key, unless it has ended or had to leave."""
        entry = self._small.get(key) or self._main.get(key)  # in this order: who moves is in main before it leaves
        if entry is None:
            return None
        if entry.hits < MOST_HITS:  # two threads may count one look: it is a hint
            entry.hits += 1
        return entry.data if self._clock() < entry.until and self._steady() < entry.until_steady else None

    def put(self, key: str, data: T, left_s: float, *, size: int | None = None) -> None:
        """Keep data for `left_s` seconds at most, in place of what the key had; `size` is that of data, in bytes."""
        size = ENTRY_BYTES + getsizeof(key) + (getsizeof(data) if size is None else size)
        if size > self._small_max and key not in self._small and key not in self._main:
            return
        with self._lock:
            to_main = key in self._main or self._ghosts[hash(key) & (len(self._ghosts) - 1)] == hash(key)
            old = self._drop(key)
            if size > self._small_max or not left_s > 0:
                return
            now, steady = self._clock(), self._steady()
            self._make_room(size, now, steady)
            entry = _Entry(data, size, now + left_s, steady + left_s, old.hits if old else 0)
            (self._main if to_main else self._small)[key] = entry
            self._small_bytes += 0 if to_main else size
            self.bytes += size

    def remove(self, key: str) -> None:
        """Forget one key."""
        with self._lock:
            self._drop(key)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._begin()

    def _begin(self) -> None:
        self._small: OrderedDict[str, _Entry[T]] = OrderedDict()
        self._main: OrderedDict[str, _Entry[T]] = OrderedDict()
        self._ghosts = array("q", [0] * 64)  # hashes of keys, each at its own place until another takes it
        self._small_bytes = self.bytes = 0

    def _after_fork(self) -> None:
        torn = self._lock.locked()  # by a thread that the child does not have
        self._lock = threading.Lock()
        if torn:
            self._begin()

    # all below under the lock

    def _make_room(self, size: int, now: float, steady: float) -> None:
        chances = CHANCES
        while self.bytes + size > self._max_bytes:
            key, entry = next(iter((self._main or self._small).items()))
            ended = now >= entry.until or steady >= entry.until_steady
            from_small = not self._main or (self._small_bytes > self._small_max and not ended)
            if from_small and self._main:
                key, entry = next(iter(self._small.items()))
                ended = now >= entry.until or steady >= entry.until_steady
            stays = entry.hits > 0 and not ended
            if stays and from_small:
                entry.hits = 0
                self._main[key] = entry
                del self._small[key]
                self._small_bytes -= entry.size
            elif stays and chances:
                chances -= 1
                entry.hits -= 1
                self._main.move_to_end(key)
            else:
                if from_small:
                    self._remember(key)
                self._drop(key)

    def _drop(self, key: str) -> _Entry[T] | None:
        small = self._small.pop(key, None)
        entry = small or self._main.pop(key, None)
        if entry is None:
            return None
        self._small_bytes -= small.size if small else 0
        self.bytes -= entry.size
        return entry

    def _remember(self, key: str) -> None:
        if len(self) > len(self._ghosts):
            self._ghosts.extend(self._ghosts)  # twice as long, everyone is still at a place of its own
        self._ghosts[hash(key) & (len(self._ghosts) - 1)] = hash(key)
