"""Embedding calls as records: real clients of OpenAI's on a real server, and any other `Embeddings`."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import openai
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableLambda
from langgraph.graph import END, START, StateGraph

from langchain_llmops.core.context import acting_for
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.tokens import HeuristicTokenCounter
from langchain_llmops.core.types import ErrorKind, Identity
from langchain_llmops.core.usage import LONGEST_COUNTED
from langchain_llmops.simulator import running
from langchain_llmops.simulator.faults import FaultPlan
from langchain_llmops.telemetry.embeddings import ObservedEmbeddings
from tests.unit.telemetry.conftest import WHO

TEXTS = ["where is my order", "the order is late", "thank you"]


class Words(Embeddings):
    """Says nothing about tokens; fails with what it is given."""

    model_name = "voyage-3"

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error

    def embed_documents(self, texts):
        if self.error is not None:
            raise self.error
        return [[float(len(text))] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


@pytest.fixture
def connect(bus, openai_embeddings):
    """OpenAI's embeddings on a simulator, observed."""

    def connect(simulator, **options):
        embeddings = openai_embeddings(simulator, **options)
        return embeddings, ObservedEmbeddings(embeddings, bus)

    return connect


def reported_by(simulator) -> int:
    """Tokens as the simulator counts them: with a client that hides nothing."""
    with openai.DefaultHttpxClient(verify=False) as http:
        client = openai.OpenAI(base_url=simulator.base_url, api_key="k", http_client=http)
        return client.embeddings.create(model="text-embedding-3-small", input=TEXTS).usage.prompt_tokens


async def test_the_tokens_that_openai_reports_are_charged_to_the_last(connect, told) -> None:
    with running() as simulator:
        bare, observed = connect(simulator)
        assert observed.embed_documents(TEXTS) == bare.embed_documents(TEXTS)
        tokens = reported_by(simulator)
    record = told.only
    assert (record.kind, record.provider, record.model) == ("embedding", "openai", "text-embedding-3-small")
    assert (record.usage.input_tokens, record.usage.output_tokens, record.estimated) == (tokens, 0, False)
    assert record.cost_usd == tokens * Decimal("0.02") / 10**6
    assert record.error_kind is None


async def test_an_async_call_and_a_query_are_the_same_record(connect, told) -> None:
    with running() as simulator:
        _, observed = connect(simulator)
        await observed.aembed_documents(TEXTS)
        observed.embed_documents(TEXTS)
        await observed.aembed_query(TEXTS[0])
        observed.embed_query(TEXTS[0])
    many, many_sync, one, one_sync = told
    assert many.usage == many_sync.usage
    assert one.usage == one_sync.usage
    assert 0 < one.usage.input_tokens < many.usage.input_tokens
    assert not any(record.estimated for record in told)


async def test_calls_at_the_same_time_keep_their_tokens_apart(connect, told) -> None:
    with running() as simulator:
        _, observed = connect(simulator)
        await asyncio.gather(*(observed.aembed_query("word " * length) for length in range(1, 9)))
    assert len({record.usage.input_tokens for record in told}) == 8


async def test_several_requests_of_one_call_are_summed(connect, told) -> None:
    with running() as simulator:
        _, observed = connect(simulator, chunk_size=1)
        observed.embed_documents(TEXTS)
        assert told.only.usage.input_tokens == reported_by(simulator)


async def test_a_refused_call_is_a_record_that_costs_nothing(connect, told) -> None:
    with running(faults=FaultPlan(rates={"rate_limit": 1.0})) as simulator:
        _, observed = connect(simulator)
        with pytest.raises(openai.RateLimitError):
            observed.embed_query("x")
    assert (told.only.error_kind, told.only.error_class) == (ErrorKind.RATE_LIMIT, "RateLimitError")
    assert (told.only.money, told.only.usage.input_tokens) == (None, 0)


async def test_the_users_own_object_is_left_as_it_was(connect, bus) -> None:
    with running() as simulator:
        bare, _ = connect(simulator)
        clients = (bare.client, bare.async_client)
        ObservedEmbeddings(bare, bus).embed_query("x")
        assert (bare.client, bare.async_client) == clients


async def test_a_call_inside_a_call_counts_its_own_tokens_only(connect, told, bus) -> None:
    """An outer wrapper that asks two others: what comes after an inner call is the outer's again."""

    class Both(Words):
        def embed_query(self, text):
            inner.embed_query(text)
            return bare_twin.embed_query(text)

    with running() as simulator:
        _, inner = connect(simulator)
        bare_twin = inner._embeddings
        ObservedEmbeddings(Both(), bus, provider="openai", model="text-embedding-3-small").embed_query("hello there")
    one, outer = told
    assert one.usage == outer.usage
    assert not outer.estimated


