"""The durable record of calls, written in batches off the call's path."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from langchain_llmops.core.concurrency import DOOR, run_sync
from langchain_llmops.core.errors import StoreError, StoreUnavailableError
from langchain_llmops.core.events import CallFinished, Event, FellBack, Retried
from langchain_llmops.ledger.schema import INSERT_CALL, INSERT_EVENT, MIGRATIONS, call_row, event_row

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_llmops.stores.base import Sql, Store, Transaction

__all__ = ["Ledger"]

_log = logging.getLogger(__name__)

FLUSH_AFTER_S = 0.25
BATCH_ROWS = 500
RETRY_AFTER_S = 1.0


class Ledger:
    """A reader of the bus that keeps calls, retries and fallbacks in SQLite or PostgreSQL.

    Rows are buffered and written on the library's own loop. Past `max_buffered` rows new ones are dropped, counted in
    `dropped` and logged once; a database that is away is tried again while the buffer holds. `flush()` and `close()`
    wait until everything buffered is written, and raise `StoreError` if it cannot be.
    """

    def __init__(self, store: Store, *, max_buffered: int = 10_000, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._max = max_buffered
        self._clock = clock
        self._calls: deque[tuple[Any, ...]] = deque()
        self._events: deque[tuple[Any, ...]] = deque()
        self._ready = False
        self._scheduled = False
        self._writing = asyncio.Lock()
        self.dropped = 0
        self.failures = 0

    def __call__(self, event: Event) -> None:
        """Buffer one event."""
        if isinstance(event, CallFinished):
            self._buffer(self._calls, call_row(event.record))
        elif isinstance(event, Retried | FellBack):
            self._buffer(self._events, event_row(event, self._clock()))

    async def sql(self) -> Sql:
        """The database with the ledger's tables in place."""
        sql = self._store.sql
        if not self._ready:
            await sql.migrate("ledger", MIGRATIONS)
            self._ready = True
        return sql

    def flush(self, timeout_s: float | None = 30.0) -> None:
        """Write everything buffered so far."""
        run_sync(self._write_all(), timeout_s)

    async def aflush(self) -> None:
        """Write everything buffered so far."""
        await DOOR.cross(self._write_all())

    async def aping(self) -> float:
        """Reach the database; seconds."""
        return await DOOR.cross(self._store.ping())

    async def aclose(self) -> None:
        """Write everything buffered and close the store; what cannot be written is counted as dropped and raised."""
        try:
            await self.aflush()
        except StoreError:
            self.dropped += len(self._calls) + len(self._events)
            raise
        finally:
            await DOOR.cross(self._store.aclose())

    def _buffer(self, rows: deque[tuple[Any, ...]], row: tuple[Any, ...]) -> None:
        if len(self._calls) + len(self._events) >= self._max:
            self._drop()
            return
        rows.append(row)
        if not self._scheduled:
            self._scheduled = True
            loop = DOOR.loop()
            loop.call_soon_threadsafe(loop.call_later, FLUSH_AFTER_S, self._begin)

    def _drop(self) -> None:
        self.dropped += 1
        if self.dropped == 1:
            _log.error("the ledger's buffer is full (%d rows): new records are dropped and counted", self._max)

    def _begin(self) -> None:
        self._scheduled = False
        self._task = asyncio.get_running_loop().create_task(self._write_in_background())

    async def _write_in_background(self) -> None:
        try:
            await self._write_all()
        except StoreError as error:
            self.failures += 1
            if self.failures == 1:
                _log.warning("the ledger cannot write and keeps trying: %s", error)
            self._scheduled = True
            asyncio.get_running_loop().call_later(RETRY_AFTER_S, self._begin)

    async def _write_all(self) -> None:
        async with self._writing:
            while self._calls or self._events:
                await self._write_batch()

    async def _write_batch(self) -> None:
        """Rows leave the buffer only after their transaction has committed."""
        calls = [self._calls[i] for i in range(min(BATCH_ROWS, len(self._calls)))]
        events = [self._events[i] for i in range(min(BATCH_ROWS, len(self._events)))]
        sql = await self.sql()
        try:
            async with sql.transaction() as transaction:
                await _insert(transaction, calls, events)
        except StoreUnavailableError:
            raise
        except StoreError:
            await self._write_singly(sql, calls, events)
        for _ in calls:
            self._calls.popleft()
        for _ in events:
            self._events.popleft()

    async def _write_singly(self, sql: Sql, calls: list[tuple[Any, ...]], events: list[tuple[Any, ...]]) -> None:
        """A row that the database refuses is dropped and counted; it must not hold up the others for ever."""
        for one_call, one_event in [([row], []) for row in calls] + [([], [row]) for row in events]:
            try:
                async with sql.transaction() as transaction:
                    await _insert(transaction, one_call, one_event)
            except StoreUnavailableError:
                raise
            except StoreError as error:
                self.dropped += 1
                _log.error("the ledger's database refused a record, which is dropped: %s", error)


async def _insert(transaction: Transaction, calls: list[tuple[Any, ...]], events: list[tuple[Any, ...]]) -> None:
    if calls:
        await transaction.execute_many(INSERT_CALL, calls)
    if events:
        await transaction.execute_many(INSERT_EVENT, events)
