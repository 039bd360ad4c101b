"""Every fault, one after the other, and a table of what it counted: `python tests/faults/checkpoint_faults.py`.

Exits with 1 when anything acknowledged was lost or something was seen that must never be.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.faults.checkpoint_clients import CLIENT
from tests.faults.checkpoint_killed import census, killed_at, phases
from tests.faults.checkpoint_scenes import SCENES, played
from tests.support.faulty import Run, Servers
from tests.support.forked import forge
from tests.support.readback import Checked

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from tests.support.forked import Forge

COLUMNS = "{:<48} {:>5} {:>13} {:>9} {:>5} {:>6} {:>7}  {}"
DEADLINE_S = 300.0


@dataclass
class Row:
    """What the runs of one fault came to."""

    fault: str
    runs: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    checked: Checked = field(default_factory=Checked)
    broken: list[str] = field(default_factory=list)
    seconds: float = 0.0

    async def add(self, playing: Awaitable[Run]) -> None:
        """One run; one that does not come to its end is not forgiven."""
        began = time.monotonic()
        self.runs += 1
        try:
            run = await asyncio.wait_for(playing, DEADLINE_S)
        except Exception as error:
            self.broken.append(f"{type(error).__name__}: {error}")
        else:
            self.counts += run.counts
            self.checked += run.checked
        self.seconds += time.monotonic() - began

    def say(self) -> None:
        done, told = self.checked, ", ".join(f"{count} {what}" for what, count in self.counts.items() if count)
        wrong = len(done.wrong) + len(self.broken)
        print(
            COLUMNS.format(
                self.fault[:48], self.runs, done.acknowledged, done.checked, len(done.lost), wrong,
                f"{self.seconds:.1f}", told,
            ),
            flush=True,
        )  # fmt: skip
        for text in (done.bad + self.broken)[:5]:
            print(f"    {text[:300]}", flush=True)

    @property
    def is_clean(self) -> bool:
        return not (self.checked.bad or self.broken)


async def killed(servers: Servers, folder: Path, made: Forge, kind: str, phase: str, seed: int, most: int) -> Row:
    """A client killed at the failpoints of one phase."""
    row = Row(f"killed: {phase} ({kind})")
    points = census(servers, folder, made, kind, phase, seed)
    for point in points if len(points) <= most else Random(seed).sample(points, most):
        await row.add(killed_at(servers, folder, made, kind, point, seed))
    row.counts["points"] = len({(point.kind, point.side) for point in points})
    row.say()
    return row


async def scene(servers: Servers, folder: Path, made: Forge, name: str, options: argparse.Namespace) -> Row:
    row = Row(name)
    kinds = [kind for kind in SCENES[name].kinds if kind in options.kinds]
    for seed in range(options.seed, options.seed + options.seeds):
        for kind in kinds:
            await row.add(played(name, servers, folder, made, seed, kind, options.clients))
    row.say()
    return row


async def main(options: argparse.Namespace) -> int:
    print(COLUMNS.format("fault", "runs", "acknowledged", "checked", "lost", "wrong", "seconds", "counts"))
    rows = []
    with Servers() as servers, tempfile.TemporaryDirectory() as name, forge(CLIENT, Path(name)) as made:
        for kind in options.kinds:
            for phase in phases():
                for seed in range(options.seed, options.seed + options.seeds):
                    rows.append(await killed(servers, Path(name), made, kind, phase, seed, options.points))
        for fault in SCENES:
            rows.append(await scene(servers, Path(name), made, fault, options))
    total = Row("all")
    for row in rows:
        total.runs += row.runs
        total.checked += row.checked
        total.broken += row.broken
        total.seconds += row.seconds
    total.counts["client processes killed"] = sum(row.counts["kills"] for row in rows)
    total.say()
    return 0 if total.is_clean else 1


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds of each fault")
    parser.add_argument("--points", type=int, default=12, help="how many failpoints of each phase and seed, at most")
    parser.add_argument("--clients", type=int, default=64, help="how many clients talk at once")
    kinds = ("embedded", "rclone", "moto")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=["embedded", "rclone"], help="which stores")
    return parser.parse_args()


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # the hot tier's failures are the point
    sys.exit(asyncio.run(main(options())))
