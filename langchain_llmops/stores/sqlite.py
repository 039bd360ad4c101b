"""SQLite: one file in WAL mode, one connection per store and process."""

from __future__ import annotations

import sqlite3
import time
from contextlib import asynccontextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from langchain_llmops.core.errors import (
    ConfigurationError,
    StoreConflictError,
    StoreError,
    StoreUnavailableError,
)
from langchain_llmops.stores.keys import added
from langchain_llmops.stores.migrations import run_steps
from langchain_llmops.stores.opened import OpenedStore
from langchain_llmops.stores.place import Place
from langchain_llmops.stores.sqlkv import Expressions, SqlKeyValue
from langchain_llmops.stores.turns import InPlace, OnThread, Rules, Turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractContextManager

    from langchain_llmops.stores.base import Dialect, Row, Transaction
    from langchain_llmops.stores.turns import Turns

__all__ = ["IN_MEMORY", "SYNCHRONOUS", "SqliteStore"]

T = TypeVar("T")

SYNCHRONOUS: Final = ("off", "normal", "full", "extra")
IN_MEMORY: Final = ":memory:"
OLDEST: Final = (3, 35)  # RETURNING
RETRY_PAUSE_S: Final = 0.01
# A statement lets other threads in while it runs, and coming back behind a busy one takes 5 ms
ROWS_PER_STATEMENT: Final = (128, 32, 8, 1)
MAX_PARAMETERS: Final = 32_766
EXPRESSIONS: Final = Expressions(now="llmops_now()", total="llmops_total(llmops_kv.value, ?)")
UNIQUE_VIOLATIONS: Final = frozenset(
    (sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY, sqlite3.SQLITE_CONSTRAINT_ROWID)
)


class SqliteStore(OpenedStore):
    """`Sql` and `KeyValue` in one SQLite file, shared by the processes of one host.

    Args:
        path: the file, or `:memory:`. Its folder is made.
        synchronous: `full` keeps what was committed through a power cut; `normal` may lose the last commits then.
        blocking: run in the caller's thread and never suspend.
        timeout_s: how long to wait for another process, or for a transaction of this one that does nothing.
        clock: Unix seconds, for times to live.
    """

    def __init__(
        self,
        path: str,
        *,
        setting: str = "url",
        blocking: bool = False,
        timeout_s: float = 5.0,
        synchronous: str = "full",
        clock: Callable[[], float] = time.time,
    ) -> None:
        place = Place(setting, "SQLite", path)
        if synchronous not in SYNCHRONOUS:
            raise place.fault(ConfigurationError, f"synchronous must be one of {', '.join(SYNCHRONOUS)}")
        file = _File(path, place, timeout_s, synchronous, clock)
        rules = Rules(
            connect=file.connect,
            undo=_roll_back,
            busy=file.busy,
            over=lambda: place.fault(StoreError, f"{path} was closed within a transaction, which is undone"),
            patience_s=timeout_s,
            inheritable=path == IN_MEMORY,
        )
        turns: Turns[sqlite3.Connection] = InPlace(rules) if blocking else OnThread(rules)
        sql = _SqliteSql(turns, file)
        kv = SqlKeyValue(sql, EXPRESSIONS)
        super().__init__(f"sqlite:///{path}", setting, reach=sql.reach, close=turns.aclose, kv=kv, sql=sql)


