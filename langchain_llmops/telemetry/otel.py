"""Calls as OpenTelemetry spans and metrics, by the semantic conventions for generative AI (extra `otel`)."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.errors import ConfigurationError, MissingExtraError
from langchain_llmops.core.events import CallFinished, Event
from langchain_llmops.telemetry.masking import mask_secrets
from langchain_llmops.telemetry.names import BoundedNames, plain, storable

try:
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Tracer
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import Decision
except ImportError as error:
    raise MissingExtraError("export to OpenTelemetry", "otel") from error

if TYPE_CHECKING:
    from langchain_llmops.core.types import CallKind, CallRecord

__all__ = ["OpenTelemetryReader"]

SCOPE: Final = "langchain_llmops"
MAX_TRACES: Final = 10_000
TRACE_ID_BYTES: Final = 16
SPAN_ID_BYTES: Final = 8
SECONDS: Final = tuple(0.01 * 2**power for power in range(14))
TOKENS: Final = tuple(4**power for power in range(14))
OPERATIONS: Final[dict[CallKind, str]] = {
    "model": "chat",
    "embedding": "embeddings",
    "tool": "execute_tool",
    "retriever": "retrieval",
    "turn": "invoke_workflow",
}
NAMED_BY: Final[dict[CallKind, str]] = {
    "tool": "gen_ai.tool.name",
    "retriever": "gen_ai.data_source.id",
    "turn": "gen_ai.workflow.name",
}
# The conventions' words for what LangChain's integrations put into `ls_provider` (or, where they put nothing, for what
# langchain-core makes of their class names), in lower case and without separators, where the two differ.
PROVIDERS: Final = {
    **dict.fromkeys(("amazon", "amazonbedrock", "aws", "awsbedrock", "bedrock", "bedrockconverse"), "aws.bedrock"),
    **dict.fromkeys(("anthropicbedrock", "anthropicmantle", "openaimantle"), "aws.bedrock"),
    **dict.fromkeys(("azureai", "azureaiinference", "azureinference"), "azure.ai.inference"),
    **dict.fromkeys(("azureaichatcompletionsmodel", "azureaiembeddingsmodel"), "azure.ai.inference"),
    **dict.fromkeys(("azure", "azureaiopenai", "azureopenai"), "azure.ai.openai"),
    **dict.fromkeys(("gemini", "googlegenai", "googlegenerativeai"), "gcp.gemini"),
    "google": "gcp.gen_ai",
    **dict.fromkeys(("anthropicvertex", "googleanthropicvertex", "googlevertexai", "vertexai"), "gcp.vertex_ai"),
    **dict.fromkeys(("ibm", "ibmwatsonx", "watsonx", "watsonxai"), "ibm.watsonx.ai"),
    **dict.fromkeys(("mistral", "mistralai"), "mistral_ai"),
    **dict.fromkeys(("moonshot", "moonshotai"), "moonshot_ai"),
    "openaicodex": "openai",
    "perplexityai": "perplexity",
    "xai": "x_ai",
}


class OpenTelemetryReader:
    """Makes spans and metrics of finished calls.

    The spans of one request form one trace: its ids follow from the run ids (hashed, as samplers need random ones), so
    that a call that ends before its parent already knows it. Below a span of the application they join its trace.
    Metrics leave out cache hits, which asked no model, and estimated tokens, as the conventions demand; `time per
    output chunk` is the mean of a call. There is no convention for cost yet: model spans carry `llmops.cost.usd`,
    those of failed attempts `llmops.failed_cost.usd`: what they may have cost. Prompts and answers are never exported.

    Args:
        tracer_provider, meter_provider: the SDK's; the global ones when None, also if they are set later.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = None if tracer_provider is None else _tracer(tracer_provider)
        self._traces: OrderedDict[str, trace.SpanContext] = OrderedDict()
        self._lock = threading.Lock()
        self._bounded = BoundedNames()
        meter = metrics.get_meter(SCOPE, meter_provider=meter_provider)
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=TOKENS,
        )
        self._duration, self._first_chunk, self._per_chunk = (
            meter.create_histogram(
                f"gen_ai.client.operation.{name}", "s", description, explicit_bucket_boundaries_advisory=SECONDS
            )
            for name, description in (
                ("duration", "GenAI operation duration."),
                ("time_to_first_chunk", "Time to receive the first chunk."),
                ("time_per_output_chunk", "Time per output chunk after the first one, mean of a call."),
            )
        )

    def __call__(self, event: Event) -> None:
        """Export a finished call."""
        if isinstance(event, CallFinished):
            record = plain(event.record)
            if record.asks_model and record.cache_level is None:
                self._measure(record)
            if self._tracer is None:
                self._tracer = _tracer(trace.get_tracer_provider())
            if self._tracer is not None:
                self._span(self._tracer, record)

    def _span(self, tracer: Tracer, record: CallRecord) -> None:
        place, parent = self._place(tracer, record)
        assert isinstance(tracer.id_generator, _RunIds)  # noqa: S101 - _tracer() sees to it
        tracer.id_generator.expect(place.trace_id, _digest(record.run_id, SPAN_ID_BYTES))
        context = Context()
        if parent is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(parent), context)
        start_ns = int(record.started_at * 1e9)
        span = tracer.start_span(
            storable(f"{OPERATIONS[record.kind]} {record.model or record.name}"),
            context,
            trace.SpanKind.CLIENT if record.asks_model else trace.SpanKind.INTERNAL,
            _attributes(record),
            start_time=start_ns,
        )
        if record.error_kind is not None:
            span.set_status(trace.Status(trace.StatusCode.ERROR, str(record.error_kind)))
        span.end(start_ns + int(max(0.0, record.latency_s) * 1e9))

    def _place(self, tracer: Tracer, record: CallRecord) -> tuple[trace.SpanContext, trace.SpanContext | None]:
        """Where the trace of a run lives, and the span above this one, if any.

        The first call of a trace decides for all of them. Its root is the last to end, and is forgotten then.
        """
        around = trace.get_current_span().get_span_context()
        with self._lock:
            place = self._traces.get(record.trace_id)
            if place is None:
                place = around if around.is_valid else _new_trace(tracer, record.trace_id)
                self._traces[record.trace_id] = place
                if len(self._traces) > MAX_TRACES:
                    self._traces.popitem(last=False)
            if record.parent_run_id is None:
                del self._traces[record.trace_id]
        if record.parent_run_id is not None:
            span_id = _digest(record.parent_run_id, SPAN_ID_BYTES)
            return place, trace.SpanContext(place.trace_id, span_id, is_remote=False, trace_flags=place.trace_flags)
        return place, around if around.is_valid and around.trace_id == place.trace_id else None

    def _measure(self, record: CallRecord) -> None:
        model = self._bounded(record.model or record.name)
        attributes: dict[str, str] = {
            "gen_ai.operation.name": OPERATIONS[record.kind],
            "gen_ai.provider.name": self._bounded(_provider(record.provider)),
            "gen_ai.request.model": model,
        }
        if record.error_kind is not None:
            self._duration.record(record.latency_s, {**attributes, "error.type": _error_type(record)})
            return
        attributes["gen_ai.response.model"] = model
        self._duration.record(record.latency_s, attributes)
        if not record.estimated:
            self._tokens.record(record.usage.input_tokens, {**attributes, "gen_ai.token.type": "input"})
            self._tokens.record(record.usage.output_tokens, {**attributes, "gen_ai.token.type": "output"})
        if record.ttft_s is not None:
            self._first_chunk.record(record.ttft_s, attributes)
        if record.inter_token_s is not None:
            self._per_chunk.record(record.inter_token_s, attributes)


