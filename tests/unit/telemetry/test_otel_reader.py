"""OpenTelemetry: real SDK, real spans in the words of the conventions, measurements, and nobody's prompt."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from decimal import Decimal

import pytest
from opentelemetry import trace
from opentelemetry.semconv._incubating.attributes.gen_ai_attributes import GenAiProviderNameValues
from opentelemetry.trace import SpanKind, StatusCode

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import CacheLooked
from langchain_llmops.core.types import ErrorKind, Identity, Money, Usage
from langchain_llmops.telemetry import otel
from langchain_llmops.telemetry.names import MAX_NAMES
from langchain_llmops.telemetry.otel import OpenTelemetryReader
from tests.support.spans import BARE, CALL, LOOKUP, MODEL, points, spans, tell


@pytest.fixture
def reader(provider, meters) -> OpenTelemetryReader:
    return OpenTelemetryReader(provider, meters)


def test_a_span_lasts_as_long_as_its_call(reader, exporter) -> None:
    tell(reader, CALL, replace(BARE, model="late", latency_s=-0.5))
    told = spans(exporter)
    span = told["chat gpt-4o"]
    assert span.start_time == pytest.approx(1_795_264_351_500_000_000, abs=1000)
    assert span.end_time - span.start_time == 750_000_000
    assert told["chat late"].end_time == told["chat late"].start_time


def test_a_model_span_speaks_the_conventions(reader, exporter) -> None:
    tell(reader, CALL)
    span = spans(exporter)["chat gpt-4o"]
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert span.instrumentation_scope.name == "langchain_llmops"
    assert dict(span.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "gpt-4o",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 0.25,
        "gen_ai.conversation.id": "s1",
        "session.id": "s1",
        "user.id": "u1",
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 200,
        "gen_ai.usage.cache_read.input_tokens": 300,
        "gen_ai.usage.cache_creation.input_tokens": 90,
        "gen_ai.usage.reasoning.output_tokens": 60,
        "gen_ai.usage.audio.input_tokens": 7,
        "gen_ai.usage.audio.output_tokens": 8,
        "llmops.cost.usd": pytest.approx(0.3),
        "llmops.request.id": "r1",
        "llmops.run.id": MODEL,
        "llmops.route": "simple",
        "llmops.rung": 0,
        "llmops.node": "agent",
        "llmops.tags": ("beta",),
    }


@pytest.mark.parametrize(
    ("kind", "name", "attribute"),
    [
        ("tool", "execute_tool lookup", "gen_ai.tool.name"),
        ("retriever", "retrieval lookup", "gen_ai.data_source.id"),
        ("turn", "invoke_workflow lookup", "gen_ai.workflow.name"),
    ],
)
def test_only_model_spans_carry_tokens_and_cost(reader, exporter, kind, name, attribute) -> None:
    tell(reader, replace(LOOKUP, kind=kind, money=Money(Decimal(1))))
    span = spans(exporter)[name]
    assert span.kind is SpanKind.INTERNAL
    assert span.attributes[attribute] == "lookup"
    assert (span.attributes["user.id"], span.attributes["session.id"]) == ("u1", "s1")
    assert not [key for key in span.attributes if "usage" in key or "cost" in key]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("amazon_bedrock", "aws.bedrock"),
        ("anthropic", "anthropic"),
        ("anthropic-bedrock", "aws.bedrock"),
        ("anthropic-mantle", "aws.bedrock"),
        ("openai-mantle", "aws.bedrock"),
        ("bedrock", "aws.bedrock"),
        ("azure", "azure.ai.openai"),
        ("azure_openai", "azure.ai.openai"),
        ("azure_ai", "azure.ai.inference"),
        ("azureaichatcompletionsmodel", "azure.ai.inference"),
        ("cohere", "cohere"),
        ("deepseek", "deepseek"),
        ("google_genai", "gcp.gemini"),
        ("googlegenerativeai", "gcp.gemini"),
        ("google_vertexai", "gcp.vertex_ai"),
        ("google_anthropic_vertex", "gcp.vertex_ai"),
        ("anthropicvertex", "gcp.vertex_ai"),
        ("google", "gcp.gen_ai"),
        ("groq", "groq"),
        ("ibm", "ibm.watsonx.ai"),
        ("watsonx", "ibm.watsonx.ai"),
        ("mistral", "mistral_ai"),
        ("mistralai", "mistral_ai"),
        ("moonshot", "moonshot_ai"),
        ("openai", "openai"),
        ("openai-codex", "openai"),
        ("perplexity", "perplexity"),
        ("xai", "x_ai"),
        ("fireworks", "fireworks"),
        ("together", "together"),
        ("ollama", "ollama"),
        ("My-Own", "My-Own"),
        (None, "unknown"),
    ],
)
def test_a_provider_is_named_as_the_conventions_name_it(reader, exporter, measured, ours, theirs) -> None:
    tell(reader, replace(CALL, provider=ours))
    assert spans(exporter)["chat gpt-4o"].attributes["gen_ai.provider.name"] == theirs
    (attributes,) = points(measured, "gen_ai.client.operation.duration")
    assert ("gen_ai.provider.name", theirs) in attributes


def test_every_translation_is_a_word_of_the_conventions() -> None:
    """`moonshot_ai` is newer than the installed package."""
    known = {word.value for word in GenAiProviderNameValues} | {"moonshot_ai"}
    assert set(otel.PROVIDERS.values()) <= known
    assert all(word.isalnum() and word == word.lower() for word in otel.PROVIDERS)


def test_only_spans_of_answers_carry_a_cost(reader, exporter) -> None:
    """What a failed attempt may have cost has a name of its own: a sum over `llmops.cost.usd` is the ledger's."""
    tell(reader, replace(BARE, error_kind=ErrorKind.TIMEOUT, estimated=True), replace(BARE, model="answered"))
    told = spans(exporter)
    failed, answered = told["chat gpt-4o"].attributes, told["chat answered"].attributes
    assert ("llmops.cost.usd" in failed, failed["llmops.failed_cost.usd"]) == (False, pytest.approx(0.3))
    assert ("llmops.failed_cost.usd" in answered, answered["llmops.cost.usd"]) == (False, pytest.approx(0.3))


