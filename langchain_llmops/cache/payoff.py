"""What prefetching may cost, and whether it pays."""

from __future__ import annotations

from typing import Final

from langchain_llmops.core.stats import wilson

__all__ = ["Allowance", "Verdict"]

HOUR_S: Final = 3_600.0
AT_ONCE: Final = 0.1  # share of an hour's dollars that may be saved up; the rest flows in evenly
ONE_SIDED_95: Final = 1.645


class Allowance:
    """Dollars that flow in with time: reserve before spending, settle after.

    In no span of an hour more than `usd_per_hour` is spent, as long as no call costs more than was reserved for it.
    What a call costs beyond that is a debt that is paid off first: the excess is at most that of the calls in flight.
    """

    def __init__(self, usd_per_hour: float, now: float) -> None:
        self._most = usd_per_hour * AT_ONCE
        self._usd_per_s = usd_per_hour * (1 - AT_ONCE) / HOUR_S
        self._held = self._most  # what may still be spent, reserved or not
        self._reserved = 0.0
        self._at = now

    def reserve(self, usd: float, now: float) -> bool:
        """Whether there is enough; then it is set aside."""
        if not self.has(usd, now):
            return False
        self._reserved += usd
        return True

    def has(self, usd: float, now: float) -> bool:
        """Whether there is enough."""
        self._held = min(self._most, self._held + max(0.0, now - self._at) * self._usd_per_s)
        self._at = max(self._at, now)  # a clock that steps back and forth brings nothing
        return 0 <= usd <= self._held - self._reserved  # nor what is not a number

    def settle(self, reserved_usd: float, spent_usd: float) -> None:
        """Give back what was set aside, and pay; what is not an amount costs what was set aside."""
        self._reserved -= reserved_usd
        self._held -= spent_usd if spent_usd >= 0 else reserved_usd

    def empty(self, now: float) -> None:
        """Start from nothing, with nothing set aside."""
        self._held, self._reserved, self._at = min(0.0, self._held), 0.0, now


class Verdict:
    """Whether the prefetches of one group pay, judged by what became of them.

    One that costs `c` is worth `w = price + seconds x value of a second` when its answer is asked for in time: the
    call that it replaces is not paid, and somebody does not wait. At precision p (used of resolved) the gain of one is
    `p x w - c`, so it pays when p is above `p* = c / w`. Without a value of seconds p* is 1 at equal prices:
    prefetching buys time, and saves money only where it is asked at a lower price (a flex tier). Both sides are
    weighted by worth here, so that `precision >= p*` says exactly that the gains of the used cover the cost of all.

    It stops when the upper end of precision's one-sided 95 % interval is below p*, for `pause_s`, twice as long after
    each trial that failed. Looking after every outcome stops by chance more often than in 5 % of trials; that costs a
    pause. While it is not proven that it pays, at most `trickle` prefetches are open at a time: the used make room at
    once, the others hold their place until they expire, so that useless traffic throttles itself.
    """

    def __init__(
        self, *, trickle: int = 5, pause_s: float = 600.0, longest_pause_s: float = 86_400.0, window: int = 200
    ) -> None:
        self._trickle = trickle
        self._shortest_pause_s, self._longest_pause_s = pause_s, longest_pause_s
        self._fade = 1 - 1 / window
        self._pause_s = pause_s
        self._off_until = float("-inf")
        self.epoch = 0
        self.stops = 0
        self._start()

    def _start(self) -> None:
        self.open = 0
        self._worth_usd = self._worth_squared = self._gain_usd = self._cost_usd = 0.0

    @property
    def precision(self) -> float:
        """Share of the resolved ones' worth that came true, the older ones fading."""
        return self._gain_usd / self._worth_usd if self._worth_usd else 0.0

    @property
    def break_even(self) -> float:
        """The precision p* from which on it pays."""
        if self._worth_usd:
            return self._cost_usd / self._worth_usd
        return 1.0 if self._cost_usd else 0.0

    @property
    def trials(self) -> float:
        """How many outcomes of equal worth would say as much (Kish's effective sample size)."""
        return self._worth_usd**2 / self._worth_squared if self._worth_squared else 0.0

    def standing(self, now: float) -> str:
        """`off` (it does not pay, for now), `on` (it pays) or `trial` (not known)."""
        if now < self._off_until:
            return "off"
        return "on" if round(self.trials) >= max(1, self._trickle) and self.precision >= self.break_even else "trial"

    def may_issue(self, now: float) -> bool:
        """Whether one more may be tried."""
        standing = self.standing(now)
        return standing == "on" or (standing == "trial" and self.open < self._trickle)

    def issue(self) -> int:
        """One more is open; the number that its outcome is told with."""
        self.open += 1
        return self.epoch

    def withdraw(self, epoch: int) -> None:
        """One of the open ones cost nothing and tells nothing."""
        if epoch == self.epoch:
            self.open -= 1

    def resolve(self, epoch: int, *, worth_usd: float, gain_usd: float, cost_usd: float, now: float) -> None:
        """One of the open ones came to an end: what it could have gained, did gain (0: wasted) and has cost."""
        if epoch != self.epoch:
            return  # of a trial that is over
        self.open -= 1
        self._worth_usd = self._worth_usd * self._fade + worth_usd
        self._worth_squared = self._worth_squared * self._fade**2 + worth_usd**2
        self._gain_usd = self._gain_usd * self._fade + gain_usd
        self._cost_usd = self._cost_usd * self._fade + cost_usd
        if wilson(min(1.0, self.precision) * self.trials, self.trials, ONE_SIDED_95)[1] < self.break_even:
            self._stop(now)
        elif self.standing(now) == "on" and self.trials >= 4 * self._trickle:
            self._pause_s = self._shortest_pause_s

    def abandon(self) -> None:
        """Nothing more will be heard of those that are open."""
        self.epoch += 1
        self.open = 0

    def _stop(self, now: float) -> None:
        self._off_until = now + self._pause_s
        self._pause_s = min(self._longest_pause_s, 2 * self._pause_s)
        self.epoch += 1
        self.stops += 1
        self._start()
