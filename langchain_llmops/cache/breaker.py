"""When a store that fails is left alone, and when it is tried again."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FIRST_PAUSE_S", "LATE_IN_A_ROW", "LONGEST_PAUSE_S", "Breaker"]

LATE_IN_A_ROW: Final = 3
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 5.0


class Breaker:
    """Opens at an error, or at `LATE_IN_A_ROW` answers that came too late; then one probe at a time is let through.

    A pause is twice as long as the one before, up to `LONGEST_PAUSE_S`, until something works. Late answers of one
    moment count as one: what began before the last was counted tells nothing new. `openings` says how often it opened,
    `calm` that nothing has failed since something worked, `told` that `tell` was told of it, `answers` how often
    something worked, about.

    Args:
        clock: seconds; one that is set back ends a pause early.
        tell: given the first error since something worked.
        under: another, which when it opens at an error opens this one too.
    """

    def __init__(
        self, clock: Callable[[], float], tell: Callable[[Exception], None], under: Breaker | None = None
    ) -> None:
        self._clock = clock
        self._tell = tell
        self._under = under
        self.calm = True
        self.told = False
        self._late = 0
        self._late_at = float("-inf")
        self._pause_s = 0.0
        self._until = float("-inf")
        self._probing = False
        self.openings = 0
        self.answers = 0
        self._reset()

    def is_open(self) -> bool:
        """Whether nobody is let through now."""
        mine = not self.calm and 0 < self._until - self._clock() <= LONGEST_PAUSE_S
        return mine or (self._under is not None and not self._under.only_late and self._under.is_open())

    @property
    def only_late(self) -> bool:
        """Whether it can still be asked by who has more time."""
        return self._late >= LATE_IN_A_ROW

    def admits(self) -> bool:
        """Whether the caller may ask now. Who asks after a pause is the probe: the others wait for its end."""
        if self.calm and (self._under is None or self._under.calm):
            return True
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            if self.is_open():
                return False
            if self._pause_s:
                self._probing = True
                self._until = self._clock() + self._pause_s
            return True

    def worked(self) -> None:
        """An answer came in time."""
        self.answers += 1
        if not self.calm:
            self._late, self._pause_s, self._until, self.told = 0, 0.0, float("-inf"), False
            self._probing = False
            self.calm = True

    def late(self, began: float, error: Exception) -> None:
        """An answer to what began then did not come in time."""
        now = self._clock()
        if self._late_at <= began or began > now:
            self._late, self._late_at, self.calm = self._late + 1, now, False
            if self._late >= LATE_IN_A_ROW:
                self._open(error)

    def failed(self, error: Exception) -> None:
        """The store could not be asked, or refused."""
        self._late, self.calm = 0, False
        self._open(error)

    def _open(self, error: Exception) -> None:
        if self._probing or not 0 < self._until - self._clock() <= LONGEST_PAUSE_S:
            self._probing = False
            self._pause_s = min(2 * self._pause_s or FIRST_PAUSE_S, LONGEST_PAUSE_S)
            self._until = self._clock() + self._pause_s
            self.openings += 1
        if not self.told and not (self._under is not None and self._under.told):
            self.told = True
            self._tell(error)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
