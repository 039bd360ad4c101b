"""Rounds of a cache benchmark: ours, the floor and the peers one after another, and the rows that come of them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import redis

from tests.benchmarks.cache_peers import open_peer
from tests.benchmarks.cache_subjects import (
    NotMeasuredError,
    Subject,
    answers,
    awritten,
    level_of,
    open_ours,
    payload_of,
    raw_redis,
    requests,
    written,
)
from tests.benchmarks.harness import Figure, paired_ratio

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

    Series = list[float]

OURS = "ours"
KB = 1024
SETTLE_S = 0.01  # for what a cache does behind a write


class Bench:
    """One server, one event loop, and for every subject what its rounds took: by figure, a number for each round."""

    def __init__(self, url: str, rounds: int, operations: int) -> None:
        self.url = url
        self.server = redis.Redis.from_url(url)
        self.rounds = rounds
        self.operations = operations
        self.runner = asyncio.Runner()
        self.requests = requests()
        self.rows: list[Figure] = []
        self.peers: list[Figure] = []
        self.notes: dict[str, None] = {}

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """On the loop that all asynchronous clients live on."""
        return self.runner.run(work)

    def open(self, size: int, peers: Iterable[str], *, l1: bool, floor: str = "") -> dict[str, Subject]:
        """Ours, the floor and the peers that work, each having given a first answer back."""
        self.server.flushdb()
        payload = payload_of(answers(size)[0])
        made: dict[str, Callable[[], Subject]] = {OURS: lambda: Subject.of(open_ours(self.url, l1=l1))}
        if floor:
            made[floor] = lambda: raw_redis(self.url, payload)
        for peer in peers:
            made[peer] = lambda peer=peer: self.run(open_peer(peer, self.url, payload))
        opened = {}
        for name, make in made.items():
            try:
                opened[name] = subject = make()
                self._prove(subject, answers(size), l1=l1 if name == OURS else None)
            except Exception as error:
                opened.pop(name, None)
                reason = f"{name} was not measured: {type(error).__name__}: {str(error)[:150]}"
                if name in (OURS, floor):
                    raise NotMeasuredError(reason) from error
                self.notes[reason] = None
        return opened

    def _prove(self, subject: Subject, kept: list[Any], *, l1: bool | None) -> None:
        self.server.flushdb()
        found = self.fill(subject, kept)
        if subject.aget:
            found.append(self.run(_looked(subject, self.requests[:1]))[0])
        if any(answer is None for answer in found):
            raise NotMeasuredError("no hit after a write")
        levels = set() if l1 is None else {level_of(answer) for answer in found} - {None}
        if levels - {"L1" if l1 else "L2"}:
            raise NotMeasuredError(f"hits came from {', '.join(sorted(levels))}")

    def fill(self, subject: Subject, kept: list[Any]) -> list[Any]:
        """Write every answer, then look each up; what was found."""
        if not (subject.set and subject.get):
            found: list[Any] = self.run(self._afill(subject, kept))
            return found
        for request, answer in zip(self.requests, kept, strict=True):
            subject.set(*request, answer)
        written(subject, self.server, 0)
        time.sleep(SETTLE_S)
        return [subject.get(*request) for request in self.requests]

    async def _afill(self, subject: Subject, kept: list[Any]) -> list[Any]:
        for request, answer in zip(self.requests, kept, strict=True):
            await subject.aset(*request, answer)
        await awritten(subject, self.server, 0)
        await asyncio.sleep(SETTLE_S)
        return await _looked(subject, self.requests)

    def interleaved(self, subjects: dict[str, Subject], work: Callable[[Subject], dict[str, float]]) -> Spent:
        """Every subject in every round, in an order that rotates; the first round warms up."""
        spent = Spent()
        names = list(subjects)
        gc.collect()
        gc.freeze()  # what the peers import is no part of a round's collection
        for number in range(self.rounds + 1):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                gc.collect()
                gc.disable()
                try:
                    took = work(subjects[name])
                finally:
                    gc.enable()
                if number:
                    spent.keep(name, took)
        gc.unfreeze()
        return spent

    def add(self, label: str, name: str, base: str, sides: tuple[Series, Series], most: float | None) -> None:
        """A row of ours, or one of a peer over the same floor, which has no target."""
        pairs = [pair for pair in zip(*sides, strict=True) if not any(map(math.isnan, pair))]
        if not pairs:
            if name == OURS:
                raise NotMeasuredError(f"{label}: ours or {base} did not hit in any round")
            self.notes[f"{label}: {name} did not hit in any round"] = None
            return
        if name == OURS and len(pairs) < len(sides[0]):
            self.notes[f"{label}: {len(sides[0]) - len(pairs)} of {len(sides[0])} rounds had misses, left out"] = None
        mine, theirs = ([pair[side] for pair in pairs] for side in (0, 1))
        ratio = paired_ratio(mine, theirs)
        target = most if name == OURS else None
        row = Figure(label, median(mine), median(theirs), ratio, target, None if target is None else ratio <= target)
        (self.rows if name == OURS else self.peers).append(row)

    def compare(self, spent: Spent, title: str, base: str, targets: dict[str, float]) -> None:
        """Rows of every subject over `base`; `targets` by the beginning of a figure."""
        for figure in spent.figures():
            for name in spent.by_name:
                if name != base and figure in spent.by_name[name] and figure in spent.by_name[base]:
                    sides = spent.by_name[name][figure], spent.by_name[base][figure]
                    self.add(f"{title} {figure}: {name} / {base}", name, base, sides, targets.get(figure))

    def close(self, subjects: dict[str, Subject]) -> None:
        for subject in subjects.values():
            with contextlib.suppress(Exception):
                if subject.aclose is not None:
                    self.run(_awaited(subject.aclose))
                if subject.close is not None:
                    subject.close()


class Spent:
    """By subject and figure, a number for each round."""

    def __init__(self) -> None:
        self.by_name: dict[str, dict[str, Series]] = {}

    def keep(self, name: str, took: dict[str, float]) -> None:
        for figure, value in took.items():
            self.by_name.setdefault(name, {}).setdefault(figure, []).append(value)

    def figures(self) -> list[str]:
        return list(dict.fromkeys(figure for taken in self.by_name.values() for figure in taken))


async def _looked(subject: Subject, asked: list[tuple[str, str]]) -> list[Any]:
    return [await subject.aget(*request) for request in asked]


async def _awaited(call: Callable[[], Any]) -> None:
    await call()
