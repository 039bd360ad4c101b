"""OpenAI's embeddings over the wire, cached, in front of the simulator."""

from __future__ import annotations

import asyncio

import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from langchain_llmops.cache.embeddings import CachedEmbeddings
from langchain_llmops.cache.traits import traits_of
from langchain_llmops.simulator import FaultPlan, running
from tests.support.words import Words


@pytest.fixture
def connect(shelves, openai_embeddings):
    """OpenAI's embeddings on a simulator, bare and cached."""

    def connect(simulator):
        inner = openai_embeddings(simulator)
        return inner, CachedEmbeddings(inner, shelves, shelves, model=inner.model)

    return connect


async def test_openai_is_sent_one_request_for_fifty_concurrent_queries(connect, shelves):
    with running() as simulator:
        inner, cached = connect(simulator)
        texts = [f"where is order {n % 30}" for n in range(50)]
        answers = await asyncio.gather(*map(cached.aembed_query, texts))
        assert simulator.stats.requests == 1
        assert await cached.aembed_documents(texts) == answers
        assert cached.embed_documents(texts) == answers
        assert cached.embed_query(texts[3]) == answers[3]
        assert simulator.stats.requests == 1
        assert await inner.aembed_documents(texts) == answers
    entries = (await shelves.everything()).values()
    assert all(len(data) < 4 * 1536 + 150 for data in entries)


async def test_a_rate_limit_fails_the_batch_once_and_keeps_nothing(connect, shelves):
    with running(faults=FaultPlan(schedule={1: "rate_limit"})) as simulator:
        _, cached = connect(simulator)
        failed = await asyncio.gather(*(cached.aembed_query(f"t{n}") for n in range(9)), return_exceptions=True)
        assert all(isinstance(error, openai.RateLimitError) for error in failed)
        assert simulator.stats.requests == 1
        assert not shelves.writes
        assert len(await cached.aembed_query("t0")) == 1536
        assert simulator.stats.requests == 2


async def test_a_text_that_openai_refuses_fails_its_caller_alone(connect):
    with running() as simulator:
        _, cached = connect(simulator)
        texts = [*(f"t{n}" for n in range(31)), ""]
        answers = await asyncio.gather(*map(cached.aembed_query, texts), return_exceptions=True)
        assert isinstance(answers[-1], openai.BadRequestError)
        assert all(len(vector) == 1536 for vector in answers[:-1])
        assert simulator.stats.requests == 1 + 2 * 5


def test_only_openais_own_methods_are_taken_to_be_symmetric():
    class Instructed(OpenAIEmbeddings):
        def embed_query(self, text, **more):
            return super().embed_query(f"query: {text}", **more)

    openai = {"model": "text-embedding-3-small", "api_key": "k"}
    assert traits_of(OpenAIEmbeddings(**openai))["symmetric"]
    assert not traits_of(Instructed(**openai))["symmetric"]
    assert not traits_of(Words())["symmetric"]
    assert traits_of(OpenAIEmbeddings(**openai)) != traits_of(OpenAIEmbeddings(**openai, dimensions=256))
