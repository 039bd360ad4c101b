"""Connections to PostgreSQL: kept, proven after a rest, and given up when the server says nothing for too long."""

from __future__ import annotations

import asyncio
import math
import selectors
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from langchain_llmops.stores.clients import settled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from psycopg.abc import PQGen
    from psycopg.waiting import Ready

__all__ = ["Connection", "Connections", "Limits", "Silent", "connection_class"]

T = TypeVar("T")

IDLE_CHECK_S: Final = 30.0
MAX_CONNECTIONS: Final = 10
ANSWER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one database; the last two are options of its URL.

    Args:
        timeout_s: for a connection, made or given back.
        answer_timeout_s: how long the server may say nothing while a statement runs.
    """

    timeout_s: float
    max_connections: int = MAX_CONNECTIONS
    answer_timeout_s: float = ANSWER_S

    @classmethod
    def read(cls, timeout_s: float, options: Mapping[str, str]) -> Limits:
        """From a URL's options; raises `ValueError` with what is wrong."""
        try:
            most = int(options.get("max_connections", MAX_CONNECTIONS))
            answer_s = float(options.get("answer_timeout_s", ANSWER_S))
        except ValueError:
            most, answer_s = 0, 0.0
        if most < 1 or not 0 < answer_s < math.inf:
            raise ValueError("max_connections must be a whole number, answer_timeout_s a number of seconds, above 0")
        return cls(timeout_s, most, answer_s)


class Silent(psycopg.OperationalError):
    """The server has said nothing for too long."""

    def __init__(self, answer_s: float) -> None:
        super().__init__(f"no answer for {answer_s:g} s")


class _Blocking(psycopg.Connection[Any]):
    """Psycopg's, which ends a wait that would never end."""

    answer_s = ANSWER_S
    born = 0.0

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """Wait for a statement."""
        try:
            return super().wait(_patient(gen, self.answer_s), *args, **kwargs)
        except Silent:
            self.pgconn.finish()
            raise


class _Async(psycopg.AsyncConnection[Any]):
    """The same for asyncio."""

    answer_s = ANSWER_S
    born = 0.0

    async def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """Wait for a statement."""
        try:
            return await super().wait(_patient(gen, self.answer_s), *args, **kwargs)
        except Silent:
            self.pgconn.finish()
            raise


Connection: TypeAlias = "_Blocking | _Async"


def connection_class(*, blocking: bool) -> type[_Blocking | _Async]:
    """Of that colour."""
    return _Blocking if blocking else _Async


class Connections:
    """The connections of one loop, or of one process; the latest that came back goes out first.

    Not psycopg's pool: that connects behind the caller's back, so that a refused password is a timeout, waits longer
    and longer when a restart has left it full of dead connections, and keeps tasks or threads that complain at exit.
    """

    def __init__(self, connect: Callable[[], Awaitable[Connection]], limits: Limits, *, blocking: bool) -> None:
        self._connect = connect
        self._limits = limits
        self._free = (threading.Semaphore if blocking else asyncio.Semaphore)(limits.max_connections)
        self._idle: list[tuple[Connection, float]] = []
        self._closed = False
        self._trusted_since = 0.0

    async def take(self) -> Connection:
        """An idle connection that is alive, or a new one; `TimeoutError` when all are in use for too long."""
        await self._wait()
        try:
            while self._idle:
                connection, since = self._idle.pop()
                if _is_quiet(connection) and (_is_fresh(since) or await self._answers(connection)):
                    return connection
                await settled(connection.close())
            return await self._made()
        except BaseException:  # cancelled, too: the place among the connections is given back
            self._free.release()
            raise

    async def _made(self) -> Connection:
        made = await self._connect()
        made.born = time.monotonic()
        return made

    async def give(self, connection: Connection) -> None:
        """Take a connection back; one that is in the middle of something is closed."""
        try:
            status = connection.info.transaction_status
            if self._closed or connection.born < self._trusted_since or status is not TransactionStatus.IDLE:
                await settled(connection.close())
            else:
                self._idle.append((connection, time.monotonic()))
        finally:
            self._free.release()

    async def distrust(self) -> None:
        """Close the idle connections, and those in use when they come back: what ended one may have ended them all."""
        self._trusted_since = time.monotonic()
        while self._idle:
            await settled(self._idle.pop()[0].close())

    async def close(self) -> None:
        """Close the idle connections, and those in use when they come back."""
        self._closed = True
        await self.distrust()

    async def _wait(self) -> None:
        if isinstance(self._free, asyncio.Semaphore):
            async with asyncio.timeout(self._limits.timeout_s):
                await self._free.acquire()
        elif not self._free.acquire(timeout=self._limits.timeout_s):
            raise TimeoutError

    async def _answers(self, connection: Connection) -> bool:
        """Something between may have forgotten the connection without a word, and the server may be gone."""
        patience, connection.answer_s = connection.answer_s, self._limits.timeout_s
        try:
            asked: Any = connection.execute("SELECT 1", prepare=False)
            await settled(asked)
        except (psycopg.Error, OSError):
            await self.distrust()
            return False
        except BaseException:  # cancelled: nobody else has it
            await settled(connection.close())
            raise
        connection.answer_s = patience
        return True


def _patient(statement: PQGen[T], answer_s: float) -> PQGen[T]:
    """A statement under way, as psycopg drives it, which asks for the time only when the server has kept it waiting."""
    silent_since = 0.0
    ready: Ready | int | None = None
    while True:
        try:
            wanted = next(statement) if ready is None else statement.send(ready)
        except StopIteration as done:
            result: T = done.value
            return result
        ready = yield wanted
        if ready:
            silent_since = 0.0
        elif not silent_since:
            silent_since = time.monotonic()
        elif time.monotonic() - silent_since >= answer_s:
            raise Silent(answer_s)


def _is_fresh(since: float) -> bool:
    return time.monotonic() - since <= IDLE_CHECK_S


def _is_quiet(connection: Connection) -> bool:
    """Whether an idle connection has nothing to say; when the server ends one, it has."""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            return not selector.select(0)
    except (ValueError, OSError, psycopg.OperationalError):
        return False
