"""One connection that serves one caller at a time: on a thread of its own, or in place."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Closable", "InPlace", "OnThread", "Rules", "Turn", "Turns"]


class Closable(Protocol):
    """A connection."""

    def close(self) -> None:
        """Give it back to the system."""
        ...


C = TypeVar("C", bound=Closable)
C_co = TypeVar("C_co", bound=Closable, covariant=True)
T = TypeVar("T")


class Turn(Enum):
    """What a job is: alone, or the beginning, a part or the end of a transaction."""

    ALONE = "alone"
    BEGIN = "begin"
    INSIDE = "inside"
    END = "end"


@dataclass(frozen=True, slots=True)
class Rules(Generic[C]):
    """How a connection is made, and what is raised when a turn does not come.

    Args:
        undo: rolls back what a cancelled beginning may have begun.
        busy: for a caller that waited `patience_s` while the transaction in front of it did nothing.
        over: for a statement of a transaction that has ended, as by closing the store.
        inheritable: whether a forked child may go on with the connection: true of memory, not of a file.
    """

    connect: Callable[[], C]
    undo: Callable[[C], object]
    busy: Callable[[], Exception]
    over: Callable[[], Exception]
    patience_s: float
    inheritable: bool = False


class Turns(Protocol[C_co]):
    """Runs jobs on the connection; while a transaction is open, only its own."""

    async def run(self, job: Callable[[C_co], T], turn: Turn = Turn.ALONE, owner: object = None) -> T:
        """The result of a job of `owner`, in its turn."""
        ...

    async def aclose(self) -> None:
        """Close the connection between transactions; the next job opens it again."""
        ...


class _Held(Generic[C]):
    """The connection, opened by the first job."""

    def __init__(self, connect: Callable[[], C]) -> None:
        self._connect = connect
        self._connection: C | None = None

    def get(self) -> C:
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class InPlace(Generic[C]):
    """For blocking callers: jobs run in the caller's thread, under a lock."""

    def __init__(self, rules: Rules[C]) -> None:
        self._rules = rules
        self._inherited: list[_Held[C]] = []
        self._begin_life(_Held(rules.connect))

    def _begin_life(self, held: _Held[C]) -> None:
        self._held = held
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._owner: object = None

    async def run(self, job: Callable[[C], T], turn: Turn = Turn.ALONE, owner: object = None) -> T:
        """Run a job now, or when the transaction in front has ended."""
        if self._pid != os.getpid():
            self._after_fork()
        if turn in (Turn.ALONE, Turn.BEGIN):
            return self._first(job, turn, owner)
        if self._owner is not owner:
            raise self._rules.over()
        try:
            return job(self._held.get())
        finally:
            if turn is Turn.END:
                self._release()

    async def aclose(self) -> None:
        """Close the connection, between transactions."""
        if self._pid == os.getpid():
            self._acquire()
            try:
                self._held.close()
            finally:
                self._release()

    def _first(self, job: Callable[[C], T], turn: Turn, owner: object) -> T:
        self._acquire()
        try:
            result = job(self._held.get())
        except BaseException:  # interrupted, too: the next turn must come
            self._release()
            raise
        if turn is Turn.ALONE:
            self._release()
        else:
            self._owner = owner
        return result

    def _acquire(self) -> None:
        if not self._lock.acquire(timeout=self._rules.patience_s):
            raise self._rules.busy()

    def _release(self) -> None:
        self._owner = None
        self._lock.release()

    def _after_fork(self) -> None:
        self._inherited.append(self._held)  # closing a file the parent has open could drop its locks
        self._begin_life(self._held if self._rules.inheritable else _Held(self._rules.connect))


