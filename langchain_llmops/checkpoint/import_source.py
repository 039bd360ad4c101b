"""What an import reads: threads of another saver, checkpoint by checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from langgraph.checkpoint.base import writes_sort_key

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from langchain_llmops.checkpoint.import_values import Value

__all__ = ["Name", "Source", "Stored", "StoredWrite", "in_order", "oldest_first"]


class Name(NamedTuple):
    """A checkpoint of a thread."""

    ns: str
    id: str


@dataclass(frozen=True, slots=True)
class StoredWrite:
    """A pending write; `idx` is the place LangGraph gave it."""

    task_id: str
    task_path: str
    idx: int
    channel: str
    value: Value


@dataclass(frozen=True, slots=True)
class Stored:
    """A checkpoint as its saver would read it; `body` is all of it but the channel values."""

    parent: str | None
    body: dict[str, Any]
    values: Mapping[str, Value]
    metadata: dict[str, Any]
    writes: Sequence[StoredWrite]


class Source(Protocol):
    """Threads that another saver has written; nothing of it is changed."""

    async def threads(self) -> list[str]:
        """Every thread id, sorted."""
        ...

    async def names(self, thread: str) -> list[Name]:
        """A thread's checkpoints: by namespace, oldest first, none before its parent."""
        ...

    async def read(self, thread: str, name: Name) -> Stored | None:
        """One checkpoint with its pending writes; None when it is gone. Raises `Unreadable`."""
        ...

    async def writes(self, thread: str, name: Name) -> list[StoredWrite]:
        """The pending writes of one checkpoint. Raises `Unreadable`."""
        ...

    async def size(self, thread: str) -> int:
        """The bytes that a thread's values take in the source."""
        ...

    async def aclose(self) -> None:
        """Close its store."""
        ...


def in_order(writes: Iterable[StoredWrite]) -> list[StoredWrite]:
    """Pending writes as LangGraph orders them."""
    return sorted(writes, key=lambda one: writes_sort_key(one.task_path, one.task_id, one.idx))


def oldest_first(parents: Mapping[Name, str | None]) -> list[Name]:
    """Names by namespace and id; ids of skewed clocks never put a child before its parent."""
    ordered: dict[Name, None] = {}
    for name in sorted(parents):
        line = [name]
        while (parent := parents[line[-1]]) and (above := Name(name.ns, parent)) in parents and above not in line:
            if above in ordered:
                break
            line.append(above)
        ordered.update(dict.fromkeys(reversed(line)))
    return list(ordered)
