"""Hits: one after the other from memory and from Redis, and many at once."""

from __future__ import annotations

import asyncio
import math
import time
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.benchmarks.cache_peers import ASYNC_COMMUNITY, IN_MEMORY, LITELLM_DUAL, OVER_REDIS
from tests.benchmarks.cache_rounds import KB, OURS
from tests.benchmarks.cache_subjects import REQUESTS, answers
from tests.benchmarks.harness import Figure, paired_ratio

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.benchmarks.cache_rounds import Bench
    from tests.benchmarks.cache_subjects import Subject

GET = "raw GET"
AT_ONCE = 64
L2_MOST = {KB: 1.5, 20 * KB: 1.4}
L1_MOST = {KB: 1.3, 20 * KB: 0.3}
RATE_LEAST = 5.0
US = 1e6


def hits(bench: Bench, size: int, *, l1: bool) -> None:
    """Single hits, one after the other, over raw GET (L2) or over the peer that answers from memory (L1)."""
    base = LITELLM_DUAL if l1 else GET
    subjects = bench.open(size, (LITELLM_DUAL, IN_MEMORY) if l1 else OVER_REDIS, l1=l1, floor="" if l1 else GET)
    if base not in subjects:
        return
    kept = answers(size)

    def work(subject: Subject) -> dict[str, float]:
        bench.fill(subject, kept)
        took = {}
        if subject.get:
            took |= _looked(subject.get, bench)
        if subject.aget:
            took |= bench.run(_alooked(subject.aget, bench))
        return took

    most = (L1_MOST if l1 else L2_MOST)[size]
    title = f"{'L1' if l1 else 'L2'} hit, {size // KB} KB"
    bench.compare(bench.interleaved(subjects, work), title, base, {"sync, us wall": most, "async, us wall": most})
    bench.close(subjects)


def _looked(get: Callable[..., Any], bench: Bench) -> dict[str, float]:
    taken, missed, cpu = [], 0, time.process_time()
    for number in range(bench.operations):
        request = bench.requests[number % REQUESTS]
        began = time.perf_counter()
        found = get(*request)
        taken.append(time.perf_counter() - began)
        missed += found is None
    cpu = (time.process_time() - cpu) / bench.operations
    return {"sync, us wall": _hit(median(taken), missed), "sync, us CPU": _hit(cpu, missed)}


async def _alooked(get: Callable[..., Any], bench: Bench) -> dict[str, float]:
    taken, missed, cpu = [], 0, time.process_time()
    for number in range(bench.operations):
        request = bench.requests[number % REQUESTS]
        began = time.perf_counter()
        found = await get(*request)
        taken.append(time.perf_counter() - began)
        missed += found is None
    cpu = (time.process_time() - cpu) / bench.operations
    return {"async, us wall": _hit(median(taken), missed), "async, us CPU": _hit(cpu, missed)}


def _hit(seconds: float, missed: int) -> float:
    return math.nan if missed else seconds * US


def rate(bench: Bench, size: int) -> None:
    """Hits of 64 callers at once, from Redis."""
    subjects = bench.open(size, (ASYNC_COMMUNITY,), l1=False, floor=GET)
    kept = answers(size)

    def work(subject: Subject) -> dict[str, float]:
        bench.fill(subject, kept)
        return bench.run(_rate(subject, bench))

    spent = bench.interleaved(subjects, work)
    title = f"hits, {AT_ONCE} at once, {size // KB} KB"
    if ASYNC_COMMUNITY in subjects:
        mine, theirs = (spent.by_name[name]["per s"] for name in (OURS, ASYNC_COMMUNITY))
        row = Figure(f"{title} per s: ours / {ASYNC_COMMUNITY}", median(mine), median(theirs), 0, RATE_LEAST, None)
        bench.rows.append(_at_least(row, paired_ratio(mine, theirs)))
    bench.compare(spent, title, GET, {})
    bench.close(subjects)


def _at_least(row: Figure, ratio: float) -> Figure:
    return Figure(row.figure, row.ours, row.peer, ratio, row.target, row.target is None or ratio >= row.target)


async def _rate(subject: Subject, bench: Bench) -> dict[str, float]:
    count = 8 * AT_ONCE
    left = iter(range(count))
    missed = 0

    async def caller() -> None:
        nonlocal missed
        for number in left:
            missed += await subject.aget(*bench.requests[number % REQUESTS]) is None

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    if missed:
        return {"per s": math.nan, "each, us CPU": math.nan}
    return {"per s": count / (time.perf_counter() - began), "each, us CPU": (time.process_time() - cpu) / count * US}