def test_a_failed_call_is_a_failed_span(reader, exporter, measured) -> None:
    tell(reader, replace(CALL, error_kind=ErrorKind.TIMEOUT, error_class="ModelTimeoutError"))
    span = spans(exporter)["chat gpt-4o"]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "timeout")
    assert span.attributes["error.type"] == "ModelTimeoutError"
    assert "gen_ai.response.model" not in span.attributes
    (attributes,) = points(measured, "gen_ai.client.operation.duration")
    assert ("error.type", "ModelTimeoutError") in attributes
    assert points(measured, "gen_ai.client.token.usage") == {}


def test_metrics_have_the_names_the_buckets_and_the_labels_of_the_conventions(reader, measured) -> None:
    tell(reader, CALL, CALL)
    usage = points(measured, "gen_ai.client.token.usage")
    by_type = {dict(attributes)["gen_ai.token.type"]: point for attributes, point in usage.items()}
    assert (by_type["input"].sum, by_type["output"].sum) == (2000, 400)
    assert by_type["input"].explicit_bounds == tuple(4**n for n in range(14))
    labels = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-4o"}
    labels["gen_ai.response.model"] = "gpt-4o"
    for name, value in (("duration", 0.75), ("time_to_first_chunk", 0.25), ("time_per_output_chunk", 0.02)):
        ((attributes, point),) = points(measured, f"gen_ai.client.operation.{name}").items()
        assert dict(attributes) == labels
        assert (point.count, point.sum) == (2, pytest.approx(2 * value))
        assert point.explicit_bounds == pytest.approx(tuple(0.01 * 2**n for n in range(14)))


def test_a_hit_and_an_estimate_are_no_measurements(reader, exporter, measured) -> None:
    tell(reader, replace(CALL, cache_level="L1", usage=Usage()), replace(CALL, estimated=True))
    assert points(measured, "gen_ai.client.token.usage") == {}
    ((_, point),) = points(measured, "gen_ai.client.operation.duration").items()
    assert point.count == 1
    assert len(exporter.get_finished_spans()) == 2


def test_metrics_never_name_a_user_and_models_are_bounded(reader, measured) -> None:
    for number in range(2 * MAX_NAMES):
        who = Identity(user=f"u{number}", session=f"s{number}", request=f"r{number}")
        tell(reader, replace(CALL, identity=who, model=f"m{number}"))
    found = points(measured, "gen_ai.client.operation.duration")
    assert len(found) <= MAX_NAMES + 1
    assert sum(point.count for point in found.values()) == 2 * MAX_NAMES
    assert {key for attributes in found for key, _ in attributes} == {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.request.model",
        "gen_ai.response.model",
    }


def test_secrets_and_broken_text_do_not_reach_the_exporter(reader, exporter) -> None:
    tell(reader, replace(BARE, model="half \ud83d", tags=("api_key=c4n4ry", "\ud83d"), identity=Identity("\ud83d")))
    (span,) = exporter.get_finished_spans()
    span.to_json().encode()
    assert "c4n4ry" not in span.to_json()


def test_other_events_are_not_calls(reader, exporter) -> None:
    reader(CacheLooked("hit", "L1"))
    assert exporter.get_finished_spans() == ()


def test_a_provider_that_is_not_the_sdks_is_refused() -> None:
    class Tracer(trace.Tracer):
        def start_span(self, *args, **kwargs):
            raise AssertionError

        start_as_current_span = start_span

    class Foreign(trace.TracerProvider):
        def get_tracer(self, *args, **kwargs):
            return Tracer()

    with pytest.raises(ConfigurationError, match=r"^tracer_provider is a Foreign; use opentelemetry.sdk"):
        OpenTelemetryReader(Foreign())


GLOBAL = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from langchain_llmops.core.events import CallFinished
from langchain_llmops.core.types import CallRecord
from langchain_llmops.telemetry.otel import OpenTelemetryReader

call = CallFinished(CallRecord(kind="model", run_id="r", trace_id="r", name="m", started_at=1.0, latency_s=0.3))
reader = OpenTelemetryReader()
reader(call)
exporter = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)
reader(call)
print([span.name for span in exporter.get_finished_spans()])
"""


def in_a_fresh_process(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_global_provider_may_be_set_after_the_reader_is_made() -> None:
    assert in_a_fresh_process(GLOBAL) == "['chat m']"


def test_without_the_extra_the_error_is_the_line_that_installs_it() -> None:
    code = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"
        "from langchain_llmops.core.errors import MissingExtraError\n"
        "try:\n"
        "    import langchain_llmops.telemetry.otel\n"
        "except MissingExtraError as error:\n"
        "    print(error)\n"
    )
    assert in_a_fresh_process(code) == ("export to OpenTelemetry needs an extra: pip install 'langchain-llmops[otel]'")
