"""Chains that never really wait."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel

from langchain_llmops.resilience.fallback import FallbackChain
from langchain_llmops.resilience.retry import RetryPolicy
from langchain_llmops.telemetry.handler import OpsCallbackHandler


class Naps(list):
    """Pauses that were asked for, without any time passing; takes the part of both sleeps."""

    def sleep(self, seconds: float) -> None:
        self.append(seconds)

    async def asleep(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def naps() -> Naps:
    return Naps()


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
