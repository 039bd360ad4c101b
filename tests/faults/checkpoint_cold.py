"""Faults around the cold tier: movers that race, objects that are damaged, an object store that refuses."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import CheckpointError, StoreError
from langchain_llmops.stores.base import open_store
from tests.support.checkpoints import config
from tests.support.faulty import paths_of

if TYPE_CHECKING:
    from tests.support.faulty import Run

__all__ = ["movers_race", "objects_damaged", "objects_refused"]

ENOUGH = 20
MOVING = {"turn": 30, "archive": 40, "read": 15, "history": 10, "delete": 5}
HARMS = ("flipped", "cut", "empty", "missing", "swapped", "foreign")


async def movers_race(run: Run) -> None:
    """Two movers on the same threads, of which clients write, prune, copy and delete some meanwhile."""
    async with run.saver() as saver:
        async with run.load(saver) as load:
            movers = [run.start("move", way=way) for way in ("archive", "archive_idle")]
            await load.passed(12 * ENOUGH * run.size)
            run.finish(*movers)
    run.counts["movers"] += 2
    run.counts["objects at the end"] += len(paths_of(run.direct["cold"]))
    await run.check()
    await run.nothing_is_left()


async def objects_damaged(run: Run) -> None:
    """A damaged, missing or swapped object is a typed error for its thread, as long as it is; never an empty thread."""
    objects = open_store(run.direct["cold"], blocking=True).objects
    async with run.saver() as saver:
        client = run.client(saver)
        for number in range(len(HARMS)):
            for _ in range(2):
                await client.turn(f"t{number}")
            await client.call("archive", f"t{number}")
        whole = {path: drive(objects.get(path)) for path in paths_of(run.direct["cold"])}
        for number, harm in enumerate(HARMS):
            await _damage(run, objects, whole, f"t{number}", harm)
    await run.check()


async def _damage(run: Run, objects, whole: dict[str, bytes], thread: str, harm: str) -> None:
    """Harms every object, one thread is asked for, and all is as it was before."""
    paths = list(whole)
    for at, path in enumerate(paths):
        data, other = whole[path], whole[paths[at - 1]]
        middle = run.draw.randrange(len(data))
        made = {
            "flipped": data[:middle] + bytes([data[middle] ^ (1 << run.draw.randrange(8))]) + data[middle + 1 :],
            "cut": data[:middle],
            "empty": b"",
            "swapped": other,
            "foreign": os.urandom(len(data)),
        }
        drive(objects.delete(path) if harm == "missing" else objects.put(path, made[harm]))
        run.counts[f"object {harm}"] += 1
    async with run.saver(run.direct) as saver:
        for ask in (saver.aget_tuple(config(thread)), _listed(saver, thread), saver.arestore(thread)):
            await _refused(run, ask, f"{thread} with every object {harm}")
    for path, data in whole.items():
        drive(objects.put(path, data))


async def _listed(saver, thread: str) -> list:
    return [found async for found in saver.alist(config(thread))]


async def _refused(run: Run, ask, what: str) -> None:
    try:
        found = await ask
    except CheckpointError:
        return
    except Exception as error:
        run.ledger.wrong(f"{what}: raised {type(error).__name__}: {error}")
    else:
        run.ledger.wrong(f"{what}: answered {str(found)[:80]}")


async def objects_refused(run: Run) -> None:
    """403 and 503 to some or all requests: a typed error for what needs the object, threads stay whole and usable."""
    proxy = run.servers.proxy(run.kind)
    async with run.saver() as saver:
        async with run.load(saver, may_raise=(StoreError,), mix=MOVING) as load:
            for status in ("403 Forbidden", "503 Slow Down"):
                for methods in (
                    ("PUT",),
                    ("GET", "HEAD"),
                    ("DELETE", "POST"),
                    ("GET", "PUT", "POST", "DELETE", "HEAD"),
                ):
                    await load.passed(ENOUGH)
                    before = proxy.answered
                    proxy.answer(status, methods)
                    await load.passed(ENOUGH * run.size)
                    proxy.heal()
                    run.counts[f"S3 said {status}"] += proxy.answered - before
        caller = run.client(saver)
        await asyncio.gather(*(caller.turn(f"after{number}") for number in range(4)))
    await run.check()
    await run.nothing_is_left()
