"""The hot tier: rebuildable copies of threads' newest checkpoints, one map a thread, and why it is never wrong.

1. Every write of a thread commits a fresh random `stamp` in its warm row, in the same transaction.
2. A copy carries the stamp of the state it holds; it is made from what this process knows at that stamp.
3. A reader asks the warm row first, and uses a copy only if the stamps are equal.
Stamps never repeat, so a copy that is used holds exactly the state of the row that was just read, whatever the hot
store lost, kept too long or brought back from an old snapshot. Chunks are named by their content, so copies may share
them. Copies are made behind the callers' backs, a little later, so that a turn's writes make one. An error is a miss:
it is counted, and the store is left alone for some seconds.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from langchain_llmops.checkpoint.codec import readable
from langchain_llmops.checkpoint.manifest import Manifest
from langchain_llmops.checkpoint.names import named, stored_name
from langchain_llmops.checkpoint.recent import Held
from langchain_llmops.checkpoint.state import Pending, State
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import CheckpointError, EnvelopeError, StoreError
from langchain_llmops.stores.base import MapChange

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.checkpoint.recent import Recent
    from langchain_llmops.checkpoint.schema import Thread
    from langchain_llmops.stores.base import Store

__all__ = ["Hot"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

PREFIX: Final = "llmops:ck:1:"
HEAD: Final = b"h"  # and the namespace; a chunk's field is its name, which is longer
FILL_AFTER_S: Final = 0.1
FILL_WITHIN_S: Final = 1.0
IDLE_S: Final = 5.0
PAUSE_AFTER_ERROR_S: Final = 5.0
MAX_COPY_BYTES: Final = 8 * 1024 * 1024
MAX_NAMESPACES: Final = 4
MAX_FILLED: Final = 20_000
MOST_AT_ONCE: Final = 64


class _Filled(NamedTuple):
    fields: frozenset[bytes]
    bytes: int
    until: float


class Hot:
    """Copies in a store's maps. Counts are of this process; `size()` is what it stored and has not expired.

    Args:
        ttl_s: how long a copy stays after it was made.
        rows: the warm rows of threads, by digest: a copy that was made of a thread deleted meanwhile is removed again.
    """

    def __init__(
        self,
        store: Store,
        codec: Codec,
        recent: Recent,
        *,
        rows: Callable[[Sequence[bytes]], Coroutine[Any, Any, Mapping[bytes, Thread]]],
        ttl_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._maps = store.maps
        self._rows = rows
        self._codec = codec
        self._recent = recent
        self._ttl_s = ttl_s
        self._clock = clock
        self._paused_until = float("-inf")
        self._filled: OrderedDict[bytes, _Filled] = OrderedDict()
        self.hits = 0
        self.misses = 0
        self.errors = 0
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._ready = threading.Condition()
        self._noted: dict[bytes, tuple[float, float]] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    # reading

    async def read(self, place: Place, thread: Thread) -> Held | None:
        """The newest checkpoint of a namespace, if a copy holds the row's very state."""
        fields = await self._tried(lambda: self._maps.read_map(_key(place.thread)))
        held = self._held(place, thread, fields) if fields else None
        if held is None:
            self.misses += 1
            self._filled.pop(place.thread, None)
        else:
            self.hits += 1
        return held

    def _held(self, place: Place, thread: Thread, fields: dict[bytes, bytes]) -> Held | None:
        try:
            with readable():
                return self._opened(place, thread, fields)
        except EnvelopeError as error:  # damaged, or of another shape: the warm tier has it
            self._failed(error)
            return None

    def _opened(self, place: Place, thread: Thread, fields: dict[bytes, bytes]) -> Held | None:
        record = fields.get(HEAD + place.ns)
        opened = self._codec.unpack(self._codec.open_object(_context(place), record)) if record else None
        if opened is None or opened[0] != thread.stamp:
            return None
        state = _state(place, named(opened[1]), *opened[2:])
        names = set(state.refs())
        if not names <= fields.keys():
            return None
        open_chunk = self._codec.open_chunk
        return Held(state, {name: open_chunk(place.thread, name, fields[name]) for name in names})

    # filling

    def note(self, thread: bytes) -> None:
        """A copy of the thread is to be made."""
        self.note_all([thread])

    def note_all(self, threads: Iterable[bytes]) -> None:
        """Copies of the threads are to be made, as soon as their writers pause."""
        if self._pid != os.getpid():
            self._reset()
        if self._clock() < self._paused_until:
            return
        with self._ready:
            if self._closed:
                return
            was_empty, now = not self._noted, self._clock()
            for thread in threads:
                first, _ = self._noted.get(thread, (now, now))
                self._noted[thread] = (first, now)
            if self._thread is None and self._noted:
                filler = threading.Thread(target=self._work, name="llmops-hot", daemon=True)
                filler.start()
                self._thread = filler
            elif was_empty:
                self._ready.notify()

    def _work(self) -> None:
        while (due := self._due()) is not None:
            for start in range(0, len(due), MOST_AT_ONCE):
                try:
                    self.fill(due[start : start + MOST_AT_ONCE])
                except Exception as error:  # noqa: BLE001 - without this thread no copy would ever be made again
                    self._failed(error)

    def _due(self) -> list[bytes] | None:
        """The threads whose writers pause, or have not for long; None when this one may end."""
        with self._ready:
            if not self._noted:
                self._ready.wait(IDLE_S)
            if not self._noted or self._closed:
                self._thread = None
                return None
            self._ready.wait(FILL_AFTER_S)
            quiet, late = self._clock() - FILL_AFTER_S, self._clock() - FILL_WITHIN_S
            due = [thread for thread, (first, last) in self._noted.items() if last <= quiet or first <= late]
            for thread in due:
                del self._noted[thread]
            return due

    def fill(self, threads: Iterable[bytes]) -> None:
        """Make copies of what this process knows of threads, now."""
        made = [(thread, copy) for thread in threads if (copy := self._copied(thread)) is not None]
        changes = [change for _, (change, _) in made]
        if not changes:
            return
        if drive(self._tried(partial(self._written, changes, [thread for thread, _ in made]))):
            for thread, (_, filled) in made:
                self._filled.pop(thread, None)  # not moved to the end: a reader may take it out meanwhile
                self._filled[thread] = filled
            while len(self._filled) > MAX_FILLED:
                self._filled.popitem(last=False)

    async def _written(self, changes: Sequence[MapChange], threads: Sequence[bytes]) -> bool:
        """Who deletes a thread drops its copy after its row: a copy written later finds no row any more."""
        await self._maps.write_maps(changes)
        there = await self._rows(threads)
        gone = [thread for thread in threads if thread not in there]
        if gone:
            await self._maps.drop_maps(*map(_key, gone))
            for thread in gone:
                self._recent.forget(thread)
        return True

    def _copied(self, thread: bytes) -> tuple[MapChange, _Filled] | None:
        try:
            return self._copy(thread)
        except (CheckpointError, StoreError) as error:  # the key of its user is gone, or cannot be read now
            self._failed(error)
            return None

    def _copy(self, thread: bytes) -> tuple[MapChange, _Filled] | None:
        stamp, states, owner = self._recent.heads(thread)
        codec = self._codec.of(owner)
        states = sorted(states, key=lambda state: (state.ns == b"", state.id), reverse=True)[:MAX_NAMESPACES]
        names = {name for state in states for name in state.refs()}
        chunks = self._recent.chunks(thread, names)
        if not states or len(chunks) < len(names):
            return None
        now = self._clock()
        filled = self._filled.get(thread)
        known = filled.fields if filled is not None and now < filled.until else None
        fields = {HEAD + state.ns: _record(codec, thread, stamp, state) for state in states}
        fields |= {
            name: codec.seal_chunk(thread, name, chunk)
            for name, chunk in chunks.items()
            if known is None or name not in known
        }
        all_fields = frozenset(fields) | names
        size = sum(map(len, fields.values())) + (filled.bytes if known is not None and filled is not None else 0)
        if size > MAX_COPY_BYTES:
            return None
        gone = sorted(known - all_fields) if known is not None else ()
        change = MapChange(_key(thread), fields, gone, self._ttl_s, whole=known is None)
        return change, _Filled(all_fields, size, now + self._ttl_s)

    async def drop(self, thread: bytes) -> bool:
        """Remove a thread's copies; whether the store did."""
        self._filled.pop(thread, None)

        async def dropped() -> bool:
            await self._maps.drop_maps(_key(thread))
            return True

        return bool(await self._tried(dropped))

    async def erase(self, thread: bytes) -> bool:
        """Remove a thread's copies for certain; whether there were any. Raises the store's typed error."""
        self._filled.pop(thread, None)
        with self._ready:
            self._noted.pop(thread, None)
        found = await self._maps.read_map(_key(thread))
        await self._maps.drop_maps(_key(thread))
        return bool(found)

    async def holds(self, thread: bytes) -> bool:
        """Whether there are copies of a thread, whatever they hold. Raises the store's typed error."""
        return bool(await self._maps.read_map(_key(thread)))

    def size(self) -> int:
        """Bytes of the copies this process made and that have not expired."""
        now = self._clock()
        return sum(filled.bytes for filled in list(self._filled.values()) if now < filled.until)

    def close(self) -> None:
        """Make no more copies."""
        with self._ready:
            self._closed = True
            self._noted.clear()
            self._ready.notify()

    def open(self) -> None:
        """Make copies again."""
        self._closed = False

    async def _tried(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        if self._clock() < self._paused_until:
            return None
        try:
            return await call()
        except CheckpointError:  # the checkpointer was closed meanwhile
            return None
        except StoreError as error:
            self._paused_until = self._clock() + PAUSE_AFTER_ERROR_S
            self._failed(error)
            return None

    def _failed(self, error: Exception) -> None:
        self.errors += 1
        if self.errors == 1:
            _log.warning("the hot tier failed, the warm tier serves meanwhile (counted from now on): %s", error)


def _record(codec: Codec, thread: bytes, stamp: int, state: State) -> bytes:
    m = state.manifest
    writes = [[*one.key, *one[1:]] for one in (state.writes or {}).values()]
    manifest = [m.fields, m.versions, m.seen, m.values, m.full_bytes, m.debt_bytes]
    content = [stamp, stored_name(state.namespace), state.id, state.parent, state.metadata, manifest, writes]
    return codec.seal_object(b"hot" + thread + state.ns, codec.pack(content))


def _state(
    place: Place,
    namespace: str,
    checkpoint_id: bytes,
    parent: bytes | None,
    metadata: dict[str, Any],
    manifest: list[Any],
    writes: list[list[Any]],
) -> State:
    pending = [Pending((task, idx), path, task_id, channel, node) for task, idx, path, task_id, channel, node in writes]
    known = {one.key: one for one in pending}
    return State(namespace, place.ns, checkpoint_id, parent, metadata, Manifest(*manifest), known)


def _context(place: Place) -> bytes:
    return b"hot" + place.thread + place.ns


def _key(thread: bytes) -> str:
    return f"{PREFIX}{{{thread.hex()}}}"
