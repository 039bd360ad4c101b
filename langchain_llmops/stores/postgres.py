"""PostgreSQL by psycopg: kept connections, `?` placeholders, typed errors."""

from __future__ import annotations

import math
import re
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg.types.array import ListBinaryDumper
from psycopg.types.string import TextLoader

from langchain_llmops.core.errors import (
    ConfigurationError,
    StoreAuthError,
    StoreConflictError,
    StoreError,
    StoreUnavailableError,
)
from langchain_llmops.stores.base import Array
from langchain_llmops.stores.clients import BlockingClient, LoopClients, settled
from langchain_llmops.stores.migrations import run_steps
from langchain_llmops.stores.opened import OpenedStore
from langchain_llmops.stores.place import Place, StoreUrl
from langchain_llmops.stores.postgres_arrays import ArrayDumper
from langchain_llmops.stores.postgres_connections import Connections, Limits, Silent, connection_class
from langchain_llmops.stores.sqlkv import Expressions, SqlKeyValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from langchain_llmops.stores.base import Dialect, Row, Transaction
    from langchain_llmops.stores.clients import Clients
    from langchain_llmops.stores.postgres_connections import Connection

__all__ = ["PostgresStore"]

EXAMPLE: Final = "postgresql://user:password@host:5432/database"
MIGRATION_ANSWER_S: Final = (
    3600.0  # an index over a large table takes its time, and so does waiting for another process
)
OWN_OPTIONS: Final = frozenset(("max_connections", "answer_timeout_s"))
MIGRATION_LOCK: Final = 0x6C6C6D6F7073
EXPRESSIONS: Final = Expressions(
    now="extract(epoch FROM clock_timestamp())::float8",
    total="convert_to((convert_from(llmops_kv.value, 'UTF8')::bigint + ?::bigint)::text, 'UTF8')",
    for_update=" FOR UPDATE",
    skip_locked=" FOR UPDATE SKIP LOCKED",
)
# SQLSTATE classes, https://www.postgresql.org/docs/current/errcodes-appendix.html
RETRYABLE_STATES: Final = ("08", "40", "53", "55P03", "57")
ROLLED_BACK: Final = "40"
CONFLICT_STATES: Final = ("23505", "23P01")
# a refused connection has no SQLSTATE in libpq, only words
ABSENT_DATABASE: Final = re.compile(r'database ".*" does not exist')
AUTH_WORDS: Final = ("authentication failed", "no password supplied", "pg_hba.conf", 'role "')


class PostgresStore(OpenedStore):
    """`Sql` and `KeyValue` in one PostgreSQL database.

    Args:
        url: `postgresql://user:password@host:5432/database`, in its query libpq's options and two of ours:
            `max_connections` (10; of a process, or of each event loop) and `answer_timeout_s` (60), which is how long
            the server may say nothing while a statement runs: then the connection is given up.
        blocking: blocking connections; otherwise asyncio ones, for each event loop its own.
        timeout_s: of connecting and of waiting for a free connection.

    Booleans are integers. A list is an array, sent in binary: cast it where it stands, as in `unnest(?::bytea[])`.
    """

    def __init__(self, url: str, *, setting: str = "url", blocking: bool = False, timeout_s: float = 5.0) -> None:
        parsed = StoreUrl.parse(url, setting, EXAMPLE)
        sql = _PostgresSql(_Database(parsed, setting, blocking=blocking, timeout_s=timeout_s))
        kv = SqlKeyValue(sql, EXPRESSIONS)
        super().__init__(parsed.shown, setting, reach=sql.reach, close=sql.aclose, kv=kv, sql=sql)


