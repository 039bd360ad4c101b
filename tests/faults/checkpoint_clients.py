"""What a client process does: `work(role=…)`, called in a child that `tests.support.forked` made."""

from __future__ import annotations

import asyncio
import json
import os
import resource
from pathlib import Path
from random import Random
from typing import Any

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import CheckpointError, StoreError
from tests.faults.checkpoint_phases import play
from tests.support.acknowledged import NEVER, Ledger, operations
from tests.support.failpoints import Failpoint, Failpoints
from tests.support.load import ALL, Load
from tests.support.talking import Client

__all__ = ["CLIENT", "work"]

CLIENT = "tests.faults.checkpoint_clients:work"
PAUSE_S = 0.01


def work(role: str, **plan: Any) -> None:
    """Do what a role says until the end of its script, or until the file `until` is there."""
    {"play": play, "talk": talk, "watch": watch, "move": move, "one": one, "rounds": rounds}[role](**plan)


def talk(
    urls: dict[str, str],
    ledger: str,
    seed: int,
    until: str,
    *,
    clients: int = 8,
    prefix: str = "p",
    patience_s: float = 0.0,
    file_bytes: int | None = None,
    mix: dict[str, int] = ALL,
    **options: Any,
) -> None:
    """Load, on threads of its own; no file of this process grows beyond `file_bytes`."""
    if file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    notes, draw = Ledger(ledger), Random(seed)

    async def run() -> None:
        async with TieredCheckpointSaver.from_urls(**urls, **options) as saver:
            make = lambda colour: Client(  # noqa: E731 - made for each of them
                saver, notes, Random(draw.random()), colour=colour, patience_s=patience_s
            )
            async with Load(make, notes, clients, prefix=prefix, may_raise=(StoreError,), mix=mix):
                while not _is_there(until):
                    await asyncio.sleep(PAUSE_S)

    asyncio.run(run())


def rounds(urls: dict[str, str], orders: str, who: str, seed: int, *, clients: int, **options: Any) -> None:
    """Load with one saver in rounds, as the file `orders` says: a ledger of its own for each, and pauses between."""
    draw = Random(seed)

    async def run() -> None:
        async with TieredCheckpointSaver.from_urls(**urls, **options) as saver:
            done = -1
            while (order := _order(orders))["round"] is not None:
                if order["round"] > done and order["going"]:
                    done = order["round"]
                    await _round(order, saver)
                    _touch(f"{order['ledger']}.{who}")
                await asyncio.sleep(PAUSE_S)

    async def _round(order: dict[str, Any], saver: Any) -> None:
        notes = Ledger(order["ledger"], who)
        make = lambda colour: Client(saver, notes, Random(draw.random()), colour=colour)  # noqa: E731 - made for each
        async with Load(make, notes, clients, prefix=f"{who}{order['round']}-", may_raise=(StoreError,)):
            while _order(orders)["going"]:
                await asyncio.sleep(PAUSE_S)
        notes.close()

    asyncio.run(run())


def watch(urls: dict[str, str], ledger: str, seed: int, until: str, *, may_fail: bool = False, **options: Any) -> None:
    """Reads heads, which are never older than what the ledger said before the read began."""
    notes, draw = Ledger(ledger, "watch"), Random(seed)

    async def run() -> None:
        async with TieredCheckpointSaver.from_urls(**urls, **options) as saver:
            client = Client(saver, notes, draw)
            while not _is_there(until):
                floors = _floors(ledger)
                for (thread, ns), floor in draw.sample(sorted(floors.items()), min(10, len(floors))):
                    try:
                        found = await client.read(thread, ns)
                    except StoreError:
                        if not may_fail:
                            raise
                        continue
                    head = "" if found is None else found.checkpoint["id"]
                    if head < floor and (thread, ns) in _floors(ledger):  # nobody began to delete it meanwhile
                        notes.wrong(f"{thread}/{ns}: a watcher saw {head or 'nothing'} when {floor} was acknowledged")
                await asyncio.sleep(PAUSE_S)

    asyncio.run(run())


def move(
    urls: dict[str, str],
    ledger: str,
    seed: int,
    until: str,
    *,
    way: str = "archive",
    may_fail: bool = False,
    **options: Any,
) -> None:
    """A mover: archives every thread it hears of, or all that are idle, over and over."""
    notes, draw = Ledger(ledger, "move"), Random(seed)

    async def run() -> None:
        async with TieredCheckpointSaver.from_urls(**urls, **options) as saver:
            client = Client(saver, notes, draw)
            while not _is_there(until):
                threads = sorted({thread for thread, _ in _floors(ledger)})
                try:
                    if way == "archive":
                        for thread in draw.sample(threads, min(5, len(threads))):
                            await client.call("archive", thread)
                    else:
                        await client.call(way, *((-1e6,) if way == "archive_idle" else ()))
                except (StoreError, CheckpointError) as error:
                    if not may_fail or not isinstance(error, StoreError):
                        notes.wrong(f"a mover got {type(error).__name__}: {error}")
                await asyncio.sleep(PAUSE_S)

    asyncio.run(run())


def one(
    urls: dict[str, str],
    ledger: str,
    seed: int,
    thread: str,
    done: str,
    *,
    point: list[Any] | None = None,
    how: int = 19,
    **options: Any,
) -> None:
    """Two turns on one thread; the second may stop at a point. What it raised is in the file `done`."""
    points = Failpoints(None if point is None else Failpoint(*point), how)
    points.install()

    async def run() -> str:
        async with TieredCheckpointSaver.from_urls(**urls, **options) as saver:
            client = Client(saver, Ledger(ledger, "one"), Random(seed))
            await client.turn(thread)
            points.phase = "second"
            try:
                await client.put(thread)
            except (StoreError, CheckpointError) as error:
                return type(error).__name__
            return ""

    Path(done).write_text(asyncio.run(run()))


def _floors(ledger: str) -> dict[tuple[str, str], str]:
    """Newest acknowledged checkpoints of threads from which nothing was ever removed."""
    ops, _, _ = operations(ledger)
    harmed = {name for op in ops if op.what in ("delete_thread", "delete_user") for name in _threads(op)}
    floors: dict[tuple[str, str], str] = {}
    for op in ops:
        if op.what == "put" and op.acked < NEVER and op.facts["thread"] not in harmed:
            key = (op.facts["thread"], op.facts["ns"])
            floors[key] = max(op.facts["id"], floors.get(key, ""))
    return floors


def _threads(op: Any) -> list[str]:
    return op.facts.get("threads") or [op.facts["thread"]]


def _is_there(path: str) -> bool:
    return os.path.exists(path)


def _order(path: str) -> dict[str, Any]:
    return json.loads(Path(path).read_text())


def _touch(path: str) -> None:
    Path(path).touch()