class _File:
    """How the file is opened, and what its errors mean."""

    def __init__(self, path: str, place: Place, timeout_s: float, synchronous: str, clock: Callable[[], float]) -> None:
        self._path = path
        self._place = place
        self._timeout_s = timeout_s
        self._synchronous = synchronous
        self._clock = clock

    def connect(self) -> sqlite3.Connection:
        if sqlite3.sqlite_version_info < OLDEST:
            raise self._place.fault(
                ConfigurationError, f"this Python has SQLite {sqlite3.sqlite_version}; 3.35 or newer is needed"
            )
        try:
            if self._path != IN_MEMORY:
                Path(self._path).parent.mkdir(parents=True, exist_ok=True)
            return self._prepared()
        except OSError as error:
            fault = self._unusable(error.strerror or str(error), error)
        except (sqlite3.Error, ValueError) as error:
            fault = self._refused(error)
        raise fault

    def busy(self) -> Exception:
        return self._busy("another transaction")

    def typed(self) -> AbstractContextManager[None]:
        """Driver errors as ours."""
        return self._place.typed((sqlite3.Error, OverflowError, UnicodeEncodeError), self._translated)

    def _prepared(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        try:
            connection.create_function("llmops_now", 0, self._clock)
            connection.create_function("llmops_total", 2, _total, deterministic=True)
            self._write_ahead(connection)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        except BaseException:  # interrupted, too: an open file is closed
            connection.close()
            raise
        return connection

    def _write_ahead(self, connection: sqlite3.Connection) -> None:
        """Turn WAL on; SQLite does not wait by itself when another process is doing the same."""
        end = time.monotonic() + self._timeout_s
        while connection.execute("PRAGMA journal_mode").fetchone()[0] not in ("wal", "memory"):
            try:
                connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                    raise
                time.sleep(RETRY_PAUSE_S)
            else:
                break  # a file system without shared memory keeps its own mode

    def _refused(self, error: Exception) -> Exception:
        if _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return self._translated(error)
        return self._unusable(self._place.reason(error), error)

    def _busy(self, holder: str, error: Exception | None = None) -> Exception:
        text = f"{self._path} is busy: {holder} held it for {self._timeout_s:g} s; try again"
        return self._place.fault(StoreUnavailableError, text, error)

    def _unusable(self, reason: str, error: Exception) -> Exception:
        text = f"cannot use {self._path} ({reason}); name a SQLite file in a folder you can write"
        return self._place.fault(ConfigurationError, text, error)

    def _translated(self, error: Exception) -> Exception:
        place, reason = self._place, self._place.reason(error)
        if not isinstance(error, sqlite3.Error):
            return place.fault(StoreError, f"SQLite cannot store a parameter ({reason}); use bytes", error)
        match _code(error):
            case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
                return self._busy("another process", error)
            case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN:
                return place.fault(
                    StoreUnavailableError, f"cannot read or write {self._path} ({reason}); check disk and folder", error
                )
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH | sqlite3.SQLITE_NOTADB:
                return self._unusable(reason, error)
            case sqlite3.SQLITE_CONSTRAINT if getattr(error, "sqlite_errorcode", 0) in UNIQUE_VIOLATIONS:
                return place.fault(StoreConflictError, f"another writer was first ({reason})", error)
        return place.fault(StoreError, f"SQLite refused a statement: {reason}", error)


class _Statements:
    """Statements of one owner: of nobody in particular, or of a transaction."""

    def __init__(self, turns: Turns[sqlite3.Connection], file: _File, owner: object = None) -> None:
        self._turns = turns
        self._file = file
        self._owner = owner
        self._turn = Turn.ALONE if owner is None else Turn.INSIDE

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Rows of one statement."""
        return await self._run(lambda connection: connection.execute(statement, parameters).fetchall())

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Rows touched by one statement."""
        return await self._run(lambda connection: max(0, connection.execute(statement, parameters).rowcount))

    async def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for every row."""
        await self._run(lambda connection: connection.executemany(statement, rows))

    async def insert_rows(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Several rows with each statement."""
        await self._run(lambda connection: _insert_rows(connection, table, tuple(columns), rows))

    async def _run(self, job: Callable[[sqlite3.Connection], T], turn: Turn | None = None, owner: object = None) -> T:
        def typed(connection: sqlite3.Connection) -> T:
            with self._file.typed():
                return job(connection)

        return await self._turns.run(typed, turn or self._turn, owner or self._owner)


class _SqliteSql(_Statements):
    dialect: Dialect = "sqlite"

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """BEGIN IMMEDIATE … COMMIT; other statements of this store wait."""
        owner = object()
        await self._run(_begin, Turn.BEGIN, owner)
        try:
            yield _Statements(self._turns, self._file, owner)
        except BaseException:  # cancelled, too: nothing half-written stays
            await self._run(_roll_back, Turn.END, owner)
            raise
        await self._run(_commit, Turn.END, owner)

    async def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for every row, in one transaction."""
        async with self.transaction() as transaction:
            await transaction.execute_many(statement, rows)

    async def insert_rows(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Rows in one transaction."""
        async with self.transaction() as transaction:
            await transaction.insert_rows(table, columns, rows)

    async def migrate(self, component: str, steps: Sequence[str]) -> int:
        """Bring a component's tables up to date; IMMEDIATE keeps other processes out meanwhile."""
        async with self.transaction() as transaction:
            return await run_steps(transaction, self.dialect, component, steps)

    async def reach(self) -> None:
        """Take the lock of a writer and give it back."""
        async with self.transaction():
            pass


def _begin(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")


def _commit(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("COMMIT")
    except sqlite3.Error:
        _roll_back(connection)
        raise


def _roll_back(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _insert_rows(
    connection: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]
) -> None:
    done = 0
    for size in ROWS_PER_STATEMENT:
        if size * len(columns) > MAX_PARAMETERS:
            continue
        statement = _insert_statement(table, columns, size)
        while len(rows) - done >= size:
            connection.execute(statement, tuple(chain.from_iterable(rows[done : done + size])))
            done += size


@lru_cache(maxsize=64)
def _insert_statement(table: str, columns: tuple[str, ...], rows: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * rows)}"


def _total(value: bytes, by: int) -> bytes | None:
    """SQL function: NULL, which the column refuses, for what is no counter."""
    try:
        return str(added(bytes(value), by)).encode()
    except StoreError:
        return None


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
