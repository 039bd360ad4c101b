"""Which trace a span is in: right parents although children end first, samplers, threads, foreign spans."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace

import pytest
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    ParentBased,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)

from langchain_llmops.telemetry import otel
from langchain_llmops.telemetry.otel import OpenTelemetryReader
from tests.support.models import ScriptedModel, answer
from tests.support.spans import BARE, CALL, LOOKUP, ROOT, TOOL, TURN, provided, spans, tell


@pytest.fixture
def reader(provider, meters) -> OpenTelemetryReader:
    return OpenTelemetryReader(provider, meters)


def test_children_that_end_first_hang_below_their_parent(reader, exporter) -> None:
    tell(reader, CALL, LOOKUP, ROOT)
    told = spans(exporter)
    root = told["invoke_workflow LangGraph"]
    assert root.parent is None
    for name in ("chat gpt-4o", "execute_tool lookup"):
        assert told[name].parent.span_id == root.context.span_id
        assert told[name].context.trace_id == root.context.trace_id
    assert len({span.context.span_id for span in told.values()}) == 3


def test_calls_below_a_span_of_the_application_join_its_trace(reader, provider, exporter) -> None:
    with provider.get_tracer("app").start_as_current_span("GET /chat") as request:
        around = request.get_span_context()
        tell(reader, CALL, ROOT)
    told = spans(exporter)
    root, call = told["invoke_workflow LangGraph"], told["chat gpt-4o"]
    assert root.parent.span_id == around.span_id
    assert call.parent.span_id == root.context.span_id
    assert {root.context.trace_id, call.context.trace_id} == {around.trace_id}


def test_the_first_call_decides_where_its_whole_trace_lives(reader, provider, exporter) -> None:
    """A tool that opens a span of its own around a nested call must not tear the trace in two."""
    tell(reader, CALL)
    with provider.get_tracer("app").start_as_current_span("inside the tool"):
        tell(reader, replace(CALL, run_id=str(uuid.uuid4()), model="nested"), ROOT)
    told = spans(exporter)
    ours = {told[name].context.trace_id for name in ("chat gpt-4o", "chat nested", "invoke_workflow LangGraph")}
    assert len(ours) == 1
    assert told["invoke_workflow LangGraph"].parent is None
    assert told["inside the tool"].context.trace_id not in ours


def test_a_trace_is_forgotten_with_its_root_and_at_a_bound_without_it(reader, monkeypatch) -> None:
    tell(reader, CALL, ROOT)
    assert not reader._traces
    monkeypatch.setattr(otel, "MAX_TRACES", 10)
    tell(reader, *(replace(CALL, trace_id=str(uuid.uuid4())) for _ in range(50)))
    assert len(reader._traces) == 10


def traces_of(records, exporter, **options) -> set[int]:
    for provider in provided(exporter, **options):
        tell(OpenTelemetryReader(provider, MeterProvider(shutdown_on_exit=False)), *records)
    return {span.context.trace_id for span in exporter.get_finished_spans()}


@pytest.mark.parametrize("sampler", [TraceIdRatioBased(0.3), ParentBased(TraceIdRatioBased(0.3))])
def test_a_ratio_sampler_takes_its_share_of_uuid7_traces_and_takes_them_whole(exporter, sampler) -> None:
    """The variant bits of a UUID lie where the sampler compares: raw ids would be taken never or always."""
    records = []
    for number in range(400):
        trace_id = str(uuid.UUID(int=0x0192F0C2_AAAA_7000_8000_000000000000 | number << 80 | hash(number * 7919)))
        ids = {"trace_id": trace_id, "parent_run_id": trace_id}
        records += [replace(CALL, run_id=str(uuid.uuid4()), **ids), replace(ROOT, run_id=trace_id, trace_id=trace_id)]
    kept = traces_of(records, exporter, sampler=sampler)
    assert 60 <= len(kept) <= 180
    assert len(exporter.get_finished_spans()) == 2 * len(kept)


def test_what_the_sampler_drops_is_not_exported(exporter) -> None:
    assert traces_of([CALL, ROOT, BARE], exporter, sampler=ALWAYS_OFF) == set()


class Meeting(Sampler):
    """Takes every span, and makes threads meet between the choice of a span's ids and their use."""

    def __init__(self) -> None:
        self.barrier = None

    def should_sample(self, *args, **kwargs) -> SamplingResult:
        if self.barrier is not None:
            self.barrier.wait(timeout=10)
        return ALWAYS_ON.should_sample(*args, **kwargs)

    def get_description(self) -> str:
        return "meeting"


def test_spans_that_start_at_once_in_two_threads_keep_their_own_ids(exporter) -> None:
    meeting = Meeting()
    calls = [replace(CALL, run_id=str(uuid.uuid4()), trace_id=t, parent_run_id=t, model=t) for t in (TURN, TOOL)]
    for provider in provided(exporter, sampler=meeting):
        reader = OpenTelemetryReader(provider, MeterProvider(shutdown_on_exit=False))
        tell(reader, *calls)
        alone = {(s.name, s.context.trace_id, s.context.span_id) for s in exporter.get_finished_spans()}
        exporter.clear()
        meeting.barrier = threading.Barrier(2)
        threads = [threading.Thread(target=tell, args=(reader, call)) for call in calls]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {(s.name, s.context.trace_id, s.context.span_id) for s in exporter.get_finished_spans()} == alone


def test_two_readers_of_one_provider_agree_on_the_ids(provider, meters, exporter) -> None:
    first, second = OpenTelemetryReader(provider, meters), OpenTelemetryReader(provider, meters)
    tell(first, CALL)
    tell(second, ROOT)
    told = spans(exporter)
    assert told["chat gpt-4o"].parent.span_id == told["invoke_workflow LangGraph"].context.span_id


def test_the_applications_own_tracers_keep_their_ids(reader, provider, exporter) -> None:
    tell(reader, BARE)
    with provider.get_tracer("app").start_as_current_span("mine"):
        pass
    assert spans(exporter)["mine"].context.trace_id != spans(exporter)["chat gpt-4o"].context.trace_id


def test_a_run_of_langchain_is_a_tree_of_spans_without_its_content(reader, exporter, handler, bus) -> None:
    bus.subscribe(reader)

    @tool
    def lookup(order: str) -> str:
        """Look an order up."""
        return f"order {order} is secret"

    model = ScriptedModel(answer("the answer is 42"))
    chain = RunnableLambda(lambda text: (lookup.invoke({"order": text}), model.invoke(text))[1]).with_config(
        run_name="support"
    )
    chain.invoke("my question", {"callbacks": [handler], "metadata": {"user_id": "u1", "session_id": "s1"}})
    told = spans(exporter)
    root = told.pop("invoke_workflow support")
    assert {name: span.parent.span_id for name, span in told.items()} == {
        "chat gpt-4o-mini": root.context.span_id,
        "execute_tool lookup": root.context.span_id,
    }
    page = "".join(span.to_json() for span in exporter.get_finished_spans())
    for content in ("my question", "answer is 42", "is secret"):
        assert content not in page
    assert not bus.failures