class OnThread(Generic[C]):
    """For async callers of any loop: jobs run on one daemon thread, which ends with `aclose` or with this object.

    Not an executor: those refuse work while the interpreter ends, and that is when buffers are flushed.
    """

    def __init__(self, rules: Rules[C]) -> None:
        self._rules = rules
        self._worker: _Worker[C] | None = None
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._inherited: list[_Worker[C]] = []

    async def run(self, job: Callable[[C], T], turn: Turn = Turn.ALONE, owner: object = None) -> T:
        """Run a job in its turn. The end of a transaction is reached even when its caller is cancelled meanwhile."""
        future = self._post(job, turn, owner)
        try:
            waiting = asyncio.wrap_future(future)
            return await (asyncio.shield(waiting) if turn is Turn.END else waiting)
        except asyncio.CancelledError:
            if turn is Turn.BEGIN:
                self._post(self._rules.undo, Turn.END, owner)
            raise

    async def aclose(self) -> None:
        """Close the connection once the jobs before have run."""
        if self._pid == os.getpid():
            with self._lock:
                worker, self._worker = self._worker, None
            if worker is not None:
                await asyncio.wrap_future(worker.stop())

    def _post(self, job: Callable[[C], T], turn: Turn, owner: object) -> Future[T]:
        if self._pid != os.getpid():
            self._after_fork()
        with self._lock:
            if self._worker is None:
                self._worker = self._hire(_Held(self._rules.connect))
            return self._worker.post(job, turn, owner)

    def _hire(self, held: _Held[C]) -> _Worker[C]:
        worker = _Worker(self._rules, held)
        weakref.finalize(self, worker.stop).atexit = False
        return worker

    def _after_fork(self) -> None:
        self._lock, self._pid = threading.Lock(), os.getpid()
        worker, self._worker = self._worker, None
        if worker is not None:
            self._inherited.append(worker)
            if self._rules.inheritable:
                self._worker = self._hire(worker.held)


@dataclass(eq=False, slots=True)
class _Job(Generic[C]):
    call: Callable[[C], Any]
    turn: Turn
    owner: object
    future: Future[Any] = field(default_factory=Future)
    since: float = field(default_factory=time.monotonic)


class _Worker(Generic[C]):
    """The thread and its queue; it holds no reference to the store, which may be collected meanwhile."""

    def __init__(self, rules: Rules[C], held: _Held[C]) -> None:
        self.held = held
        self._rules = rules
        self._jobs: queue.SimpleQueue[_Job[C] | None] = queue.SimpleQueue()
        self._waiting: deque[_Job[C]] = deque()
        self._owner: object = None
        self._served = 0.0
        self._stopped: Future[None] = Future()
        threading.Thread(target=self._work, name="llmops-sqlite", daemon=True).start()

    def post(self, call: Callable[[C], Any], turn: Turn, owner: object) -> Future[Any]:
        job = _Job(call, turn, owner)
        self._jobs.put(job)
        return job.future

    def stop(self) -> Future[None]:
        self._jobs.put(None)
        return self._stopped

    def _work(self) -> None:
        try:
            while self._serve_next():
                pass  # and keep no job meanwhile, as its call leads back to the store
        finally:
            for job in self._waiting:
                _fail(job, self._rules.over())
            self.held.close()
            self._stopped.set_result(None)

    def _serve_next(self) -> bool:
        job = self._next()
        if job is not None:
            self._serve(job)
        return job is not None

    def _next(self) -> _Job[C] | None:
        """The next job whose turn it is, or None to stop."""
        while True:
            if self._waiting and self._owner is None:
                return self._waiting.popleft()
            try:
                posted = self._jobs.get(timeout=self._patience())
            except queue.Empty:
                while self._waiting:
                    _fail(self._waiting.popleft(), self._rules.busy())
                continue
            if posted is None or posted.turn in (Turn.INSIDE, Turn.END):
                return posted
            self._waiting.append(posted)

    def _patience(self) -> float | None:
        """Seconds until those who wait for an idle transaction give up; None when nobody waits."""
        if not self._waiting:
            return None
        since = max(self._served, self._waiting[0].since)
        return max(0.0, since + self._rules.patience_s - time.monotonic())

    def _serve(self, job: _Job[C]) -> None:
        inside = job.turn in (Turn.INSIDE, Turn.END)
        if inside and self._owner is not job.owner:
            _fail(job, self._rules.over())
        elif job.future.set_running_or_notify_cancel():
            self._perform(job)
        self._served = time.monotonic()

    def _perform(self, job: _Job[C]) -> None:
        try:
            result = job.call(self.held.get())
        except BaseException as error:  # noqa: BLE001 - carried to the caller
            self._owner = job.owner if job.turn is Turn.INSIDE else None
            job.future.set_exception(error)
        else:
            self._owner = job.owner if job.turn in (Turn.BEGIN, Turn.INSIDE) else None
            job.future.set_result(result)


def _fail(job: _Job[Any], error: Exception) -> None:
    if job.future.set_running_or_notify_cancel():
        job.future.set_exception(error)
