"""A chat in LangGraph: a hit that repeats its message's id would replace the earlier answer."""

from __future__ import annotations

import pytest
from langchain_core.globals import set_llm_cache
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_llmops.cache.model import cached
from tests.support.models import ScriptedModel


@pytest.fixture(params=["its cache", "the cache of all", "cached"])
def model(request, cache):
    """A model behind the cache in each of the ways there are."""
    plain = ScriptedModel()
    if request.param == "the cache of all":
        set_llm_cache(cache)
        yield plain
        set_llm_cache(None)
    else:
        yield cached(plain, cache=cache) if request.param == "cached" else plain.model_copy(update={"cache": cache})


def invoke(state, model):
    return {"messages": [model.invoke([state["messages"][-1]])]}


async def ainvoke(state, model):
    return {"messages": [await model.ainvoke([state["messages"][-1]])]}


def stream(state, model):
    first, *rest = model.stream([state["messages"][-1]])
    for piece in rest:
        first += piece
    return {"messages": [first]}


@pytest.mark.parametrize("node", [invoke, ainvoke, stream], ids=lambda node: node.__name__)
async def test_three_identical_turns_of_a_chat_keep_six_messages(node, model) -> None:
    async def aturn(state):
        return await node(state, model)

    graph = StateGraph(MessagesState)
    graph.add_node("answer", aturn if node is ainvoke else lambda state: node(state, model))
    graph.add_edge(START, "answer")
    chat = graph.compile(checkpointer=InMemorySaver())
    for _ in range(3):
        turn = {"messages": [HumanMessage("hi")]}, {"configurable": {"thread_id": "t"}}
        state = await chat.ainvoke(*turn) if node is ainvoke else chat.invoke(*turn)
    kept = (await chat.aget_state({"configurable": {"thread_id": "t"}})).values["messages"]
    for messages in (state["messages"], kept):
        assert [message.type.removesuffix("MessageChunk").lower() for message in messages] == ["human", "ai"] * 3
        assert [message.text for message in messages] == ["hi", "ok"] * 3
        assert len({message.id for message in messages}) == 6
    if node is not stream:  # for which LangChain asks no cache but `cached`
        assert model.calls == 1
