"""Work that no answer waits for."""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import threading
import weakref
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.concurrency import DOOR, drive

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Work = Callable[..., Coroutine[Any, Any, None]]

__all__ = ["Behind", "at_exit"]

GATHER_S: Final = 0.002
EXIT_S: Final = 1.0

_log = logging.getLogger(__name__)


def at_exit(end: Callable[[], None]) -> None:
    """Have a bound method called while the process ends, if its object is still there, the last one given first.

    Twice: while event loops can still resolve names and begin threads, and when all other threads have ended.
    """
    ref = weakref.WeakMethod(end)

    def call() -> None:
        alive = ref()
        if alive is not None:
            alive()

    with suppress(RuntimeError):  # the process ends already
        # as `concurrent.futures` does: atexit's own come when its threads have ended, and no pool takes work
        threading._register_atexit(call)  # type: ignore[attr-defined] # noqa: SLF001 - no public one
    atexit.register(call)


class Behind:
    """Coroutines run on the library's own loop, which is woken once for all that is asked of it meanwhile.

    `everywhere`: whether there is an async store for all that is to be done; else sync callers do it themselves.
    """

    _woken: bool
    _pending: set[Work]

    def __init__(self, *, everywhere: bool) -> None:
        self._everywhere = everywhere
        self._reset()

    def do(self, work: Work, *, blocking: bool) -> None:
        """Have `work(blocking=…)` done, on the library's loop where it can be; it must not raise."""
        if blocking and not self._everywhere:
            drive(work(blocking=True))
            return
        self._own()
        with self._lock:
            self._queue.append(work)
            self._pending.add(work)
            woken = self._woken
            self._woken = True
        if not woken:
            DOOR.loop().call_soon_threadsafe(self._gather)

    def finish(self) -> None:
        """Wait a moment for what is asked for while the process ends, unless it is a forked one's parent's."""
        if self._pid == os.getpid() and self._pending and not self.wait(EXIT_S):
            _log.warning("the process ends before %d things of the cache are done", len(self._pending))

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait for all that was asked for; whether it is done. Not to be called on the library's own loop."""
        try:
            self._all_done().result(timeout_s)
        except TimeoutError:
            return False
        return True

    async def await_all(self, timeout_s: float) -> bool:
        """The same for coroutines, on any loop."""
        done = asyncio.wrap_future(self._all_done())
        return bool((await asyncio.wait([done], timeout=timeout_s))[0])

    def _own(self) -> None:
        if self._pid != os.getpid():
            self._reset()  # what waits in a parent is the parent's to do

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._queue: deque[Work] = deque()
        self._woken = False
        self._pending = set()
        self._working = set[asyncio.Task[None]]()
        self._waiting: list[tuple[set[Work], Future[None]]] = []

    def _all_done(self) -> Future[None]:
        """Done when all is that was asked for until now."""
        self._own()
        done: Future[None] = Future()
        with self._lock:
            if self._pending:
                self._waiting.append((set(self._pending), done))
            else:
                done.set_result(None)
        return done

    # on the library's loop

    def _gather(self) -> None:
        """Whoever asks now is at work, and would have to share the interpreter with us for each thing in turn."""
        asyncio.get_running_loop().call_later(GATHER_S, self._start)

    def _start(self) -> None:
        with self._lock:
            works, self._queue = self._queue, deque()
            self._woken = False
        loop = asyncio.get_running_loop()
        for work in works:
            task = loop.create_task(work(blocking=False))
            self._working.add(task)
            task.add_done_callback(partial(self._ended, work))

    def _ended(self, work: Work, task: asyncio.Task[None]) -> None:
        self._working.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("work of the cache behind an answer failed: %s", type(error).__name__, exc_info=error)
        with self._lock:
            self._pending.discard(work)
            for waiting in self._waiting:
                waiting[0].discard(work)
            over = [done for left, done in self._waiting if not left]
            self._waiting = [waiting for waiting in self._waiting if waiting[0]]
        for done in over:
            if done.set_running_or_notify_cancel():
                done.set_result(None)