def test_tokens_that_nobody_reports_are_counted_and_flagged(bus, told) -> None:
    ObservedEmbeddings(Words(), bus, provider="voyageai", counter=HeuristicTokenCounter()).embed_documents(TEXTS)
    tokens = sum(HeuristicTokenCounter().count(text) for text in TEXTS)
    assert (told.only.usage.input_tokens, told.only.estimated) == (tokens, True)
    assert told.only.cost_usd == tokens * Decimal("0.06") / 10**6


class Counting(HeuristicTokenCounter):
    """Knows how much it was made to read."""

    def __init__(self) -> None:
        self.characters = 0

    def count(self, text: str) -> int:
        self.characters += len(text)
        return super().count(text)


@pytest.mark.parametrize("texts", [["word " * 400_000], ["word " * 10_000] * 40], ids=["one", "many"])
def test_of_very_much_text_the_beginning_stands_for_the_rest(bus, told, texts) -> None:
    """The caller waits for the count: it must not grow with the text."""
    counter = Counting()
    ObservedEmbeddings(Words(), bus, counter=counter).embed_documents(texts)
    assert 0 < counter.characters <= 2 * LONGEST_COUNTED
    exact = sum(HeuristicTokenCounter().count(text) for text in texts)
    assert told.only.usage.input_tokens == pytest.approx(exact, rel=0.01)
    assert told.only.estimated


def test_what_is_embedded_and_is_no_text_hurts_nobody(bus, told) -> None:
    class Pictures(Words):
        def embed_documents(self, texts):
            return [[1.0] for _ in texts]

    assert ObservedEmbeddings(Pictures(), bus).embed_documents([{"image": "a.png"}, None]) == [[1.0], [1.0]]
    assert told.only.usage.input_tokens > 0


@pytest.mark.parametrize("given", ["openai:text-embedding-3-small", None])
def test_what_is_no_embeddings_object_is_refused(bus, given) -> None:
    with pytest.raises(ConfigurationError, match=f"must be a LangChain Embeddings object, not {given!r}"):
        ObservedEmbeddings(given, bus)


def test_what_is_refused_is_told_without_its_secrets(bus) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ObservedEmbeddings({"model": "m", "api_key": "abcdefgh"}, bus)
    assert "abcdefgh" not in str(caught.value)


def test_a_model_without_a_price_is_unpriced(bus, told) -> None:
    ObservedEmbeddings(Words(), bus).embed_query("x")
    assert (told.only.provider, told.only.unpriced, told.only.money) == ("words", True, None)


async def test_a_cancelled_call_is_recorded_and_still_cancelled(bus, told) -> None:
    with pytest.raises(asyncio.CancelledError):
        ObservedEmbeddings(Words(asyncio.CancelledError()), bus, provider="voyageai").embed_query("x")
    assert told.only.error_kind == ErrorKind.CANCELLED


def test_time_is_measured_from_start_to_end(bus, told, clock) -> None:
    class Slow(Words):
        def embed_query(self, text):
            clock.pass_s(2.5)
            return [1.0]

    ObservedEmbeddings(Slow(), bus, clock=clock, timer=clock).embed_query("x")
    assert (told.only.started_at, told.only.latency_s) == (1000.0, 2.5)


def test_inside_a_chain_the_record_names_who_asks_and_the_run_above(bus, told, handler, config) -> None:
    observed = ObservedEmbeddings(Words(), bus, place_of=lambda run_id: (f"trace of {run_id}", str(run_id)))
    RunnableLambda(observed.embed_query).invoke("x", config)
    (record,), (turn,) = told.of("embedding"), told.of("turn")
    assert (record.identity, record.tags) == (WHO, ("beta",))
    assert (record.parent_run_id, record.trace_id) == (turn.run_id, f"trace of {turn.run_id}")


async def test_inside_a_graph_the_record_names_its_node(bus, told, config) -> None:
    observed = ObservedEmbeddings(Words(), bus)

    async def search(state: dict) -> dict:
        await observed.aembed_query("x")
        return state

    graph = StateGraph(dict).add_node("search", search).add_edge(START, "search").add_edge("search", END).compile()
    await graph.ainvoke({"q": "x"}, config)
    (record,) = told.of("embedding")
    assert (record.identity.user, record.node) == ("u1", "search")


def test_outside_of_chains_the_identity_is_the_one_given_or_that_of_the_block(bus, told) -> None:
    ObservedEmbeddings(Words(), bus, identity=WHO).embed_query("x")
    with acting_for(WHO):
        ObservedEmbeddings(Words(), bus).embed_query("x")
    ObservedEmbeddings(Words(), bus).embed_query("x")
    assert [record.identity for record in told] == [WHO, WHO, Identity()]
