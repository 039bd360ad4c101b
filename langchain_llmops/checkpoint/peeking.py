"""The cold checkpoints of a tenant in the order of a listing, looked at in their archives and left there."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_llmops.checkpoint.rows import states
from langchain_llmops.checkpoint.tiers import Found

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.checkpoint.state import Pending, State
    from langchain_llmops.checkpoint.tiers import Tiers

__all__ = ["ColdPages", "Order"]

Order = tuple[bytes, bytes, bytes]
MOST_OPEN: Final = 8  # threads whose archives are held; one that is needed again later is read again


class _Opened(NamedTuple):
    place: Place
    states: dict[Order, tuple[State, list[Pending]]]
    chunks: dict[bytes, bytes]

    def found(self, order: Order) -> Found | None:
        if order not in self.states:
            return None
        state, sends = self.states[order]
        place = self.place._replace(namespace=state.namespace, ns=state.ns)
        return Found(place, state, self.chunks, sends)


class ColdPages:
    """Archives are opened one at a time, from the one with the newest checkpoint on, as far as a listing goes.

    Args:
        accepts: whether a checkpoint's metadata is what is looked for.
    """

    def __init__(
        self, tiers: Tiers, tenant: bytes, before: bytes | None, accepts: Callable[[dict[str, Any]], bool]
    ) -> None:
        self._tiers = tiers
        self._tenant = tenant
        self._before = before
        self._accepts = accepts
        self._below: tuple[bytes, bytes] | None = None
        self._waiting: list[Order] = []
        self._open: OrderedDict[bytes, _Opened] = OrderedDict()

    async def upto(self, many: int, cursor: Order | None) -> list[Order]:
        """The next ones below a cursor, newest first."""
        self._waiting = [order for order in self._waiting if cursor is None or order < cursor]
        while (following := await self._tiers.warm.next_cold(self._tenant, self._below)) is not None:
            newest, thread, label, tier = following
            if len(self._waiting) >= many and self._waiting[many - 1][0] > newest:
                break
            self._below = (newest, thread)
            opened = await self._opened(self._tiers.place_of(thread, label), tier)
            self._waiting += [
                order
                for order, (state, _) in (opened.states if opened is not None else {}).items()
                if (cursor is None or order < cursor)
                and (self._before is None or state.id < self._before)
                and self._accepts(state.metadata)
            ]
            self._waiting.sort(reverse=True)
        return self._waiting[:many]

    async def found(self, order: Order) -> Found | None:
        """One of them; None if its thread was moved or deleted since."""
        thread = order[2]
        opened = self._open.get(thread)
        if opened is None:
            row = await self._tiers.warm.thread(thread)
            opened = await self._opened(self._tiers.place_of(thread, row.label), row.tier) if row is not None else None
        return opened.found(order) if opened is not None else None

    async def _opened(self, place: Place, tier: str) -> _Opened | None:
        seen = await self._tiers.cold(place).seen(place, tier)
        if seen is None:
            return None
        rows, archived = seen
        every = [(state, sends) for state, sends in states(rows) if (state.ns, state.id) in archived]
        found = {(state.id, state.ns, place.thread): (state, sends) for state, sends in every}
        opened = self._open[place.thread] = _Opened(place, found, rows.chunks)
        while len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)
        return opened
