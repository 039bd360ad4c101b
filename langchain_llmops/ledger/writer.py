"""The durable record of calls, written in batches off the call's path."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Final

from langchain_llmops.core.concurrency import DOOR, run_sync
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import CallFinished, Event, FellBack, Retried
from langchain_llmops.core.redaction import redact
from langchain_llmops.ledger.background import BATCH_ROWS, Background
from langchain_llmops.ledger.buffer import Buffer
from langchain_llmops.ledger.keeping import delete_older, delete_user
from langchain_llmops.ledger.schema import MAX_FLOAT, MIGRATIONS, storable

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_llmops.stores.base import Sql, Store

__all__ = ["Ledger"]

_log = logging.getLogger(__name__)

SWEEP_EVERY_S: Final = 3600.0
SWEEP_AGAIN_S: Final = 60.0


class Ledger:
    """A reader of the bus that keeps calls, retries and fallbacks in SQLite or PostgreSQL.

    Records are buffered, and written on the library's own loop a quarter of a second later, or when many wait; a killed
    process loses no more than that. A database that is away is tried again, at growing pauses, while the buffer holds.
    What is lost (a full buffer, a record that the database refuses, a failed close) is counted in `dropped`, failed
    writes in `failures`; both are logged once. `flush()` and `close()` raise if something could not be written.

    Processes that `multiprocessing` starts, by fork too, write what waits before they end. A worker that is terminated
    (as at the end of `with Pool()`; `close()` and `join()` let it end) loses up to the last quarter of a second, and so
    does a child of a bare `os.fork` that ends by `os._exit`: flush there.

    Args:
        max_buffered: records that may wait. `max_characters`: of their content, all together.
        tenant: whose feedback and outcomes are told here, unless they name another.
        retention_s: age at which rows are removed, looked for after a write, at most once an hour (a minute
            after it failed, which is logged once until it succeeds); None keeps them.
        clock: Unix seconds. `timer`: monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        max_buffered: int = 10_000,
        max_characters: int = 64 * 2**20,
        tenant: str | None = None,
        retention_s: float | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._buffer = Buffer(max_buffered, max_characters)
        self._hurry_at = min(BATCH_ROWS, max(1, max_buffered // 2))
        self._tenant = tenant
        self._retention_s = retention_s
        self._clock = clock
        self._timer = timer
        self._sweep_at = -math.inf
        self._told_sweep = False
        self._ready = False
        self._background = Background(self._buffer, self.sql, self._sweep)

    # what happened

    def __call__(self, event: Event) -> None:
        """Buffer one event."""
        kind = event.__class__
        if kind is CallFinished:
            waiting = self._buffer.put(event.record)  # type: ignore[attr-defined] # as its class says
        elif kind is Retried or kind is FellBack:
            waiting = self._buffer.put((event, self._clock()))  # type: ignore[arg-type] # `kind` narrows no type
        else:
            return
        if waiting == self._hurry_at:
            self._background.wake(hurry=True)
        elif waiting and not self._background.awake:
            self._background.wake()

    @property
    def buffered(self) -> int:
        """Records that are not written yet."""
        return len(self._buffer)

    @property
    def failures(self) -> int:
        """Writes that failed, and were or will be tried again."""
        return self._background.failures

    @property
    def dropped(self) -> int:
        """Records that are lost."""
        return self._buffer.dropped

    @property
    def cut(self) -> int:
        """Records whose content was too long to be kept whole."""
        return self._buffer.cut

    def feedback(
        self, run_id: str, score: float, *, key: str = "user", comment: str | None = None, tenant: str | None = None
    ) -> None:
        """Keep what somebody thought of a run; stored on return. `score` is a number, or True and False for 1 and 0."""
        run_sync(self._keep_feedback(run_id, score, key, comment, tenant))

    async def afeedback(
        self, run_id: str, score: float, *, key: str = "user", comment: str | None = None, tenant: str | None = None
    ) -> None:
        """Keep what somebody thought of a run; stored on return. `score` is a number, or True and False for 1 and 0."""
        await DOOR.cross(self._keep_feedback(run_id, score, key, comment, tenant))

    def outcome(self, session_id: str, ok: bool, *, comment: str | None = None, tenant: str | None = None) -> None:  # noqa: FBT001 - reads well at the call
        """Keep whether a conversation reached its end well; stored on return."""
        run_sync(self._keep_outcome(session_id, ok, comment, tenant))

    async def aoutcome(
        self,
        session_id: str,
        ok: bool,  # noqa: FBT001 - reads well at the call
        *,
        comment: str | None = None,
        tenant: str | None = None,
    ) -> None:
        """Keep whether a conversation reached its end well; stored on return."""
        await DOOR.cross(self._keep_outcome(session_id, ok, comment, tenant))

    # how long it is kept

    def erase_user(self, user_id: str, tenant: str | None) -> dict[str, int]:
        """Remove everything of a user of a tenant (None: that names no tenant); rows removed by table.

        Reaches what this process has buffered; other processes must have written theirs. Feedback is found by the ids
        of the user's runs, traces and requests, outcomes by their sessions.
        """
        return run_sync(self._erase_user(user_id, tenant))

    async def aerase_user(self, user_id: str, tenant: str | None) -> dict[str, int]:
        """Remove everything of a user of a tenant (None: that names no tenant); rows removed by table."""
        return await DOOR.cross(self._erase_user(user_id, tenant))

    def retain(self, max_age_s: float) -> dict[str, int]:
        """Remove everything of this tenant that is older; rows removed by table.

        Feedback goes with its run, and an outcome with the last call of its session. What belongs to no recorded call
        is kept for a day at most.
        """
        return run_sync(self._retain(max_age_s))

    async def aretain(self, max_age_s: float) -> dict[str, int]:
        """Remove everything of this tenant that is older; rows removed by table."""
        return await DOOR.cross(self._retain(max_age_s))

    # life

    async def sql(self) -> Sql:
        """The database with the ledger's tables in place."""
        sql = self._store.sql
        if not self._ready:
            await sql.migrate("ledger", MIGRATIONS)
            self._ready = True
        return sql

    def flush(self, timeout_s: float | None = 30.0) -> None:
        """Write everything buffered so far."""
        run_sync(self._background.flush(), timeout_s)

    async def aflush(self) -> None:
        """Write everything buffered so far."""
        await DOOR.cross(self._background.flush())

    async def aping(self) -> float:
        """Reach the database; seconds."""
        return await DOOR.cross(self._store.ping())

    async def aclose(self) -> None:
        """Write everything buffered and close the store; what comes later is dropped.

        Raises `StoreError` that says how many records are lost, and why.
        """
        await DOOR.cross(self._close())

    async def _close(self) -> None:
        try:
            await self._background.close()
        finally:
            await self._store.aclose()

    async def _sweep(self) -> None:
        """Remove what is too old, where that is due; a failure is no failed write."""
        if self._retention_s is None or self._timer() < self._sweep_at:
            return
        try:
            await delete_older(await self.sql(), self._clock(), self._retention_s, self._tenant)
        except Exception as error:  # noqa: BLE001 - whatever it is, what was written is written, and it is told
            self._sweep_at = self._timer() + SWEEP_AGAIN_S
            if not self._told_sweep:
                self._told_sweep = True
                kind, reason = type(error).__name__, redact(str(error))
                _log.warning(
                    "rows older than the ledger's retention cannot be removed and stay; tried again (%s): %s",
                    kind,
                    reason,
                )
        else:
            self._sweep_at = self._timer() + SWEEP_EVERY_S
            self._told_sweep = False

    async def _retain(self, max_age_s: float) -> dict[str, int]:
        if not _is_number(max_age_s) or max_age_s < 0:
            raise ConfigurationError(f"max_age_s must be seconds, 0 or more, not {max_age_s!r}")
        await self._background.flush()
        return await delete_older(await self.sql(), self._clock(), max_age_s, self._tenant)

    async def _erase_user(self, user_id: str, tenant: str | None) -> dict[str, int]:
        user = _name("user_id", user_id)
        whose = None if tenant is None else _name("tenant", tenant)
        await self._background.flush()
        return await delete_user(await self.sql(), user, whose)

    async def _keep_feedback(
        self, run_id: str, score: float, key: str, comment: str | None, tenant: str | None
    ) -> None:
        if not _is_number(score):
            raise ConfigurationError(f"score must be a finite number, True or False, not {score!r}")
        row = (self._clock(), self._whose(tenant), _name("run_id", run_id), _name("key", key), float(score))
        statement = "INSERT INTO llmops_feedback (at, tenant, run_id, key, score, comment) VALUES (?, ?, ?, ?, ?, ?)"
        await (await self.sql()).execute(statement, (*row, _comment(comment)))

    async def _keep_outcome(self, session_id: str, ok: bool, comment: str | None, tenant: str | None) -> None:  # noqa: FBT001 - the order of `outcome`
        if not isinstance(ok, bool):
            raise ConfigurationError(f"ok must be True or False, not {ok!r}")
        row = (self._clock(), self._whose(tenant), _name("session_id", session_id), int(ok))
        statement = "INSERT INTO llmops_outcomes (at, tenant, session_id, ok, comment) VALUES (?, ?, ?, ?, ?)"
        await (await self.sql()).execute(statement, (*row, _comment(comment)))

    def _whose(self, tenant: str | None) -> str | None:
        return self._tenant if tenant is None else _name("tenant", tenant)


def _name(what: str, value: object) -> str:
    """As it is stored with calls, so that it is found there."""
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"{what} must be a non-empty string, not {value!r}")
    return str(storable(what, value))


def _comment(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigurationError(f"comment must be text, not {value!r}")
    return str(storable("comment", value))


def _is_number(value: object) -> bool:
    """Finite, and no integer that a float cannot hold."""
    return isinstance(value, int | float) and -MAX_FLOAT <= value <= MAX_FLOAT
