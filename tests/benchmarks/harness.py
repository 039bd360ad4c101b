"""What every benchmark shares: interleaved rounds, medians, and one table of figures beside their targets."""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager


@dataclass(frozen=True)
class Figure:
    """One line: what ours does beside a peer, as a ratio, and what the ratio should be (None: no target)."""

    figure: str
    ours: float
    peer: float
    ratio: float
    target: float | None
    met: bool | None

    @classmethod
    def at_most(cls, figure: str, ours: float, peer: float, target: float | None = None) -> Figure:
        """A ratio ours / peer that should stay below its target."""
        ratio = ours / peer
        return cls(figure, ours, peer, ratio, target, None if target is None else ratio <= target)

    @classmethod
    def at_least(cls, figure: str, ours: float, peer: float, target: float | None = None) -> Figure:
        """A ratio ours / peer that should reach its target."""
        ratio = ours / peer
        return cls(figure, ours, peer, ratio, target, None if target is None else ratio >= target)


def arguments(about: str) -> argparse.Namespace:
    """The options that every benchmark takes."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="few rounds, for a look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    return parser.parse_args()


def interleaved(
    variants: Mapping[str, Callable[[], AbstractContextManager[object]]],
    work: Callable[[object], int],
    rounds: int,
) -> dict[str, list[float]]:
    """CPU microseconds per unit of work for every variant and round, the rounds' order rotated.

    What a variant's context does on leaving (a flush) counts, and so do the threads it keeps.
    """
    spent: dict[str, list[float]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(rounds + 1):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            gc.collect()
            began = time.process_time()
            with variants[name]() as subject:
                units = work(subject)
            if number:  # the first round warms up
                spent[name].append((time.process_time() - began) / units * 1e6)
    return spent


def paired_ratio(ours: Sequence[float], base: Sequence[float]) -> float:
    """The median over rounds of ours / base: what disturbs a whole round disturbs both sides of its ratio."""
    return statistics.median(one / other for one, other in zip(ours, base, strict=True))


@contextmanager
def nothing() -> Iterator[None]:
    """A variant that does nothing."""
    yield


def show(title: str, figures: Sequence[Figure], file: Path | None) -> None:
    """Print the table and write the rows."""
    table = Table(title=title, title_justify="left")
    for column in ("figure", "ours", "peer", "ratio", "target", "met"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for row in figures:
        met = {None: "", True: "yes", False: "NO"}[row.met]
        target = "" if row.target is None else f"{row.target:g}"
        table.add_row(row.figure, f"{row.ours:,.1f}", f"{row.peer:,.1f}", f"{row.ratio:.3f}", target, met)
    Console(width=120).print(table)
    if file is not None:
        file.write_text(json.dumps([asdict(row) for row in figures], indent=1))
