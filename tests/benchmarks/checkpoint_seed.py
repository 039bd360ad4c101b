"""Seed sizes: what 1,000 to 1,000,000 conversations hold in each tier, from the measured bytes of one.

A mix says how many of a hundred conversations are hot (in Redis and in PostgreSQL), warm (in PostgreSQL) and cold (in
the bucket, and a few rows in PostgreSQL). The peers keep every conversation in their one place.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from tests.benchmarks.checkpoint_savers import POSTGRES, VALKEY
from tests.benchmarks.checkpoint_sizes import weighed
from tests.benchmarks.harness import Figure

if TYPE_CHECKING:
    from tests.benchmarks.checkpoint_rounds import Bench
    from tests.benchmarks.checkpoint_sizes import Weights

COUNTS = (1_000, 10_000, 100_000, 1_000_000)
UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (0.0, "kB"))
TIERS = ("Redis (hot)", "PostgreSQL (hot, warm, rows of cold)", "S3 (cold)")


@dataclass(frozen=True)
class Mix:
    """Shares of conversations; together 1."""

    hot: float
    warm: float
    cold: float

    @classmethod
    def parse(cls, text: str) -> Mix:
        """Of `2,18,80`: percent hot, warm and cold."""
        shares = [float(part) for part in text.split(",")]
        if len(shares) != 3 or abs(sum(shares) - 100) > 1e-6 or min(shares) < 0:
            raise ValueError(f"{text!r} is no mix; give percent hot, warm and cold that make 100, such as 2,18,80")
        return cls(*(share / 100 for share in shares))

    def bytes(self, one: Weights) -> tuple[float, float, float]:
        """Of a mean conversation, in Redis, PostgreSQL and S3."""
        in_tables = (self.hot + self.warm) * one.warm + self.cold * one.rows
        return self.hot * one.hot, in_tables, self.cold * one.cold


async def seeds(bench: Bench, mix: Mix) -> tuple[Table, list[Figure]]:
    """The table, and its lines as rows beside the live state."""
    one = await weighed(bench, bench.scale.turns)
    title = f"Seed sizes: {one.turns} turns a conversation; hot {mix.hot:.0%}, warm {mix.warm:.0%}, cold {mix.cold:.0%}"
    peers = [name for name in (POSTGRES, VALKEY) if name in one.peers]
    table = Table(title=title, title_justify="left")
    for column in ("conversations", "live state", *TIERS, "all tiers", *peers):
        table.add_column(column, justify="right")
    rows = []
    for count in COUNTS:
        held = [count * part for part in mix.bytes(one)]
        others = [count * one.peers[name] for name in peers]
        live = count * one.live
        table.add_row(f"{count:,}", *(amount(size) for size in (live, *held, sum(held), *others)))
        named = [*zip(TIERS, held, strict=True), *zip(peers, others, strict=True)]
        rows += [
            Figure.at_most(f"{count:,} conversations, {name}, MB / live state", size / 1e6, live / 1e6)
            for name, size in named
            if not math.isnan(size)
        ]
    return table, rows


def shown(table: Table) -> None:
    """Print it."""
    Console(width=140).print(table)


def amount(size: float) -> str:
    """Bytes in a unit that fits; a dash where they were not measured."""
    if math.isnan(size):
        return "-"
    least, unit = next((least, unit) for least, unit in UNITS if size >= least)
    return f"{size / (least or 1e3):,.1f} {unit}"
