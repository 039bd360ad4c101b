"""What goes wrong with LangChain's own cache, shown on it, and gone here."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.messages import AIMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from pydantic import BaseModel, create_model

from langchain_llmops.cache.model import cached
from langchain_llmops.cache.policy import Policy
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.simulator import Scripted, running
from tests.support.models import ScriptedModel, answer, tool_call

# Each of these is asked of a model behind a cache, and says whether the defect shows.


def named(line) -> ScriptedModel:
    told = {"model_name": "gpt-4o-mini"}
    return ScriptedModel(lambda messages: answer(line, response_metadata=told, additional_kwargs={"deep": {"a": 1}}))


async def messages_vanish_from_a_conversation(behind) -> bool:
    model = behind(named("hello"))
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda state: {"messages": [model.invoke([state["messages"][-1].text])]})
    graph.add_edge(START, "ask")
    agent = graph.compile(checkpointer=InMemorySaver())
    config = {"configurable": {"thread_id": "t"}}
    for _ in range(3):
        state = agent.invoke({"messages": [("user", "hi")]}, config)
    return len(state["messages"]) != 6


async def a_hit_counts_its_tokens_again(behind) -> bool:
    model, usage = behind(named("hello")), UsageMetadataCallbackHandler()
    for _ in range(2):
        await model.ainvoke("hi", {"callbacks": [usage]})
    return usage.usage_metadata["gpt-4o-mini"]["total_tokens"] != 15


class Bill(BaseCallbackHandler):
    """Reads what `get_openai_callback` of langchain-community reads."""

    def __init__(self) -> None:
        self.tokens = 0

    def on_llm_end(self, response, **kwargs) -> None:
        usage = response.generations[0][0].message.usage_metadata
        told = (response.llm_output or {}).get("token_usage") or {}
        self.tokens += usage["total_tokens"] if usage else told.get("total_tokens", 0)


async def a_hit_of_openai_is_billed_again(behind) -> bool:
    with running(Scripted([{"default": "hello"}])) as simulator:
        model = behind(ChatOpenAI(model="gpt-4o-mini", api_key="k", base_url=simulator.base_url, max_retries=0))
        first, later = Bill(), Bill()
        model.invoke("hi", {"callbacks": [first]})
        found = [model.invoke("hi", {"callbacks": [later]}), await model.ainvoke("hi", {"callbacks": [later]})]
        found += model.batch(["hi", "hi"], {"callbacks": [later]})
    assert first.tokens > 0
    return later.tokens > 0 or any("token_usage" in one.response_metadata for one in found)


async def a_caller_changes_later_hits(behind) -> bool:
    model = behind(named("hello"))
    for _ in range(2):
        found = model.invoke("hi")
        found.content = "poison"
        found.additional_kwargs["deep"]["a"] = "poison"
    later = model.invoke("hi")
    return (later.content, later.additional_kwargs["deep"]) != ("hello", {"a": 1})


async def many_at_once_are_many_calls(behind) -> bool:
    asked = 0

    class Slow(ScriptedModel):
        async def _agenerate(self, *args, **kwargs):
            nonlocal asked
            asked += 1
            await asyncio.sleep(0.01)
            return await super()._agenerate(*args, **kwargs)

    model = behind(Slow("hello"))
    await asyncio.gather(*(model.ainvoke("hi") for _ in range(50)))
    return asked != 1


async def an_old_class_answers_for_a_new_one_of_its_name(behind) -> bool:
    old, new = create_model("P", n=(int, ...)), create_model("P", n=(int, ...), why=(str, ...))
    assert repr(old) == repr(new)
    script = Scripted([{"default": '{"n": 1, "why": "so"}'}])
    with running(script) as simulator:
        model = behind(ChatOpenAI(model="gpt-4o-mini", api_key="k", base_url=simulator.base_url, max_retries=0))
        structured: list[BaseModel] = [model.with_structured_output(one).invoke("hi") for one in (old, new)]
        again = model.with_structured_output(new).invoke("hi")
    assert isinstance(again, BaseModel)
    return not isinstance(structured[1], new)


async def a_tenant_reads_anothers_answer(behind) -> bool:
    model = behind(ScriptedModel("for acme", "for bolt"))
    said = [model.invoke("hi", {"metadata": {"tenant_id": tenant}}).text for tenant in ("acme", "bolt")]
    return said != ["for acme", "for bolt"]


async def a_stream_is_never_cached(behind) -> bool:
    plain = named("hello")
    model = behind(plain)
    model.invoke("hi")
    list(model.stream("hi"))
    _ = [piece async for piece in model.astream("hi")]
    return plain.calls != 1


async def tool_calls_come_again_by_the_same_id(behind) -> bool:
    model = behind(ScriptedModel(answer("", tool_calls=[tool_call("pay", dollars=5)])))
    ids = {model.invoke("hi").tool_calls[0]["id"] for _ in range(3)}
    return len(ids) != 3


async def a_cut_answer_is_repeated(behind) -> bool:
    model = behind(ScriptedModel(answer("cu", finish="length"), "whole"))
    return [model.invoke("hi").text for _ in range(2)] != ["cu", "whole"]


async def the_same_question_in_another_form_misses(behind) -> bool:
    model = named("hello")
    both = behind(model)
    history = AIMessage("a", response_metadata={"at": 1}), AIMessage("a", response_metadata={"at": 2})
    for past in history:
        both.invoke([past, ("user", "hi")])
    return model.calls != 1


async def nothing_says_that_a_hit_is_one(behind) -> bool:
    model = behind(named("hello"))
    first, second = model.invoke("hi"), model.invoke("hi")
    return first.response_metadata == second.response_metadata


DEFECTS = [
    messages_vanish_from_a_conversation,
    a_hit_counts_its_tokens_again,
    a_hit_of_openai_is_billed_again,
    a_caller_changes_later_hits,
    many_at_once_are_many_calls,
    an_old_class_answers_for_a_new_one_of_its_name,
    a_tenant_reads_anothers_answer,
    a_stream_is_never_cached,
    tool_calls_come_again_by_the_same_id,
    a_cut_answer_is_repeated,
    the_same_question_in_another_form_misses,
    nothing_says_that_a_hit_is_one,
]


@contextmanager
def the_peer():
    peer = InMemoryCache()
    yield lambda model: model.model_copy(update={"cache": peer})


@contextmanager
def ours():
    with TieredCache(policy=Policy(tool_calls=True)) as cache:
        yield lambda model: model.model_copy(update={"cache": cache})


@contextmanager
def ours_around_the_model():
    with TieredCache(policy=Policy(tool_calls=True)) as cache:
        yield lambda model: cached(model, cache=cache)


HAVE = {the_peer: set(DEFECTS), ours: {a_stream_is_never_cached}, ours_around_the_model: set()}
"""LangChain asks no cache for a stream, whosever it is."""


@pytest.mark.parametrize("caching", HAVE, ids=lambda caching: caching.__name__)
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
async def test_langchains_own_cache_has_the_defect_and_ours_has_not(defect, caching) -> None:
    with caching() as behind:
        assert await defect(behind) is (defect in HAVE[caching])
