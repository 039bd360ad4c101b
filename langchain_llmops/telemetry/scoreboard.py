"""How each model, tool and turn has done lately."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import CallFinished, Event
from langchain_llmops.core.stats import Sketch
from langchain_llmops.core.types import CallKind, CallRecord, ErrorKind
from langchain_llmops.telemetry.masking import described
from langchain_llmops.telemetry.names import shown_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Score", "Scoreboard"]

OTHER: Final = "other"
BATCH: Final = 64
MAX_NAME: Final = 128
_Key = tuple[CallKind, str]

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Score:
    """What some calls have in common: how many, how they ended, what they cost and how long the good ones took.

    `errors` leaves out cancelled calls, which are nobody's fault; `latency` (seconds) holds the calls that were
    answered, and not from a cache: neither a quick refusal nor a hit says how fast a model is. What failed attempts may
    have cost (estimated) is `failed_cost_usd`, apart from `cost_usd`.
    """

    calls: int = 0
    errors: int = 0
    hits: int = 0
    cost_usd: Decimal = Decimal(0)
    failed_cost_usd: Decimal = Decimal(0)
    latency: Sketch = field(default_factory=Sketch)

    def add(self, record: CallRecord) -> None:
        """Count one call."""
        self.calls += 1
        cost = record.money.total_usd if record.money is not None else None
        if record.error_kind is not None:
            self.errors += record.error_kind is not ErrorKind.CANCELLED
            if cost is not None:
                self.failed_cost_usd += cost
            return
        if cost is not None:
            self.cost_usd += cost
        if record.cache_level is not None:
            self.hits += 1
        else:
            self.latency.add(record.latency_s)

    def merge(self, other: Score) -> None:
        """Count what `other` has counted."""
        self.calls += other.calls
        self.errors += other.errors
        self.hits += other.hits
        self.cost_usd += other.cost_usd
        self.failed_cost_usd += other.failed_cost_usd
        self.latency.merge(other.latency)

    @property
    def error_rate(self) -> float | None:
        """Errors among all calls; None when there were no calls."""
        return self.errors / self.calls if self.calls else None

    def to_dict(self) -> dict[str, Any]:
        """The figures, percentiles included, as plain data."""
        figures: dict[str, Any] = {
            "calls": self.calls,
            "errors": self.errors,
            "error_rate": self.error_rate,
            "hits": self.hits,
            "cost_usd": f"{self.cost_usd:f}",
            "failed_cost_usd": f"{self.failed_cost_usd:f}",
        }
        return figures | {f"p{q}_s": self.latency.quantile(q / 100) for q in (50, 95, 99)}


@dataclass(slots=True)
class _Window:
    number: int
    scores: dict[_Key, Score] = field(default_factory=dict)


class Scoreboard:
    """A reader of the bus that keeps the last `windows` x `window_s` seconds, and forgets a window at a time.

    Calls are told apart by kind and by model (or tool, retriever, turn) name; after `max_names` names of a kind in a
    window the rest share `other`. It knows this process only, and a forked child begins anew: add up what several
    report with `Score.merge`. A call that cannot be counted is dropped: counted in `failures` and logged once.

    Args:
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        windows: int = 6,
        window_s: float = 10.0,
        max_names: int = 200,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if windows < 1 or not window_s > 0 or max_names < 1:
            raise ConfigurationError("a scoreboard needs windows >= 1, window_s > 0 and max_names >= 1")
        self._window_count = windows
        self._window_s = window_s
        self._max_names = max_names
        self._clock = clock
        self._begin_life()
        forked = weakref.WeakMethod(self._begin_life)
        os.register_at_fork(after_in_child=lambda: (begin := forked()) and begin())

    def _begin_life(self) -> None:
        """Empty, and with a lock that nobody holds: what the parent of a forked child has seen is the parent's."""
        first = _Window(int(self._clock() // self._window_s))
        self._windows: deque[_Window] = deque([first], maxlen=self._window_count)
        self._waiting: deque[tuple[float, CallRecord]] = deque()
        self._lock = threading.Lock()
        self.failures = 0

    def __call__(self, event: Event) -> None:
        """Take a finished call; calls are counted some at a time, and always before anybody asks."""
        if isinstance(event, CallFinished):
            self._waiting.append((self._clock(), event.record))
            if len(self._waiting) >= BATCH or event.record.content is not None:
                with self._lock:
                    self._settle()

    def score(self, name: str | None = None, kind: CallKind = "model") -> Score:
        """Everything remembered about one model (tool, …), or about all calls of a kind."""
        return _merged(score for _, score in self._remembered(kind, name))

    def latency(self, name: str | None, q: float, kind: CallKind = "model") -> float | None:
        """Seconds at quantile `q` (0..1); None when no call was answered lately."""
        return self.score(name, kind).latency.quantile(q)

    def error_rate(self, name: str | None, kind: CallKind = "model") -> float | None:
        """Share of calls that failed, 0..1; None when there were none lately."""
        return self.score(name, kind).error_rate

    def snapshot(self) -> dict[str, Any]:
        """All figures as plain data: `{seconds, kinds: {kind: figures}, names: {kind: {name: figures}}}`."""
        by_key: dict[_Key, Score] = {}
        by_kind: dict[str, Score] = {}
        for key, score in self._remembered():
            by_key.setdefault(key, Score()).merge(score)
            by_kind.setdefault(key[0], Score()).merge(score)
        names: dict[str, dict[str, Any]] = {kind: {} for kind in by_kind}
        for (kind, name), score in by_key.items():
            names[kind][name] = score.to_dict()
        kinds = {kind: score.to_dict() for kind, score in by_kind.items()}
        return {"seconds": self._window_s * self._window_count, "kinds": kinds, "names": names}

    def _settle(self) -> None:
        while self._waiting:
            at, record = self._waiting.popleft()
            try:
                self._count(at, record)
            except Exception as error:  # noqa: BLE001 - whoever asks for a figure did not make this record
                self._lose(error)

    def _count(self, at: float, record: CallRecord) -> None:
        number = int(at // self._window_s)
        window = self._windows[-1]
        if number > window.number:
            window = _Window(number)
            self._windows.append(window)
        key = (record.kind, shown_name(record))
        score = window.scores.get(key) or self._new_score(window, key)
        score.add(record)

    def _lose(self, error: Exception) -> None:
        self.failures += 1
        if self.failures == 1:
            _log.error("the scoreboard misses a call, and only counts such calls from now on: %s", described(error))

    def _new_score(self, window: _Window, key: _Key) -> Score:
        known = sum(kind == key[0] for kind, _ in window.scores)
        name = key[1][:MAX_NAME] if known < self._max_names else OTHER
        return window.scores.setdefault((key[0], name), Score())

    def _remembered(self, kind: CallKind | None = None, name: str | None = None) -> list[tuple[_Key, Score]]:
        """Scores of the windows that are not too old. Only the newest window can still change, so only it is copied."""
        oldest = int(self._clock() // self._window_s) - self._window_count + 1

        def wanted(window: _Window) -> list[tuple[_Key, Score]]:
            scores = window.scores.items() if window.number >= oldest else ()
            return [(key, score) for key, score in scores if kind in (None, key[0]) and name in (None, key[1])]

        with self._lock:
            self._settle()
            *closed, newest = self._windows
            current = [(key, _merged([score])) for key, score in wanted(newest)]
        return [pair for window in closed for pair in wanted(window)] + current


def _merged(scores: Iterable[Score]) -> Score:
    merged = Score()
    for score in scores:
        merged.merge(score)
    return merged
