"""Every fault by its name: what does it, where it runs, and which tiers are reached through a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.faults import checkpoint_cold as cold
from tests.faults import checkpoint_servers as servers
from tests.faults import checkpoint_writers as writers
from tests.support.faulty import Run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from tests.support.faulty import Servers
    from tests.support.forked import Forge

__all__ = ["MOVES", "SCENES", "Scene", "played"]


class Scene(NamedTuple):
    """One kind of fault."""

    play: Callable[[Run], Awaitable[None]]
    kinds: tuple[str, ...] = ("rclone",)
    proxies: tuple[str, ...] = ()


MOVES = hasattr(TieredCheckpointSaver, "archive")
SCENES: dict[str, Scene] = {
    "PostgreSQL killed under load": Scene(servers.postgres_killed),
    "Redis emptied and killed": Scene(servers.redis_lost),
    "Redis restored from an older snapshot": Scene(servers.redis_gone_back),
    "Redis refusing, slow, silent, full, read-only": Scene(servers.redis_harmed, proxies=("hot",)),
    "answers lost after the commit": Scene(servers.answers_lost, proxies=("warm",)),
    "idle connections ended": Scene(servers.connections_ended, proxies=("warm",)),
    "a writer stopped, another takes over": Scene(writers.writer_stopped, ("embedded", "rclone")),
    "clocks and ids that go back": Scene(writers.clocks_apart, ("embedded", "rclone")),
    "a file that may not grow": Scene(writers.file_too_large, ("embedded",)),
    "a disk that is full": Scene(writers.disk_full, ("embedded",)),
}
if MOVES:
    SCENES |= {
        "two movers against writers": Scene(cold.movers_race, ("rclone", "moto", "embedded")),
        "objects damaged, missing and swapped": Scene(cold.objects_damaged, ("rclone", "moto", "embedded")),
        "S3 says 403 and 503": Scene(cold.objects_refused, ("rclone", "moto"), ("cold",)),
    }


async def played(
    name: str, servers: Servers, folder: Path, forge: Forge, seed: int, kind: str = "", clients: int = 16, size: int = 1
) -> Run:
    """One run of a fault; its ledger was checked."""
    scene = SCENES[name]
    run = Run(servers, folder, forge, seed, kind or scene.kinds[seed % len(scene.kinds)], scene.proxies, clients, size)
    with run.over():
        await scene.play(run)
    return run
