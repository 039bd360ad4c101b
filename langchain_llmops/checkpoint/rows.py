"""All rows of a thread in memory with their bodies open, as an archive holds them: parted, joined, and sealed again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_llmops.checkpoint.codec import Codec
from langchain_llmops.checkpoint.nodes import refs
from langchain_llmops.checkpoint.schema import Counted
from langchain_llmops.checkpoint.state import State, pending_of
from langchain_llmops.checkpoint.tiers import SENDS, SENDS_IN_CHANNEL_SINCE
from langchain_llmops.checkpoint.whole import Whole
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.checkpoint.schema import Step, Write
    from langchain_llmops.checkpoint.state import Pending

__all__ = ["Key", "Rows", "counted", "joined", "merged", "opened", "parted", "sealed", "states"]

Key = tuple[bytes, bytes]


class _Open(Codec):
    """For rows whose bodies are open already."""

    def __init__(self) -> None:
        super().__init__(Envelope(), "")

    def seal_body(self, thread: bytes, step: Step) -> bytes:  # noqa: ARG002 - as it is
        return step.body

    def open_body(self, thread: bytes, step: Step) -> bytes:  # noqa: ARG002 - as it is
        return step.body

    def open_metadata(self, thread: bytes, step: Step) -> bytes:  # noqa: ARG002 - as it is
        return step.metadata

    def open_write(self, thread: bytes, ns: bytes, checkpoint_id: bytes, task: bytes, idx: int, stored: bytes) -> Any:  # noqa: ARG002 - as it is
        return self.unpack(stored)


OPEN: Final = _Open()


class Rows(NamedTuple):
    """Steps, chunks by name and writes; bodies are as `Codec.open_…` gives them, a write's packed again."""

    steps: list[Step]
    chunks: dict[bytes, bytes]
    writes: list[Write]

    def whole(self) -> Whole:
        """To look into."""
        return Whole(OPEN, b"", self.steps, self.writes)

    def same(self, other: Rows) -> bool:
        """Whether the other ones are these, in any order."""
        return (sorted(self.steps), self.chunks, sorted(self.writes)) == (
            sorted(other.steps),
            other.chunks,
            sorted(other.writes),
        )

    def newest(self) -> bytes:
        """The highest checkpoint id."""
        return max(step.id for step in self.steps)


def opened(
    codec: Codec, thread: bytes, steps: Iterable[Step], chunks: Mapping[bytes, bytes], writes: Iterable[Write]
) -> Rows:
    """Rows out of the warm tables."""
    return Rows(
        [codec.open_step(thread, step) for step in steps],
        {name: codec.open_chunk(thread, name, body) for name, body in chunks.items()},
        [
            write._replace(body=codec.pack(codec.open_write(thread, *write[:4], write.body)))
            for write in writes
        ],
    )  # fmt: skip


def sealed(codec: Codec, place: Place, rows: Rows) -> tuple[list[Step], list[tuple[bytes, bytes]], list[Write]]:
    """Rows for the warm tables."""
    thread = place.thread
    steps = [codec.seal_step(thread, step) for step in rows.steps]
    chunks = [(name, codec.seal_chunk(thread, name, chunk)) for name, chunk in rows.chunks.items()]
    writes = [
        write._replace(
            body=codec.seal_write(
                place._replace(ns=write.ns), write.id, write.task, write.idx, codec.unpack(write.body)
            )
        )
        for write in rows.writes
    ]
    return steps, chunks, writes


