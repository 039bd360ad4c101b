"""What this process knows of the threads it used last: the newest checkpoints, and which chunks are stored.

Of a thread, all of it holds at one `stamp`: a reader uses it only if the warm row still has that stamp, and a commit
carries it on only if the row had that stamp before. `epoch` says since when no row was removed or replaced: a delta
may be built on a known checkpoint, and a known chunk left out, as long as the warm row has that epoch.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NamedTuple

from langchain_llmops.checkpoint.nodes import HASH_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.checkpoint.schema import Applied, Thread
    from langchain_llmops.checkpoint.state import Pending, State

__all__ = ["Basis", "Held", "Known", "News", "Recent"]

MAX_BYTES: Final = 64 * 1024 * 1024
MAX_STATES: Final = 24  # of a thread: the heads of its namespaces, and those read by id
ENTRY_BYTES: Final = 2048


class Held(NamedTuple):
    """A checkpoint with the chunks it needs."""

    state: State
    chunks: dict[bytes, bytes]


class Basis(NamedTuple):
    """What a write may count on at `epoch`: its parent (None if it is not known) and chunks that are stored.

    With `in_full` it takes no more from its parent than the values that it is not given itself.
    """

    epoch: int
    parent: State | None
    stored: frozenset[bytes] | set[bytes]
    owner: bytes | None
    marked: Mapping[bytes, bytes] = {}
    in_full: bool = False

    def for_values(self) -> Basis:
        """The same, for a write that goes in full."""
        return self._replace(stored=frozenset(), marked={}, in_full=True)


class Known(NamedTuple):
    """A thread as this process knows it."""

    stamp: int
    epoch: int
    owner: bytes | None


class News(NamedTuple):
    """What a committed operation changed: a new checkpoint, or writes of one (with whether they leave others alone)."""

    ns: bytes
    id: bytes
    state: State | None
    writes: list[tuple[Pending, bool]]
    chunks: Mapping[bytes, bytes]
    marks: Mapping[bytes, bytes] = {}


@dataclass(slots=True)
class _Known:
    stamp: int
    epoch: int
    owner: bytes | None
    is_whole: bool = False  # whether a namespace that is not among the heads has no checkpoint
    heads: dict[bytes, bytes | None] = field(default_factory=dict)
    states: OrderedDict[tuple[bytes, bytes], State] = field(default_factory=OrderedDict)
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    marked: dict[bytes, bytes] = field(default_factory=dict)
    size: int = ENTRY_BYTES

    def add(self, chunks: Mapping[bytes, bytes]) -> None:
        for name, chunk in chunks.items():
            if name not in self.chunks:
                self.chunks[name] = chunk
                self.size += len(chunk) + HASH_BYTES

    def place(self, state: State) -> None:
        key = (state.ns, state.id)
        self.states[key] = state
        self.states.move_to_end(key)
        while len(self.states) > MAX_STATES:
            (ns, checkpoint_id), _ = self.states.popitem(last=False)
            if self.heads.get(ns) == checkpoint_id:
                del self.heads[ns]

    def tidy(self) -> None:
        """Let go of chunks that no known checkpoint needs, once they are the larger part."""
        if len(self.chunks) < 64:  # noqa: PLR2004 - not worth a look
            return
        needed = {name for state in self.states.values() for name in state.refs()}
        if len(needed) * 2 < len(self.chunks):
            self.chunks = {name: chunk for name, chunk in self.chunks.items() if name in needed}
            self.marked = {mark: name for mark, name in self.marked.items() if name in needed}
            self.size = ENTRY_BYTES + sum(len(chunk) + HASH_BYTES for chunk in self.chunks.values())


class Recent:
    """For all threads of the process, and from any of them; the least recently used go first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def head(self, place: Place, thread: Thread) -> Held | None:
        """The newest checkpoint of a namespace, if it is known whole at the stamp of the row."""
        with self._lock:
            known = self._known.get(place.thread)
            if known is None or known.stamp != thread.stamp:
                return None
            self._known.move_to_end(place.thread)
            state = known.states.get((place.ns, known.heads.get(place.ns) or b""))
            if state is None or state.writes is None:
                return None
            return self._held(known, state)

    def known(self, thread: bytes) -> Known | None:
        """Until when a thread is known; None for one that is not."""
        with self._lock:
            found = self._known.get(thread)
            return None if found is None else Known(found.stamp, found.epoch, found.owner)

    def heads(self, thread: bytes) -> tuple[int, list[State], bytes | None]:
        """The stamp, every namespace's newest checkpoint that is known whole, and the owner."""
        with self._lock:
            known = self._known.get(thread)
            if known is None:
                return 0, [], None
            found = [known.states.get((ns, checkpoint_id or b"")) for ns, checkpoint_id in known.heads.items()]
            return (
                known.stamp,
                [state for state in found if state is not None and state.writes is not None],
                known.owner,
            )

    def chunks(self, thread: bytes, names: Iterable[bytes]) -> dict[bytes, bytes]:
        """Those of the chunks that are known."""
        with self._lock:
            known = self._known.get(thread)
            return {} if known is None else {name: known.chunks[name] for name in names if name in known.chunks}

    def basis(self, place: Place, checkpoint_id: bytes | None) -> Basis | None:
        """What a write below a checkpoint may count on; None for an unknown thread."""
        with self._lock:
            known = self._known.get(place.thread)
            if known is None:
                return None
            parent = known.states.get((place.ns, checkpoint_id)) if checkpoint_id is not None else None
            return Basis(known.epoch, parent, known.chunks.keys(), known.owner, known.marked)  # type: ignore[arg-type] # a set of keys

    def adopt(self, place: Place, thread: Thread, held: Held, *, newest: bool) -> None:
        """Remember what was read from the row's state."""
        with self._lock:
            known = self._known.get(place.thread)
            if known is None or known.stamp != thread.stamp:
                same = known is not None and known.epoch == thread.epoch
                known = self._renewed(place.thread, known if same else None, thread.stamp, thread.epoch, thread.owner)
            before = known.size
            known.add(held.chunks)
            if newest:
                known.heads[place.ns] = held.state.id
            known.place(held.state)
            self._count(place.thread, known.size - before)

    def begin(self, thread: bytes, stamp: int) -> None:
        """Remember that there is no such thread."""
        with self._lock:
            known = self._renewed(thread, None, stamp, 0, None)
            known.is_whole = True

    def adopt_empty(self, place: Place, thread: Thread) -> None:
        """Remember that a namespace had no checkpoint in the row's state."""
        with self._lock:
            known = self._known.get(place.thread)
            if known is not None and known.stamp == thread.stamp:
                known.heads[place.ns] = None

    def committed(self, thread: bytes, owner: bytes | None, stamp: int, applied: Applied, news: Iterable[News]) -> None:
        """Carry a thread on by what was just stored, in the order of commits."""
        with self._lock:
            known = self._known.get(thread)
            if known is None or known.stamp != applied.prior or known.epoch != applied.epoch:
                same = known is not None and known.epoch == applied.epoch
                known = self._renewed(thread, known if same else None, applied.prior, applied.epoch, owner)
                known.is_whole = applied.prior == 0
            before = known.size
            known.stamp = stamp
            known.owner = known.owner or owner
            for one in sorted(news, key=lambda one: one.state is None):  # checkpoints before their writes
                known.add(one.chunks)
                known.marked.update(one.marks)
                if one.state is not None:
                    self._put(known, one.state, early=(one.ns, one.id) in applied.early)
                self._write(known, one)
            known.tidy()
            self._count(thread, known.size - before)

    def forget(self, thread: bytes) -> None:
        """Know nothing of a thread any more."""
        with self._lock:
            known = self._known.pop(thread, None)
            if known is not None:
                self._bytes -= known.size

    def clear(self) -> None:
        """Know nothing."""
        with self._lock:
            self._known.clear()
            self._bytes = 0

    def _put(self, known: _Known, state: State, *, early: bool) -> None:
        existing = known.states.get((state.ns, state.id))
        if early or (existing is not None and existing.writes is None):
            writes = existing.writes if existing is not None else None
        else:
            writes = existing.writes if existing is not None else {}
        known.place(replace(state, writes=writes))
        if state.ns not in known.heads:
            if known.is_whole:
                known.heads[state.ns] = state.id
            return
        head = known.heads[state.ns]
        if head is None or head < state.id:
            known.heads[state.ns] = state.id
        if head is not None and head == state.parent:
            known.states.pop((state.ns, head), None)

    def _write(self, known: _Known, news: News) -> None:
        state = known.states.get((news.ns, news.id))
        if state is None or state.writes is None or not news.writes:
            return
        writes = dict(state.writes)
        for pending, keeps in news.writes:
            if not keeps or pending.key not in writes:
                writes[pending.key] = pending
        known.states[news.ns, news.id] = replace(state, writes=writes)

    def _held(self, known: _Known, state: State) -> Held | None:
        chunks = known.chunks
        try:
            return Held(state, {name: chunks[name] for name in state.refs()})
        except KeyError:
            return None

    def _renewed(self, thread: bytes, same_epoch: _Known | None, stamp: int, epoch: int, owner: bytes | None) -> _Known:
        """Nothing is known of the thread, but for what stays true while its epoch stands."""
        old = self._known.pop(thread, None)
        if old is not None:
            self._bytes -= old.size
        known = _Known(stamp, epoch, owner)
        if same_epoch is not None:
            known.chunks, known.marked, known.size = same_epoch.chunks, same_epoch.marked, same_epoch.size
            known.states = OrderedDict((key, replace(state, writes=None)) for key, state in same_epoch.states.items())
        self._known[thread] = known
        self._bytes += known.size
        return known

    def _count(self, thread: bytes, grown: int) -> None:
        self._bytes += grown
        self._known.move_to_end(thread)
        while self._bytes > self._max_bytes and len(self._known) > 1:
            _, gone = self._known.popitem(last=False)
            self._bytes -= gone.size