class _RunIds(IdGenerator):
    """Gives the span that this thread starts next the ids it must have."""

    def __init__(self) -> None:
        self._next = threading.local()

    def expect(self, trace_id: int, span_id: int) -> None:
        """The ids of the next span of this thread."""
        self._next.trace_id, self._next.span_id = trace_id, span_id

    def generate_trace_id(self) -> int:
        """The expected one."""
        return int(self._next.trace_id)

    def generate_span_id(self) -> int:
        """The expected one."""
        return int(self._next.span_id)

    def is_trace_id_random(self) -> bool:
        """A digest is as good as random."""
        return True


def _tracer(provider: trace.TracerProvider) -> Tracer | None:
    """Our own tracer of a provider (one per scope name) with our ids; None while nobody has set a provider up."""
    tracer = provider.get_tracer(SCOPE)
    if isinstance(tracer, trace.ProxyTracer | trace.NoOpTracer):
        return None
    if not isinstance(tracer, Tracer):
        raise ConfigurationError(
            f"tracer_provider is a {type(provider).__name__}; use opentelemetry.sdk.trace.TracerProvider"
        )
    if not isinstance(tracer.id_generator, _RunIds):
        tracer.id_generator = _RunIds()
    return tracer


def _new_trace(tracer: Tracer, name: str) -> trace.SpanContext:
    """A trace of our own. Calls end before their parents, so the first to end asks the sampler for all of them."""
    trace_id = _digest(name, TRACE_ID_BYTES)
    sampled = tracer.sampler.should_sample(Context(), trace_id, SCOPE).decision is Decision.RECORD_AND_SAMPLE
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if sampled else trace.TraceFlags.DEFAULT)
    return trace.SpanContext(trace_id, 0, is_remote=False, trace_flags=flags)


