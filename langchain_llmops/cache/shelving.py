"""The engine's levels as shelves, for embeddings and retrieval results."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from langchain_llmops.cache.codec import Entry
from langchain_llmops.cache.shelves import Found

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_llmops.cache.engine import Engine

__all__ = ["EngineShelves"]


class EngineShelves:
    """`Shelves` of one colour over memory and all levels; keys of other making than a digest are refused by type."""

    def __init__(self, engine: Engine, *, blocking: bool) -> None:
        self._engine = engine
        self._blocking = blocking

    async def read(self, keys: Sequence[str]) -> list[Found | None]:
        """Entries in the order of the keys, in one round trip for each level that is asked."""
        look = await self._engine.find(
            list(dict.fromkeys(keys)), self._engine.tags.keys_of(()), blocking=self._blocking
        )
        found = (look.found.get(key) for key in keys)
        return [None if one is None else Found(one.entry.body, one.level, one.age_s, one.stale) for one in found]

    async def epoch(self) -> int:
        """A number that changes with every invalidation, to be asked for before what is written later is searched."""
        return await self._engine.epoch(blocking=self._blocking)

    async def write(
        self,
        items: Mapping[str, bytes],
        *,
        ttl_s: float | None = None,
        tags: Sequence[str] = (),
        since: int | None = None,
    ) -> None:
        """Keep entries, memory at once and the levels behind the caller's back; nothing if the epoch is not `since`."""
        engine = self._engine
        look = await engine.find((), engine.tags.keys_of(tags), blocking=self._blocking)
        if since is not None and (engine.tags.last_epoch or 0) != since:
            return
        fresh_s = engine.fresh_s(tags) if ttl_s is None else ttl_s
        now = engine.clock()
        entries = {
            key: engine.hold(key, Entry(now, fresh_s, 0.0, {}, data), look.generations) for key, data in items.items()
        }
        engine.later(partial(engine.write, entries, look.generations), blocking=self._blocking)
