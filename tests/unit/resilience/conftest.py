"""Chains that never really wait, and what they tell their bus."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel

from langchain_llmops.core.events import Bus, CallFinished, FellBack, Retried
from langchain_llmops.resilience.fallback import FallbackChain
from langchain_llmops.resilience.retry import RetryPolicy
from langchain_llmops.telemetry.handler import OpsCallbackHandler


class Naps(list):
    """Pauses that were asked for, without any time passing; takes the part of both sleeps."""

    def sleep(self, seconds: float) -> None:
        self.append(seconds)

    async def asleep(self, seconds: float) -> None:
        self.append(seconds)


class Facts(list):
    def __call__(self, event) -> None:
        self.append(event)

    @property
    def moves(self) -> list[tuple]:
        named = {Retried: lambda e: ("retried", e.model, e.error_kind, e.attempt, e.identity)}
        named[FellBack] = lambda e: ("fell back", e.from_model, e.to_model, e.error_kind, e.identity)
        return [named[type(event)](event) for event in self if type(event) in named]

    @property
    def calls(self) -> list:
        return [e.record for e in self if isinstance(e, CallFinished) and e.record.kind == "model"]


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
def facts() -> Facts:
    return Facts()


@pytest.fixture
def bus(facts) -> Bus:
    bus = Bus()
    bus.subscribe(facts)
    return bus


@pytest.fixture
def chain(naps, bus):
    """Builds chains that never really wait."""

    def chain(*rungs: BaseChatModel, attempts: int = 2, **options) -> FallbackChain:
        policy = RetryPolicy(max_attempts=attempts, base_s=1.0, max_s=8.0, draw=lambda: 1.0)
        return FallbackChain(list(rungs), policy=policy, bus=bus, sleep=naps.sleep, asleep=naps.asleep, **options)

    return chain


@pytest.fixture
def config(bus) -> dict[str, Any]:
    return {"callbacks": [OpsCallbackHandler(bus)], "metadata": {"user_id": "ada", "session_id": "s"}}
