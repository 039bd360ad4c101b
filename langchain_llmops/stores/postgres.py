"""PostgreSQL by psycopg: pooled connections, `?` placeholders, typed errors."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg_pool import AsyncConnectionPool, ConnectionPool, PoolTimeout

from langchain_llmops.core.concurrency import PerLoop
from langchain_llmops.core.errors import ConfigurationError, StoreAuthError, StoreError, StoreUnavailableError
from langchain_llmops.core.redaction import redact, redact_url
from langchain_llmops.stores.migrations import run_steps
from langchain_llmops.stores.sqlkv import SqlKeyValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from langchain_llmops.stores.base import Dialect, KeyValue, Objects, Row, Sql, Transaction

__all__ = ["PostgresStore"]

MAX_CONNECTIONS: Final = 10
MAX_IDLE_S: Final = 60.0
MIGRATION_LOCK: Final = 0x6C6C6D6F7073
AUTH_STATES: Final = ("28P01", "28000")
AUTH_WORDS: Final = ("authentication failed", "no password supplied", "pg_hba.conf")
ABSENT_WORDS: Final = ("does not exist",)


class PostgresStore:
    """`Sql` and `KeyValue` in one PostgreSQL database.

    Args:
        url: `postgresql://user:password@host:5432/database`.
        blocking: a blocking pool; otherwise an asyncio pool per event loop.
        timeout_s: of connecting and of waiting for a free connection.
    """

    def __init__(self, url: str, *, setting: str, blocking: bool = False, timeout_s: float = 5.0) -> None:
        _check(url, setting)
        self.url = redact_url(url)
        driver = (_BlockingPool if blocking else _AsyncPool)(url, setting, timeout_s)
        self._sql = _PostgresSql(driver)
        self._kv = SqlKeyValue(self._sql, self._sql)

    def __repr__(self) -> str:
        return f"PostgresStore({self.url!r})"

    @property
    def sql(self) -> Sql:
        """The database."""
        return self._sql

    @property
    def kv(self) -> KeyValue:
        """A table of keys and values."""
        return self._kv

    @property
    def objects(self) -> Objects:
        """Not here."""
        raise ConfigurationError("postgresql:// keeps no objects; use file://, s3://, gs:// or az://")

    async def ping(self) -> float:
        """One query; seconds."""
        began = time.perf_counter()
        await self._sql.fetch("SELECT 1")
        return time.perf_counter() - began

    async def aclose(self) -> None:
        """Close this loop's connections."""
        await self._sql.driver.close()


class _Pool:
    """Connections of one colour. The methods are coroutines; the blocking colour never suspends in them."""

    def __init__(self, url: str, setting: str, timeout_s: float) -> None:
        self._url = url
        self._setting = setting
        self._timeout_s = timeout_s

    def connection(self) -> Any:
        """An async context manager over a connection with an open transaction."""
        raise NotImplementedError  # the two colours below override it

    async def run(self, connection: Any, statement: str, parameters: Sequence[Any], *, many: bool = False) -> Any:
        raise NotImplementedError  # the same

    async def close(self) -> None:
        raise NotImplementedError  # the same

    def _options(self) -> dict[str, Any]:
        return {
            "conninfo": self._url,
            "min_size": 0,
            "max_size": MAX_CONNECTIONS,
            "timeout": self._timeout_s,
            "max_idle": MAX_IDLE_S,
            "open": False,
            "reconnect_timeout": self._timeout_s,
            "kwargs": {
                "application_name": "langchain-llmops",
                "connect_timeout": max(2, round(self._timeout_s)),
                "keepalives_idle": 30,
            },
        }

    @contextmanager
    def typed(self) -> Iterator[None]:
        try:
            yield
        except (psycopg.Error, PoolTimeout, OSError) as error:
            self._raise(error)

    def _raise(self, error: Exception) -> NoReturn:
        text = " ".join(str(error).split())[:300]
        cause = error if redact(text) == text else None
        place = _place(self._url)
        if isinstance(error, psycopg.Error) and _is_auth(error, text):
            raise StoreAuthError(
                f"{self._setting}: PostgreSQL at {place} refused the credentials; check user and password"
            ) from cause
        if isinstance(error, psycopg.OperationalError) and any(word in text for word in ABSENT_WORDS):
            raise ConfigurationError(f"{self._setting}: {redact(text.rsplit('FATAL: ', 1)[-1])}; create it") from cause
        if isinstance(error, psycopg.OperationalError | PoolTimeout | psycopg.InterfaceError | OSError):
            raise StoreUnavailableError(
                f"{self._setting}: PostgreSQL at {place} cannot be reached; start it or correct the URL"
            ) from cause
        raise StoreError(f"{self._setting}: PostgreSQL refused a statement: {redact(text)}") from cause


class _AsyncPool(_Pool):
    def __init__(self, url: str, setting: str, timeout_s: float) -> None:
        super().__init__(url, setting, timeout_s)
        self._pools: PerLoop[_LoopPool] = PerLoop(lambda: _LoopPool(self._options()), _LoopPool.aclose)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        mine = await self._pools.get()
        with self.typed():
            await mine.open(self._url)
            lent = mine.pool.connection()
            connection = await lent.__aenter__()
        # only what the driver does is typed: an error of the caller's block passes as it is
        try:
            yield connection
            _refuse_aborted(connection)
        except BaseException as error:
            await lent.__aexit__(type(error), error, error.__traceback__)
            raise
        with self.typed():
            await lent.__aexit__(None, None, None)

    async def run(self, connection: Any, statement: str, parameters: Sequence[Any], *, many: bool = False) -> Any:
        with self.typed():
            cursor = connection.cursor()
            await (cursor.executemany(statement, parameters) if many else cursor.execute(statement, tuple(parameters)))
            return (await cursor.fetchall() if cursor.description else []), cursor.rowcount

    async def close(self) -> None:
        await self._pools.aclose()


