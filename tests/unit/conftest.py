"""What tests of several rooms share."""

from __future__ import annotations

import openai
import pytest

from langchain_llmops.core.events import Bus, CallFinished, FellBack, Retried, Routed


class Facts(list):
    """Every event of a bus, newest last."""

    def __call__(self, event) -> None:
        self.append(event)

    @property
    def moves(self) -> list[tuple]:
        named = {Retried: lambda e: ("retried", e.model, e.error_kind, e.attempt, e.identity)}
        named[FellBack] = lambda e: ("fell back", e.from_model, e.to_model, e.error_kind, e.identity)
        return [named[type(event)](event) for event in self if type(event) in named]

    @property
    def routes(self) -> list[str]:
        return [event.route for event in self if isinstance(event, Routed)]

    @property
    def calls(self) -> list:
        return [e.record for e in self if isinstance(e, CallFinished) and e.record.kind == "model"]


@pytest.fixture
def facts() -> Facts:
    return Facts()


@pytest.fixture
def bus(facts) -> Bus:
    bus = Bus()
    bus.subscribe(facts)
    return bus


@pytest.fixture
async def http_clients():
    """HTTP clients of their own for LangChain's models, whose default ones are shared and never closed."""
    async with openai.DefaultAsyncHttpxClient(verify=False) as async_client:
        with openai.DefaultHttpxClient(verify=False) as client:
            yield {"http_client": client, "http_async_client": async_client}
