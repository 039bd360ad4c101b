"""The bus as Prometheus series. No label ever names a user or a session."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from langchain_llmops.core.context import text_from
from langchain_llmops.core.events import CacheLooked, CallFinished, Event, FellBack, Retried, Routed
from langchain_llmops.telemetry.masking import described
from langchain_llmops.telemetry.names import BoundedNames, shown_name, storable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.core import Metric

    from langchain_llmops.core.types import CallRecord, Usage

__all__ = ["PrometheusReader", "Reading", "exposition"]

# The bucket bounds of OpenTelemetry's gen_ai.client.operation.duration, in seconds.
DURATION_BUCKETS: Final = tuple(0.01 * 2**power for power in range(14))
MIRROR_EVERY_S: Final = 1.0

Reading = float | Mapping[str, float]
"""What a watched callable returns: one number, or numbers by the value of a label."""

BATCH: Final = 64
HIGHEST: Final = ("_share", "_stored")  # of what workers say of the same thing
PARTS: Final = tuple(
    (part, f"{part}_tokens")
    for part in ("cache_read", "cache_write", "cache_write_1h", "reasoning", "audio_input", "audio_output")
)
_Key = tuple[str, str, str, str]

_log = logging.getLogger(__name__)


def exposition(registry: CollectorRegistry) -> bytes:
    """The text page for a scrape: of all worker processes in multi-process mode, else of `registry`."""
    if _multiprocess():
        for _ in registry.collect():  # so that this worker's part is of now
            pass
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call] # prometheus_client has no types here
    return generate_latest(registry)


class PrometheusReader:
    """Counts calls, tokens, dollars, cache looks, retries and fallbacks, and times calls.

    Several worker processes (gunicorn, uvicorn): set `PROMETHEUS_MULTIPROC_DIR` to an empty folder before Python
    starts, serve `exposition(reader.registry)` as `text/plain` from any worker, and call
    `prometheus_client.multiprocess.mark_process_dead(pid)` when one ends; a scrape then holds the sums of all workers.

    A call that cannot be counted is dropped: it is in `failures` and `llmops_uncounted_calls`, and the first is logged.

    Args:
        registry: where the series live; a private one (`reader.registry`) when None. One reader per registry.
        clock: monotonic seconds.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.registry = registry or CollectorRegistry()
        self._clock = clock
        self._bounded = defaultdict[str, BoundedNames](BoundedNames)  # by kind: run names crowd out no model
        self._series: dict[_Key, _Series] = {}
        self._mirrors: list[_Mirror] = []
        self._mirrored = clock()
        self._waiting: deque[CallRecord] = deque()
        self._batch = 1 if _multiprocess() else BATCH
        self.failures = 0
        self.registry.register(_BeforeScrape(self.refresh))
        self._metrics = _Metrics(self.registry)
        forked = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (begin := forked()) and begin())

    def __call__(self, event: Event) -> None:
        """Take one event; calls are counted some at a time, and always before a scrape."""
        if isinstance(event, CallFinished):
            self._waiting.append(event.record)
            if len(self._waiting) >= self._batch or event.record.content is not None:
                self.settle()
        else:
            self._other(event)
        if self._mirrors and self._clock() - self._mirrored >= MIRROR_EVERY_S:
            self._mirrored = self._clock()
            for mirror in self._mirrors:
                mirror.refresh()

    def refresh(self) -> None:
        """Write what is watched to the shared files of multi-process mode, as at the end of a worker."""
        self.settle()
        for mirror in self._mirrors:
            mirror.refresh()

    def settle(self) -> None:
        """Count what was taken: together this costs a fraction of counting between two calls of LangChain's."""
        waiting = self._waiting
        while waiting:
            try:
                record = waiting.popleft()
            except IndexError:  # another thread took the last one
                return
            try:
                self._call(record)
            except Exception as error:  # noqa: BLE001 - whoever settles, a scrape or a close, did not make this record
                self._lose(error)

    def watch(
        self,
        name: str,
        documentation: str,
        read: Callable[[], Reading],
        *,
        label: str | None = None,
        counter: bool = False,
    ) -> None:
        """Add a series that `read` knows, a gauge unless `counter`; `label` names the keys of the mapping it returns.

        `read` must be cheap and must not raise: it is asked at every scrape (in multi-process mode, where a scrape
        reaches only one worker, the others' is of their last event or end, at most a second before it; the workers'
        are summed there, but of one whose name ends in `_share` or `_stored`, the highest counts).
        """
        labels = (label,) if label is not None else ()
        if _multiprocess():
            self._mirrors.append(_Mirror(name, documentation, labels, read, counter=counter, registry=self.registry))
        else:
            self.registry.register(_Watched(name, documentation, labels, read, counter=counter))

    def _call(self, record: CallRecord) -> None:
        outcome = record.error_kind or ("hit" if record.cache_level is not None else "ok")
        route = "" if record.route is None else text_from(record.route)
        key = (record.kind, shown_name(record), route, outcome)
        (self._series.get(key) or self._new_series(key)).add(record)

    def _lose(self, error: Exception) -> None:
        self.failures += 1
        self._metrics.uncounted.inc()
        if self.failures == 1:
            _log.error("Prometheus misses a call, and only counts such calls from now on: %s", described(error))

    def _after_fork(self) -> None:
        """What waits here waits in the parent, too, and is counted there."""
        self._waiting.clear()

    def _new_series(self, key: _Key) -> _Series:
        """A name beyond the bound is never a key of its own, or the table would grow where the series do not."""
        kind, name, route, outcome = key
        known = (kind, self._bounded[kind](name), self._bounded["route"](route), outcome)
        if known not in self._series:
            self._series[known] = _Series(self._metrics, *known)
        return self._series[known]

    def _other(self, event: Event) -> None:
        metrics, bounded, a_route = self._metrics, self._bounded["model"], self._bounded["route"]
        match event:
            case CacheLooked(outcome, level):
                metrics.looks.labels(outcome, level or "").inc()
            case Routed(route, model):
                metrics.routed.labels(a_route(route), bounded(model)).inc()
            case Retried(model, kind):
                metrics.retries.labels(bounded(model), kind).inc()
            case FellBack(from_model, to_model, kind):
                metrics.fallbacks.labels(bounded(from_model), bounded(to_model), kind).inc()
            case _:
                pass


