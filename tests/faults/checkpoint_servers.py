"""Faults of PostgreSQL and Redis: killed, emptied, gone back in time, full, slow, silent, connections lost."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

import redis

from langchain_llmops.core.errors import StoreUnavailableError
from tests.support.load import CALM

if TYPE_CHECKING:
    from tests.support.faulty import Run

__all__ = [
    "END_BACKENDS",
    "FULL",
    "ROOMY",
    "answers_lost",
    "connections_ended",
    "postgres_killed",
    "redis_gone_back",
    "redis_harmed",
    "redis_lost",
    "settings",
]

ENOUGH = 20
FULL = {"maxmemory": "1", "maxmemory-policy": "noeviction"}
EVICTING = {"maxmemory": "3mb", "maxmemory-policy": "allkeys-lru"}
END_BACKENDS = (
    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
    " WHERE pid <> pg_backend_pid() AND application_name = 'langchain-llmops'"
)
ROOMY = {"maxmemory": "0", "maxmemory-policy": "noeviction"}


async def postgres_killed(run: Run) -> None:
    """Killed under load and started again: callers get a typed error, and what they were told is stored is."""
    async with run.saver() as saver:
        async with run.load(saver, may_raise=(StoreUnavailableError,)) as load:
            for _ in range(2 * run.size):
                await load.passed(3 * run.clients)
                run.servers.postgres.kill()
                run.counts["PostgreSQL killed"] += 1
                await load.failed()
                run.servers.postgres.restart()
            await load.passed(3 * run.clients)
    await run.check()


async def redis_lost(run: Run) -> None:
    """Emptied and killed at random: nobody notices."""
    async with run.saver() as saver:
        async with run.load(saver) as load:
            for _ in range(3 * run.size):
                await load.passed(run.draw.randrange(ENOUGH))
                with closing(redis.Redis.from_url(run.direct["hot"])) as client:
                    client.flushall()
                run.counts["Redis emptied"] += 1
                await load.passed(run.draw.randrange(ENOUGH))
                run.servers.redis.kill()
                run.counts["Redis killed"] += 1
                await load.passed(ENOUGH)
                run.servers.redis.restart()
            await load.passed(ENOUGH)
    await run.check()


async def redis_gone_back(run: Run) -> None:
    """Restored from an older snapshot: no reader sees an older conversation, here or in another process."""
    async with run.saver() as saver:
        watcher = run.start("watch")
        async with run.load(saver) as load:
            for _ in range(2 * run.size):
                await load.passed(2 * ENOUGH)
                with closing(redis.Redis.from_url(run.direct["hot"])) as client:
                    client.save()
                    run.counts["keys brought back"] += client.dbsize()
                await load.passed(4 * ENOUGH)
                run.servers.redis.kill()
                run.servers.redis.restart()
                run.counts["Redis gone back"] += 1
                await load.passed(2 * ENOUGH)
        run.finish(watcher)
    await run.check()


async def redis_harmed(run: Run) -> None:
    """Refusing, slow, silent, full, read-only, evicting: only slower."""
    proxy = run.servers.proxy("redis")
    async with run.saver() as saver:
        async with run.load(saver) as load:
            for harm in run.draw.sample(("refused", "slow", "silent", "full", "read-only", "evicting"), 6):
                await load.passed(ENOUGH)
                with closing(redis.Redis.from_url(run.direct["hot"])) as client:
                    _harm(proxy, client, harm)
                    await load.passed(2 * ENOUGH)
                    proxy.heal()
                    settings(client, ROOMY)
                    client.replicaof("NO", "ONE")
                run.counts[f"Redis {harm}"] += 1
            await load.passed(ENOUGH)
    await run.check()


def _harm(proxy, client, harm: str) -> None:
    proxy.refusing, proxy.silent = harm == "refused", harm == "silent"
    proxy.delay_s = 0.05 if harm == "slow" else 0.0
    if harm == "refused":
        proxy.cut()
    if harm in ("full", "evicting"):
        settings(client, FULL if harm == "full" else EVICTING)
    if harm == "read-only":
        client.replicaof("127.0.0.1", "1")


def settings(client, settings: dict[str, str]) -> None:
    for name, value in settings.items():
        client.config_set(name, value)


async def answers_lost(run: Run) -> None:
    """Connections reset after the commit and before its answer: done once, and the caller is not told of it."""
    proxy = run.servers.proxy("postgres")
    async with run.saver() as saver:
        async with run.load(saver, mix=CALM) as load:
            for _ in range(10 * run.size):
                await load.passed(ENOUGH // 2)
                proxy.lose(run.draw.choice((b"SELECT 1\0", b"SELECT 1\0", b"COMMIT\0")))
            await load.passed(ENOUGH)
    run.counts["answers lost"] += proxy.lost
    proxy.lost = 0
    await run.check()


async def connections_ended(run: Run) -> None:
    """Idle connections ended by the server or reset on the way: the next call of each client succeeds."""
    proxy = run.servers.proxy("postgres")
    async with run.saver() as saver:
        clients = [run.client(saver, colour=colour) for colour in ("async", "sync") * 4]
        for turn in range(6 * run.size):
            await asyncio.gather(*(client.turn(f"t{number}") for number, client in enumerate(clients)))
            if turn % 2:
                run.counts["connections reset"] += proxy.cut()
            else:
                run.counts["connections ended"] += _end_backends(run)
        await asyncio.gather(*(client.turn(f"t{number}") for number, client in enumerate(clients)))
        for client in clients:
            for error in client.errors:
                run.ledger.wrong(f"a call on connections that were ended raised {type(error).__name__}: {error}")
    await run.check()


def _end_backends(run: Run) -> int:
    return len(run.servers.query(END_BACKENDS))
