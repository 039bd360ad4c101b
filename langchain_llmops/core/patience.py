"""Deadlines of an event loop that measure whom it waits for, and not what kept the loop itself from going on."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio

__all__ = ["STROKES", "Patience", "Waiting"]

STROKES: Final = 10


class Waiting(Protocol):
    """Something that is waited for."""

    def is_over(self) -> bool:
        """Whether nobody waits for it any more."""
        ...

    def expire(self) -> None:
        """Its time is up."""
        ...


class Patience:
    """Ends every waiting of one loop that takes longer than `timeout_s`, within a tenth more.

    Time is counted in strokes of a tenth of the timeout. A loop that was blocked makes late strokes, and a late one
    counts as one: an answer that waits in a socket has at least `STROKES` turns of the loop to be taken in.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._loop = loop
        self._stroke_s = timeout_s / STROKES
        self._watched: deque[tuple[int, Waiting]] = deque()
        self._strokes = 0
        self._ticking = False

    def watch(self, waiting: Waiting) -> None:
        """Have it expire in time."""
        self._watched.append((self._strokes + STROKES, waiting))
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(self._stroke_s, self._tick)

    def _tick(self) -> None:
        watched = self._watched
        while watched and (watched[0][1].is_over() or watched[0][0] <= self._strokes):
            waiting = watched.popleft()[1]
            if not waiting.is_over():
                waiting.expire()
        self._strokes += 1
        self._ticking = bool(watched)
        if watched:
            self._loop.call_later(self._stroke_s, self._tick)
