"""Group commit: the writes of a process leave together, one transaction after the other, on one thread.

While one transaction is on its way to the disk the next ones gather, so that 64 writers pay for one flush of the log
and not for 64. A write that finds nobody in front of it leaves at once.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from langchain_llmops.checkpoint.schema import Status
from langchain_llmops.checkpoint.warm import fresh
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import CheckpointError, LLMOpsError, StoreUnavailableError
from langchain_llmops.stores.base import idempotent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from typing import Any

    from langchain_llmops.checkpoint.recent import News, Recent
    from langchain_llmops.checkpoint.schema import Applied, Group

__all__ = ["Committer", "Op"]

_log = logging.getLogger(__name__)

MAX_OPS: Final = 256
IDLE_S: Final = 5.0


@dataclass(eq=False, slots=True)
class Op:
    """One write of a caller; `news` is what this process knows once it is stored."""

    group: Group
    news: News
    answer: _Answer = field(default_factory=lambda: _Answer(None))


class _Answer:
    """Where the caller waits: on its event loop, or with its thread."""

    __slots__ = ("_event", "error", "future", "loop", "status")

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.future = loop.create_future() if loop is not None else None
        self._event = threading.Event() if loop is None else None
        self.status: Status | None = None
        self.error: BaseException | None = None

    async def wait(self) -> Status:
        if self.future is not None:
            await self.future
        elif self._event is not None:
            self._event.wait()
        if self.error is not None:
            raise self.error
        if self.status is None:
            raise CheckpointError("a write was answered without an outcome")
        return self.status

    def tell(self) -> None:
        """On the caller's loop."""
        if self.future is not None and not self.future.done():
            self.future.set_result(None)

    def tell_thread(self) -> None:
        if self._event is not None:
            self._event.set()


class Committer:
    """`submit` from any thread or loop; the thread that commits ends when there is nothing to do, and after a fork.

    Args:
        apply: stores groups of different threads in one transaction; safe to repeat.
        told: is given the threads that a transaction changed, after their callers were.
        heard: the same with what became of them, of how many writes, and how long the transaction took.
    """

    def __init__(
        self,
        apply: Callable[[Sequence[Group]], Coroutine[Any, Any, list[Applied]]],
        recent: Recent,
        told: Callable[[list[bytes]], None] = lambda _: None,
        heard: Callable[[list[Group], list[Applied], int, float], None] = lambda *_: None,
    ) -> None:
        self._apply = apply
        self._recent = recent
        self._told = told
        self._heard = heard
        self._thread: threading.Thread | None = None
        self._reset()

    async def commit(self, op: Op, *, blocking: bool) -> Status:
        """Store an operation; what became of it. Raises the store's typed error when nothing is known to be stored."""
        op.answer = _Answer(None if blocking else asyncio.get_running_loop())
        self._submit(op)
        return await op.answer.wait()

    def _submit(self, op: Op) -> None:
        if self._pid != os.getpid():
            self._reset()
        with self._ready:
            self._queue.append(op)
            if self._thread is not None:
                self._ready.notify()
                return
            thread = threading.Thread(target=self._work, name="llmops-commit", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no thread to be had: what waits is nobody's, so it is not stored later
                self._queue.remove(op)
                raise
            self._thread = thread

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._queue: deque[Op] = deque()
        self._ready = threading.Condition()
        self._thread = None

    def _work(self) -> None:
        while ops := self._next():
            batch = _Batch()
            rest = [op for op in ops if not batch.take(op)]
            if rest:
                with self._ready:
                    self._queue.extendleft(reversed(rest))
            self._finish(batch)

    def _next(self) -> list[Op]:
        """The operations that wait; none when the thread may end."""
        with self._ready:
            if not self._queue:
                self._ready.wait(IDLE_S)
            if not self._queue:
                self._thread = None
                return []
            return [self._queue.popleft() for _ in range(min(MAX_OPS, len(self._queue)))]

    def _finish(self, batch: _Batch) -> None:
        entries = list(batch.entries.values())
        groups = [entry.group for entry in entries]
        began = time.perf_counter()
        try:
            outcomes = self._stored(groups)
        except BaseException as error:  # noqa: BLE001 - it is the callers'
            self._failed(entries, error)
            return
        took_s = time.perf_counter() - began
        again: list[Op] = []
        answered: list[Op] = []
        for entry, applied in zip(entries, outcomes, strict=True):
            if applied.status is not Status.DONE and len(entry.ops) > 1:
                again += entry.ops
                continue
            if applied.status is Status.DONE:
                news = [op.news for op in entry.ops]
                self._recent.committed(entry.group.thread, entry.group.owner, entry.group.stamp, applied, news)
            for op in entry.ops:
                op.answer.status = applied.status
            answered += entry.ops
        self._answer(answered)
        self._one_by_one(again)
        self._tell(groups, outcomes, len(answered), took_s)

    def _tell(self, groups: list[Group], outcomes: list[Applied], writes: int, took_s: float) -> None:
        try:
            self._told([group.thread for group in groups])
            self._heard(groups, outcomes, writes, took_s)
        except Exception as error:  # noqa: BLE001 - who only listens must not end the thread that everybody waits for
            _log.error("a listener of commits failed (%s); what was committed is not touched", type(error).__name__)

    def _stored(self, groups: list[Group]) -> list[Applied]:
        """What a lost connection left unknown is stored again, to the same end."""
        return drive(idempotent(lambda: self._apply(groups)))

    def _failed(self, entries: list[_Entry], error: BaseException) -> None:
        """A statement that was refused is that of one of them: each is tried by itself."""
        ops = [op for entry in entries for op in entry.ops]
        if len(ops) > 1 and isinstance(error, LLMOpsError) and not isinstance(error, StoreUnavailableError):
            self._one_by_one(ops)
            return
        for op in ops:
            op.answer.error = error
        self._answer(ops)

    def _one_by_one(self, ops: Iterable[Op]) -> None:
        for op in ops:
            batch = _Batch()
            batch.take(op)
            self._finish(batch)

    def _answer(self, ops: Iterable[Op]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        for op in ops:
            if op.answer.loop is None:
                op.answer.tell_thread()
            else:
                by_loop.setdefault(op.answer.loop, []).append(op.answer)
        for loop, answers in by_loop.items():
            try:
                loop.call_soon_threadsafe(_tell, answers)
            except RuntimeError:  # the loop was closed with callers on it: nobody waits any more
                _log.debug("an event loop was closed before %d of its writes were answered", len(answers))


def _tell(answers: list[_Answer]) -> None:
    for answer in answers:
        answer.tell()


@dataclass(slots=True)
class _Entry:
    group: Group
    ops: list[Op]


class _Batch:
    """Operations by thread, as far as those of one thread go together; the others wait, and all behind them."""

    def __init__(self) -> None:
        self.entries: dict[bytes, _Entry] = {}
        self._waiting: set[bytes] = set()

    def take(self, op: Op) -> bool:
        """Whether the operation is part of this batch."""
        thread = op.group.thread
        entry = self.entries.get(thread)
        if thread in self._waiting or (entry is not None and not entry.group.fits(op.group)):
            self._waiting.add(thread)
            return False
        if entry is None:
            self.entries[thread] = _Entry(op.group.alone(fresh(), fresh()), [op])
        else:
            entry.group.join(op.group)
            entry.ops.append(op)
        return True
