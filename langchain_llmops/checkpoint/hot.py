"""The hot tier: a rebuildable copy of each namespace's newest checkpoint, and why it is never wrong.

1. Every write to a thread commits a fresh random `stamp` in the thread's warm row, in the same transaction.
2. An entry carries the stamp of the state it holds. A put fills it with what its own transaction stored; a reader
   fills it only when the warm row had the same stamp before and after it read the parts, so nothing came between.
3. A reader always asks the warm row, and uses an entry only if the stamps are equal.
Stamps never repeat, so an entry that is used holds exactly the state of the warm row that was just read: whatever the
hot store lost, kept too long or brought back from an old snapshot, and in whichever order fills arrive, a stale entry
is a miss. Nothing needs to be invalidated, and no reader goes back in time. Put_writes fill nothing: the next put or
reader does. An error is a miss: it is counted, and the store is left alone for some seconds.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from langchain_llmops.checkpoint.schema import Write
from langchain_llmops.core.errors import EnvelopeError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.schema import Place
    from langchain_llmops.stores.base import KeyValue

__all__ = ["Entry", "Hot", "Recent"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

PREFIX: Final = "llmops:checkpoint:1:"
PAUSE_AFTER_ERROR_S: Final = 5.0
MAX_ENTRY_BYTES: Final = 8 * 1024 * 1024
MAX_RECENT_BYTES: Final = 32 * 1024 * 1024


class Entry(NamedTuple):
    """The channel values and pending writes of checkpoint `id`, newest of its namespace, at a thread's `stamp`."""

    stamp: int
    id: bytes
    blobs: dict[bytes, bytes]
    writes: list[Write]


class Hot:
    """Entries in a `KeyValue`. Counts are of this process; `size()` is what it stored and has not expired.

    Args:
        ttl_s: how long an entry stays after it was filled.
        timeout_s: how long an operation may take before it counts as an error.
    """

    def __init__(
        self,
        kv: KeyValue,
        codec: Codec,
        *,
        ttl_s: float,
        timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._kv = kv
        self._codec = codec
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._paused_until = float("-inf")
        self._sizes: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self.hits = 0
        self.misses = 0
        self.errors = 0

    async def get(self, place: Place) -> Entry | None:
        """The entry of a namespace, of whatever stamp."""
        stored = await self._tried(lambda: self._kv.get(_key(place.thread, place.ns)))
        if stored is None:
            return None
        try:
            stamp, checkpoint_id, blobs, writes = self._codec.open(stored, b"hot", place.thread, place.ns)
            return Entry(stamp, checkpoint_id, dict(blobs), [Write(*write) for write in writes])
        except (EnvelopeError, ValueError, TypeError) as error:  # damaged, or of another shape: the warm tier has it
            self._failed(error)
            return None

    async def put(self, place: Place, entry: Entry) -> None:
        """Fill the entry of a namespace."""
        content = (entry.stamp, entry.id, list(entry.blobs.items()), [tuple(write) for write in entry.writes])
        stored = self._codec.seal(content, b"hot", place.thread, place.ns)
        key = _key(place.thread, place.ns)
        if len(stored) <= MAX_ENTRY_BYTES and await self._tried(lambda: self._set(key, stored)):
            self._sizes.pop(key, None)
            self._sizes[key] = (len(stored), self._clock() + self._ttl_s)
            self._expire()

    async def drop(self, thread: bytes, namespaces: Iterable[bytes]) -> None:
        """Remove a thread's entries, to save room: without their warm row they are unreadable already."""
        keys = [_key(thread, ns) for ns in namespaces]
        if keys:
            await self._tried(lambda: self._kv.delete(*keys))
        for key in keys:
            self._sizes.pop(key, None)

    def size(self) -> int:
        """Bytes of the entries this process filled and that have not expired."""
        self._expire()
        return sum(size for size, _ in self._sizes.values())

    async def _set(self, key: str, stored: bytes) -> bool:
        await self._kv.set(key, stored, self._ttl_s)
        return True

    async def _tried(self, call: Callable[[], Coroutine[object, object, T]]) -> T | None:
        if self._clock() < self._paused_until:
            return None
        try:
            async with asyncio.timeout(self._timeout_s):
                return await call()
        except (StoreError, TimeoutError) as error:
            self._paused_until = self._clock() + PAUSE_AFTER_ERROR_S
            self._failed(error)
            return None

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        if self.errors == 1:
            _log.warning("the hot tier failed, the warm tier serves meanwhile (counted from now on): %s", error)

    def _expire(self) -> None:
        now = self._clock()
        while self._sizes and next(iter(self._sizes.values()))[1] <= now:
            self._sizes.popitem(last=False)


class Recent:
    """Channel values of the checkpoints this process saw last, so that a put can fill a whole entry.

    A key names one version of one channel, so its value never changes while the thread's `epoch` stands.
    """

    def __init__(self, max_bytes: int = MAX_RECENT_BYTES) -> None:
        self._max_bytes = max_bytes
        self._items: OrderedDict[tuple[bytes, bytes], tuple[int, dict[bytes, bytes | None], int]] = OrderedDict()
        self._bytes = 0

    def keep(self, place: Place, epoch: int, blobs: Mapping[bytes, bytes | None]) -> None:
        """Remember every key of a checkpoint; a key without a value maps to None."""
        key = (place.thread, place.ns)
        self._forget(key)
        size = sum(len(body) if body else 0 for body in blobs.values()) + len(blobs) * 64
        self._items[key] = (epoch, dict(blobs), size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            self._forget(next(iter(self._items)))

    def complete(
        self, place: Place, epoch: int, keys: Sequence[bytes], new: Mapping[bytes, bytes | None]
    ) -> dict[bytes, bytes | None] | None:
        """Every key of a checkpoint, from what is new in it and what is remembered; None if a key is in neither."""
        found = self._items.get((place.thread, place.ns))
        known = {**(found[1] if found is not None and found[0] == epoch else {}), **new}
        return {key: known[key] for key in keys} if all(key in known for key in keys) else None

    def _forget(self, key: tuple[bytes, bytes]) -> None:
        found = self._items.pop(key, None)
        if found is not None:
            self._bytes -= found[2]


def _key(thread: bytes, ns: bytes) -> str:
    return f"{PREFIX}{{{thread.hex()}}}:{hashlib.blake2b(ns, digest_size=8).hexdigest()}"
