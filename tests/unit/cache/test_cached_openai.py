"""A cached ChatOpenAI over the wire, in front of the simulator."""

from __future__ import annotations

import json

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_llmops.cache.model import cached
from langchain_llmops.simulator import FaultPlan, Scripted, running
from tests.support.models import lookup
from tests.support.ways import ainvoke, each_first_way, each_stream, each_way, invoke, stream


class Verdict(BaseModel):
    """A judgement."""

    n: int


OTHER_VERDICT = type("Verdict", (BaseModel,), {"__annotations__": {"n": int, "why": str}, "__doc__": "A judgement."})
OTHER_VERDICT.__module__, OTHER_VERDICT.__qualname__ = Verdict.__module__, Verdict.__qualname__
SCRIPT = Scripted(
    [
        {"when": {"contains": "order"}, "reply": {"tool_calls": [{"name": "lookup", "arguments": {"order_id": "7"}}]}},
        {"when": {"contains": "judge"}, "reply": json.dumps({"n": 5, "why": "so"})},
        {"default": "Hello there, how are you?"},
    ]
)


@pytest.fixture
def connect(http_clients):
    def connect(simulator, **options):
        own = {"model": "gpt-4o-mini", "api_key": "k", "max_retries": 0, **http_clients}
        return ChatOpenAI(base_url=simulator.base_url, **{**own, **options})

    return connect


@pytest.fixture
def provider():
    with running(SCRIPT) as simulator:
        yield simulator


@pytest.fixture
def openai_model(provider, connect):
    return connect(provider, stream_usage=True)


@each_first_way
@each_way
async def test_openai_is_asked_once_whichever_way(make, provider, openai_model, first, ask) -> None:
    model = cached(openai_model, cache=make())
    brought, found = await first(model), await ask(model)
    assert provider.stats.requests == 1
    assert brought.text == found.text == "Hello there, how are you?"
    assert (
        found.response_metadata["llmops_cache"]["saved"]["total_tokens"] == brought.usage_metadata["total_tokens"] > 0
    )
    assert found.usage_metadata["total_tokens"] == 0


@each_stream
async def test_tool_calls_of_openai_are_streamed_again(make, provider, openai_model, ask) -> None:
    model = cached(openai_model, cache=make(tool_calls=True)).bind_tools([lookup])
    brought, found = await ask(model, "order 7"), await ask(model, "order 7")
    assert provider.stats.requests == 1
    assert [(call["name"], call["args"]) for call in found.tool_calls] == [("lookup", {"order_id": "7"})]
    assert found.tool_calls[0]["id"] != brought.tool_calls[0]["id"]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # of openai's own stream of a class
@each_first_way
@each_way
async def test_structured_output_is_cached_by_the_schema_of_its_class(make, provider, openai_model, first, ask) -> None:
    async def whole(way, model):
        if way in (invoke, ainvoke):
            return await way(model, "judge this")
        *_, last = (
            list(model.stream("judge this")) if way is stream else [one async for one in model.astream("judge this")]
        )
        return last

    model = cached(openai_model, cache=make())
    brought = await whole(first, model.with_structured_output(Verdict))
    found = await whole(ask, model.with_structured_output(Verdict))
    assert provider.stats.requests == 1
    assert brought == found == Verdict(n=5)
    assert type(found) is Verdict
    other = await whole(ask, model.with_structured_output(OTHER_VERDICT))
    assert provider.stats.requests == 2
    assert (type(other), other.why) == (OTHER_VERDICT, "so")


@each_stream
async def test_a_stream_that_openai_cut_is_asked_for_again(make, connect, ask) -> None:
    with running(SCRIPT, faults=FaultPlan(schedule={1: "cut"})) as simulator:
        model = cached(connect(simulator), cache=make())
        try:
            await ask(model)
        except Exception as error:
            assert "Hello" not in str(error)
        assert (await ask(model)).text == "Hello there, how are you?"
        assert simulator.stats.requests == 2


@each_way
async def test_an_overflow_of_openai_is_raised_again_as_its_own_class(make, connect, ask) -> None:
    with running(SCRIPT, faults=FaultPlan(rates={"context_overflow": 1})) as simulator:
        model = cached(connect(simulator), cache=make())
        with pytest.raises(ContextOverflowError) as first:
            await ask(model)
        with pytest.raises(ContextOverflowError, match="was not sent again") as again:
            await ask(model)
        assert type(again.value) is type(first.value)
        assert simulator.stats.requests == 1