def parted(rows: Rows) -> tuple[Rows, Rows]:
    """What a reader of the newest checkpoints needs, and the rest; chunks that nothing needs are in neither.

    The first part stands alone: the newest checkpoint of each namespace in full, its writes and chunks, and writes
    that came before their checkpoint. Raises `CheckpointError` when a chunk is missing.
    """
    whole = rows.whole()
    heads = whole.newest()
    writes: list[Write] = []
    others: list[Write] = []
    parents = {(key[0], parent) for key in heads if (parent := _sender(whole, key)) is not None}
    for write in rows.writes:
        key = (write.ns, write.id)
        early = key not in whole.steps
        (writes if early or key in heads or key in parents else others).append(write)
    first = _with_chunks(rows, [whole.in_full(key) for key in sorted(heads)], writes)
    kept = [step for step in rows.steps if (step.ns, step.id) not in heads]
    rest = _with_chunks(rows, kept, others, whole)
    return first, rest._replace(chunks={name: rest.chunks[name] for name in rest.chunks if name not in first.chunks})


def joined(parts: Iterable[Rows]) -> Rows:
    """Parts of a thread that have no row in common."""
    whole = Rows([], {}, [])
    for part in parts:
        whole = Rows(whole.steps + part.steps, whole.chunks | part.chunks, whole.writes + part.writes)
    return whole


def merged(old: Rows, new: Rows) -> Rows:
    """An archive's history and what the warm tier holds by now, whose checkpoints win.

    Of a task's write the first wins, which is the archived one, but for errors, interrupts and resumes. What was a
    delta on a checkpoint that both have is made full.
    """
    both = {(step.ns, step.id) for step in old.steps} & {(step.ns, step.id) for step in new.steps}
    whole = old.whole()
    steps = {
        key: whole.in_full(key) if step.base == 0 and (step.ns, step.parent) in both else step
        for key, step in whole.steps.items()
    }
    steps |= {(step.ns, step.id): step for step in new.steps}
    writes = {write[:4]: write for write in old.writes}
    writes |= {write[:4]: write for write in new.writes if write.idx < 0 or write[:4] not in writes}
    return Rows(list(steps.values()), old.chunks | new.chunks, list(writes.values()))


def states(rows: Rows) -> Iterator[tuple[State, list[Pending]]]:
    """Every checkpoint with its pending writes, and the packets that formats before 4 left with its parent."""
    whole = rows.whole()
    writes: dict[Key, list[Pending]] = {}
    for write in rows.writes:
        writes.setdefault((write.ns, write.id), []).append(pending_of(OPEN, b"", write))
    for key, step in whole.steps.items():
        namespace, metadata = OPEN.told(b"", step)
        pending = {one.key: one for one in writes.get(key, [])}
        sender = _sender(whole, key)
        sends = [one for one in writes.get((step.ns, sender), []) if one.channel == SENDS] if sender else []
        yield State(namespace, step.ns, step.id, step.parent, metadata, whole.manifest(key), pending), sends


def counted(rows: Rows, known: set[Key]) -> Counted:
    """Rows but those of known checkpoints; raises `CheckpointError` unless every checkpoint has what it needs."""
    parts = parted(rows)
    steps = [step for step in rows.steps if (step.ns, step.id) not in known]
    writes = [write for write in rows.writes if (write.ns, write.id) not in known]
    list(states(rows))
    return Counted(len(steps), len(writes), len(parts[0].chunks.keys() | parts[1].chunks.keys()))


def _sender(whole: Whole, key: Key) -> bytes | None:
    """The parent whose writes a checkpoint of a format before 4 is given back with."""
    old = whole.manifest(key).fields.get("v", 1) < SENDS_IN_CHANNEL_SINCE
    return whole.steps[key].parent if old else None


def _with_chunks(rows: Rows, steps: list[Step], writes: list[Write], whole: Whole | None = None) -> Rows:
    """With the chunks they need; `whole` knows the manifests, if they are no full ones."""
    known = whole or Rows(steps, {}, []).whole()
    names = dict.fromkeys(name for step in steps for name in known.manifest((step.ns, step.id)).refs())
    names |= dict.fromkeys(name for write in writes for name in refs(pending_of(OPEN, b"", write).node))
    missing = [name for name in names if name not in rows.chunks]
    if missing:
        raise CheckpointError(f"{len(missing)} of its chunks are missing in the warm tier; restore a backup of it")
    return Rows(steps, {name: rows.chunks[name] for name in names}, writes)