class _Metrics:
    """Every metric of the reader, registered once."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, documentation: str, *labels: str) -> Counter:
            return Counter(name, documentation, labels, registry=registry)

        def seconds(name: str, documentation: str, *labels: str) -> Histogram:
            return Histogram(name, documentation, labels, buckets=DURATION_BUCKETS, registry=registry)

        self.calls = counter("llmops_calls", "Finished calls.", "kind", "name", "route", "outcome")
        self.errors = counter("llmops_errors", "Calls that failed, by kind of error.", "kind", "name", "error_kind")
        self.repeats = counter("llmops_repeated_calls", "Calls made again after one like it failed.", "kind", "name")
        self.duration = seconds("llmops_call_duration_seconds", "Duration of calls.", "kind", "name")
        self.first_token = seconds("llmops_time_to_first_token_seconds", "Until the first token.", "model")
        self.inter_token = seconds(
            "llmops_inter_token_seconds", "Mean pause between the streamed pieces of a call.", "model"
        )
        self.tokens = counter("llmops_tokens", "Tokens charged.", "model", "direction")
        self.token_parts = counter(
            "llmops_token_parts", "Tokens of a special kind; llmops_tokens counts them too.", "model", "part"
        )
        self.cost = counter("llmops_cost_usd", "US dollars charged.", "model")
        self.failed_cost = counter(
            "llmops_failed_cost_usd", "US dollars that failed attempts may have cost (estimated).", "model"
        )
        self.saved = counter("llmops_saved_usd", "US dollars saved by cache hits.", "model")
        self.unpriced = counter("llmops_unpriced_calls", "Calls of models without a price.", "model")
        self.estimated = counter("llmops_estimated_calls", "Calls whose tokens are estimates of ours.", "model")
        self.clamped = counter("llmops_clamped_calls", "Calls whose provider reported impossible tokens.", "model")
        self.uncounted = counter("llmops_uncounted_calls", "Calls that could not be counted whole.")
        self.looks = counter("llmops_cache_looks", "Cache lookups.", "outcome", "level")
        self.routed = counter("llmops_routed", "Decisions of the router.", "route", "model")
        self.retries = counter("llmops_retries", "Attempts repeated.", "model", "error_kind")
        self.fallbacks = counter("llmops_fallbacks", "Moves to the next rung.", "from_model", "to_model", "error_kind")


class _Series:
    """The label children of calls of one kind, name, route and outcome, each looked up at its first use and kept."""

    def __init__(self, metrics: _Metrics, kind: str, name: str, route: str, outcome: str) -> None:
        self._metrics = metrics
        self._labels = (kind, name, outcome)
        self._name = name
        self._parts: dict[str, Callable[[float], None]] = {}
        self._count = metrics.calls.labels(kind, name, route, outcome).inc
        self._time = metrics.duration.labels(kind, name).observe

    def add(self, record: CallRecord) -> None:
        """Count one call."""
        self._count()
        self._time(record.latency_s)
        if record.error_kind is not None:
            self._error()
        if record.retries:
            self._repeat()
        if record.asks_model:
            self._add_model(record)

    def _add_model(self, record: CallRecord) -> None:
        if record.ttft_s is not None:
            self._first_token(record.ttft_s)
        if record.inter_token_s is not None:
            self._inter_token(record.inter_token_s)
        if record.estimated or record.unpriced or record.clamped or record.saved_usd is not None:
            self._add_unusual(record)
        cost = float(record.cost_usd)
        if record.error_kind is not None:
            self._failed_cost(cost)
            return
        usage = record.usage
        self._input(usage.input_tokens)
        self._output(usage.output_tokens)
        self._cost(cost)
        if (
            usage.cache_read_tokens
            or usage.cache_write_tokens
            or usage.cache_write_1h_tokens
            or usage.reasoning_tokens
            or usage.audio_input_tokens
            or usage.audio_output_tokens
        ):
            self._add_parts(usage)

    def _add_unusual(self, record: CallRecord) -> None:
        metrics = self._metrics
        for seen, counter in (
            (record.estimated, metrics.estimated),
            (record.unpriced, metrics.unpriced),
            (record.clamped, metrics.clamped),
        ):
            if seen:
                counter.labels(self._name).inc()
        if record.saved_usd is not None:
            metrics.saved.labels(self._name).inc(float(record.saved_usd))

    def _add_parts(self, usage: Usage) -> None:
        for part, field in PARTS:
            tokens = getattr(usage, field)
            if tokens:
                if part not in self._parts:
                    self._parts[part] = self._metrics.token_parts.labels(self._name, part).inc
                self._parts[part](tokens)

    @cached_property
    def _error(self) -> Callable[[], None]:
        return self._metrics.errors.labels(*self._labels).inc

    @cached_property
    def _repeat(self) -> Callable[[], None]:
        return self._metrics.repeats.labels(*self._labels[:2]).inc

    @cached_property
    def _first_token(self) -> Callable[[float], None]:
        return self._metrics.first_token.labels(self._name).observe

    @cached_property
    def _inter_token(self) -> Callable[[float], None]:
        return self._metrics.inter_token.labels(self._name).observe

    @cached_property
    def _input(self) -> Callable[[float], None]:
        return self._metrics.tokens.labels(self._name, "input").inc

    @cached_property
    def _output(self) -> Callable[[float], None]:
        return self._metrics.tokens.labels(self._name, "output").inc

    @cached_property
    def _cost(self) -> Callable[[float], None]:
        return self._metrics.cost.labels(self._name).inc

    @cached_property
    def _failed_cost(self) -> Callable[[float], None]:
        return self._metrics.failed_cost.labels(self._name).inc


class _BeforeScrape(Collector):
    """Has no series; registries ask collectors in the order of registration, so `act` comes before all series."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act = act

    def describe(self) -> Iterable[Metric]:
        """Nothing."""
        return []

    def collect(self) -> Iterable[Metric]:
        """Nothing, after having acted."""
        self._act()
        return []


