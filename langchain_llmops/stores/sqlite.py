"""SQLite: one connection, on a thread of its own for async callers, in place for blocking ones."""

from __future__ import annotations

import asyncio
import os
import queue
import sqlite3
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from langchain_llmops.core.errors import ConfigurationError, StoreError, StoreUnavailableError
from langchain_llmops.stores.migrations import run_steps
from langchain_llmops.stores.sqlkv import SqlKeyValue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from langchain_llmops.stores.base import Dialect, KeyValue, Objects, Row, Sql, Transaction

__all__ = ["SqliteStore"]

SYNCHRONOUS: Final = ("off", "normal", "full", "extra")
IN_MEMORY: Final = ":memory:"
LOCKED: Final = "locked"
RETRY_LOCKED_S: Final = 0.01


class _SystemClock:
    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock

    async def now(self) -> float:
        return self._clock()


class SqliteStore:
    """`Sql` and `KeyValue` in one SQLite file in WAL mode, shared by the processes of one host.

    Args:
        path: the file, or `:memory:`. Its folder is made.
        synchronous: `full` keeps what was committed through a power cut; `normal` may lose the last commits then.
        blocking: run in place and never suspend.
    """

    def __init__(
        self,
        path: str,
        *,
        setting: str,
        blocking: bool = False,
        timeout_s: float = 5.0,
        synchronous: str = "full",
        clock: Callable[[], float] = time.time,
    ) -> None:
        if synchronous not in SYNCHRONOUS:
            raise ConfigurationError(f"{setting}: synchronous must be one of {', '.join(SYNCHRONOUS)}")
        self.url = f"sqlite:///{path}"
        self._connection = _Connection(path, setting, timeout_s, synchronous)
        self._sql = _SqliteSql(self._connection, None if blocking else _Worker())
        self._kv = SqlKeyValue(self._sql, _SystemClock(clock))

    def __repr__(self) -> str:
        return f"SqliteStore({self.url!r})"

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
        raise ConfigurationError("sqlite:// keeps no objects; use file://, s3://, gs:// or az://")

    async def ping(self) -> float:
        """Open the file; seconds."""
        began = time.perf_counter()
        await self._sql.fetch("SELECT 1")
        return time.perf_counter() - began

    async def aclose(self) -> None:
        """Close the file; the next use opens it again."""
        await self._sql.close()


class _Connection:
    """The connection, opened on first use and held by one caller at a time."""

    def __init__(self, path: str, setting: str, timeout_s: float, synchronous: str) -> None:
        self._path = path
        self._setting = setting
        self._timeout_s = timeout_s
        self._synchronous = synchronous
        self._raw: sqlite3.Connection | None = None
        self._pid = os.getpid()
        self.lock = threading.RLock()

    def open(self) -> sqlite3.Connection:
        if self._pid != os.getpid():  # a connection must not cross a fork; the child opens its own
            self._raw, self._pid = None, os.getpid()
        if self._raw is None:
            try:
                self._raw = self._connect()
            except (sqlite3.Error, OSError) as error:
                if LOCKED in str(error):
                    raise StoreUnavailableError(
                        f"{self._setting}: {self._path} is locked by another process"
                    ) from error
                raise ConfigurationError(
                    f"{self._setting}: cannot open {self._path} ({error}); name a file in a folder you can write"
                ) from error
        return self._raw

    def close(self) -> None:
        with self.lock:
            if self._raw is not None:
                self._raw.close()
                self._raw = None

    def _connect(self) -> sqlite3.Connection:
        if self._path != IN_MEMORY:
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        raw = sqlite3.connect(self._path, timeout=self._timeout_s, isolation_level=None, check_same_thread=False)
        try:
            self._use_wal(raw)
            raw.execute(f"PRAGMA synchronous = {self._synchronous}")
        except sqlite3.Error:
            raw.close()
            raise
        return raw

    def _use_wal(self, raw: sqlite3.Connection) -> None:
        """SQLite's busy timeout does not cover this change when two processes open a new file at once."""
        end = time.monotonic() + self._timeout_s
        while True:
            try:
                raw.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if LOCKED not in str(error) or time.monotonic() > end:
                    raise
                time.sleep(RETRY_LOCKED_S)
            else:
                return


