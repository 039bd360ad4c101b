"""Kills of a client process at its failpoints, one after the other, each followed by a check and by the same again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.faults.checkpoint_phases import PHASES, USER, phase
from tests.support.failpoints import SIDES, Failpoint
from tests.support.faulty import Run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.faulty import Servers
    from tests.support.forked import Forge

__all__ = ["census", "killed_at", "phases"]

KILLED = -9


def phases() -> list[str]:
    """Those that this checkpointer has."""
    has = {
        name
        for name in ("archive", "archive_idle", "restore", "sweep", "delete_user")
        if hasattr(TieredCheckpointSaver, name)
    }
    return [name for name in PHASES if name in has or not _needs(name) - has]


def _needs(name: str) -> set[str]:
    if "cold" in name:
        return {"archive"}
    return {name} & {"archive", "archive_idle", "restore", "sweep", "delete_user"}


def census(
    servers: Servers, folder: Path, forge: Forge, kind: str, name: str, seed: int, **more: Any
) -> list[Failpoint]:
    """Every place at which this phase can end, at the first, the last and a drawn one of the operations of a kind."""
    run = Run(servers, folder, forge, seed, kind)
    seen = folder / f"census-{run.name}"
    with run.over():
        code = forge.run(
            role="play",
            name=name,
            urls=run.direct,
            ledger=str(run.ledger_path),
            seed=seed,
            colour=_colour(seed),
            census=str(seen),
            **more,
        )
        if code:
            raise AssertionError(f"{name} failed without any fault: {forge.said()}")
    return [
        Failpoint(name, operation, side, nth)
        for operation, count in json.loads(seen.read_text())
        for side in SIDES
        for nth in sorted({1, count, run.draw.randint(1, count)})
    ]


async def killed_at(
    servers: Servers, folder: Path, forge: Forge, kind: str, point: Failpoint, seed: int, **more: Any
) -> Run:
    """One kill: what was acknowledged is there, and the same operation can be done again to its end."""
    run = Run(servers, folder, forge, seed, kind)
    with run.over():
        code = forge.run(
            role="play",
            name=point.phase,
            urls=run.direct,
            ledger=str(run.ledger_path),
            seed=seed,
            colour=_colour(seed),
            point=list(point),
            **more,
        )
        if code not in (0, KILLED):
            raise AssertionError(f"{point} ended with code {code}: {forge.said()}")
        run.counts["kills"] += code == KILLED
        await run.check()
        async with run.saver(run.direct) as saver:
            client = run.client(saver, colour=_colour(seed + 1), user=USER)
            for thread in ("warm", "cold"):
                for ns in ("", "child:1"):
                    await client.resume(thread, ns)
            await phase(client, point.phase)
        await run.check()
        await run.nothing_is_left()
    return run


def _colour(seed: int) -> str:
    return ("async", "sync")[seed % 2]
