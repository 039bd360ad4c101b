"""An agent behind the cache: hits are runs of its model, for whom the run or the agent's context names."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from langchain_llmops.cache.model import cached
from langchain_llmops.cache.policy import Policy
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.types import Identity
from langchain_llmops.middleware.caching import CacheMiddleware
from langchain_llmops.middleware.routing import RouterMiddleware
from langchain_llmops.router.model import ModelRouter
from langchain_llmops.simulator import Scripted, running
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.models import ScriptedModel, answer, lookup, tool_call


@pytest.fixture
def cache():
    with TieredCache() as cache:
        yield cache


@pytest.fixture
def config(bus):
    return {"callbacks": [OpsCallbackHandler(bus)], "metadata": {"user_id": "ada"}}


@pytest.fixture
def model():
    return ScriptedModel(lambda messages: answer("hello", response_metadata={"model_name": "gpt-4o-mini"}))


async def _invoke(agent, asked="hi", config=None, **more):
    return agent.invoke({"messages": [("user", asked)]}, config, **more)


async def _ainvoke(agent, asked="hi", config=None, **more):
    return await agent.ainvoke({"messages": [("user", asked)]}, config, **more)


both_colours = pytest.mark.parametrize("ask", [_invoke, _ainvoke], ids=["sync", "async"])


@both_colours
async def test_a_hit_in_an_agent_is_a_run_that_costs_nothing(cache, config, model, facts, ask) -> None:
    agent = create_agent(model, [], middleware=[CacheMiddleware(cache)])
    usage = UsageMetadataCallbackHandler()
    for _ in range(3):
        await ask(agent, config={**config, "callbacks": [*config["callbacks"], usage]})
    assert model.calls == 1
    assert [call.cache_level for call in facts.calls] == [None, "L1", "L1"]
    assert [bool(call.cost_usd) for call in facts.calls] == [True, False, False]
    assert usage.usage_metadata["gpt-4o-mini"]["total_tokens"] == 15


@both_colours
async def test_three_equal_turns_keep_six_messages(cache, model, ask) -> None:
    # every turn of an agent asks with the history, so what repeats is the thread: each of them has its own ids
    agent = create_agent(model, [], middleware=[CacheMiddleware(cache)], checkpointer=InMemorySaver())
    for thread in ("a", "b"):
        for _ in range(3):
            state = await ask(agent, config={"configurable": {"thread_id": thread}})
        assert [message.type for message in state["messages"]] == ["human", "ai"] * 3
        assert len({message.id for message in state["messages"]}) == 6
    assert model.calls == 3


@both_colours
async def test_the_system_prompt_and_the_tools_are_part_of_the_question(cache, model, ask) -> None:
    @tool
    def one() -> str:
        """One."""
        return "1"

    @tool
    def two() -> str:
        """Two."""
        return "2"

    for prompt, tools in (("a", [one]), ("b", [one]), ("a", [two]), ("a", [one])):
        await ask(create_agent(model, tools, system_prompt=prompt, middleware=[CacheMiddleware(cache)]))
    assert model.calls == 3


@both_colours
async def test_an_agent_and_a_call_outside_of_it_share_an_answer(cache, model, ask) -> None:
    await ask(create_agent(model, [], middleware=[CacheMiddleware(cache)]))
    assert cached(model, cache=cache).invoke([("user", "hi")]).text == "hello"
    assert model.calls == 1


@both_colours
async def test_calls_of_tools_are_made_anew_unless_the_policy_keeps_them(ask) -> None:
    paid = []

    @tool
    def pay(dollars: int) -> str:
        """Pay."""
        paid.append(dollars)
        return "paid"

    for policy, calls in ((None, 3), (Policy(tool_calls={"pay"}), 2)):
        model = ScriptedModel(
            lambda messages: (
                answer("done") if messages[-1].type == "tool" else answer("", tool_calls=[tool_call("pay", dollars=5)])
            )
        )
        with TieredCache(policy=policy) as cache:
            agent = create_agent(model, [pay], middleware=[CacheMiddleware(cache)])
            for _ in range(2):
                state = await ask(agent)
        assert state["messages"][-1].text == "done"
        assert model.calls == calls, "what the tool said is the same, whatever the id of its call"
    assert paid == [5] * 4, "the tool itself is never cached"


@dataclass
class Asker:
    """An agent's context."""

    user_id: str | None = None
    tenant_id: str | None = None


