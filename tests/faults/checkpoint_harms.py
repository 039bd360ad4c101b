"""What the soak does to one component every few seconds; each ends as it began, with everything whole again."""

from __future__ import annotations

import asyncio
import signal
from contextlib import closing
from typing import TYPE_CHECKING

import redis

from tests.faults.checkpoint_servers import END_BACKENDS, FULL, ROOMY, settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from tests.faults.checkpoint_soak import Soak

__all__ = ["HARMS"]


async def postgres_killed(soak: Soak) -> None:
    soak.servers.postgres.kill()
    await soak.pause()
    soak.servers.postgres.restart()


async def connections_ended(soak: Soak) -> None:
    soak.servers.query(END_BACKENDS)


async def connections_reset(soak: Soak) -> None:
    soak.servers.proxy(soak.draw.choice(("postgres", "redis", "rclone"))).cut()


async def answers_lost(soak: Soak) -> None:
    proxy = soak.servers.proxy("postgres")
    for _ in range(5):
        proxy.lose(soak.draw.choice((b"SELECT 1\0", b"COMMIT\0")))
        await soak.pause(0.1)


async def postgres_slow(soak: Soak) -> None:
    soak.servers.proxy("postgres").delay_s = soak.draw.uniform(0.0, 0.1)
    await soak.pause()


async def redis_killed(soak: Soak) -> None:
    soak.servers.redis.kill()
    await soak.pause()
    soak.servers.redis.restart()


async def redis_gone_back(soak: Soak) -> None:
    with closing(redis.Redis.from_url(soak.servers.redis.url)) as client:
        client.save()
    await soak.pause()
    soak.servers.redis.kill()
    soak.servers.redis.restart()


async def redis_emptied(soak: Soak) -> None:
    with closing(redis.Redis.from_url(soak.servers.redis.url)) as client:
        client.flushall()


async def redis_full(soak: Soak) -> None:
    with closing(redis.Redis.from_url(soak.servers.redis.url)) as client:
        settings(client, FULL)
        await soak.pause()
        settings(client, ROOMY)


async def redis_read_only(soak: Soak) -> None:
    with closing(redis.Redis.from_url(soak.servers.redis.url)) as client:
        client.replicaof("127.0.0.1", "1")
        await soak.pause()
        client.replicaof("NO", "ONE")


async def redis_silent(soak: Soak) -> None:
    soak.servers.proxy("redis").silent = True
    await soak.pause()


async def objects_killed(soak: Soak) -> None:
    soak.servers.rclone.kill()
    await soak.pause()
    soak.servers.rclone.restart()


async def objects_refused(soak: Soak) -> None:
    status = soak.draw.choice(("403 Forbidden", "503 Slow Down"))
    soak.servers.proxy("rclone").answer(status, tuple(soak.draw.sample(("GET", "PUT", "POST", "DELETE"), 2)))
    await soak.pause()


async def client_killed(soak: Soak) -> None:
    soak.mortal.kill()
    soak.mortal = soak.talker("mortal")


async def client_stopped(soak: Soak) -> None:
    soak.mortal.send(signal.SIGSTOP)
    await soak.pause()
    soak.mortal.send(signal.SIGCONT)


HARMS: dict[str, Callable[[Soak], Awaitable[None]]] = {
    "PostgreSQL killed": postgres_killed,
    "connections ended by PostgreSQL": connections_ended,
    "connections reset": connections_reset,
    "answers lost": answers_lost,
    "PostgreSQL slow": postgres_slow,
    "Redis killed": redis_killed,
    "Redis restored from an older snapshot": redis_gone_back,
    "Redis emptied": redis_emptied,
    "Redis full": redis_full,
    "Redis read-only": redis_read_only,
    "Redis silent": redis_silent,
    "S3 killed": objects_killed,
    "S3 refusing": objects_refused,
    "client killed": client_killed,
    "client stopped and resumed": client_stopped,
}


async def harm(draw: Random, soak: Soak) -> str:
    """One of them, drawn; its name."""
    name = draw.choice(list(HARMS))
    await HARMS[name](soak)
    soak.servers.heal()
    await asyncio.sleep(0)
    return name
