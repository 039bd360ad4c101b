"""A handler, what it tells its bus, and clocks that only move when told."""

from __future__ import annotations

import pytest

from langchain_llmops.core.events import Bus, CallFinished
from langchain_llmops.telemetry.handler import OpsCallbackHandler


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
def bus(told) -> Bus:
    bus = Bus()
    bus.subscribe(told)
    return bus


@pytest.fixture
def handler(bus, clock) -> OpsCallbackHandler:
    return OpsCallbackHandler(bus, clock=clock, timer=clock)


@pytest.fixture
def config(handler) -> dict:
    """A run's config that names user, session, request and tenant."""
    metadata = {"user_id": "u1", "session_id": "s1", "request_id": "r1", "tenant_id": "acme"}
    return {"callbacks": [handler], "metadata": metadata, "tags": ["beta"]}
