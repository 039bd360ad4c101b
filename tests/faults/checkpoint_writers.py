"""Faults of writers: stopped and resumed after another took over, clocks and ids that go back, disks that are full."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
import uuid
from typing import TYPE_CHECKING

from langchain_llmops.core.errors import StoreUnavailableError
from tests.support.checkpoints import until
from tests.support.failpoints import ANY, Failpoint

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from random import Random

    from tests.support.faulty import Run
    from tests.support.talking import Client

__all__ = ["clocks_apart", "disk_full", "file_too_large", "writer_stopped"]

HOUR_S = 3600.0
UUID_EPOCH = 0x01B21DD213814000
STOPS = ((ANY, "before", 1), (ANY, "after", 1), (ANY, "after", 3), ("sql commit", "before", 1))


async def writer_stopped(run: Run) -> None:
    """Stopped in the middle of a put and resumed after another process went on: the head stays, the loser is listed."""
    for fencing in ("off", "strict"):
        await _stops(run, fencing)
    await run.check()


async def _stops(run: Run, fencing: str) -> None:
    async with run.saver(fencing=fencing) as saver:
        for number in range(len(STOPS) * run.size):
            thread, done = f"{fencing}{number}", run.folder / f"done-{run.name}-{fencing}{number}"
            point = Failpoint("second", *STOPS[number % len(STOPS)])
            first = run.start(
                "one", thread=thread, done=str(done), point=list(point), how=int(signal.SIGSTOP), fencing=fencing
            )
            await until(lambda: first.state in ("T", "Z", ""))  # noqa: B023 - awaited here
            run.counts["writers stopped"] += first.state == "T"
            taker = run.client(saver)
            head = await _taken_over(run, taker, thread)
            first.send(signal.SIGCONT)
            if first.wait():
                raise AssertionError(f"the stopped writer failed: {run.forge.said()}")
            await taker.read(thread, floor=head)
            raised = done.read_text()
            if raised:
                run.counts[f"resumed and told {raised}"] += 1
            if fencing == "strict" and number % len(STOPS) == 0 and raised != "CheckpointConflict":
                run.ledger.wrong(f"{thread}: a superseded writer was told {raised or 'nothing'}")
            if fencing == "off" and raised:
                run.ledger.wrong(f"{thread}: a resumed writer was told {raised}")
            await taker.turn(thread)


async def _taken_over(run: Run, taker: Client, thread: str) -> str:
    """The head that the other process leaves; nothing when the stopped one holds the thread, which is said in time."""
    try:
        return await taker.turn(thread)
    except StoreUnavailableError:
        run.counts["takers told to wait"] += 1
        return ""


async def clocks_apart(run: Run) -> None:
    """Clocks hours ahead and behind, and ids made by them: the head is the newest id, nothing unarchived is removed."""
    shifts = (-3 * HOUR_S, 0.0, 5 * HOUR_S)
    async with contextlib.AsyncExitStack() as stack:
        savers = [
            await stack.enter_async_context(run.saver(clock=lambda shift=shift: time.time() + shift))
            for shift in shifts
        ]
        clients = [run.client(saver) for saver in savers]
        for _ in range(6 * run.size):
            at = run.draw.randrange(3)
            await clients[at].resume("t")
            wrong_by = shifts[at] if run.draw.random() < 0.7 else run.draw.uniform(-1e5, 1e5)
            await clients[at].put("t", id=id_at(wrong_by, run.draw))
            run.counts["writes by a wrong clock"] += at != 1
            await clients[run.draw.randrange(3)].call("archive_idle", run.draw.uniform(-1e4, 1e4))
            for client in clients:
                await client.read("t")
    await run.check()


def id_at(shift_s: float, draw: Random) -> str:
    """A version 6 id as a process makes it whose clock is wrong by so much; each is unique."""
    ticks = time.time_ns() // 100 + UUID_EPOCH + int(shift_s * 1e7)
    high, low = (ticks >> 12) & 0xFFFFFFFFFFFF, ticks & 0xFFF
    return str(uuid.UUID(int=high << 80 | 6 << 76 | low << 64 | 2 << 62 | draw.getrandbits(62)))


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path | None]:
    """A disk of a few megabytes, where this process may mount one; else None."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=777", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def make_room(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


async def file_too_large(run: Run) -> None:
    """SQLite may not grow (as on a full disk): writers get a typed error, and once it may, all is there and goes on."""
    for limit in (300_000, 700_000)[: 1 + run.size]:
        writer = run.start("talk", clients=4, file_bytes=limit, prefix=f"limit{limit}-")
        await until(lambda: "StoreUnavailableError" in _failures(run) or writer.state in ("Z", ""))  # noqa: B023 - awaited here
        run.finish(writer)
        run.counts["files too large"] += 1
    async with run.saver() as saver:
        await run.client(saver).turn("after")
    await run.check()


async def disk_full(run: Run) -> None:
    """A disk that is full: writers get a typed error; when there is room again, all is there and goes on."""
    with small_disk(run.folder / f"disk-{run.name}", "4m") as disk:
        if disk is None:
            return
        run.urls["warm"] = run.direct["warm"] = f"sqlite:///{disk}/ck.db"
        writer = run.start("talk", clients=4, prefix="full-", mix={"turn": 1, "read": 1})
        await until(lambda: "StoreUnavailableError" in _failures(run) or writer.state in ("Z", ""))
        run.finish(writer)
        run.counts["disks full"] += 1
        make_room(disk)
        async with run.saver() as saver:
            await run.client(saver).turn("after")
        await run.check()


def _failures(run: Run) -> bytes:
    return run.ledger_path.read_bytes().decode(errors="replace")
