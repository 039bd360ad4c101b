"""A checkpoint as this process knows it, and how it is read from rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from langgraph.checkpoint.base import writes_sort_key

from langchain_llmops.checkpoint.manifest import applied
from langchain_llmops.checkpoint.nodes import refs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.manifest import Manifest
    from langchain_llmops.checkpoint.nodes import Node
    from langchain_llmops.checkpoint.schema import Step, Write

__all__ = ["Pending", "State", "manifest_of", "ordered", "pending_of"]


class Pending(NamedTuple):
    """A task's pending write, opened; `key` is (digest of the task id, index)."""

    key: tuple[bytes, int]
    task_path: str
    task_id: str
    channel: str
    node: Node


@dataclass(frozen=True, slots=True)
class State:
    """A checkpoint without the chunks it needs; `writes` are None where they are not known."""

    namespace: str
    ns: bytes
    id: bytes
    parent: bytes | None
    metadata: dict[str, Any]
    manifest: Manifest
    writes: dict[tuple[bytes, int], Pending] | None

    def refs(self) -> Iterator[bytes]:
        """The chunks it needs, with those of its pending writes."""
        yield from self.manifest.refs()
        for write in (self.writes or {}).values():
            yield from refs(write.node)


def ordered(writes: Iterable[Pending]) -> list[Pending]:
    """In the order in which live execution applies them."""
    return sorted(writes, key=lambda write: writes_sort_key(write.task_path, write.task_id, write.key[1]))


def manifest_of(codec: Codec, thread: bytes, chain: Sequence[Step]) -> Manifest:
    """From a checkpoint's step and those its delta is built on, the checkpoint's own first."""
    found: Manifest | None = None
    for step in reversed(chain):
        body = codec.open_body(thread, step)
        found = applied(codec.unpack(body), len(body), found)
    if found is None:
        raise ValueError("a checkpoint has a step")
    return found


def pending_of(codec: Codec, thread: bytes, write: Write) -> Pending:
    """A write's row, opened."""
    task_path, task_id, channel, node = codec.open_write(thread, write.ns, write.id, write.task, write.idx, write.body)
    return Pending((bytes(write.task), write.idx), task_path, task_id, channel, node)
