"""Traffic for a prefetcher, and a model behind a cache that it may ask."""

from __future__ import annotations

import asyncio

from langchain_llmops.cache.prefetch import Answered, Asked, Prefetcher, Wanted
from langchain_llmops.cache.successors import Successors

__all__ = ["World"]


class World:
    """A cache of keys, a model of one price and speed, and sessions that ask; `answer` may be replaced."""

    def __init__(self, clock, *, cost_usd: float = 0.001, latency_s: float = 3.0, **options) -> None:
        self.clock = clock
        self.cost_usd, self.latency_s = cost_usd, latency_s
        self.cache: dict[str, float] = {}
        self.asked: list[Wanted] = []
        self.taught = 0
        self.ttl_s = options.setdefault("ttl_s", 300.0)
        options.setdefault("budget_usd_per_hour", 10.0)
        options.setdefault("cached", self.cached)
        self.successors = options.pop("successors", None) or Successors()
        self.prefetcher = Prefetcher(self.successors, self.ask, clock=clock, **options)

    def cached(self, key: str) -> bool:
        return self.cache.get(key, 0.0) > self.clock()

    async def ask(self, wanted: Wanted) -> Asked:
        self.asked.append(wanted)
        return await self.answer(wanted)

    async def answer(self, wanted: Wanted) -> Asked:
        self.cache[wanted.name] = self.clock() + self.ttl_s
        return Asked(self.cost_usd)

    def request(self, text: str, session: str = "s", group: str = "g", **told) -> bool:
        """A real request, without waiting for what is prefetched; whether it was a hit."""
        answered = Answered(group, text, "", session, cost_usd=self.cost_usd, **told)
        key = Wanted(text, answered, None).name
        hit = self.cached(key)
        if not hit:
            self.cache[key] = self.clock() + self.ttl_s
        took_s = 0.0 if hit else self.latency_s
        self.prefetcher.answered(
            Answered(group, text, key, session, hit=hit, took_s=took_s, cost_usd=self.cost_usd, **told)
        )
        return hit

    async def walk(self, texts, session: str = "s", group: str = "g", **told) -> list[bool]:
        """Requests of one session, each after what the last one made likely has been asked."""
        hits = []
        for text in texts:
            hits.append(self.request(text, session, group, **told))
            await settled()
        return hits

    def teach(self, texts, times: int = 20, group: str = "g") -> None:
        """Let sessions go by of which nobody thinks ahead."""
        for _ in range(times):
            self.taught += 1
            for text in texts:
                self.successors.observe(
                    group,
                    f"taught {self.taught}",
                    text,
                    now=self.clock(),
                    cost_usd=self.cost_usd,
                    latency_s=self.latency_s,
                )

    def count(self, name: str) -> float:
        return self.prefetcher.stats().get(name) or 0


async def settled() -> None:
    """Everything that is ready has run."""
    for _ in range(5):
        await asyncio.sleep(0)