class _Worker:
    """A daemon thread that runs jobs in order. Not an executor: those refuse work while the interpreter ends."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], asyncio.Future[Any], asyncio.AbstractEventLoop] | None]
        self._jobs = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, job: Callable[[], Any]) -> Any:
        """Run a job to its end, also when the caller is cancelled meanwhile."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._work, name="llmops-sqlite", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        self._jobs.put((job, done, loop))
        return await done

    def stop(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()
        self._thread = None

    def _work(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, done, loop = item
            result: Any = None
            failure: BaseException | None = None
            try:
                result = job()
            except BaseException as error:  # noqa: BLE001 - carried to the caller
                failure = error
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, done, result, failure)


def _settle(done: asyncio.Future[Any], result: Any, failure: BaseException | None) -> None:
    if done.done():
        return
    if failure is not None:
        done.set_exception(failure)
    else:
        done.set_result(result)


class _Statements:
    """Statements on the connection; `_run` is where the two colours differ."""

    def __init__(self, connection: _Connection, worker: _Worker | None) -> None:
        self._connection = connection
        self._worker = worker

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Rows of one statement."""
        rows: list[Row] = await self._run(lambda raw: raw.execute(statement, tuple(parameters)).fetchall())
        return rows

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Rows touched by one statement."""
        return int(await self._run(lambda raw: raw.execute(statement, tuple(parameters)).rowcount))

    async def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for every row."""
        await self._run(lambda raw: raw.executemany(statement, rows))

    async def roll_back(self) -> None:
        """End the transaction, if one has begun."""
        await self._run(lambda raw: raw.rollback())

    async def _run(self, job: Callable[[sqlite3.Connection], Any]) -> Any:
        def locked() -> Any:
            with self._connection.lock, _typed():
                return job(self._connection.open())

        return locked() if self._worker is None else await self._worker.run(locked)


class _SqliteSql(_Statements):
    dialect: Dialect = "sqlite"

    def __init__(self, connection: _Connection, worker: _Worker | None) -> None:
        super().__init__(connection, worker)
        self._turns = _Turns(worker)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """BEGIN IMMEDIATE … COMMIT; other statements of this store wait."""
        async with self._turns.taken():
            body = _Statements(self._connection, self._worker)
            try:
                # a cancelled caller may leave while the worker begins: then the rollback must follow it
                await _finish(body.execute("BEGIN IMMEDIATE"), self._worker)
                yield body
            except BaseException:
                await _finish(body.roll_back(), self._worker)
                raise
            await _finish(body.execute("COMMIT"), self._worker)

    async def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """One statement for every row, in one transaction."""
        async with self.transaction() as transaction:
            await transaction.execute_many(statement, rows)

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Rows of one statement, between transactions."""
        async with self._turns.taken():
            return await super().fetch(statement, parameters)

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Rows touched by one statement, between transactions."""
        async with self._turns.taken():
            return await super().execute(statement, parameters)

    async def migrate(self, component: str, steps: Sequence[str]) -> int:
        """Bring a component's tables up to date; IMMEDIATE keeps other processes out meanwhile."""
        async with self.transaction() as transaction:
            return await run_steps(transaction, self.dialect, component, steps)

    async def close(self) -> None:
        async with self._turns.taken():
            self._connection.close()
            if self._worker is not None:
                self._worker.stop()


class _Turns:
    """One caller at a time on the connection, whatever its thread or loop."""

    def __init__(self, worker: _Worker | None) -> None:
        self._worker = worker
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.Future[None], asyncio.AbstractEventLoop]] = []
        self._guard = threading.Lock()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        if self._worker is None:
            with self._lock:
                yield
            return
        await self._acquire()
        try:
            yield
        finally:
            self._release()

    async def _acquire(self) -> None:
        while True:
            with self._guard:
                if self._lock.acquire(blocking=False):
                    return
                loop = asyncio.get_running_loop()
                turn: asyncio.Future[None] = loop.create_future()
                self._waiting.append((turn, loop))
            try:
                await turn
            except asyncio.CancelledError:
                self._pass_on(turn)
                raise

    def _release(self) -> None:
        with self._guard:
            self._lock.release()
            self._wake()

    def _pass_on(self, turn: asyncio.Future[None]) -> None:
        """A cancelled waiter that had been woken wakes the next."""
        with self._guard:
            self._waiting = [item for item in self._waiting if item[0] is not turn]
            if not self._lock.locked():
                self._wake()

    def _wake(self) -> None:
        while self._waiting:
            turn, loop = self._waiting.pop(0)
            if not loop.is_closed():
                loop.call_soon_threadsafe(_settle, turn, None, None)
                return


async def _finish(ending: Any, worker: _Worker | None) -> None:
    """COMMIT and ROLLBACK run to their end even when the caller is cancelled in the middle."""
    if worker is None:
        await ending
        return
    task = asyncio.ensure_future(ending)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


@contextmanager
def _typed() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        _raise_operational(error)
    except (sqlite3.Error, OverflowError) as error:
        raise StoreError(f"SQLite refused a statement: {error}") from error


def _raise_operational(error: sqlite3.OperationalError) -> NoReturn:
    text = str(error)
    if "locked" in text or "busy" in text or "disk" in text or "unable to open" in text or "readonly" in text:
        raise StoreUnavailableError(f"SQLite is not available: {text}") from error
    raise StoreError(f"SQLite refused a statement: {text}") from error
