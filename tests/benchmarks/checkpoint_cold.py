"""The newest checkpoint of a cold thread: what reading it takes, and how many requests to the object store.

Times are taken without the proxy, and requests counted with it, on threads of their own: each is read once, by a saver
that has never seen them. A read makes the thread warm again, so a commit to PostgreSQL is in its time.
"""

from __future__ import annotations

import os
from statistics import median
from typing import TYPE_CHECKING, Any

from langchain_llmops.stores.base import open_store
from tests.benchmarks.checkpoint_machine import NotMeasuredError, object_sizes, settled
from tests.benchmarks.checkpoint_rounds import Clock, middle
from tests.benchmarks.checkpoint_savers import ours, talks
from tests.benchmarks.checkpoint_sizes import archived

if TYPE_CHECKING:
    from tests.benchmarks.checkpoint_rounds import Bench
    from tests.benchmarks.checkpoint_turns import Conversation

MOST_MS, MOST_REQUESTS = 10.0, 2.0
GETS = 30


async def restores(bench: Bench) -> None:
    """Median time and most requests of a cold thread's first read."""
    warm, hot, cold = bench.at.database(), bench.at.redis_database(0), bench.at.cold()
    half = bench.scale.cold_talks // 2
    async with ours(warm, hot, cold) as saver:
        made = await talks(saver, 2 * half + 2, bench.scale.turns)
        await settled(bench.at, hot)
        await archived(saver, made)
    objects = await object_sizes(cold)
    head = median([size for path, size in objects.items() if path.endswith(".head")] or objects.values())
    async with ours(warm, hot, cold) as saver:
        reads, cpu = await _timed(saver, made[: half + 1])
    async with ours(warm, hot, bench.at.counted(cold)) as saver:
        counts = await _counted(saver, made[half + 1 :], bench.at.requests)
    if not min(counts):
        raise NotMeasuredError("a cold thread was read without the object store")
    floor = middle(await _plain(bench.at.cold(), head))
    title = f"cold head restore, {bench.scale.turns} turns"
    bench.add(f"{title}, median ms / the {MOST_MS:g} it may take", middle(reads), MOST_MS, most=1)
    bench.add(f"{title}, requests (the most of {half}) / the 2 it may make", max(counts), MOST_REQUESTS, most=1)
    bench.add(f"{title}, median ms / a plain GET of as many bytes", middle(reads), floor)
    bench.add(f"{title}, client CPU ms / its wall ms", cpu * 1e3, middle(reads))


async def _timed(saver: Any, made: list[Conversation]) -> tuple[list[float], float]:
    first, *others = made
    await first.get(saver)  # it opens the connections
    clock = Clock()
    reads = [await talk.get(saver) for talk in others]
    return reads, clock.cpu() / len(reads)


async def _counted(saver: Any, made: list[Conversation], seen: list[str]) -> list[int]:
    first, *others = made
    await first.get(saver)
    counts = []
    for talk in others:
        before = len(seen)
        await talk.get(saver)
        counts.append(len(seen) - before)
    return counts


async def _plain(url: str, size: float) -> list[float]:
    """GETs of an object of so many bytes, one after another."""
    store = open_store(url)
    try:
        await store.objects.put("plain", os.urandom(int(size)))
        took = []
        for _ in range(GETS):
            clock = Clock()
            await store.objects.get("plain")
            took.append(clock.wall())
        return took
    finally:
        await store.aclose()