@both_colours
async def test_the_context_of_an_agent_names_who_asks_where_its_run_does_not(model, facts, bus, ask) -> None:
    config = {"callbacks": [OpsCallbackHandler(bus)]}
    with TieredCache(scope="user") as cache:
        agent = create_agent(model, [], middleware=[CacheMiddleware(cache)], context_schema=Asker)
        for user in ("ada", "bob", "ada"):
            await ask(agent, config=config, context=Asker(user_id=user, tenant_id="acme"))
        assert [call.cache_level for call in facts.calls] == [None, None, "L1"]
        assert facts.calls[-1].identity == Identity(tenant="acme", user="ada")
        await ask(agent, config={**config, "metadata": {"user_id": "bob"}}, context=Asker("ada", "acme"))
        assert facts.calls[-1].identity == Identity(tenant="acme", user="bob"), "the run's config wins"
        assert facts.calls[-1].cache_level == "L1"
        await ask(agent, config=config, context=Asker())
        assert facts.calls[-1].cache_level is None


@both_colours
async def test_tenants_share_nothing_and_need_no_handler(cache, ask) -> None:
    model = ScriptedModel("for acme", "for bolt")
    agent = create_agent(model, [], middleware=[CacheMiddleware(cache)], context_schema=Asker)
    said = [(await ask(agent, context={"tenant_id": one}))["messages"][-1].text for one in ("acme", "bolt", "acme")]
    assert said == ["for acme", "for bolt", "for acme"]


@both_colours
@pytest.mark.parametrize("unwrap", [True, False])
async def test_a_router_behind_the_cache_decides_and_its_model_answers(cache, config, facts, bus, ask, unwrap) -> None:
    small, large = ScriptedModel("small"), ScriptedModel("large", model_name="gpt-4o")
    router = ModelRouter({"simple": small, "complex": large}, bus=bus)
    middleware = [CacheMiddleware(cache), *([RouterMiddleware()] if unwrap else [])]
    agent = create_agent(router, [], middleware=middleware)
    for _ in range(2):
        assert (await ask(agent, "where is my order", config))["messages"][-1].text == "small"
    assert small.calls == 1
    assert facts.routes == ["simple", "simple"]


@both_colours
async def test_an_agent_that_streams_its_messages_streams_a_hit(cache, model, ask) -> None:
    agent = create_agent(model, [], middleware=[CacheMiddleware(cache)])
    for _ in range(2):
        pieces = list(agent.stream({"messages": [("user", "hi")]}, stream_mode="messages"))
        assert {type(piece).__name__ for piece, _ in pieces} == {"AIMessageChunk"}
        assert "".join(piece.text for piece, _ in pieces) == "hello"
    assert model.calls == 1


class Verdict(BaseModel):
    """A judgement."""

    n: int


class Reason(BaseModel):
    """A judgement."""

    n: int
    why: str


Reason.__name__ = Reason.__qualname__ = "Verdict"


@both_colours
async def test_an_agents_output_class_is_known_by_its_schema(cache, http_clients, ask) -> None:
    with running(Scripted([{"default": '{"n": 5, "why": "so"}'}])) as simulator:
        options = {"model": "gpt-4o-mini", "api_key": "k", "max_retries": 0, **http_clients}
        model = ChatOpenAI(base_url=simulator.base_url, **options)
        for schema, requests in ((Verdict, 1), (Verdict, 1), (Reason, 2), (Reason, 2)):
            middleware = [CacheMiddleware(cache)]
            agent = create_agent(model, [lookup], response_format=ProviderStrategy(schema), middleware=middleware)
            found = (await ask(agent))["structured_response"]
            assert type(found) is schema
            assert simulator.stats.requests == requests