class _Database:
    """Connections of one colour, and what the database's errors mean."""

    def __init__(self, url: StoreUrl, setting: str, *, blocking: bool, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._blocking = blocking
        self._place = Place(setting, "PostgreSQL", url.authority or "the local socket", url.secrets)
        self._conninfo, self._limits = self._taken_apart(url)
        self._options = self._connect_options()
        kind = BlockingClient if blocking else LoopClients
        self._clients: Clients[Connections] = kind(self._open, Connections.close)
        self.aclose = self._clients.aclose

    @asynccontextmanager
    async def borrowed(self, answer_s: float | None = None) -> AsyncIterator[Connection]:
        """A connection in autocommit mode; `answer_s`: its patience, where it is another."""
        connections = await self._clients.get()
        try:
            connection = await connections.take()
        except TimeoutError as error:
            raise self._all_in_use(error) from error
        connection.answer_s = answer_s or self._limits.answer_timeout_s
        try:
            yield connection
        except StoreUnavailableError as error:
            if error.outcome_unknown:
                await connections.distrust()
            raise
        finally:
            await connections.give(connection)

    async def run(self, connection: Any, statement: str, parameters: Sequence[Any] = ()) -> Any:
        """Execute one statement; its cursor."""
        with self._typed(connection):
            return await settled(connection.execute(_percent(statement), parameters))

    async def rows(self, cursor: Any) -> list[Row]:
        """What a statement returned."""
        if not cursor.pgresult.nfields:  # not `description`, which is made of many objects
            return []
        with self._typed(cursor.connection):
            rows: list[Row] = await settled(cursor.fetchall())
        return rows

    async def run_many(self, connection: Any, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Execute one statement for every row, pipelined."""
        with self._typed(connection):
            await settled(connection.cursor().executemany(_percent(statement), rows))

    async def copy(self, connection: Any, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Append rows with COPY, five times cheaper than `run_many`."""
        statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        with self._typed(connection):
            if self._blocking:
                with connection.cursor().copy(statement) as copy:
                    for row in rows:
                        copy.write_row(row)
                return
            async with connection.cursor().copy(statement) as copy:
                for row in rows:
                    await copy.write_row(row)

    def fault(self, kind: type[Exception], text: str) -> Exception:
        """An error that names the setting."""
        return self._place.fault(kind, text)

    def _connect_options(self) -> dict[str, Any]:
        try:
            given = conninfo_to_dict(self._conninfo)
        except psycopg.Error as error:
            fault = self._place.fault(
                ConfigurationError, f"the postgresql:// URL is not understood ({self._place.reason(error)})", error
            )
        else:
            defaults = {
                "application_name": "langchain-llmops",
                "connect_timeout": max(2, math.ceil(self._timeout_s)),
                "keepalives_idle": 30,
                "keepalives_interval": 10,
                "keepalives_count": 3,
                "tcp_user_timeout": 30_000,
            }
            options = {name: value for name, value in defaults.items() if name not in given}
            return {**options, "autocommit": True, "context": _adapters()}
        raise fault

    def _taken_apart(self, url: StoreUrl) -> tuple[str, Limits]:
        """What libpq is told, and our own options."""
        try:
            limits = Limits.read(self._timeout_s, url.options)
        except ValueError as error:
            raise self._place.fault(ConfigurationError, f"in the postgresql:// URL {error}") from error
        location, _, query = url.raw.partition("?")
        theirs = [option for option in query.split("&") if option.partition("=")[0] not in OWN_OPTIONS]
        return location + ("?" + "&".join(theirs) if theirs != [""] and theirs else ""), limits

    async def _open(self) -> Connections:
        return Connections(self._connect, self._limits, blocking=self._blocking)

    async def _connect(self) -> Connection:
        connect: Any = connection_class(blocking=self._blocking).connect
        with self._typed():
            connection: Connection = await settled(connect(self._conninfo, **self._options))
        return connection

    def _all_in_use(self, error: Exception) -> Exception:
        text = f"all {self._limits.max_connections} connections to PostgreSQL at {self._place.where} were in use"
        return self._place.fault(StoreUnavailableError, f"{text} for {self._timeout_s:g} s; try again", error)

    def _typed(self, connection: Any = None) -> AbstractContextManager[None]:
        def say(error: Exception) -> Exception:
            fault = self._translated(error)
            if isinstance(fault, StoreUnavailableError) and connection is not None:
                fault.outcome_unknown = connection.closed
                fault.rolled_back = str(getattr(error, "sqlstate", None) or "").startswith(ROLLED_BACK)
            return fault

        return self._place.typed((psycopg.Error, OSError, UnicodeEncodeError, OverflowError), say)

    def _translated(self, error: Exception) -> Exception:  # noqa: PLR0911 - one line for each kind
        place, reason, primary = self._place, self._place.reason(error), _primary(error)
        at = f"PostgreSQL at {place.where}"
        state = (isinstance(error, psycopg.Error) and error.sqlstate) or ""
        lost = not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError)
        if state == "42501":
            return place.fault(StoreAuthError, f"{at} denied this user a permission ({primary}); grant it", error)
        if state.startswith("28") or (lost and any(word in reason for word in AUTH_WORDS)):
            return place.fault(StoreAuthError, f"{at} refused the credentials; check user and password", error)
        if state == "3D000" or (lost and ABSENT_DATABASE.search(reason)):
            absent = ABSENT_DATABASE.search(reason)
            return place.fault(
                ConfigurationError, f"{at}: {absent and absent[0]}; create it or correct the name", error
            )
        if isinstance(error, Silent):
            text = f"{at} said nothing more ({reason}); look after it, or set answer_timeout_s in the URL higher"
            return place.fault(StoreUnavailableError, text, error)
        if lost or state.startswith(RETRYABLE_STATES):
            text = f"{at} cannot be reached ({primary or _last(reason)}); start it or correct the URL"
            return place.fault(StoreUnavailableError, text, error)
        if state in CONFLICT_STATES:
            return place.fault(StoreConflictError, f"another writer was first ({primary})", error)
        if not state and not isinstance(error, psycopg.ProgrammingError):
            return place.fault(StoreError, f"PostgreSQL cannot store a parameter ({reason}); use bytes", error)
        return place.fault(StoreError, f"PostgreSQL refused a statement: {primary or reason}", error)


class _Statements:
    """Statements on one connection."""

    def __init__(self, database: _Database, connection: Connection) -> None:
        self._database = database
        self._connection = connection

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Rows of one statement."""
        return await self._database.rows(await self._database.run(self._connection, statement, parameters))

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Rows touched by one statement."""
        return max(0, int((await self._database.run(self._connection, statement, parameters)).rowcount))

    async def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for every row, pipelined."""
        if rows:
            await self._database.run_many(self._connection, statement, rows)

    async def insert_rows(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """COPY."""
        if rows:
            await self._database.copy(self._connection, table, columns, rows)


class _PostgresSql:
    """Statements that commit by themselves, each on the next free connection, and transactions."""

    dialect: Dialect = "postgresql"

    def __init__(self, database: _Database) -> None:
        self._database = database
        self.aclose = database.aclose

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Rows of one statement."""
        async with self._database.borrowed() as connection:
            return await _Statements(self._database, connection).fetch(statement, parameters)

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Rows touched by one statement."""
        async with self._database.borrowed() as connection:
            return await _Statements(self._database, connection).execute(statement, parameters)

    async def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for every row, in one transaction."""
        async with self.transaction() as transaction:
            await transaction.execute_many(statement, rows)

    async def insert_rows(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Rows in one transaction."""
        async with self.transaction() as transaction:
            await transaction.insert_rows(table, columns, rows)

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """BEGIN … COMMIT on one connection."""
        return self._transaction()

    @asynccontextmanager
    async def _transaction(self, answer_s: float | None = None) -> AsyncIterator[Transaction]:
        async with self._database.borrowed(answer_s) as connection:
            await self._database.run(connection, "BEGIN")
            try:
                yield _Statements(self._database, connection)
            except BaseException:  # cancelled, too: nothing half-written stays
                await self._roll_back(connection)
                raise
            ended = await self._database.run(connection, "COMMIT")
            if ended.statusmessage == "ROLLBACK":
                raise self._database.fault(StoreError, "nothing was stored: a statement of the transaction had failed")

    async def migrate(self, component: str, steps: Sequence[str]) -> int:
        """Bring a component's tables up to date; an advisory lock keeps other processes out meanwhile."""
        async with self._transaction(MIGRATION_ANSWER_S) as transaction:
            await transaction.fetch("SELECT pg_advisory_xact_lock(?)", (MIGRATION_LOCK,))
            return await run_steps(transaction, self.dialect, component, steps)

    async def reach(self) -> None:
        """One query."""
        await self.fetch("SELECT 1")

    async def _roll_back(self, connection: Connection) -> None:
        """A connection that is broken, or cut in the middle of a statement, is closed instead and rolls back then."""
        if not connection.closed and connection.info.transaction_status is not TransactionStatus.ACTIVE:
            await self._database.run(connection, "ROLLBACK")


class _BoolAsInteger(Dumper):
    """Booleans are integers, as in SQLite, so that one table definition serves both."""

    oid = psycopg.adapters.types["int2"].oid

    def dump(self, obj: Any) -> bytes:
        return b"1" if obj else b"0"


def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    adapters.register_dumper(bool, _BoolAsInteger)
    adapters.register_dumper(Array, ArrayDumper)
    adapters.register_dumper(list, ListBinaryDumper)  # bytes as text would be twice as long, and seven times as slow
    adapters.register_loader("json", TextLoader)
    return adapters


@lru_cache(maxsize=512)
def _percent(statement: str) -> str:
    return statement.replace("%", "%%").replace("?", "%s")


def _primary(error: Exception) -> str:
    """The message without its details, which quote values of the row."""
    return (isinstance(error, psycopg.Error) and error.diag.message_primary) or ""


def _last(reason: str) -> str:
    """Without libpq's address, which we have said, and its question."""
    return reason.rpartition(" failed: ")[2].partition(" Is the server running")[0]
