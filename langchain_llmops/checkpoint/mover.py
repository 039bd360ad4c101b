"""What happens to threads by age, one pass at a time, and the thread that makes a pass every now and then."""

from __future__ import annotations

import logging
import os
import random
import threading
import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.checkpoint.codec import readable
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import LLMOpsError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from langchain_llmops.checkpoint.archive import Archive, Idle
    from langchain_llmops.checkpoint.options import Options
    from langchain_llmops.checkpoint.tiers import Tiers
    from langchain_llmops.checkpoint.upkeep import Upkeep

__all__ = ["Background", "Mover", "Swept"]

_log = logging.getLogger(__name__)

JITTER: Final = 0.2  # so that processes started together do not sweep together
CLOSING_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Swept:
    """What one pass did.

    Args:
        archived: threads that became cold, `finished` of them copied by a process that is gone.
        deleted: threads past their retention.
        objects_deleted, objects_refused: archive objects that nothing needed, and those the store did not delete.
        failures: threads it could not move or delete, with the reason; they are tried again.
    """

    archived: int = 0
    finished: int = 0
    deleted: int = 0
    objects_deleted: int = 0
    objects_refused: int = 0
    failures: tuple[Exception, ...] = field(default=())


class Mover:
    """Coroutines over blocking stores, for the threads of one tenant; `resume` continues erasures that are open."""

    def __init__(
        self,
        tiers: Tiers,
        upkeep: Upkeep,
        options: Options,
        *,
        resume: Callable[[], Coroutine[Any, Any, object]],
    ) -> None:
        self._resume = resume
        self._tiers = tiers
        self._upkeep = upkeep
        self._options = options

    async def sweep(self, stopped: Callable[[], bool] = lambda: False) -> Swept:
        """Archive what is idle, delete what is past its retention, and end what crashes left."""
        held_up = await self._continued()
        deleted, failures = await self._expire(stopped)
        failures = [*held_up, *failures]
        archive = self._tiers.archive
        if archive is None:
            return Swept(deleted=deleted, failures=tuple(failures))
        finished = await archive.finish_copied()
        idle = await self._archive_idle(archive, stopped)
        objects_deleted, objects_refused = await archive.sweep_dead(stopped)
        return Swept(
            archived=idle.archived + finished.archived,
            finished=finished.archived,
            deleted=deleted,
            objects_deleted=objects_deleted,
            objects_refused=objects_refused,
            failures=(*failures, *finished.failures, *idle.failures),
        )

    async def _continued(self) -> list[Exception]:
        """Go on with open erasures; one that cannot now holds up nothing else of the pass."""
        try:
            await self._resume()
        except LLMOpsError as error:  # told with the other failures, and tried again by the next pass
            return [error]
        return []

    async def _archive_idle(self, archive: Archive, stopped: Callable[[], bool]) -> Idle:
        ended = self._options.conversation_timeout_s
        idle_s = self._options.warm_s if ended is None else min(self._options.warm_s, ended)
        return await archive.archive_idle(self._options.clock() - idle_s, stopped)

    async def _expire(self, stopped: Callable[[], bool]) -> tuple[int, list[Exception]]:
        kept_s = self._options.retention_s
        deleted = 0
        failures: list[Exception] = []
        while kept_s is not None and not failures:
            page = await self._upkeep.expired(self._options.clock() - kept_s)
            gone = 0
            for thread, label, stamp in page:
                if stopped():
                    return deleted, failures
                try:
                    gone += await self._upkeep.delete(self._tiers.place_of(thread, label), stamp)
                except LLMOpsError as error:
                    failures.append(error)
            deleted += gone
            if not gone:
                break
        return deleted, failures


class Background:
    """A daemon thread that sweeps as long as its mover is used; it starts on first use, also after a fork.

    Args:
        interval_s: seconds between passes, more or less; None for no thread.
    """

    def __init__(self, mover: Mover, interval_s: float | None) -> None:
        self._mover = mover
        self._interval_s = interval_s
        self.passes = 0
        self.deleted = 0
        self.errors = 0
        self._pid: int | None = None
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """See that the thread runs."""
        if self._interval_s is None or self._pid == os.getpid():
            return
        if self._pid is not None:  # forked: the lock may have been held, and the thread did not come along
            self._lock = threading.Lock()
        with self._lock:
            if self._pid == os.getpid():
                return
            self._pid = os.getpid()
            self._stop = threading.Event()
            given = (weakref.ref(self), self._stop, self._interval_s)
            self._thread = threading.Thread(target=_work, args=given, name="llmops-mover", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the thread; a pass that is under way ends after the thread it is at."""
        with self._lock:
            thread, self._thread, self._pid = self._thread, None, None
            self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(CLOSING_S)

    def counts(self) -> dict[str, float]:
        """What the thread did, for metrics."""
        return {"mover:passes": self.passes, "mover:deleted": self.deleted, "mover:errors": self.errors}

    def sweep(self) -> None:
        """One pass; what fails is counted, and the first of it logged."""
        try:
            with readable():
                swept = drive(self._mover.sweep(self._stop.is_set))
        except LLMOpsError as error:
            swept = Swept(failures=(error,))
        failures = swept.failures
        self.passes += 1
        self.deleted += swept.deleted
        if failures and not self.errors:
            _log.warning("a sweep of the checkpoints failed in part (counted from now on): %s", failures[0])
        self.errors += len(failures)


def _work(found: weakref.ref[Background], stop: threading.Event, interval_s: float) -> None:
    while not stop.wait(interval_s * random.uniform(1 - JITTER, 1 + JITTER)):  # noqa: S311 - no secret
        background = found()
        if background is None:
            return
        background.sweep()
        del background  # an unused checkpointer may go while this thread waits
