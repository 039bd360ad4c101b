"""The checkpointers under measurement, ours and the peers, each opened under the name that its rows carry.

A peer that cannot be opened, or fails at its work, is named with the reason. Where a peer's default makes it fail at 64
clients (connections of AsyncValkeySaver: 10, of AsyncRedisSaver: 100), it gets what it needs.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.benchmarks import checkpoint_redisjson
from tests.benchmarks.checkpoint_machine import NotMeasuredError, locked, memory_bytes, shown, table_bytes
from tests.benchmarks.checkpoint_turns import Conversation

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from tests.benchmarks.checkpoint_machine import Machine

OURS = "ours, durable"
REPLICATED = "ours, replicated"
POSTGRES = "AsyncPostgresSaver, pool 16"
UNLOCKED = "AsyncPostgresSaver, pool 16, its lock removed"
VALKEY = "AsyncValkeySaver"
REDIS = "AsyncRedisSaver"
REDIS_PATH = "AsyncRedisSaver (RedisJSON as plain SET/GET, no index)"
POOL = 16
CONNECTIONS = 128
ACK_S = 2.0
REDIS_NUMBERS = {OURS: 0, REPLICATED: 1, VALKEY: 2, REDIS: 3, REDIS_PATH: 4}


@dataclass(frozen=True)
class Subject:
    """A checkpointer, where its bytes are, and how another process would open the same."""

    name: str
    saver: Any
    again: Callable[[], contextlib.AbstractAsyncContextManager[Any]]
    warm: str | None = None
    hot: str | None = None

    def bytes(self) -> int:
        """What its database holds: tables where it has them, else Redis' memory."""
        if self.warm:
            return table_bytes(self.warm)
        return memory_bytes(self.hot) if self.hot else 0


@contextlib.asynccontextmanager
async def opened(at: Machine, names: Iterable[str], notes: dict[str, None]) -> AsyncIterator[dict[str, Subject]]:
    """Those that work, each having kept a conversation of two turns."""
    async with contextlib.AsyncExitStack() as stack:
        found = {}
        for name in names:
            try:
                found[name] = subject = await stack.enter_async_context(_subject(at, name))
                await Conversation(subject.saver, 999).run(2)
                if name == REPLICATED:
                    await _acks_without_tables(subject)
            except Exception as error:
                found.pop(name, None)
                reason = f"{name} was not measured: {shown(error)}"
                if name == OURS:
                    raise NotMeasuredError(reason) from error
                notes[reason] = None
        yield found


async def _acks_without_tables(subject: Subject) -> None:
    """Raises when a write's ack waits for PostgreSQL."""
    with locked(subject.warm):
        try:
            await asyncio.wait_for(Conversation(subject.saver, 998).begin(), ACK_S)
        except TimeoutError:
            raise NotMeasuredError("its ack waits for PostgreSQL's commit, as the one of durable does") from None


@contextlib.asynccontextmanager
async def _subject(at: Machine, name: str) -> AsyncIterator[Subject]:
    warm = at.database() if name in (OURS, REPLICATED, POSTGRES, UNLOCKED) else None
    hot = at.redis_database(REDIS_NUMBERS[name]) if name in REDIS_NUMBERS else None
    again = SAVERS[name](warm, hot)
    async with again() as saver:
        yield Subject(name, saver, again, warm, hot)


def ours(warm: str, hot: str, cold: str | None = None, **options: Any) -> TieredCheckpointSaver:
    """Ours with its defaults, over all the tiers there are."""
    return TieredCheckpointSaver.from_urls(warm=warm, hot=hot, cold=cold, **options)


@contextlib.asynccontextmanager
async def _postgres(url: str, *, locked: bool) -> AsyncIterator[Any]:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from psycopg.rows import dict_row
    from psycopg_pool import AsyncConnectionPool

    kwargs = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(url, min_size=POOL, max_size=POOL, kwargs=kwargs) as pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        if not locked:
            saver.lock = contextlib.nullcontext()  # all of langgraph's pull request 7269 that matters here
        yield saver


def _valkey(url: str) -> contextlib.AbstractAsyncContextManager[Any]:
    from langgraph_checkpoint_aws.checkpoint.valkey import AsyncValkeySaver

    return AsyncValkeySaver.from_conn_string(url.replace("redis://", "valkey://"), pool_size=CONNECTIONS)


def _redis(url: str) -> contextlib.AbstractAsyncContextManager[Any]:
    from langgraph.checkpoint.redis.aio import AsyncRedisSaver

    return AsyncRedisSaver(url, connection_args={"max_connections": checkpoint_redisjson.CONNECTIONS})


SAVERS: dict[str, Callable[[Any, Any], Callable[[], Any]]] = {
    OURS: lambda warm, hot: lambda: ours(warm, hot),
    REPLICATED: lambda warm, hot: lambda: ours(warm, hot, ack="replicated"),
    POSTGRES: lambda warm, _: lambda: _postgres(warm, locked=True),
    UNLOCKED: lambda warm, _: lambda: _postgres(warm, locked=False),
    VALKEY: lambda _, hot: lambda: _valkey(hot),
    REDIS: lambda _, hot: lambda: _redis(hot),
    REDIS_PATH: lambda _, hot: lambda: checkpoint_redisjson.saver(hot),
}


async def talks(saver: Any, number: int, turns: int, seed: int = 0) -> list[Conversation]:
    """So many conversations at once, each of so many turns."""
    made = [Conversation(saver, seed + index) for index in range(number)]
    await asyncio.gather(*(talk.run(turns) for talk in made))
    return made
