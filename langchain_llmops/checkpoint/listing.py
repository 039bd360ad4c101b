"""A listing of checkpoints, page by page, that holds no connection between pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.checkpoint.history import Manifests
from langchain_llmops.checkpoint.nodes import refs
from langchain_llmops.checkpoint.peeking import ColdPages
from langchain_llmops.checkpoint.state import State, pending_of
from langchain_llmops.checkpoint.tiers import SENDS, SENDS_IN_CHANNEL_SINCE, Found, incomplete

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.checkpoint.schema import Step
    from langchain_llmops.checkpoint.state import Pending
    from langchain_llmops.checkpoint.tiers import Tiers
    from langchain_llmops.checkpoint.warm import Listed

__all__ = ["Listing", "Query"]

PAGE_ROWS: Final = 50


@dataclass(frozen=True, slots=True)
class Query:
    """What to list.

    Args:
        place: a thread, or None for all of the tenant; its namespace counts only with `one_ns`.
        filter: values that metadata must equal key by key; a missing key counts as None.
    """

    tenant: bytes
    place: Place | None = None
    one_ns: bool = False
    id: bytes | None = None
    before: bytes | None = None
    filter: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    owner: bytes | None = None


class Listing:
    """Call `page()` until it returns nothing.

    One thread is listed exactly, and restored first if it is cold. Of the whole tenant, cold history is looked at where
    it is; a thread that changes its tier meanwhile may be listed in part.
    """

    def __init__(self, tiers: Tiers, query: Query) -> None:
        self._tiers = tiers
        self._query = query
        self._cursor: tuple[bytes, bytes, bytes] | None = None
        self._left = query.limit
        self._ended = query.limit is not None and query.limit <= 0
        self._cold = ColdPages(tiers, query.tenant, query.before, self._accepts)

    async def page(self) -> list[Found]:
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

    async def _next_of(self, place: Place) -> list[Found]:
        before = await self._tiers.admitted(place, self._query.owner)
        if before is None:
            self._ended = True
            return []
        listed = await self._tiers.warm.page(self._conditions(), self._rows())
        found = await self._loaded(listed)
        after = await self._tiers.warm.thread(place.thread)
        if found is None or (after is not None and after.epoch != before.epoch):
            return []
        self._passed(listed)
        return found

    async def _next_of_all(self) -> list[Found]:
        if self._cursor is None:
            await self._tiers.settled_all()
        listed = await self._tiers.warm.page(self._conditions(), self._rows())
        warm = {(one.step.id, one.step.ns, one.thread): one for one in listed}
        cold = await self._cold.upto(self._rows(), self._cursor)
        orders = sorted({*warm, *cold}, reverse=True)[: self._rows()]
        loaded = await self._loaded([warm[order] for order in orders if order in warm])
        if loaded is None:
            return []
        found = {(one.state.id, one.state.ns, one.place.thread): one for one in loaded}
        for order in orders:  # of a mixed thread, some writes of a checkpoint may be warm and some cold
            if order in cold and (one := await self._cold.found(order)) is not None:
                found[order] = one
        self._cursor = orders[-1] if orders else None
        self._ended = self._ended or len(orders) < self._rows()
        return [found[order] for order in orders if order in found]

    def _passed(self, listed: Sequence[Listed]) -> None:
        self._ended = self._ended or len(listed) < self._rows()
        if listed:
            last = listed[-1]
            self._cursor = (last.step.id, last.step.ns, last.thread)

    async def _loaded(self, listed: Sequence[Listed]) -> list[Found] | None:
        """The accepted ones with their values, in the same order; None when rows were removed meanwhile."""
        metadata = [self._metadata(one) for one in listed]
        groups: dict[tuple[bytes, bytes], list[int]] = {}
        for position, (one, (_, told)) in enumerate(zip(listed, metadata, strict=True)):
            if self._accepts(told):
                groups.setdefault((one.thread, one.step.ns), []).append(position)
        found: dict[int, Found] = {}
        for (thread, ns), positions in groups.items():
            place = self._tiers.place_of(thread, listed[positions[0]].label)
            place = place._replace(namespace=metadata[positions[0]][0], ns=ns)
            states = await self._states(place, [(listed[at].step, metadata[at][1]) for at in positions])
            if states is None:
                now = await self._tiers.warm.thread(thread)
                if now is not None and now.epoch == listed[positions[0]].epoch:
                    raise incomplete(place)
                return None
            found.update(zip(positions, states, strict=True))
        return [found[position] for position in sorted(found)]

    async def _states(self, place: Place, steps: Sequence[tuple[Step, dict[str, Any]]]) -> list[Found] | None:
        manifests = Manifests(self._tiers, place.thread, place.ns, [step for step, _ in steps])
        writes = await self._writes(place, [step for step, _ in steps])
        states, sends = [], []
        for step, metadata in steps:
            manifest = await manifests.of(step)
            pending = {one.key: one for one in writes.get(step.id, [])}
            states.append(State(place.namespace, step.ns, step.id, step.parent, metadata, manifest, pending))
            old = manifest.fields.get("v", 1) < SENDS_IN_CHANNEL_SINCE and step.parent is not None
            sends.append([one for one in writes.get(step.parent or b"", []) if one.channel == SENDS] if old else [])
        names = {name for state in states for name in state.refs()}
        names |= {name for one in sends for pending in one for name in refs(pending.node)}
        chunks = self._tiers.recent.chunks(place.thread, names)
        missing = [name for name in names if name not in chunks]
        chunks |= await self._tiers.opened_chunks(place.thread, missing) if missing else {}
        if len(chunks) < len(names):
            return None
        return [Found(place, state, chunks, sent) for state, sent in zip(states, sends, strict=True)]

    async def _writes(self, place: Place, steps: Sequence[Step]) -> dict[bytes, list[Pending]]:
        """Pending writes of checkpoints and of their parents, whose packets formats before 4 need."""
        ids = {step.id for step in steps} | {step.parent for step in steps if step.parent is not None}
        found: dict[bytes, list[Pending]] = {}
        for write in await self._tiers.warm.writes(place.thread, place.ns, sorted(ids)):
            found.setdefault(bytes(write.id), []).append(pending_of(self._tiers.codec, place.thread, write))
        return found

    def _metadata(self, one: Listed) -> tuple[str, dict[str, Any]]:
        return self._tiers.codec.told(one.thread, one.step)

    def _accepts(self, metadata: dict[str, Any]) -> bool:
        return all(metadata.get(key) == value for key, value in self._query.filter.items())

    def _rows(self) -> int:
        return PAGE_ROWS if self._left is None or self._query.filter else min(PAGE_ROWS, self._left)

    def _conditions(self) -> list[tuple[str, tuple[bytes, ...]]]:
        query = self._query
        wanted = (
            ("t.tenant = ?", (query.tenant,)),
            ("s.thread = ?", (query.place.thread,) if query.place is not None else None),
            ("s.ns = ?", (query.place.ns,) if query.place is not None and query.one_ns else None),
            ("s.id = ?", (query.id,) if query.id is not None else None),
            ("s.id < ?", (query.before,) if query.before is not None else None),
            ("(s.id, s.ns, s.thread) < (?, ?, ?)", self._cursor),
        )
        return [(condition, values) for condition, values in wanted if values is not None]
