"""The bus as Prometheus series. No label ever names a user or a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from langchain_llmops.core.events import CacheLooked, CallFinished, Event, FellBack, Retried, Routed

if TYPE_CHECKING:
    from langchain_llmops.core.types import CallRecord

__all__ = ["PrometheusReader"]

# The bucket bounds of OpenTelemetry's gen_ai.client.operation.duration, in seconds.
DURATION_BUCKETS: Final = tuple(0.01 * 2**power for power in range(14))
MAX_NAMES: Final = 200


class PrometheusReader:
    """Counts calls, tokens, dollars, cache looks, retries and fallbacks, and times calls.

    Args:
        registry: where the series live; a private one (`reader.registry`) when None. One reader per registry.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()
        self._names: set[str] = set()
        self._calls = Counter(
            "llmops_calls", "Finished calls.", ("kind", "name", "route", "outcome"), registry=registry
        )
        self._tokens = Counter("llmops_tokens", "Tokens charged.", ("model", "direction"), registry=registry)
        self._cost = Counter("llmops_cost_usd", "US dollars charged.", ("model",), registry=registry)
        self._failed_cost = Counter(
            "llmops_failed_cost_usd",
            "US dollars that failed attempts may have cost (estimated).",
            ("model",),
            registry=registry,
        )
        self._saved = Counter("llmops_saved_usd", "US dollars saved by cache hits.", ("model",), registry=registry)
        self._unpriced = Counter(
            "llmops_unpriced_calls", "Calls of models without a price.", ("model",), registry=registry
        )
        self._latency = Histogram(
            "llmops_call_duration_seconds",
            "Duration of calls.",
            ("kind", "name"),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self._ttft = Histogram(
            "llmops_time_to_first_token_seconds",
            "Until the first token.",
            ("model",),
            buckets=DURATION_BUCKETS,
            registry=registry,
        )
        self._looks = Counter("llmops_cache_looks", "Cache lookups.", ("outcome", "level"), registry=registry)
        self._routed = Counter("llmops_routed", "Decisions of the router.", ("route", "model"), registry=registry)
        self._retries = Counter("llmops_retries", "Attempts repeated.", ("model", "error_kind"), registry=registry)
        self._fallbacks = Counter(
            "llmops_fallbacks", "Moves to the next rung.", ("from_model", "to_model", "error_kind"), registry=registry
        )

    def __call__(self, event: Event) -> None:
        """Count one event."""
        match event:
            case CallFinished(record):
                self._call(record)
            case CacheLooked(outcome, level):
                self._looks.labels(outcome, level or "").inc()
            case Routed(route, model):
                self._routed.labels(self._bounded(route), self._bounded(model)).inc()
            case Retried(model, kind):
                self._retries.labels(self._bounded(model), kind).inc()
            case FellBack(from_model, to_model, kind):
                self._fallbacks.labels(self._bounded(from_model), self._bounded(to_model), kind).inc()
            case _:
                pass

    def _call(self, record: CallRecord) -> None:
        name = self._bounded(record.model or record.name)
        outcome = record.error_kind or ("hit" if record.cache_level else "ok")
        self._calls.labels(record.kind, name, self._bounded(record.route or ""), outcome).inc()
        self._latency.labels(record.kind, name).observe(record.latency_s)
        if record.kind == "model":
            self._model_call(record, name)

    def _model_call(self, record: CallRecord, name: str) -> None:
        if record.ttft_s is not None:
            self._ttft.labels(name).observe(record.ttft_s)
        if record.unpriced:
            self._unpriced.labels(name).inc()
        if record.saved_usd is not None:
            self._saved.labels(name).inc(float(record.saved_usd))
        if record.error_kind is not None:
            self._failed_cost.labels(name).inc(float(record.cost_usd))
            return
        self._tokens.labels(name, "input").inc(record.usage.input_tokens)
        self._tokens.labels(name, "output").inc(record.usage.output_tokens)
        self._cost.labels(name).inc(float(record.cost_usd))

    def _bounded(self, name: str) -> str:
        """The first names met keep a series of their own; later ones share `other`."""
        name = name.encode("utf-8", "replace").decode()
        if name in self._names:
            return name
        if len(self._names) >= MAX_NAMES:
            return "other"
        self._names.add(name)
        return name
