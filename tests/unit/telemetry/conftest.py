"""A handler, what it tells its bus, clocks that only move when told, and OpenTelemetry's own SDK."""

from __future__ import annotations

from decimal import Decimal

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langchain_llmops.core.events import CallFinished
from langchain_llmops.core.types import Identity, Money
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.spans import provided

WHO = Identity(tenant="acme", user="u1", session="s1", request="r1")
# 10 and 5 tokens of gpt-4o-mini at $0.15 and $0.60 a million
COST = Money(Decimal("0.0000015"), Decimal("0.000003"))


class Clock:
    """Seconds that pass only in `pass_s`."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += seconds


class Told(list):
    """Every record of a bus, newest last."""

    def __call__(self, event) -> None:
        if isinstance(event, CallFinished):
            self.append(event.record)

    def of(self, kind: str) -> list:
        return [record for record in self if record.kind == kind]

    @property
    def only(self):
        (record,) = self
        return record


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def facts(told) -> Told:
    """What listens to `bus` here."""
    return told


@pytest.fixture
def handler(bus, clock) -> OpsCallbackHandler:
    return OpsCallbackHandler(bus, clock=clock, timer=clock)


@pytest.fixture
def config(handler) -> dict:
    """A run's config that names `WHO`."""
    metadata = {"user_id": "u1", "session_id": "s1", "request_id": "r1", "tenant_id": "acme"}
    return {"callbacks": [handler], "metadata": metadata, "tags": ["beta"]}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def provider(exporter):
    yield from provided(exporter)


@pytest.fixture
def measured():
    return InMemoryMetricReader()


@pytest.fixture
def meters(measured):
    provider = MeterProvider([measured], shutdown_on_exit=False)
    yield provider
    provider.shutdown()
