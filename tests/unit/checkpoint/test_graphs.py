"""Real graphs behave as with LangGraph's InMemorySaver: same answers, same history, sync and async."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool

from langchain_llmops.core.errors import ThreadOwnerMismatch
from tests.support.graphs import AT, alike, chat_graph
from tests.support.models import ScriptedModel, tool_call


async def test_a_conversation_grows_turn_by_turn(both):
    async def scenario(runner):
        return [await runner.invoke({"messages": [HumanMessage("hi", id=f"h{turn}")]}) for turn in range(4)]

    turns = await alike(both, chat_graph, scenario)
    assert [len(turn["messages"]) for turn in turns] == [2, 4, 6, 8]
    assert turns[-1]["turns"] == 4


async def test_an_agent_with_tools_keeps_its_thread(both):
    @tool
    def lookup(order: int) -> str:
        """Look an order up."""
        return f"order {order} is on its way"

    def builder(**options):
        model = ScriptedModel(
            AIMessage("", tool_calls=[tool_call("lookup", order=1)], id="a1"),
            AIMessage("it is on its way", id="a2"),
            AIMessage("you are welcome", id="a3"),
        )
        return create_agent(model, tools=[lookup], **options)

    async def scenario(runner):
        await runner.invoke({"messages": [HumanMessage("where is order 1?", id="h1")]})
        found = await runner.invoke({"messages": [HumanMessage("thanks", id="h2")]})
        return [(message.type, message.content) for message in found["messages"]]

    results = []
    for runner in both(builder):
        results.append([*(await scenario(runner)), len(await runner.history())])
        assert len((await runner.state()).values["messages"]) == 6
    assert results[0] == results[1]


async def test_the_user_of_a_run_owns_its_thread(saver):
    graph = chat_graph(checkpointer=saver)
    said = {"messages": [("user", "hi")]}
    await graph.ainvoke(said, {**AT, "metadata": {"user_id": "ann"}})
    await graph.ainvoke(said, {**AT, "metadata": {"user_id": "ann"}})
    for config in ({**AT, "metadata": {"user_id": "ben"}}, {"configurable": {"thread_id": "t", "user_id": "ben"}}):
        with pytest.raises(ThreadOwnerMismatch):
            await graph.ainvoke(said, config)
        with pytest.raises(ThreadOwnerMismatch):
            await graph.aget_state(config)
        with pytest.raises(ThreadOwnerMismatch):
            await asyncio.to_thread(graph.invoke, said, config)
    assert len((await graph.aget_state(AT)).values["messages"]) == 4


def test_own_state_types_work_where_langgraph_is_strict(tmp_path):
    """With LANGGRAPH_STRICT_MSGPACK a graph tells its schema's types to the saver by `with_allowlist`."""
    program = f"""
import dataclasses, operator
from typing import Annotated
import pydantic
from typing_extensions import TypedDict
from langgraph.graph import START, StateGraph
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver

@dataclasses.dataclass
class Order:
    number: int

class Customer(pydantic.BaseModel):
    name: str

class State(TypedDict):
    orders: Annotated[list[Order], operator.add]
    customer: Customer

with TieredCheckpointSaver.from_urls(warm="sqlite:///{tmp_path}/ck.db") as saver:
    graph = StateGraph(State).add_node("n", lambda s: {{"orders": [Order(len(s["orders"]))]}}).add_edge(START, "n")
    graph = graph.compile(checkpointer=saver)
    at = {{"configurable": {{"thread_id": "t"}}}}
    graph.invoke({{"orders": [], "customer": Customer(name="Ann")}}, at)
    graph.invoke({{"orders": []}}, at)
    assert graph.get_state(at).values == {{"orders": [Order(0), Order(1)], "customer": Customer(name="Ann")}}
"""
    environment = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"}
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
