"""A few threads for blocking work that coroutines ask for; one that is cancelled leaves its job to end by itself."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections import deque
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Workers"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

IDLE_S: Final = 5.0


class Workers:
    """Up to `most` daemon threads, which end when there is nothing to do, and after a fork."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._reset()

    async def run(self, call: Callable[[], T]) -> T:
        """The result of a blocking call."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._post((copy_context().run, call, loop, future))
        return await future

    def _post(self, job: tuple[Any, ...]) -> None:
        if self._pid != os.getpid():
            self._reset()
        with self._ready:
            self._jobs.append(job)
            if self._idle >= len(self._jobs) or self._threads >= self._most:
                self._ready.notify()
                return
            try:
                threading.Thread(target=self._work, name=self._name, daemon=True).start()
            except RuntimeError:  # no thread to be had: the job is not done behind its caller's back
                self._jobs.pop()
                raise
            self._threads += 1

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._jobs: deque[tuple[Any, ...]] = deque()
        self._ready = threading.Condition()
        self._threads = 0
        self._idle = 0

    def _work(self) -> None:
        while (job := self._next()) is not None:
            run, call, loop, future = job
            if future.cancelled():
                continue
            try:
                result, error = run(call), None
            except BaseException as caught:  # noqa: BLE001 - it is the caller's
                result, error = None, caught
            try:
                loop.call_soon_threadsafe(_tell, future, result, error)
            except RuntimeError:  # the loop was closed with the caller on it: nobody waits any more
                _log.debug("an event loop was closed before its work was done")

    def _next(self) -> tuple[Any, ...] | None:
        with self._ready:
            while not self._jobs:
                self._idle += 1
                asked = self._ready.wait(IDLE_S)
                self._idle -= 1
                if not asked and not self._jobs:
                    self._threads -= 1
                    return None
            return self._jobs.popleft()


def _tell(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)
