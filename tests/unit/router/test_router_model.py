"""The router is a chat model that decides once per call, and is nowhere in the way."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableBranch
from langchain_core.tools import tool
from pydantic import BaseModel

from langchain_llmops.core.context import ROUTE
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import Routed
from langchain_llmops.core.types import Identity
from langchain_llmops.middleware.routing import RouterMiddleware
from langchain_llmops.router.model import Decision, ModelRouter
from langchain_llmops.router.rules import Rules
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.models import ScriptedModel, answer, tool_call

EASY, HARD = "where is my order", "compare these contracts"


@pytest.fixture
def small() -> ScriptedModel:
    return ScriptedModel("small", model_name="gpt-4o-mini")


@pytest.fixture
def large() -> ScriptedModel:
    return ScriptedModel("large", model_name="gpt-4o")


@pytest.fixture
def router(small, large, bus) -> ModelRouter:
    return ModelRouter({"simple": small, "complex": large}, bus=bus)


@pytest.fixture
def config(bus) -> dict[str, Any]:
    return {"callbacks": [OpsCallbackHandler(bus)], "metadata": {"user_id": "ada", "session_id": "s"}, "tags": ["t"]}


def check_both(answers, facts) -> None:
    assert answers == ["small", "large"]
    assert facts.routes == ["simple", "complex"], "one decision per call"
    assert [(call.route, call.model) for call in facts.calls] == [("simple", "gpt-4o-mini"), ("complex", "gpt-4o")]
    assert {call.identity for call in facts.calls} == {Identity(user="ada", session="s")}
    assert [event.identity for event in facts if isinstance(event, Routed)] == [Identity(user="ada", session="s")] * 2


def test_easy_questions_go_to_the_simple_model_and_hard_ones_to_the_complex(router, config, facts) -> None:
    check_both([router.invoke(text, config).text for text in (EASY, HARD)], facts)


async def test_the_same_in_async_code(router, config, facts) -> None:
    check_both([(await router.ainvoke(text, config)).text for text in (EASY, HARD)], facts)


def test_the_same_when_streamed(router, config, facts) -> None:
    check_both(["".join(chunk.text for chunk in router.stream(text, config)) for text in (EASY, HARD)], facts)


async def test_the_same_when_streamed_in_async_code(router, config, facts) -> None:
    async def read(text: str) -> str:
        return "".join([chunk.text async for chunk in router.astream(text, config)])

    check_both([await read(EASY), await read(HARD)], facts)


def test_the_same_in_a_batch(router, config, facts) -> None:
    answers = router.batch([EASY, HARD], {**config, "max_concurrency": 1})
    check_both([answer.text for answer in answers], facts)


def test_the_same_in_a_chain(router, config, facts) -> None:
    chain = ChatPromptTemplate.from_template("{q}") | router | StrOutputParser()
    check_both([chain.invoke({"q": text}, config) for text in (EASY, HARD)], facts)


def test_the_same_by_generate(router, config, facts) -> None:
    """The old way in, still used inside LangChain: its own run must not count the call a second time."""
    for text in (EASY, HARD):
        router.generate([[HumanMessage(text)]], callbacks=config["callbacks"], metadata=config["metadata"])
    assert [(call.route, call.model) for call in facts.calls] == [("simple", "gpt-4o-mini"), ("complex", "gpt-4o")]
    assert len({call.trace_id for call in facts.calls}) == 2


def test_the_caller_sees_the_chosen_models_run_and_no_other(router, config, facts) -> None:
    router.invoke(EASY, config)
    assert len(facts.calls) == 1
    assert facts.calls[0].parent_run_id is None
    assert "t" in facts.calls[0].tags


def test_deciding_asks_no_model_and_gives_the_reasons(router, small, large) -> None:
    assert router.decide([HumanMessage(HARD)]) == Decision("complex", ("asks for analysis or judgement",))
    assert router.decide([HumanMessage(EASY)]) == Decision("simple", ("no rule asked for more",))
    assert small.calls == large.calls == 0


def test_every_form_of_input_is_understood(router) -> None:
    prompt = ChatPromptTemplate.from_messages([("user", HARD)]).invoke({})
    for value in (HARD, [("user", HARD)], [{"role": "user", "content": HARD}], [HumanMessage(HARD)], prompt):
        assert router.invoke(value).text == "large"


def test_options_of_a_call_reach_the_chosen_model(router, small) -> None:
    router.invoke(EASY, stop=["x"], temperature=0)
    assert small.asked[0][1] == {"temperature": 0}


# LCEL


def test_a_branch_is_langchains_own_and_decides_once_per_input(router, config, facts) -> None:
    branch = router.as_branch()
    assert isinstance(branch, RunnableBranch)
    check_both([branch.invoke(text, config).text for text in (EASY, HARD)], facts)


async def test_a_branch_works_in_async_code(router, config, facts) -> None:
    branch = router.as_branch()
    check_both([(await branch.ainvoke(text, config)).text for text in (EASY, HARD)], facts)


def test_a_branch_streams(router, config, facts) -> None:
    branch = ChatPromptTemplate.from_template("{q}") | router.as_branch()
    pieces = [[chunk.text for chunk in branch.stream({"q": text}, config)] for text in (EASY, HARD)]
    check_both(["".join(texts) for texts in pieces], facts)


def test_a_branch_looks_at_the_words_once(router, config) -> None:
    looked = []

    class Counter:
        def count(self, text: str) -> int:
            looked.append(text)
            return 1

    counting = router.model_copy(update={"counter": Counter()})
    counting.as_branch().invoke(EASY, config)
    assert looked == [EASY]


def test_a_branch_decides_anew_when_the_same_list_has_grown(router) -> None:
    """A chat loop appends to one list and invokes with it again."""
    branch, messages = router.as_branch(), [HumanMessage(EASY)]
    first = branch.invoke(messages)
    messages += [first, HumanMessage(HARD)]
    assert (first.text, branch.invoke(messages).text) == ("small", "large")


def test_a_branch_shared_by_threads_never_mixes_decisions(router) -> None:
    branch = router.as_branch()
    questions = [EASY, HARD] * 100
    with ThreadPoolExecutor(8) as threads:
        answers = [answer.text for answer in threads.map(lambda text: branch.invoke([HumanMessage(text)]), questions)]
    assert answers == ["small", "large"] * 100


def test_a_branch_keeps_no_request_in_memory(router) -> None:
    branch = router.as_branch()
    branch.invoke([HumanMessage("my secret")])
    assert "my secret" not in repr(router.__pydantic_private__)


def test_a_branch_of_three_routes(bus) -> None:
    rules = Rules(
        {
            "version": 1,
            "otherwise": "b",
            "rules": [
                {"name": "1", "route": "a", "when": {"any_keyword": ["one"]}},
                {"name": "2", "route": "c", "when": {"any_keyword": ["two"]}},
            ],
        }
    )
    router = ModelRouter({name: ScriptedModel(name) for name in "abc"}, rules=rules, bus=bus)
    assert [router.as_branch().invoke(text).text for text in ("one", "two", "three")] == ["a", "c", "b"]


# tools and structured output


class City(BaseModel):
    """A city."""

    name: str


@tool
def lookup(q: str) -> str:
    """Look something up."""
    return f"{q} shipped"


def test_tools_are_bound_to_whichever_model_is_chosen(router, small, large) -> None:
    bound = router.bind_tools([lookup], tool_choice="any")
    bound.invoke(EASY)
    bound.invoke(HARD)
    for model in (small, large):
        assert model.asked[0][1] == {"tools": ["lookup"], "tool_choice": "any"}
    router.invoke(EASY)
    assert small.asked[1][1] == {}, "binding changes a copy"


def test_bound_tools_are_a_signal(router) -> None:
    many = [lookup.model_copy(update={"name": f"tool_{number}"}) for number in range(32)]
    assert router.bind_tools(many).invoke(EASY).text == "large"


@pytest.mark.parametrize("include_raw", [False, True])
def test_structured_output_comes_from_whichever_model_is_chosen(bus, include_raw) -> None:
    said = answer("", tool_calls=[tool_call("City", name="Oslo")])
    router = ModelRouter({"simple": ScriptedModel(said), "complex": ScriptedModel(said)}, bus=bus)
    for text in (EASY, HARD):
        found = router.with_structured_output(City, include_raw=include_raw).invoke(text)
        assert (found["parsed"] if include_raw else found) == City(name="Oslo")


async def test_structured_output_streams_and_awaits(bus) -> None:
    said = answer("", tool_calls=[tool_call("City", name="Oslo")])
    router = ModelRouter({"simple": ScriptedModel(said), "complex": ScriptedModel(said)}, bus=bus)
    structured = router.with_structured_output(City)
    assert await structured.ainvoke(EASY) == City(name="Oslo")
    assert list(structured.stream(EASY))[-1] == City(name="Oslo")


# agents


class Watch(AgentMiddleware):
    """Sees the model that each call would ask."""

    def __init__(self) -> None:
        super().__init__()
        self.models: list[BaseChatModel] = []

    def wrap_model_call(self, request, handler):
        self.models.append(request.model)
        return handler(request)

    async def awrap_model_call(self, request, handler):
        self.models.append(request.model)
        return await handler(request)


def agents_models(bus) -> dict[str, BaseChatModel]:
    script = [answer("", tool_calls=[tool_call("lookup", q="7")]), answer("done")]
    return {"simple": ScriptedModel(*script, model_name="gpt-4o-mini"), "complex": ScriptedModel(*script)}


@pytest.mark.parametrize("unwrapped", [True, False], ids=["with middleware", "without"])
def test_an_agent_decides_once_per_model_call(bus, facts, config, unwrapped) -> None:
    router, watch = ModelRouter(agents_models(bus), bus=bus), Watch()
    agent = create_agent(router, [lookup], middleware=[RouterMiddleware(), watch] if unwrapped else [watch])
    state = agent.invoke({"messages": [("user", EASY)]}, config)
    assert state["messages"][-1].text == "done"
    assert facts.routes == ["simple", "simple"]
    assert [(call.route, call.identity.user) for call in facts.calls] == [("simple", "ada")] * 2
    assert all(isinstance(model, ModelRouter) is not unwrapped for model in watch.models)
    assert [event.identity.user for event in facts if isinstance(event, Routed)] == ["ada", "ada"]


@pytest.mark.parametrize("unwrapped", [True, False], ids=["with middleware", "without"])
async def test_an_async_agent_decides_once_per_model_call(bus, facts, config, unwrapped) -> None:
    router = ModelRouter(agents_models(bus), bus=bus)
    agent = create_agent(router, [lookup], middleware=[RouterMiddleware()] if unwrapped else [])
    state = await agent.ainvoke({"messages": [("user", EASY)]}, config)
    assert state["messages"][-1].text == "done"
    assert facts.routes == ["simple", "simple"]


def test_middleware_with_a_router_of_its_own_decides_for_any_agent(bus, router, small) -> None:
    plain = ScriptedModel("never asked")
    agent = create_agent(plain, [], middleware=[RouterMiddleware(router)])
    assert agent.invoke({"messages": [("user", EASY)]})["messages"][-1].text == "small"
    assert plain.calls == 0


def test_middleware_leaves_an_agent_without_a_router_alone(facts) -> None:
    agent = create_agent(ScriptedModel("plain"), [], middleware=[RouterMiddleware()])
    assert agent.invoke({"messages": [("user", HARD)]})["messages"][-1].text == "plain"
    assert facts.routes == []


def test_tools_of_the_agent_are_a_signal_with_and_without_middleware(bus, small, large) -> None:
    many = [lookup.model_copy(update={"name": f"tool_{number}"}) for number in range(32)]
    for middleware in ([RouterMiddleware()], []):
        router = ModelRouter({"simple": small, "complex": large}, bus=bus)
        agent = create_agent(router, many, middleware=middleware)
        assert agent.invoke({"messages": [("user", EASY)]})["messages"][-1].text == "large"


def asks_for_city(said, name: str, bus, middleware) -> object:
    models = {route: ScriptedModel(said, model_name=name) for route in ("simple", "complex")}
    agent = create_agent(ModelRouter(models, bus=bus), [], response_format=City, middleware=middleware)
    return agent.invoke({"messages": [("user", EASY)]}, {"recursion_limit": 10})["structured_response"]


def test_an_agent_can_ask_for_structured_output_by_a_tool(bus) -> None:
    said = answer("", tool_calls=[tool_call("City", name="Oslo")])
    for middleware in ([RouterMiddleware()], []):
        assert asks_for_city(said, "my-model", bus, middleware) == City(name="Oslo")


def test_an_agent_can_ask_for_structured_output_by_the_chosen_providers_own_way(bus) -> None:
    """LangChain knows that gpt-4o takes a schema; it can only know when it sees the chosen model."""
    assert asks_for_city(answer('{"name": "Oslo"}'), "gpt-4o", bus, [RouterMiddleware()]) == City(name="Oslo")


# what a router is


def test_a_router_is_a_chat_model_and_its_models_stay_as_they_were(router, small) -> None:
    assert isinstance(router, BaseChatModel)
    router.invoke(EASY)
    assert ROUTE not in (small.metadata or {})
    assert router.cache is False


def test_metadata_and_tags_of_the_router_reach_the_run(small, large, bus, facts, config) -> None:
    router = ModelRouter({"simple": small, "complex": large}, bus=bus, tags=["router"], metadata={"tenant_id": "acme"})
    router.invoke(EASY, config)
    assert {"router", "t"} <= set(facts.calls[0].tags)
    assert facts.calls[0].identity == Identity(tenant="acme", user="ada", session="s")


def test_callbacks_of_the_router_hear_the_run(small, large, bus, facts) -> None:
    ModelRouter({"simple": small, "complex": large}, callbacks=[OpsCallbackHandler(bus)]).invoke(EASY)
    assert [call.route for call in facts.calls] == ["simple"]


def test_a_route_without_a_model_is_one_clear_error(small) -> None:
    with pytest.raises(ConfigurationError, match=r"^the rules name routes without a model: \['complex'\]; given: "):
        ModelRouter({"simple": small})


def test_errors_of_the_chosen_model_come_out_as_they_are(bus) -> None:
    router = ModelRouter({"simple": ScriptedModel(ValueError("mine")), "complex": ScriptedModel()}, bus=bus)
    with pytest.raises(ValueError, match="mine"):
        router.invoke(EASY)


async def test_many_tasks_share_a_router(router) -> None:
    answers = await asyncio.gather(*(router.ainvoke(text) for text in [EASY, HARD] * 25))
    assert [answer.text for answer in answers] == ["small", "large"] * 25
