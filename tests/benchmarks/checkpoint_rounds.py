"""Rounds of the checkpoint benchmark: every saver in every round, in shuffled order, and the rows that come of them."""

from __future__ import annotations

import contextlib
import gc
import random
import time
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

from tests.benchmarks.checkpoint_machine import shown
from tests.benchmarks.harness import Figure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from tests.benchmarks.checkpoint_machine import Machine
    from tests.benchmarks.checkpoint_savers import Subject

    Series = dict[str, list[float]]


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    turns: int = 20
    rounds: int = 5
    clients: int = 64
    busy_turns: int = 20
    busy_rounds: int = 3
    talks: int = 8
    long_turns: int = 50
    growth_talks: int = 2
    growth_turn: int = 500
    cold_talks: int = 24


QUICK = Scale(rounds=2, busy_turns=4, busy_rounds=2, talks=3, growth_turn=100, cold_talks=8)


@dataclass
class Bench:
    """The servers, the scale, and what was found."""

    at: Machine
    scale: Scale
    rows: list[Figure] = field(default_factory=list)
    notes: dict[str, None] = field(default_factory=dict)
    failed: dict[str, None] = field(default_factory=dict)

    def add(
        self, figure: str, ours: float, peer: float, *, most: float | None = None, least: float | None = None
    ) -> None:
        """A row; at most one of the two targets."""
        make = Figure.at_most if least is None else Figure.at_least
        self.rows.append(make(figure, ours, peer, most if least is None else least))

    def missing(self, figure: str, reason: str) -> None:
        """A row of the table of targets that could not be measured."""
        self.failed[f"{figure}: {reason}"] = None

    async def rounds(
        self,
        subjects: Mapping[str, Subject],
        number: int,
        work: Callable[[Subject, int], Awaitable[dict[str, float]]],
    ) -> dict[str, Series]:
        """By subject and figure a number for each round; a subject that fails is named and left out."""
        taken: dict[str, Series] = {name: {} for name in subjects}
        for index in range(number):
            order = list(taken)
            random.Random(index).shuffle(order)
            for name in order:
                try:
                    with _undisturbed():
                        found = await work(subjects[name], index)
                except Exception as error:
                    self.notes[f"{name} failed in round {index + 1}: {shown(error)}"] = None
                    del taken[name]
                    continue
                for figure, value in found.items():
                    taken[name].setdefault(figure, []).append(value)
        return taken

    def compare(
        self,
        taken: dict[str, Series],
        figure: str,
        sides: tuple[str, str],
        title: str,
        *,
        most: float | None = None,
        least: float | None = None,
    ) -> None:
        """A row of medians over rounds, its ratio the median of the rounds' own; or why there is none."""
        one, other = sides
        absent = [name for name in sides if not taken.get(name, {}).get(figure)]
        if absent:
            told = self.failed if one in absent and (most or least) else self.notes
            told[f"{title}: {' and '.join(absent)} did not run"] = None
            return
        mine, theirs = taken[one][figure], taken[other][figure]
        ratio = median(a / b for a, b in zip(mine, theirs, strict=True))
        target = most if least is None else least
        met = None if target is None else (ratio <= target if least is None else ratio >= target)
        self.rows.append(Figure(f"{title}: {one} / {other}", median(mine), median(theirs), ratio, target, met))


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    gc.collect()
    gc.freeze()  # what the peers have imported is no part of a round's collections
    try:
        yield
    finally:
        gc.unfreeze()


class Clock:
    """Wall seconds and this process's CPU seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def wall(self) -> float:
        return time.perf_counter() - self._began[0]

    def wall_at(self, moment: float) -> float:
        """Wall seconds until a moment of `time.perf_counter`."""
        return moment - self._began[0]

    def cpu(self) -> float:
        return time.process_time() - self._began[1]


def middle(values: list[Any]) -> float:
    """The median in milliseconds of seconds."""
    return median(values) * 1e3
