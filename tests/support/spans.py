"""Records of one turn, and what OpenTelemetry's own SDK makes of them."""

from __future__ import annotations

import uuid
from dataclasses import replace
from decimal import Decimal

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from langchain_llmops.core.events import CallFinished
from langchain_llmops.core.types import CallRecord, Identity, Money, Usage
from tests.support.recorded import chat

TURN, MODEL, TOOL = (str(uuid.UUID(int=0x0192F0C2_AAAA_7BBB_8CCC_000000000000 + n)) for n in range(3))
CALL = chat(
    run_id=MODEL, trace_id=TURN, parent_run_id=TURN, started_at=1_795_264_351.5, latency_s=0.75,
    identity=Identity(user="u1", session="s1", request="r1"), provider="openai", model="gpt-4o",
    usage=Usage(1000, 200, 300, 40, 50, 60, 7, 8), money=Money(Decimal("0.1"), Decimal("0.2")), ttft_s=0.25,
    inter_token_s=0.02, streamed=True, finish_reason="stop", route="simple", rung=0, node="agent", tags=("beta",),
)  # fmt: skip
ROOT = chat(
    kind="turn", run_id=TURN, trace_id=TURN, name="LangGraph", model=None, started_at=1_795_264_351.0, latency_s=2.0,
    identity=CALL.identity,
)  # fmt: skip
LOOKUP = replace(ROOT, kind="tool", run_id=TOOL, parent_run_id=TURN, name="lookup")
BARE = replace(CALL, parent_run_id=None, trace_id=MODEL)


def provided(exporter, **options):
    provider = TracerProvider(shutdown_on_exit=False, **options)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider
    provider.shutdown()


def tell(reader, *records: CallRecord) -> None:
    for record in records:
        reader(CallFinished(record))


def spans(exporter) -> dict[str, object]:
    return {span.name: span for span in exporter.get_finished_spans()}


def points(measured, name: str) -> dict[frozenset, object]:
    data = measured.get_metrics_data()
    found = [m for r in data.resource_metrics for s in r.scope_metrics for m in s.metrics] if data else []
    return {frozenset(p.attributes.items()): p for m in found if m.name == name for p in m.data.data_points}