class _Watched(Collector):
    """A series that is read when it is scraped."""

    def __init__(
        self, name: str, documentation: str, labels: tuple[str, ...], read: Callable[[], Reading], *, counter: bool
    ) -> None:
        self._family = CounterMetricFamily if counter else GaugeMetricFamily
        self._described = (name, documentation)
        self._labels = labels
        self._read = read

    def describe(self) -> Iterable[Metric]:
        """Its name, so that a registry refuses it twice."""
        return [self._family(*self._described, labels=self._labels)]

    def collect(self) -> Iterable[Metric]:
        """Its values now."""
        family = self._family(*self._described, labels=self._labels)
        for labels, value in _readings(self._read()):
            family.add_metric(labels, value)
        return [family]


class _Mirror:
    """The same in multi-process mode, where only what is written to the shared files can be scraped."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: tuple[str, ...],
        read: Callable[[], Reading],
        *,
        counter: bool,
        registry: CollectorRegistry,
    ) -> None:
        mode: Literal["livemax", "livesum"] = "livemax" if name.endswith(HIGHEST) else "livesum"
        self._gauge = None if counter else Gauge(name, documentation, labels, registry=registry, multiprocess_mode=mode)
        self._counter = Counter(name, documentation, labels, registry=registry) if counter else None
        self._read = read
        self._counted: dict[tuple[str, ...], float] = {}

    def refresh(self) -> None:
        """Write the values as they are now."""
        for labels, value in _readings(self._read()):
            if self._gauge is not None:
                (self._gauge.labels(*labels) if labels else self._gauge).set(value)
            if self._counter is not None:
                child = self._counter.labels(*labels) if labels else self._counter
                child.inc(max(0.0, value - self._counted.get(labels, 0.0)))
                self._counted[labels] = value


def _readings(reading: Reading) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(reading, Mapping):
        yield from (((storable(name),), float(value)) for name, value in dict(reading).items())
    else:
        yield (), float(reading)


def _multiprocess() -> bool:
    return values.ValueClass is not values.MutexValue
