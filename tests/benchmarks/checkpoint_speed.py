"""How fast: 64 clients at once, one client alone, and reads of the newest checkpoint."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.benchmarks.checkpoint_machine import LAZY_S, NotMeasuredError, sent_bytes, settled
from tests.benchmarks.checkpoint_rounds import Bench, Clock, middle
from tests.benchmarks.checkpoint_savers import (
    OURS,
    POSTGRES,
    REDIS,
    REDIS_PATH,
    REPLICATED,
    UNLOCKED,
    VALKEY,
    opened,
    talks,
)
from tests.benchmarks.checkpoint_turns import CALLS_A_TURN, TURN_BYTES, Conversation

if TYPE_CHECKING:
    from tests.benchmarks.checkpoint_savers import Subject

READS = 20
LEAST_SENT = 0.1  # of the live state's bytes


async def busy(bench: Bench) -> None:
    """Throughput of 64 conversations at once; calls count when they return."""
    scale = bench.scale
    names = (OURS, REPLICATED, POSTGRES, UNLOCKED, VALKEY, REDIS, REDIS_PATH)
    async with opened(bench.at, names, bench.notes) as subjects:

        async def work(subject: Subject, number: int) -> dict[str, float]:
            seeds = range(5000 + number * 1000, 5000 + number * 1000 + scale.clients)
            made = [Conversation(subject.saver, seed).prepare(scale.busy_turns) for seed in seeds]
            server, clock = bench.at.postgres_cpu(), Clock()
            await asyncio.gather(*(talk.run(scale.busy_turns) for talk in made))
            wall, calls = clock.wall(), scale.clients * scale.busy_turns * CALLS_A_TURN
            drained = max(clock.wall_at(await _rested(bench, subject)), wall)
            server = bench.at.postgres_cpu() - server
            if subject.warm is None:
                bench.at.redis_database(int(subject.hot.rpartition("/")[2]))
            found = {"calls": calls / wall, "cpu": clock.cpu() / calls * 1e6, "drained": calls / drained}
            return {**found, "server": server / calls * 1e6} if subject.warm else found

        taken = await bench.rounds(subjects, scale.busy_rounds, work)
    title = f"throughput, {scale.clients} clients x {scale.busy_turns} turns, calls/s"
    bench.compare(taken, "calls", (OURS, POSTGRES), title, least=8)
    bench.compare(taken, "calls", (OURS, UNLOCKED), title, least=1.5)
    bench.compare(taken, "calls", (REPLICATED, VALKEY), title, least=1.2)
    bench.compare(taken, "calls", (REPLICATED, REDIS_PATH), title, least=3)
    bench.compare(taken, "calls", (OURS, VALKEY), f"{title}, one of them not durable")
    bench.compare(taken, "calls", (OURS, REDIS_PATH), f"{title}, one of them not durable")
    for name in (POSTGRES, UNLOCKED):
        bench.compare(taken, "cpu", (OURS, name), f"client CPU, {scale.clients} clients, us/call")
        bench.compare(taken, "server", (OURS, name), f"PostgreSQL's CPU, {scale.clients} clients, us/call")
    for name in (VALKEY, REDIS_PATH):
        bench.compare(taken, "cpu", (REPLICATED, name), f"client CPU, {scale.clients} clients, us/call")
        bench.compare(taken, "drained", (REPLICATED, name), f"{title}, until PostgreSQL has all")


async def alone(bench: Bench) -> None:
    """One conversation: its writes, the newest checkpoint read at its end, CPU of this process, and WAL."""
    scale = bench.scale
    async with opened(bench.at, (OURS, POSTGRES, VALKEY), bench.notes) as subjects:

        async def work(subject: Subject, number: int) -> dict[str, float]:
            return await _one(bench, subject, number)

        taken = await bench.rounds(subjects, scale.rounds, work)
        bench.at.checkpoint()
        after = await bench.rounds({name: subjects[name] for name in (OURS, POSTGRES) if name in subjects}, 1, work)
    at = f"at {scale.turns} turns"
    bench.compare(taken, "get", (OURS, POSTGRES), f"get latest, hot in this process, {at}, us", most=1 / 3)
    bench.compare(taken, "get", (OURS, VALKEY), f"get latest, hot in this process, {at}, us", most=1.2)
    bench.compare(taken, "writes", (OURS, POSTGRES), "put + writes, one client, ms/call", most=1)
    bench.compare(taken, "writes", (OURS, VALKEY), "put + writes, one client, ms/call, one of them not durable")
    bench.compare(taken, "cpu", (OURS, POSTGRES), "client CPU, one client, ms/turn", most=1)
    bench.compare(taken, "cpu", (OURS, VALKEY), "client CPU, one client, ms/turn")
    bench.compare(taken, "wal", (OURS, POSTGRES), "PostgreSQL WAL, KB/turn", most=1 / 6)
    bench.compare(after, "wal", (OURS, POSTGRES), "PostgreSQL WAL right after a checkpoint, KB/turn")


async def _one(bench: Bench, subject: Subject, number: int) -> dict[str, float]:
    turns = bench.scale.turns
    talk = Conversation(subject.saver, 1000 + number).prepare(turns)
    spent: dict[str, list[float]] = {}
    logged, clock = bench.at.wal_bytes(), Clock()
    await talk.run(turns, spent)
    await asyncio.sleep(0.1)  # for what is done behind an ack; it costs no CPU of its own
    cpu = clock.cpu()
    await _rested(bench, subject)
    wal = bench.at.wal_bytes() - logged
    reads = [await talk.get() for _ in range(READS)]
    writes = spent["put"] + spent["writes"]
    return {
        "get": middle(reads) * 1e3,
        "writes": sum(writes) / len(writes) * 1e3,
        "cpu": cpu / turns * 1e3,
        "wal": wal / turns / 1e3,
    }


async def elsewhere(bench: Bench) -> None:
    """The newest checkpoint, read by a process that has not seen the thread: ours comes from Redis."""
    scale = bench.scale
    async with opened(bench.at, (OURS, POSTGRES, VALKEY), bench.notes) as subjects:
        kept = {name: await talks(subject.saver, scale.talks + 1, scale.turns) for name, subject in subjects.items()}
        await settled(bench.at, subjects[OURS].hot, quiet_s=LAZY_S)

        async def work(subject: Subject, _: int) -> dict[str, float]:
            first, *others = kept[subject.name]
            async with subject.again() as saver:
                await first.get(saver)  # it opens the connections
                sent, clock = sent_bytes(bench.at.redis), Clock()
                reads = [await talk.get(saver) for talk in others]
                cpu = clock.cpu() / len(reads) * 1e6
                sent = sent_bytes(bench.at.redis) - sent
            if subject.hot and sent < LEAST_SENT * scale.turns * TURN_BYTES * len(reads):
                raise NotMeasuredError(f"Redis sent only {sent / len(reads):,.0f} bytes a read: it held no copies")
            return {"get": middle(reads) * 1e3, "cpu": cpu}

        taken = await bench.rounds(subjects, scale.rounds, work)
    title = f"get latest, hot in Redis, first read of a process, at {scale.turns} turns"
    bench.compare(taken, "get", (OURS, POSTGRES), f"{title}, us", most=1 / 3)
    bench.compare(taken, "get", (OURS, VALKEY), f"{title}, us", most=1.2)
    bench.compare(taken, "cpu", (OURS, POSTGRES), f"{title}, client CPU us")
    bench.compare(taken, "cpu", (OURS, VALKEY), f"{title}, client CPU us")


async def _rested(bench: Bench, subject: Subject) -> float:
    return await settled(bench.at, *([subject.hot] if subject.hot else []))