def _digest(run_id: str, size: int) -> int:
    """LangChain's ids are UUIDv7: their fixed bits lie where a ratio sampler looks, and it would take all or none."""
    return int.from_bytes(hashlib.blake2b(run_id.encode(), digest_size=size).digest())


@lru_cache(maxsize=256)
def _provider(name: str | None) -> str:
    """As the conventions name it; one that they do not know keeps its name."""
    return PROVIDERS.get("".join(filter(str.isalnum, name.lower())), name) if name else "unknown"


def _error_type(record: CallRecord) -> str:
    return storable(record.error_class or str(record.error_kind))


def _attributes(record: CallRecord) -> dict[str, Any]:
    who = record.identity
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": OPERATIONS[record.kind],
        "gen_ai.conversation.id": who.session,
        "session.id": who.session,
        "user.id": who.user,
        "error.type": _error_type(record) if record.error_kind is not None else None,
        "llmops.request.id": who.request,
        "llmops.run.id": record.run_id,
        "llmops.node": record.node,
        "llmops.retries": record.retries or None,
        "llmops.tags": record.tags or None,
    }
    if record.asks_model:
        attributes |= _model_attributes(record)
    else:
        attributes[NAMED_BY[record.kind]] = record.name
    present = {name: value for name, value in attributes.items() if value is not None}
    return {name: _exportable(value) for name, value in mask_secrets(present).items()}


def _model_attributes(record: CallRecord) -> dict[str, Any]:
    usage = record.usage
    return {
        "gen_ai.provider.name": _provider(record.provider),
        "gen_ai.request.model": record.model,
        "gen_ai.request.stream": record.streamed or None,
        "gen_ai.response.model": record.model if record.error_kind is None else None,
        "gen_ai.response.finish_reasons": [record.finish_reason] if record.finish_reason else None,
        "gen_ai.response.time_to_first_chunk": record.ttft_s,
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens or None,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens or None,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens or None,
        "gen_ai.usage.audio.input_tokens": usage.audio_input_tokens or None,
        "gen_ai.usage.audio.output_tokens": usage.audio_output_tokens or None,
        "llmops.cost.usd" if record.error_kind is None else "llmops.failed_cost.usd": (
            float(record.cost_usd) if record.money is not None else None
        ),
        "llmops.unpriced": record.unpriced or None,
        "llmops.estimated": record.estimated or None,
        "llmops.cache.level": record.cache_level,
        "llmops.route": record.route,
        "llmops.rung": record.rung,
        "llmops.service_tier": record.service_tier,
    }


def _exportable(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    return [_exportable(item) for item in value] if isinstance(value, list) else value
