"""What tests of several rooms share."""

from __future__ import annotations

import sys

import openai
import pytest
from langchain_openai import OpenAIEmbeddings

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


@pytest.fixture
def openai_embeddings(http_clients):
    """Builds OpenAI's embeddings that ask a simulator."""

    def make(simulator, **options) -> OpenAIEmbeddings:
        own = {"model": "text-embedding-3-small", "api_key": "sk-test-key", "max_retries": 0, **http_clients}
        url = {"base_url": simulator.base_url, "check_embedding_ctx_length": False}
        return OpenAIEmbeddings(**{**own, **url, **options})

    return make


@pytest.fixture
def threads_that_interrupt_each_other_often():
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)
