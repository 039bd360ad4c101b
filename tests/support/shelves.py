"""The `Shelves` of the cache over one key-value space in memory: one level, tags by generation, no secrets kept."""

from __future__ import annotations

import json

from langchain_llmops.cache.shelves import Found
from langchain_llmops.core.errors import StoreUnavailableError
from langchain_llmops.stores.memory import MemoryKeyValue

__all__ = ["MemoryShelves"]

STANDARD_TTL_S = 3600.0


class MemoryShelves:
    """For callers of both colours; `broken` makes every operation fail, `stale_s` keeps entries that long past time."""

    def __init__(self, clock, *, stale_s: float = 0.0) -> None:
        self.clock = clock
        self.items = MemoryKeyValue(clock)
        self.stale_s = stale_s
        self.broken = False
        self.reads: list[list[str]] = []
        self.writes: list[list[str]] = []
        self.refused = 0

    async def read(self, keys):
        self.reads.append(list(keys))
        self._check()
        return [await self._found(data) for data in await self.items.get_many(keys)]

    async def epoch(self):
        self._check()
        return await self._generation("")

    async def write(self, items, *, ttl_s=None, tags=(), since=None):
        self._check()
        if since is not None and since != await self._generation(""):
            self.refused += 1
            return
        self.writes.append(sorted(items))
        now, ttl_s = self.clock(), STANDARD_TTL_S if ttl_s is None else ttl_s
        head = json.dumps([now, now + ttl_s, {tag: await self._generation(tag) for tag in tags}]).encode()
        for key, data in items.items():
            assert key.partition(":")[2] == key.partition(":")[2].lower()
            await self.items.set(key, len(head).to_bytes(4, "big") + head + data, ttl_s + self.stale_s)

    async def invalidate(self, *tags):
        for tag in (*tags, ""):
            await self.items.increment(f"tag:{tag}")

    async def everything(self) -> dict[str, bytes]:
        """What is kept, as it is kept, by key."""
        keys = [key for keys in self.writes for key in keys]
        return {key: data for key, data in zip(keys, await self.items.get_many(keys), strict=True) if data is not None}

    async def spoil(self, change) -> None:
        """Change the payload of every entry, as another who writes there might."""
        for key, data in (await self.everything()).items():
            size = 4 + int.from_bytes(data[:4], "big")
            await self.items.set(key, data[:size] + change(data[size:]), STANDARD_TTL_S)

    async def _found(self, data):
        if data is None:
            return None
        size = int.from_bytes(data[:4], "big")
        made, until, tags = json.loads(data[4 : 4 + size])
        if any([await self._generation(tag) != then for tag, then in tags.items()]):
            return None
        return Found(data[4 + size :], "L2", self.clock() - made, stale=self.clock() >= until)

    async def _generation(self, tag):
        return int(await self.items.get(f"tag:{tag}") or 0)

    def _check(self):
        if self.broken:
            raise StoreUnavailableError("the shelves fell down")
