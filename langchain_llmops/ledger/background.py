"""The one task that empties the buffer into the database."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import threading
import weakref
from collections import deque
from functools import partial
from multiprocessing.util import Finalize
from typing import TYPE_CHECKING, Final

from langchain_llmops.core.concurrency import DOOR
from langchain_llmops.core.errors import (
    ConfigurationError,
    StoreAuthError,
    StoreError,
    StoreUnavailableError,
)
from langchain_llmops.core.redaction import redact
from langchain_llmops.ledger.batch import Batch, probe

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from langchain_llmops.ledger.buffer import Buffer, Entry
    from langchain_llmops.stores.base import Sql

__all__ = ["BATCH_ROWS", "FLUSH_AFTER_S", "Background"]

_log = logging.getLogger(__name__)

FLUSH_AFTER_S: Final = 0.25
BATCH_ROWS: Final = 2000
BREATH_ROWS: Final = 200  # built without letting the loop's other work in: about a millisecond
RETRY_AFTER_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
CLOSE_TIMEOUT_S: Final = 30.0
CHILD_END_TIMEOUT_S: Final = 5.0
FORK_TIMEOUT_S: Final = 1.0
YIELD_S: Final = 0.001
LAST: Final = -100  # multiprocessing's own queues and pools end at -5 and above


class Background:
    """Writes what the buffer holds on the library's own loop, oldest first, one transaction for each batch.

    Rows leave the buffer only when their transaction has committed. A write that fails is counted in `failures`, logged
    once for each kind of failure until one succeeds, and tried again at growing pauses.

    A process that `multiprocessing` started and that ends after its target writes what waits, within
    `CHILD_END_TIMEOUT_S`: it runs no `atexit`. Nothing runs in one that ends by a signal or `os._exit`.

    Args:
        sql: the database, with its tables in place.
        upkeep: done after a successful write.
    """

    _at_end: Finalize[None] | None

    def __init__(
        self, buffer: Buffer, sql: Callable[[], Awaitable[Sql]], upkeep: Callable[[], Awaitable[None]]
    ) -> None:
        self._buffer = buffer
        self._sql = sql
        self._upkeep = upkeep
        self.failures = 0
        self._begin_life()
        forking, forked, begun = map(weakref.WeakMethod, (self._before_fork, self._after_fork, self._begin_in_child))
        os.register_at_fork(
            before=partial(_call, forking), after_in_parent=partial(_call, forked), after_in_child=partial(_call, begun)
        )

    def wake(self, *, hurry: bool = False) -> None:
        """There is something to write, soon or now; from any thread."""
        self.awake = True
        if self._at_end is None and multiprocessing.parent_process() is not None:
            self._at_end = Finalize(None, _call, (weakref.WeakMethod(self._end_of_child),), exitpriority=LAST)
        DOOR.loop().call_soon_threadsafe(self._begin, hurry)

    async def flush(self) -> None:
        """Write what is buffered now. Cancelling the wait leaves the write alone: its commit must be noted."""
        task = asyncio.get_running_loop().create_task(self._write_buffered())
        self._writes.add(task)
        task.add_done_callback(self._ended)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Write everything and take no more; raises `StoreError` that says how many records are lost, and why."""
        self._buffer.close()
        if self._keeper is not None:
            self._keeper.cancel()
        if self._at_end is not None:
            self._at_end.cancel()
        await self._write_or_lose(CLOSE_TIMEOUT_S)

    async def _write_or_lose(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self.flush()
        except Exception as error:  # whatever it was, what is lost is counted and told
            await self._stop_writing(timeout_s)
            reason = redact(str(error)) or f"the database did not answer within {timeout_s:g} s"
            lost = self._buffer.give_up(reason)
            raise StoreError(f"records that the ledger could not write and that are lost: {lost} ({reason})") from error

    async def _stop_writing(self, timeout_s: float) -> None:
        """What is counted as lost must not be written later."""
        for task in self._writes:
            task.cancel()
        if self._writes:
            await asyncio.wait(self._writes, timeout=timeout_s)
        self._batches.clear()

    def _end_of_child(self) -> None:
        """Its threads may go on for a while, so that nothing is closed."""
        if not self._buffer:
            return
        try:
            DOOR.run_sync(self._write_or_lose(CHILD_END_TIMEOUT_S), 3 * CHILD_END_TIMEOUT_S)
        except (StoreError, TimeoutError) as error:
            _log.error("not everything could be written at the end of process %d: %s", os.getpid(), error)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """A failure whose flush was given up is no surprise to log: its rows wait, and the next write tells."""
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()

    def _begin_life(self) -> None:
        self.awake = False
        self._keeper: asyncio.Task[None] | None = None
        self._hurried = asyncio.Event()
        self._writing = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()
        self._batches: deque[Batch] = deque()
        self._told: set[str] = set()
        self._at_end = None
        self._connected = threading.Lock()
        self._forking_thread: int | None = None

    def _before_fork(self) -> None:
        """Let a write end: to SQLite, a child of a process that is writing seems to hold the file for ever."""
        if not DOOR.inside() and self._connected.acquire(timeout=FORK_TIMEOUT_S):
            self._forking_thread = threading.get_ident()

    def _after_fork(self) -> None:
        if self._forking_thread == threading.get_ident():
            self._forking_thread = None
            self._connected.release()

    @contextlib.asynccontextmanager
    async def _no_fork(self) -> AsyncIterator[None]:
        """Taken without blocking the loop, on which what another fork waits for may run."""
        connected = self._connected
        while not connected.acquire(blocking=False):  # noqa: ASYNC110 - held by a thread
            await asyncio.sleep(YIELD_S)
        try:
            yield
        finally:
            connected.release()

    def _begin_in_child(self) -> None:
        """What was buffered is the parent's to write."""
        self._buffer.forget()
        self._begin_life()

    def _begin(self, hurry: bool) -> None:  # noqa: FBT001 - a callback of the loop
        if hurry:
            self._hurried.set()
        if self._keeper is None:
            self._keeper = asyncio.get_running_loop().create_task(self._keep_writing())

    async def _keep_writing(self) -> None:
        """Until nothing is left; the next record begins it anew."""
        pause, hurried = FLUSH_AFTER_S, self._hurried
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await hurried.wait()
            self._hurried.clear()
            try:
                await self.flush()
                await self._upkeep()
            except Exception as error:  # noqa: BLE001 - counted and told; nobody awaits this task
                pause, hurried = self._note(error, pause), asyncio.Event()
                continue
            pause, hurried = FLUSH_AFTER_S, self._hurried
            self._told.clear()
            self.awake = False
            if not self._buffer:
                self._keeper = None
                return

    def _note(self, error: Exception, pause: float) -> float:
        """Count a failure, log the first of its kind since the last success, and say how long to wait."""
        self.failures += 1
        kind = type(error).__name__
        if kind not in self._told:
            self._told.add(kind)
            _log.warning("the ledger cannot write and keeps trying (%s): %s", kind, redact(str(error)))
        return min(max(RETRY_AFTER_S, 2 * pause), RETRY_MAX_S)

    async def _write_buffered(self) -> None:
        async with self._writing:
            left = len(self._buffer)
            while left > 0 and self._buffer:
                async with self._no_fork():
                    left -= await self._write_next(await self._sql())

    async def _write_next(self, sql: Sql) -> int:
        """Write the oldest batch; how many records are dealt with."""
        if not self._batches:
            self._batches.append(await self._built(self._buffer.take(BATCH_ROWS)))
        batch = self._batches[0]
        try:
            async with sql.transaction() as transaction:
                await batch.insert(transaction)
        except (StoreUnavailableError, StoreAuthError, ConfigurationError) as error:
            batch.doubtful |= isinstance(error, StoreUnavailableError)
            raise
        except Exception as error:  # noqa: BLE001 - raised again unless it is one row's fault
            return await self._refused(sql, batch, error)
        return self._done(batch)

    async def _built(self, entries: list[Entry]) -> Batch:
        batch = Batch()
        for number, entry in enumerate(entries, 1):
            if number % BREATH_ROWS == 0:
                await asyncio.sleep(0)
            try:
                batch.add(entry)
            except Exception as error:  # noqa: BLE001 - a record with values of other types must not stop the others
                self._buffer.drop(f"a record is malformed ({type(error).__name__})")
                self._buffer.release(1, len(getattr(entry, "content", None) or ""))
        return batch

    async def _refused(self, sql: Sql, batch: Batch, error: Exception) -> int:
        """Mend the rows; if that does not help, find the one at fault by halving, and drop it alone."""
        await probe(sql)
        mended = batch.mended()
        if mended != batch:
            self._batches[0] = mended
        elif len(batch) > 1:
            self._batches.popleft()
            self._batches.extendleft(reversed(batch.halves()))
        else:
            self._buffer.drop(f"the database refuses a record ({redact(str(error))})")
            return self._done(batch)
        return 0

    def _done(self, batch: Batch) -> int:
        self._batches.popleft()
        self._buffer.release(len(batch), batch.characters)
        return len(batch)


def _call(method: weakref.WeakMethod[Callable[[], None]]) -> None:
    """What is to be done at a fork or at the end keeps no ledger alive."""
    found = method()
    if found is not None:
        found()
