"""Writes: what they cost the caller, what they cost in all, and what they take in Redis."""

from __future__ import annotations

import time
from itertools import count
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.benchmarks.cache_peers import ASYNC_COMMUNITY, COMMUNITY, LANGCHAIN_REDIS_PATH
from tests.benchmarks.cache_rounds import KB, OURS
from tests.benchmarks.cache_subjects import REQUESTS, answers, awritten, requests, written
from tests.benchmarks.harness import Figure

if TYPE_CHECKING:
    from tests.benchmarks.cache_rounds import Bench
    from tests.benchmarks.cache_subjects import Subject

SET = "raw SET"
MOST = 1.5
BYTES_MOST = 0.5
US = 1e6


def writes(bench: Bench, size: int) -> None:
    """New answers, one after the other: until the caller goes on, and until all are in Redis."""
    peers = (COMMUNITY, ASYNC_COMMUNITY, LANGCHAIN_REDIS_PATH)
    subjects = bench.open(size, peers, l1=True, floor=SET)
    series = count(1)  # what is in memory is not new

    def new() -> list[tuple[Any, Any]]:
        bench.server.flushdb()
        return list(zip(requests(next(series)), answers(size), strict=True))

    def work(subject: Subject) -> dict[str, float]:
        took = {}
        if subject.set:
            took |= _wrote(subject, bench, new())
        if subject.aset:
            took |= bench.run(_awrote(subject, bench, new()))
        return took

    targets = {f"{colour}, {part}us wall": MOST for colour in ("sync", "async") for part in ("", "whole, ")}
    bench.compare(bench.interleaved(subjects, work), f"write, {size // KB} KB", SET, targets)
    bench.close(subjects)


def _wrote(subject: Subject, bench: Bench, new: list[tuple[Any, Any]]) -> dict[str, float]:
    taken, began, cpu = [], time.perf_counter(), time.process_time()
    for request, answer in new:
        start = time.perf_counter()
        subject.set(*request, answer)
        taken.append(time.perf_counter() - start)
    written(subject, bench.server, REQUESTS)
    return _took("sync", median(taken), began, cpu)


async def _awrote(subject: Subject, bench: Bench, new: list[tuple[Any, Any]]) -> dict[str, float]:
    taken, began, cpu = [], time.perf_counter(), time.process_time()
    for request, answer in new:
        start = time.perf_counter()
        await subject.aset(*request, answer)
        taken.append(time.perf_counter() - start)
    await awritten(subject, bench.server, REQUESTS)
    return _took("async", median(taken), began, cpu)


def _took(colour: str, calling: float, began: float, cpu: float) -> dict[str, float]:
    wall, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {
        f"{colour}, us wall": calling * US,
        f"{colour}, whole, us wall": wall / REQUESTS * US,
        f"{colour}, whole, us CPU": cpu / REQUESTS * US,
    }


def stored_bytes(bench: Bench, size: int) -> None:
    """Memory that Redis gives for an answer, keys and all; and the bytes of the values alone."""
    subjects = bench.open(size, (COMMUNITY, LANGCHAIN_REDIS_PATH), l1=True)
    kept = answers(size)
    taken: dict[str, tuple[float, float]] = {}
    for name, subject in subjects.items():
        bench.server.flushdb()
        for request, answer in zip(requests(1), kept, strict=True):
            subject.set(*request, answer)
        written(subject, bench.server, REQUESTS)
        taken[name] = _stored(bench)
    for name, theirs in taken.items():
        if name != OURS:
            for what, mine, other in zip(("bytes in Redis", "bytes of the value"), taken[OURS], theirs, strict=True):
                target = BYTES_MOST if name == COMMUNITY and what == "bytes in Redis" else None
                label = f"{what}, {size // KB} KB answer: ours / {name}"
                bench.rows.append(Figure.at_most(label, mine, other, target))
    bench.close(subjects)


def _stored(bench: Bench) -> tuple[float, float]:
    memory = values = 0
    for key in bench.server.scan_iter(count=1000):
        memory += bench.server.memory_usage(key, samples=0)
        kind = bench.server.type(key)
        if kind == b"hash":
            values += sum(map(len, bench.server.hvals(key)))
        elif kind == b"string":
            values += bench.server.strlen(key)
    return memory / REQUESTS, values / REQUESTS
