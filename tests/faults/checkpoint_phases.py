"""The script of a client process that ends itself at a failpoint: one phase on threads that are there already."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.support.acknowledged import Ledger
from tests.support.failpoints import ANY, Failpoint, Failpoints
from tests.support.talking import Client

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["PHASES", "USER", "phase", "play"]

USER = "user"
LONG_AGO_S = 1e6
LATE_S = 0.3


async def _put(client: Client, thread: str) -> None:
    await client.put(thread)
    await client.put(thread, "child:1")


async def _put_writes(client: Client, thread: str) -> None:
    await asyncio.gather(*(client.write(thread) for _ in range(4)))


async def _read(client: Client, thread: str) -> None:
    await client.read(thread)
    await client.history(thread)


async def _archive(client: Client, thread: str) -> None:
    await client.call("archive", thread)


async def _restore(client: Client, thread: str) -> None:
    await client.call("restore", thread)


async def _prune(client: Client, thread: str) -> None:
    await client.prune(thread)


async def _copy(client: Client, thread: str) -> None:
    await client.copy(thread, f"{thread}-copy")


async def _delete(client: Client, thread: str) -> None:
    await client.delete(thread)


async def _erase(client: Client, thread: str) -> None:
    await client.erase(USER, ["cold", "warm"])


async def _idle(client: Client, thread: str) -> None:
    await client.call("archive_idle", -LONG_AGO_S)


async def _sweep(client: Client, thread: str) -> None:
    await client.call("sweep")


class Hasty:
    """Answers puts before it makes them."""

    def __init__(self, saver: Any) -> None:
        self._saver = saver
        self._late: list[threading.Thread] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._saver, name)

    def put(self, *args: Any) -> None:
        self._late.append(threading.Thread(target=self._put, args=args))
        self._late[-1].start()

    async def aput(self, *args: Any) -> None:
        self.put(*args)

    def join(self) -> None:
        for thread in self._late:
            thread.join()

    def _put(self, *args: Any) -> None:
        time.sleep(LATE_S)
        self._saver.put(*args)


# each acts on a thread that is `warm`, `cold`, or both one after the other
PHASES: dict[str, tuple[Callable[[Client, str], Awaitable[None]], str]] = {
    "put": (_put, "warm"),
    "put on a cold thread": (_put, "cold"),
    "put_writes": (_put_writes, "warm"),
    "put_writes on a cold thread": (_put_writes, "cold"),
    "read": (_read, "warm"),
    "read a cold thread": (_read, "cold"),
    "archive": (_archive, "warm"),
    "archive_idle": (_idle, "warm"),
    "restore": (_restore, "cold"),
    "prune": (_prune, "warm"),
    "prune a cold thread": (_prune, "cold"),
    "copy_thread": (_copy, "warm"),
    "copy a cold thread": (_copy, "cold"),
    "delete_thread": (_delete, "warm"),
    "delete a cold thread": (_delete, "cold"),
    "delete_user": (_erase, "warm"),
    "sweep": (_sweep, "warm"),
}


async def phase(client: Client, name: str) -> None:
    act, thread = PHASES[name]
    await act(client, thread)


async def _set_up(client: Client) -> None:
    for thread in ("warm", "cold"):
        for _ in range(client.draw.randrange(1, 4)):
            await client.turn(thread)
        await client.put(thread, "child:1")
        if client.draw.random() < 0.5:
            await client.write(thread)
    await client.call("archive", "cold")


def play(
    name: str,
    urls: dict[str, str],
    ledger: str,
    seed: int,
    colour: str,
    point: list[Any] | None = None,
    census: str | None = None,
    how: int = signal.SIGKILL,
    *,
    hasty: bool = False,
) -> None:
    """Run a phase in this process, which ends at the point; without one, write down what operations there were.

    A `hasty` checkpointer acknowledges puts before they are stored: it is there to be caught.
    """
    points = Failpoints(None if point is None else Failpoint(*point), signal.Signals(how))
    points.install()
    asyncio.run(_play(name, urls, Ledger(ledger), Random(seed), colour, points, hasty))
    if census is not None:
        found = [
            [kind, count] for (within, kind), count in points.seen.items() if within == name and kind not in (ANY, "")
        ]
        Path(census).write_text(json.dumps(found))


async def _play(
    name: str, urls: dict[str, str], ledger: Ledger, draw: Random, colour: str, points: Failpoints, hasty: bool
) -> None:
    ahead = 1e6 if name == "sweep" else 0.0  # what was just written is old enough to be moved
    async with TieredCheckpointSaver.from_urls(**urls) as saver:
        before = Client(saver, ledger, draw, colour=colour, user=USER)
        await _set_up(before)
    async with TieredCheckpointSaver.from_urls(**urls, clock=lambda: time.time() + ahead) as saver:
        client = Client(Hasty(saver) if hasty else saver, ledger, draw, colour=colour, user=USER)
        client.heads = before.heads
        points.phase = name
        await phase(client, name)
        if isinstance(client.saver, Hasty):
            client.saver.join()
        await saver.aclose()
        points.phase = ""
