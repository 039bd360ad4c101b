"""How LangSmith is spoken to without waiting on it: requests that end in time, and work done by a thread of its own."""

from __future__ import annotations

import math
import os
import queue
import threading
import time
import weakref
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, TypeVar

import requests
from langsmith.utils import LangSmithRetry

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from urllib3 import BaseHTTPResponse

__all__ = ["BoundedLangSmithRetry", "BoundedSession", "Outbox"]

T = TypeVar("T")

EXIT_S: Final = 8.0
LONGEST_ANSWER_S: Final = 8.0
LONGEST_PAUSE_S: Final = 5.0
IDLE_S: Final = 1.0


class BoundedSession(requests.Session):
    """A session that can be given an end: a request takes no longer than is left, and later ones fail at once.

    The interpreter waits for the threads of LangSmith's client before any `atexit` handler runs, so it gives the end.
    """

    def __init__(self) -> None:
        super().__init__()
        self._ends_at = math.inf
        # as `concurrent.futures` does, which waits for its threads: calls are made last one first, ours before its own
        threading._register_atexit(_end, weakref.ref(self))  # type: ignore[attr-defined] # noqa: SLF001 - no public one

    @property
    def left_s(self) -> float:
        """How long requests may still take."""
        return max(0.0, self._ends_at - time.monotonic())

    def end_within(self, seconds: float) -> None:
        """Give the end; one that comes sooner stays."""
        self._ends_at = min(self._ends_at, time.monotonic() + seconds)

    def go_on(self) -> None:
        """Take the end back."""
        self._ends_at = math.inf

    def request(  # type: ignore[override] # LangSmith names the rest
        self, method: str, url: str, *, timeout: tuple[float, float], **more: Any
    ) -> requests.Response:
        """As any session, within what is left; a server that is silent for `LONGEST_ANSWER_S` has failed."""
        left = self.left_s
        if not left:
            raise requests.ConnectionError("there is no time left for LangSmith")
        connect, read = timeout
        return super().request(method, url, timeout=(min(connect, left), min(read, left, LONGEST_ANSWER_S)), **more)


class BoundedLangSmithRetry(LangSmithRetry):
    """LangSmith's own retries while `session` has time left, with short pauses; none of what was not answered."""

    session: BoundedSession

    @classmethod
    def of(cls, session: BoundedSession) -> Self:
        """The retries of the requests of `session`."""
        statuses = (408, 425, 429, 500, 502, 503, 504)
        made = cls(
            total=3, read=0, allowed_methods=None, status_forcelist=statuses, backoff_factor=0.5, raise_on_status=False
        )
        made.session = session
        return made

    def new(self, **changes: Any) -> Self:
        """A copy."""
        made = super().new(**changes)
        made.session = self.session
        return made

    def increment(self, *args: Any, **kwargs: Any) -> Self:
        """One try fewer; none when there is no time left."""
        own = self if self.session.left_s else self.new(total=0)
        return super(BoundedLangSmithRetry, own).increment(*args, **kwargs)

    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        """As long as the server asks or the backoff says, within bounds."""
        asked = None if response is None else self.get_retry_after(response)
        time.sleep(min(asked or self.get_backoff_time(), LONGEST_PAUSE_S, self.session.left_s))


class Outbox:
    """Work done in turn by one daemon thread, which is there while there is work.

    A forked child has none of it: what waits is its parent's to do.
    """

    def __init__(self) -> None:
        self._reset()

    @property
    def waiting(self) -> int:
        """Pieces of work that nobody has begun."""
        return self._work.qsize()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Have `call` done after what waits; by the caller while the interpreter ends and starts no threads."""
        future: Future[T] = Future()
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            self._work.put(lambda: _settle(future, call))
            serving = self._thread is not None and self._thread.is_alive()
            serving = serving or self._start()
        if not serving:
            self._serve()
        return future

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def _start(self) -> bool:
        self._thread = threading.Thread(target=self._serve, name="llmops-langsmith", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None
        return self._thread is not None

    def _serve(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=IDLE_S if self._thread is not None else 0)
            except queue.Empty:
                with self._lock:
                    if self._work.empty():
                        self._thread = None
                        return
            else:
                work()


def _end(session: weakref.ref[BoundedSession]) -> None:
    alive = session()
    if alive is not None:
        alive.end_within(EXIT_S)


def _settle(future: Future[T], call: Callable[[], T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = call()
    except BaseException as error:  # noqa: BLE001 - it is the future's
        future.set_exception(error)
    else:
        future.set_result(result)
