"""The checkpointer beside LangGraph's own: throughput, latency, CPU, WAL, bytes in every tier, and cold restores.

`python tests/benchmarks/checkpoint.py [--quick] [--json FILE] [--mix HOT,WARM,COLD] [--only PART,PART]`. Over a real
PostgreSQL that commits to disk, a real redis-server (its file synced every second) and rclone's S3, on this machine.

What one turn is, and its text: `checkpoint_turns.py`. Savers take turns in every round, in shuffled order; `ours` and
`peer` are medians over rounds, `ratio` the median of the rounds' own ratios. CPU is what this process computed, its
threads and what is done behind an ack included: the servers' work and the neighbours' load are not in it. A saver that
acks from Redis does not promise what one does that acks after a commit: rows that set them side by side say so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import traceback
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

sys.path.insert(0, str(Path(__file__).parents[2]))
for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2"):
    os.environ.pop(name, None)
logging.disable(logging.ERROR)

from tests.benchmarks import checkpoint_cold, checkpoint_seed, checkpoint_sizes, checkpoint_speed
from tests.benchmarks.checkpoint_machine import NotMeasuredError, machine, shown
from tests.benchmarks.checkpoint_rounds import QUICK, Bench, Scale
from tests.benchmarks.harness import show

PARTS: dict[str, Callable[[Bench], Awaitable[None]]] = {
    "busy": checkpoint_speed.busy,
    "alone": checkpoint_speed.alone,
    "elsewhere": checkpoint_speed.elsewhere,
    "sizes": checkpoint_sizes.sizes,
    "growth": checkpoint_sizes.growth,
    "cold": checkpoint_cold.restores,
}
SEED = "seed"


def arguments() -> argparse.Namespace:
    """As every benchmark, with a mix for the seed sizes and a choice of parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds and short conversations, for a look")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there")
    parser.add_argument("--mix", type=checkpoint_seed.Mix.parse, default="2,18,80", help="percent hot, warm, cold")
    parser.add_argument("--only", default=",".join([*PARTS, SEED]), metavar="PART,PART", help="default: %(default)s")
    options = parser.parse_args()
    options.parts = options.only.split(",")
    if unknown := set(options.parts) - {*PARTS, SEED}:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; choose from {', '.join([*PARTS, SEED])}")
    return options


async def measured(bench: Bench, parts: list[str]) -> None:
    """The parts, one after another; what could not be measured is kept with its reason."""
    for part in parts:
        print(f"{part} …", file=sys.stderr)
        try:
            await PARTS[part](bench)
        except NotMeasuredError as error:
            bench.missing(part, str(error))
        except Exception as error:  # the other parts' figures are not lost with it
            traceback.print_exc()
            bench.missing(part, shown(error))


async def run(bench: Bench, options: argparse.Namespace) -> None:
    try:
        await measured(bench, [part for part in options.parts if part != SEED])
    finally:  # what an interrupted run has measured is shown, too
        show("The checkpointer", bench.rows, None)
        for note in bench.notes:
            print(note)
    if SEED in options.parts:
        table, rows = await checkpoint_seed.seeds(bench, options.mix)
        checkpoint_seed.shown(table)
        bench.rows += rows


def main() -> None:
    options = arguments()
    warnings.simplefilter("ignore")  # the peers' own
    began = os.getloadavg()[0]
    with machine() as at:
        bench = Bench(at, QUICK if options.quick else Scale())
        asyncio.run(run(bench, options))
    print(f"load of this machine, {os.cpu_count()} cores: {began:.1f} before, {os.getloadavg()[0]:.1f} after")
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in bench.rows], indent=1))
    if bench.failed:
        sys.exit("\n".join(f"not measured: {reason}" for reason in bench.failed))


if __name__ == "__main__":
    main()
