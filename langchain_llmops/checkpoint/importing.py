"""Bringing threads of other savers here: looked through first, then written, then read back and compared."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from enum import Enum
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final, Literal

from langgraph.checkpoint.base import WRITES_IDX_MAP, get_serializable_checkpoint_metadata
from langgraph.checkpoint.serde.types import TASKS

from langchain_llmops.checkpoint.import_source import Name, in_order
from langchain_llmops.checkpoint.import_values import Unreadable, Value, alike
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple

    from langchain_llmops.checkpoint.import_source import Source, Stored, StoredWrite
    from langchain_llmops.checkpoint.import_values import Unpacker

__all__ = ["Importer", "Outcome", "State"]

State = Literal["imported", "completed", "replaced", "here", "continued", "refused", "failed"]
# checkpoints below this format have the sends of a step among the writes of their parent
SENDS_IN_CHANNELS: Final = 4
PARENTS_KEPT: Final = 64
SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a thread.

    `imported`; `completed` (a part of it was here); `replaced`; `here` (equal, nothing was done); `continued` (all of
    it is here and more has been written since, nothing was done); `refused`, for a reason, with nothing written;
    `failed` while it was written, for a reason. In a dry run, what would become of it.
    """

    thread: str
    state: State
    checkpoints: int = 0
    writes: int = 0
    bytes_there: int = 0
    reason: str = ""


class _Relation(Enum):
    """How a checkpoint here stands to that of the source."""

    EQUAL = "equal"
    LESS = "lacks pending writes"
    MORE = "has pending writes the source does not have"
    OTHER = "differs"


@dataclass(slots=True)
class _Seen:
    """A thread of the source beside what is here of it."""

    names: list[Name]
    writes: int = 0
    users: set[str] = field(default_factory=set)
    problems: dict[str, None] = field(default_factory=dict)
    missing: set[Name] = field(default_factory=set)
    differing: list[str] = field(default_factory=list)
    some_here: bool = False
    further: bool = False

    @property
    def state(self) -> State:
        """What there is to do, as if it were done."""
        if self.differing or (self.missing and self.further):
            return "replaced"
        if self.missing:
            return "completed" if self.some_here else "imported"
        return "continued" if self.further else "here"