class _LoopPool:
    """A loop's pool, opened once. The first connection is made outside it: a pool hides why one fails in a timeout."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.pool: AsyncConnectionPool[Any] = AsyncConnectionPool(**options)
        self._options = options["kwargs"]
        self._opening = asyncio.Lock()
        self._ready = False

    async def open(self, url: str) -> None:
        if self._ready:
            return
        async with self._opening:
            if not self._ready:
                await (await psycopg.AsyncConnection.connect(url, **self._options)).close()
                await self.pool.open()
                self._ready = True

    async def aclose(self) -> None:
        await self.pool.close()


class _BlockingPool(_Pool):
    def __init__(self, url: str, setting: str, timeout_s: float) -> None:
        super().__init__(url, setting, timeout_s)
        self._pool: ConnectionPool[Any] | None = None
        self._pid = os.getpid()
        self._opening = threading.Lock()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        with self.typed():
            lent = self._opened().connection()
            connection = lent.__enter__()
        try:
            yield connection
            _refuse_aborted(connection)
        except BaseException as error:
            lent.__exit__(type(error), error, error.__traceback__)
            raise
        with self.typed():
            lent.__exit__(None, None, None)

    def _opened(self) -> ConnectionPool[Any]:
        with self._opening:
            if self._pool is None or self._pid != os.getpid():  # connections must not cross a fork
                self._pid = os.getpid()
                psycopg.connect(self._url, **self._options()["kwargs"]).close()
                self._pool = ConnectionPool(**self._options())
                self._pool.open()
            return self._pool

    async def run(self, connection: Any, statement: str, parameters: Sequence[Any], *, many: bool = False) -> Any:
        with self.typed():
            cursor = connection.cursor()
            if many:
                cursor.executemany(statement, parameters)
            else:
                cursor.execute(statement, tuple(parameters))
            return (cursor.fetchall() if cursor.description else []), cursor.rowcount

    async def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None


class _Statements:
    """Statements on one connection."""

    def __init__(self, driver: _Pool, connection: Any) -> None:
        self._driver = driver
        self._connection = connection

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Rows of one statement."""
        rows: list[Row] = (await self._driver.run(self._connection, _percent(statement), parameters))[0]
        return rows

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Rows touched by one statement."""
        return int((await self._driver.run(self._connection, _percent(statement), parameters))[1])

    async def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for every row, pipelined."""
        await self._driver.run(self._connection, _percent(statement), rows, many=True)


class _PostgresSql:
    """Every statement in a transaction of its own, or in one of the caller's."""

    dialect: Dialect = "postgresql"

    def __init__(self, driver: _Pool) -> None:
        self.driver = driver

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """BEGIN … COMMIT on one connection."""
        async with self.driver.connection() as connection:
            yield _Statements(self.driver, connection)

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Rows of one statement."""
        async with self.transaction() as transaction:
            return await transaction.fetch(statement, parameters)

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Rows touched by one statement."""
        async with self.transaction() as transaction:
            return await transaction.execute(statement, parameters)

    async def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for every row, in one transaction."""
        async with self.transaction() as transaction:
            await transaction.execute_many(statement, rows)

    async def migrate(self, component: str, steps: Sequence[str]) -> int:
        """Bring a component's tables up to date; an advisory lock keeps other processes out meanwhile."""
        async with self.transaction() as transaction:
            await transaction.fetch("SELECT pg_advisory_xact_lock(?)", (MIGRATION_LOCK,))
            return await run_steps(transaction, self.dialect, component, steps)

    async def now(self) -> float:
        """The database's clock, Unix seconds."""
        return float((await self.fetch("SELECT extract(epoch FROM clock_timestamp())"))[0][0])


def _refuse_aborted(connection: Any) -> None:
    """PostgreSQL answers COMMIT after a failed statement with a silent ROLLBACK; nobody may take that for success."""
    if connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
        raise StoreError("a statement of this transaction failed, so PostgreSQL stored none of it")


@lru_cache(maxsize=512)
def _percent(statement: str) -> str:
    return statement.replace("%", "%%").replace("?", "%s")


def _check(url: str, setting: str) -> None:
    try:
        conninfo_to_dict(url)
        usable = bool(urlsplit(url).port or True)
    except (psycopg.ProgrammingError, ValueError):
        usable = False
    if urlsplit(url).netloc.count("@") > 1:
        raise ConfigurationError(f"{setting}: the password holds an @; write it as %40 in the URL")
    if not usable:
        raise ConfigurationError(
            f"{setting}: {redact_url(url)} is no PostgreSQL URL; it must look like postgresql://user:password@host/db"
        )


def _is_auth(error: psycopg.Error, text: str) -> bool:
    return error.sqlstate in AUTH_STATES or any(word in text for word in AUTH_WORDS)


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname or 'the local socket'}:{parts.port or 5432}"
