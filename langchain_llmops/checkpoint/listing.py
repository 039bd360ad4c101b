"""A listing of checkpoints, page by page, that holds no connection between pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.checkpoint.codec import metadata_place, untext
from langchain_llmops.checkpoint.schema import Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_llmops.checkpoint.schema import Row, Snapshot
    from langchain_llmops.checkpoint.tiers import Tiers
    from langchain_llmops.checkpoint.warm import Listed

__all__ = ["Listing", "Query"]

PAGE_ROWS: Final = 50
NOTHING: Final = (b"", b"", b"")


@dataclass(frozen=True, slots=True)
class Query:
    """What to list.

    Args:
        place: a thread, or None for the whole store; its `ns` counts only with `one_ns`.
        filter: values that metadata must equal key by key; a missing key counts as None.
    """

    place: Place | None = None
    one_ns: bool = False
    id: bytes | None = None
    before: bytes | None = None
    filter: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    user: str | None = None


class Listing:
    """Call `page()` until it returns nothing.

    One thread is listed exactly. A thread that changes its tier while the whole store is listed may be listed in part.
    """

    def __init__(self, tiers: Tiers, query: Query) -> None:
        self._tiers = tiers
        self._query = query
        self._cursor: tuple[bytes, bytes, bytes] | None = None
        self._left = query.limit
        self._ended = query.limit is not None and query.limit <= 0
        self._opened: set[bytes] = set()
        self._waiting: list[Snapshot] = []

    async def page(self) -> list[Snapshot]:
        """The next checkpoints, newest first; empty at the end."""
        while not self._ended:
            found = await (self._next_of_all() if self._query.place is None else self._next_of(self._query.place))
            if self._left is not None:
                found = found[: self._left]
                self._left -= len(found)
                self._ended = self._ended or self._left == 0
            if found:
                return found
        return []

    async def _next_of(self, place: Place) -> list[Snapshot]:
        before = await self._tiers.admitted(place, self._query.user)
        if before is None:
            self._ended = True
            return []
        listed = await self._tiers.warm.page(self._conditions(), self._rows())
        after = await self._tiers.warm.thread(place.thread)
        if after is not None and after.epoch != before.epoch:
            return []
        found = await self._loaded(listed)
        if found is None:
            return []
        self._ended = len(listed) < self._rows()
        if listed:
            self._cursor = _order(listed[-1].thread, listed[-1].row)
        return found

    async def _next_of_all(self) -> list[Snapshot]:
        """A warm page merged with the cold threads whose newest checkpoint is not older than its end."""
        listed = await self._tiers.warm.page(self._conditions(), self._rows())
        full = len(listed) == self._rows()
        floor = _order(listed[-1].thread, listed[-1].row) if full else NOTHING
        cold_floor = await self._open_cold(floor[0])
        warm = [one for one in listed if one.thread not in self._opened and one.row.id > cold_floor]
        found = await self._loaded(warm)
        if found is None:
            return []
        ready = [one for one in self._waiting if one.row.id > cold_floor and _order(one.place.thread, one.row) >= floor]
        self._waiting = [one for one in self._waiting if one not in ready]
        passed = [_order(one.thread, one.row) for one in listed if one.row.id > cold_floor]
        passed += [_order(one.place.thread, one.row) for one in ready]
        self._cursor = min(passed, default=self._cursor)
        self._ended = not full and not cold_floor
        return sorted([*found, *ready], key=lambda one: _order(one.place.thread, one.row), reverse=True)

    async def _open_cold(self, floor: bytes) -> bytes:
        """Open the cold threads with the newest head; the next head below, which nothing may pass yet."""
        heads = [head for head in await self._tiers.warm.cold_heads(floor) if head[1] not in self._opened]
        for head, thread in heads:
            if head != heads[0][0]:
                return head
            self._opened.add(thread)
            await self._open(thread)
        return b""

    async def _open(self, thread: bytes) -> None:
        found = await self._tiers.warm.thread(thread)
        place = Place(untext(found.thread_id), thread, b"") if found is not None else None
        held = await self._tiers.peek(place) if place is not None else None
        if place is None or held is None:
            self._opened.discard(thread)
            return
        for one in self._tiers.archived(place, held[1]):
            older = self._cursor is None or _order(thread, one.row) < self._cursor
            in_time = self._query.before is None or one.row.id < self._query.before
            if older and in_time and self._accepts(thread, one.row):
                self._waiting.append(one)

    async def _loaded(self, listed: Sequence[Listed]) -> list[Snapshot] | None:
        """The accepted ones with their values, in the same order; None when rows were removed meanwhile."""
        groups: dict[tuple[Place, int], list[Row]] = {}
        for one in listed:
            if self._accepts(one.thread, one.row):
                place = Place(untext(one.thread_id), one.thread, one.row.ns)
                groups.setdefault((place, one.epoch), []).append(one.row)
        loaded: list[Snapshot] = []
        for (place, epoch), rows in groups.items():
            found = await self._tiers.snapshots(place, epoch, rows)
            if found is None:
                return None
            loaded += found.snapshots
        return sorted(loaded, key=lambda one: _order(one.place.thread, one.row), reverse=True)

    def _accepts(self, thread: bytes, row: Row) -> bool:
        wanted = self._query.filter
        if not wanted:
            return True
        metadata = self._tiers.codec.open(row.metadata, *metadata_place(thread, row.ns, row.id))
        return all(metadata.get(key) == value for key, value in wanted.items())

    def _rows(self) -> int:
        return PAGE_ROWS if self._left is None or self._query.filter else min(PAGE_ROWS, self._left)

    def _conditions(self) -> list[tuple[str, tuple[bytes, ...]]]:
        query = self._query
        wanted = (
            ("c.thread = ?", (query.place.thread,) if query.place is not None else None),
            ("c.ns = ?", (query.place.ns,) if query.place is not None and query.one_ns else None),
            ("c.id = ?", (query.id,) if query.id is not None else None),
            ("c.id < ?", (query.before,) if query.before is not None else None),
            ("(c.id, c.ns, c.thread) < (?, ?, ?)", self._cursor),
        )
        return [(condition, values) for condition, values in wanted if values is not None]


def _order(thread: bytes, row: Row) -> tuple[bytes, bytes, bytes]:
    return row.id, row.ns, thread