class Importer:
    """Brings threads of a source into a saver.

    A thread of which one value is refused is not written at all. One that exists here with other content is refused
    unless `replace`; what a broken-off import has left is completed. Threads keep their owner: the one user id in their
    metadata, which `unowned` ignores.

    Args:
        source: where the threads are.
        saver: ours, with the classes allowed that `unpacker` allows.
        dry_run: look, and write nothing.
        stopping: asked between checkpoints; when it says True, `InterruptedError` is raised.
    """

    def __init__(
        self,
        source: Source,
        saver: BaseCheckpointSaver[str],
        unpacker: Unpacker,
        *,
        replace: bool = False,
        unowned: bool = False,
        dry_run: bool = False,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self._source = source
        self._saver = saver
        self._unpacker = unpacker
        self._replace = replace
        self._unowned = unowned
        self._dry_run = dry_run
        self._stopping = stopping

    def bring(self, thread: str) -> Outcome:
        """One thread. Raises `StoreError` when a database fails; a second call goes on from there."""
        names = drive(self._source.names(thread))
        if not names:
            return Outcome(thread, "refused", reason="the source has no such thread")
        seen = self._look(thread, names)
        size = drive(self._source.size(thread))
        state, reason = seen.state, self._refusal(seen)
        if reason:
            state = "refused"
        elif not self._dry_run:
            try:
                self._write(thread, seen, state)
            except CheckpointError as error:
                state, reason = "failed", str(error)
        return Outcome(thread, state, len(names), seen.writes, size, reason)

    # looking

    def _look(self, thread: str, names: list[Name]) -> _Seen:
        here = {_name_of(found) for found in self._saver.list({"configurable": {"thread_id": thread}})}
        seen = _Seen(names, some_here=bool(here), further=not here <= set(names))
        for name in names:
            self._ask_to_stop()
            try:
                stored = self._read(thread, name)
                lost = list(self._lost(stored))
            except Unreadable as error:
                seen.problems[f"{_shown(name)} {error}"] = None
                continue
            seen.problems |= dict.fromkeys(lost)
            seen.writes += len(stored.writes)
            if (user := self._user(stored)) is not None:
                seen.users.add(str(user))
            if not lost:
                self._compare(thread, name, stored, seen, is_here=name in here)
        return seen

    def _compare(self, thread: str, name: Name, stored: Stored, seen: _Seen, *, is_here: bool) -> None:
        relation = self._relation(thread, name, stored) if is_here else _Relation.LESS
        if relation is _Relation.LESS:
            seen.missing.add(name)
        elif relation is _Relation.MORE:
            seen.further = True
        elif relation is _Relation.OTHER:
            seen.differing.append(_shown(name))

    def _refusal(self, seen: _Seen) -> str:
        """Why a thread may not be written; nothing if it may."""
        if seen.problems:
            more = len(seen.problems) - SHOWN
            return "; ".join(list(seen.problems)[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
        if len(seen.users) > 1:
            users = ", ".join(repr(user) for user in sorted(seen.users)[:SHOWN])
            return f"has checkpoints of several users ({users}), and a thread here has one owner; --unowned brings it"
        if seen.state == "replaced" and not self._replace:
            where = seen.differing[0] if seen.differing else "both sides have checkpoints the other has not"
            return f"exists here with other content ({where}); --replace deletes it here and brings the source's"
        return ""

    def _lost(self, stored: Stored) -> Iterable[str]:
        for channel, value in stored.values.items():
            yield from self._lines(f"channel {channel!r}", value)
        for write in stored.writes:
            yield from self._lines(f"a pending write to channel {write.channel!r}", write.value)

    def _lines(self, what: str, value: Value) -> Iterable[str]:
        for name in self._unpacker.lost(value):
            module, _, kind = name.rpartition(".")
            if self._unpacker.is_allowed(name):
                yield f"{what} holds a {name} that cannot be built of what is stored"
            else:
                yield f"{what} holds a {name}, which is not on LangGraph's safe list; --allow {module}:{kind} trusts it"

    # writing

    def _write(self, thread: str, seen: _Seen, state: State) -> None:
        if state in ("here", "continued"):
            return
        if state == "replaced":
            self._saver.delete_thread(thread)
            seen.missing = set(seen.names)
        parents: OrderedDict[Name, dict[str, Any]] = OrderedDict()
        for name in seen.names:
            self._ask_to_stop()
            if name in seen.missing:
                self._put(thread, name, self._read(thread, name), parents)
        for name in seen.names:
            self._ask_to_stop()
            if self._relation(thread, name, self._read(thread, name)) is not _Relation.EQUAL:
                raise CheckpointError(
                    f"{_shown(name)} read back is not the source's; if the thread is still written there, run again"
                )

    def _put(self, thread: str, name: Name, stored: Stored, parents: OrderedDict[Name, dict[str, Any]]) -> None:
        """A checkpoint and its writes; only what its parent does not have counts as new."""
        held = {channel: self._unpacker.packed(value.value) for channel, value in stored.values.items()}
        states = {channel: (version, held.get(channel)) for channel, version in _versions(stored).items()}
        above = parents.get(Name(name.ns, stored.parent), {}) if stored.parent else {}
        new = {channel: state[0] for channel, state in states.items() if above.get(channel) != state}
        config = _config(thread, name.ns, stored.parent)
        if (user := self._user(stored)) is not None:
            config["metadata"] = {"user_id": user}
        self._saver.put(config, _checkpoint(stored), _metadata(stored), new)
        parents[name] = states
        if len(parents) > PARENTS_KEPT:
            parents.popitem(last=False)
        self._put_writes(_config(thread, name.ns, name.id), stored.writes)

    def _put_writes(self, config: RunnableConfig, writes: Sequence[StoredWrite]) -> None:
        ordered = sorted(writes, key=lambda one: (one.task_path, one.task_id, one.idx))
        for (path, task), own in groupby(ordered, key=lambda one: (one.task_path, one.task_id)):
            self._saver.put_writes(config, _placed(list(own)), task, path)

    # reading, here and there

    def _read(self, thread: str, name: Name) -> Stored:
        stored = drive(self._source.read(thread, name))
        if stored is None:
            raise Unreadable("is gone from the source; run again when nobody writes to it")
        if stored.parent and stored.body.get("v", 1) < SENDS_IN_CHANNELS:
            return self._with_sends(thread, Name(name.ns, stored.parent), stored)
        return stored

    def _with_sends(self, thread: str, parent: Name, stored: Stored) -> Stored:
        """As LangGraph's own savers migrate checkpoints of formats before 4."""
        above = in_order(drive(self._source.writes(thread, parent)))
        sends = [write.value.value for write in above if write.channel == TASKS]
        if not sends:
            return stored
        versions = dict(stored.body["channel_versions"])
        versions[TASKS] = max(versions.values(), default=self._saver.get_next_version(None, None))
        body = {**stored.body, "channel_versions": versions}
        return type(stored)(stored.parent, body, {**stored.values, TASKS: Value(sends)}, stored.metadata, stored.writes)

    def _relation(self, thread: str, name: Name, stored: Stored) -> _Relation:
        found = self._saver.get_tuple(_config(thread, name.ns, name.id))
        if found is None:
            return _Relation.LESS
        parent = found.parent_config["configurable"]["checkpoint_id"] if found.parent_config else None
        wanted = (_checkpoint(stored), _metadata(stored), stored.parent or None)
        serde = self._saver.serde
        if not alike(wanted, (dict(found.checkpoint), dict(found.metadata), parent), serde):
            return _Relation.OTHER
        here = [tuple(write) for write in found.pending_writes or []]
        there = [(write.task_id, write.channel, write.value.value) for write in in_order(stored.writes)]
        if alike(here, there, serde):
            return _Relation.EQUAL
        if _within(here, there, serde):
            return _Relation.LESS
        return _Relation.MORE if _within(there, here, serde) else _Relation.OTHER

    def _user(self, stored: Stored) -> Any:
        return None if self._unowned else stored.metadata.get("user_id")

    def _ask_to_stop(self) -> None:
        if self._stopping():
            raise InterruptedError


def _checkpoint(stored: Stored) -> Any:
    return {**stored.body, "channel_values": {channel: value.value for channel, value in stored.values.items()}}


def _metadata(stored: Stored) -> Any:
    """As LangGraph stores it today: what tasks wrote is no longer in it."""
    return get_serializable_checkpoint_metadata({}, dict(stored.metadata))  # type: ignore[arg-type] # a TypedDict of any keys


def _versions(stored: Stored) -> dict[str, Any]:
    return stored.body.get("channel_versions") or {}


def _config(thread: str, ns: str, checkpoint_id: str | None) -> RunnableConfig:
    named = {"thread_id": thread, "checkpoint_ns": ns}
    return {"configurable": {**named, "checkpoint_id": checkpoint_id} if checkpoint_id else named}


def _name_of(found: CheckpointTuple) -> Name:
    configurable = found.config["configurable"]
    return Name(configurable.get("checkpoint_ns") or "", configurable["checkpoint_id"])


def _shown(name: Name) -> str:
    return f"checkpoint {name.id}" + (f" of {name.ns!r}" if name.ns else "")


def _placed(writes: Sequence[StoredWrite]) -> list[tuple[str, Any]]:
    """A task's writes in a row in which each stands at its `idx`; special channels, whose place is their name, fill up.

    Where there are too few of them the row closes up, and the order stays.
    """
    special = [(one.channel, one.value.value) for one in writes if one.channel in WRITES_IDX_MAP]
    row: list[tuple[str, Any]] = []
    for one in writes:
        if one.channel in WRITES_IDX_MAP:
            continue
        while len(row) < one.idx and special:
            row.append(special.pop(0))
        row.append((one.channel, one.value.value))
    return row + special


def _within(part: Sequence[Any], whole: Sequence[Any], serde: Any) -> bool:
    """Whether all of one row stands in another, in the same order."""
    rest = iter(whole)
    return all(any(alike(one, other, serde) for other in rest) for one in part)
