"""Metadata, tags and names may be objects of anybody's class: every reader still reads the call."""

from __future__ import annotations

import json
from dataclasses import replace
from enum import StrEnum

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langchain_llmops.core.events import Bus, CallFinished
from langchain_llmops.core.types import CallRecord
from langchain_llmops.telemetry.logs import CallLog
from langchain_llmops.telemetry.names import NUMBERS, TEXTS, plain
from langchain_llmops.telemetry.otel import OpenTelemetryReader
from langchain_llmops.telemetry.prometheus import PrometheusReader, exposition
from langchain_llmops.telemetry.scoreboard import Scoreboard
from tests.support.recorded import chat

CALL = chat(model="gpt")
ASKED = (*TEXTS, *NUMBERS, "tags")


class Route(StrEnum):
    SIMPLE = "simple"


class Touchy:
    """Can be asked nothing."""

    def refuse(self, *_others: object) -> str:
        raise ValueError("not me")

    __bool__ = __eq__ = __hash__ = __str__ = __repr__ = __format__ = __len__ = refuse


STRANGERS = {
    "int": 7,
    "bool": True,
    "float": 1.5,
    "bytes": b"a",
    "list": ["a"],
    "keys": {("a",): 1},
    "enum": Route.SIMPLE,
    "surrogate": "\ud83d",
    "touchy": Touchy(),
}


@pytest.fixture(params=STRANGERS, ids=str)
def record(request) -> CallRecord:
    """A call whose every field from outside holds the same stranger."""
    value = STRANGERS[request.param]
    return replace(CALL, **dict.fromkeys((*TEXTS, *NUMBERS), value), tags=(value,))


def test_prometheus_counts_it_and_can_be_scraped(record) -> None:
    reader = PrometheusReader()
    reader(CallFinished(record))
    page = exposition(reader.registry).decode()
    assert sum(line.startswith("llmops_calls_total{") for line in page.splitlines()) == 1
    assert reader.failures == 0


def test_the_scoreboard_counts_it(record) -> None:
    board = Scoreboard()
    board(CallFinished(record))
    assert board.score().calls == 1
    json.dumps(board.snapshot())
    assert board.failures == 0


def test_the_log_has_a_line_of_it(record, tmp_path) -> None:
    log = CallLog(str(tmp_path / "calls.jsonl"))
    log(CallFinished(record))
    log.close()
    (line,) = (tmp_path / "calls.jsonl").read_text().splitlines()
    assert json.loads(line)["run_id"] == "run-1"
    assert log.failures == 0


def test_a_span_tells_of_it(record, caplog) -> None:
    exporter, bus = InMemorySpanExporter(), Bus()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    bus.subscribe(OpenTelemetryReader(provider, MeterProvider(shutdown_on_exit=False)))
    bus.publish(CallFinished(record))
    (span,) = exporter.get_finished_spans()
    span.to_json().encode()
    assert not bus.failures
    assert caplog.messages == []  # the SDK says which attributes it cannot take


@pytest.mark.parametrize("name", ASKED)
def test_one_stranger_among_good_values_is_made_text_or_passed_over(name) -> None:
    value = ["a"]
    made = plain(replace(CALL, tags=("beta",), **({} if name == "tags" else {name: value})))
    if name == "tags":
        made = plain(replace(CALL, tags=("beta", value)))
    assert getattr(made, name) == {"rung": None, "attempt": None, "tags": ("beta", "['a']")}.get(name, "['a']")
    assert plain(made) is made


def test_a_record_of_plain_values_is_handed_on_as_it_is() -> None:
    call = replace(CALL, route="simple", rung=0, attempt=2, tags=("beta",), experiment="e", arm="b")
    assert plain(call) is call


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise ValueError("no words")


class Broken:
    """A duration that fails whoever counts it."""

    def fail(self, *_others: object) -> float:
        raise UnspeakableError

    __float__ = __lt__ = __le__ = __gt__ = __ge__ = __add__ = __radd__ = __index__ = fail


@pytest.mark.parametrize("make", [PrometheusReader, Scoreboard])
def test_a_call_that_cannot_be_counted_costs_itself_alone(make, caplog) -> None:
    """It is counted, said once, and neither hurts the calls that wait with it nor whoever has them settled."""
    reader = make()
    for _ in range(2):
        reader(CallFinished(CALL))
        reader(CallFinished(replace(CALL, latency_s=Broken())))
    reader(CallFinished(CALL))
    counted = (
        reader.score("gpt").latency.count
        if isinstance(reader, Scoreboard)
        else reader.registry.get_sample_value("llmops_call_duration_seconds_count", {"kind": "model", "name": "gpt"})
    )
    assert (counted, reader.failures) == (3, 2)
    (told,) = caplog.messages
    assert "only counts such calls from now on: UnspeakableError: <UnspeakableError>" in told


def test_calls_that_prometheus_misses_are_a_series() -> None:
    reader = PrometheusReader()
    reader(CallFinished(replace(CALL, latency_s=Broken())))
    reader.refresh()
    assert reader.registry.get_sample_value("llmops_uncounted_calls_total") == 1
