"""Real graphs behave as with LangGraph's InMemorySaver: same answers, same history, sync and async."""

from __future__ import annotations

import asyncio
import operator
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langgraph.channels import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import CheckpointError, ThreadOwnerMismatch
from tests.support.checkpoints import COLOURS
from tests.support.models import ScriptedModel, eventually, tool_call

DURABILITIES = ("sync", "async", "exit")
AT = {"configurable": {"thread_id": "t"}}


class Runner:
    """A compiled graph called in one colour."""

    def __init__(self, graph: Any, colour: str, durability: str = "async") -> None:
        self.graph = graph
        self._colour = colour
        self.durability = durability

    async def _call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if self._colour == "async":
            return await getattr(self.graph, f"a{name}")(*args, **kwargs)
        return await asyncio.to_thread(getattr(self.graph, name), *args, **kwargs)

    async def invoke(self, value: Any, config: Any = AT) -> Any:
        return await self._call("invoke", value, config, durability=self.durability)

    async def state(self, config: Any = AT, **options: Any) -> Any:
        return await self._call("get_state", config, **options)

    async def update(self, config: Any, values: Any, **options: Any) -> Any:
        return await self._call("update_state", config, values, **options)

    async def history(self) -> list:
        if self._colour == "async":
            return [one async for one in self.graph.aget_state_history(AT)]
        return await asyncio.to_thread(lambda: list(self.graph.get_state_history(AT)))


def seen(history: list) -> list:
    """A history without what differs between two runs: ids, times."""
    places = {one.config["configurable"]["checkpoint_id"]: place for place, one in enumerate(reversed(history))}
    return [
        (
            one.values,
            one.next,
            {key: value for key, value in (one.metadata or {}).items() if key in ("source", "step", "user_id", "note")},
            one.parent_config and places.get(one.parent_config["configurable"]["checkpoint_id"]),
            [
                (task.name, task.path, str(task.error), [i.value for i in task.interrupts], task.result)
                for task in one.tasks
            ],
        )
        for one in history
    ]


KINDS = [f"embedded {colour} {durability}" for colour in COLOURS for durability in DURABILITIES]
KINDS += [f"servers {colour} async" for colour in COLOURS]


@pytest.fixture(params=KINDS)
async def both(request, tmp_path):
    """The same graph over our saver and over the model, called alike."""
    backend, colour, durability = request.param.split()
    urls = {"hot": "memory://", "warm": f"sqlite:///{tmp_path}/graphs.db"}
    if backend == "servers":
        urls = {"hot": request.getfixturevalue("clean_redis_url"), "warm": request.getfixturevalue("postgres_url")}
    async with TieredCheckpointSaver.from_urls(**urls) as saver:
        yield lambda builder: [
            Runner(builder(checkpointer=one), colour, durability) for one in (saver, InMemorySaver())
        ]


async def alike(both, builder, scenario) -> Any:
    """Run a scenario over both savers; what it returns and the whole history must be equal."""
    results = []
    for runner in both(builder):
        results.append((await scenario(runner), seen(await runner.history())))
    assert results[0] == results[1]
    assert results[0][1]
    return results[0][0]


class Chat(TypedDict):
    messages: Annotated[list, add_messages]
    turns: int


def chat_graph(**options):
    def answer(state: Chat):
        count = len(state["messages"])
        return {"messages": [AIMessage(f"answer {count}", id=f"a{count}")], "turns": state.get("turns", 0) + 1}

    return StateGraph(Chat).add_node("answer", answer).add_edge(START, "answer").compile(**options)


async def test_a_conversation_grows_turn_by_turn(both):
    async def scenario(runner):
        return [await runner.invoke({"messages": [HumanMessage("hi", id=f"h{turn}")]}) for turn in range(4)]

    turns = await alike(both, chat_graph, scenario)
    assert [len(turn["messages"]) for turn in turns] == [2, 4, 6, 8]
    assert turns[-1]["turns"] == 4


async def test_going_back_in_time_branches_and_replays_alike(both):
    async def scenario(runner):
        for turn in range(3):
            await runner.invoke({"messages": [HumanMessage("hi", id=f"h{turn}")]})
        history = await runner.history()
        past = next(one for one in history if len(one.values.get("messages", [])) == 2)
        replayed = await runner.invoke(None, past.config)
        branched = await runner.invoke({"messages": [HumanMessage("other", id="o")]}, past.config)
        after = await runner.update(past.config, {"messages": [HumanMessage("edited", id="h0")]})
        edited = (await runner.state(after)).values
        final = await runner.invoke({"messages": [HumanMessage("on", id="n")]})
        return replayed, branched, edited, final

    await alike(both, chat_graph, scenario)


def subgraph(**options):
    class Inner(TypedDict):
        topic: str
        log: Annotated[list, operator.add]

    def ask(state: Inner):
        said = interrupt({"question": state["topic"]})
        return {"log": [f"asked {said}"]}

    def tell(state: Inner):
        return {"log": [f"told {interrupt('sure?')}"]}

    inner = StateGraph(Inner).add_node("ask", ask).add_node("tell", tell)
    inner = inner.add_edge(START, "ask").add_edge("ask", "tell").compile()
    outer = StateGraph(Inner).add_node("before", lambda _: {"log": ["before"]}).add_node("inner", inner)
    outer = outer.add_edge(START, "before").add_edge("before", "inner").add_edge("inner", END)
    return outer.compile(**options)


async def test_interrupts_in_a_subgraph_resume_alike(both):
    async def scenario(runner):
        results = [await runner.invoke({"topic": "x", "log": []})]
        waiting = await runner.state(subgraphs=True)
        inner = waiting.tasks[0].state
        results.append((waiting.next, inner.values, inner.next, [i.value for i in waiting.interrupts]))
        results.append(await runner.invoke(Command(resume="yes")))
        results.append(await runner.invoke(Command(resume="really")))
        return [
            {key: [i.value for i in value] if key == "__interrupt__" else value for key, value in one.items()}
            if isinstance(one, dict)
            else one
            for one in results
        ]

    results = await alike(both, subgraph, scenario)
    assert results[0]["__interrupt__"] == [{"question": "x"}]
    assert results[-1]["log"][-2:] == ["asked yes", "told really"]


def fan_out(**options):
    class Fan(TypedDict):
        items: Annotated[list, operator.add]
        count: Annotated[int, operator.add]

    def work(state: dict):
        return {"items": [state["n"]], "count": 1}

    graph = StateGraph(Fan).add_node("work", work).add_node("join", lambda _: {"items": ["join"]})
    graph = graph.add_conditional_edges(START, lambda _: [Send("work", {"n": n}) for n in range(24)], ["work"])
    return graph.add_edge("work", "join").compile(**options)


async def test_a_fan_out_joins_in_the_same_order(both):
    async def scenario(runner):
        return [await runner.invoke({"items": [turn], "count": 0}) for turn in range(2)]

    turns = await alike(both, fan_out, scenario)
    assert turns[0]["items"] == [0, *range(24), "join"]


def waiting_channels(saver):
    found = saver.get_tuple(AT)  # with durability "async" a step begins before its checkpoint is stored
    return [channel for _, channel, _ in found.pending_writes] if found else []


async def test_a_failed_step_is_resumed_without_redoing_its_siblings(both):
    def builder(**options):
        broken, done, saver = [True], [], options["checkpointer"]

        class Two(TypedDict):
            out: Annotated[list, operator.add]

        def good(_):
            done.append(1)
            return {"out": [f"good {len(done)}"]}

        def bad(_):
            if broken[0]:
                broken[0] = False
                eventually(lambda: "out" in waiting_channels(saver))
                raise RuntimeError("once")
            return {"out": ["bad"]}

        graph = StateGraph(Two).add_node("good", good).add_node("bad", bad)
        return graph.add_edge(START, "good").add_edge(START, "bad").compile(**options)

    async def scenario(runner):
        runner.durability = (
            "sync" if runner.durability == "exit" else runner.durability
        )  # exit stores nothing meanwhile
        with pytest.raises(RuntimeError, match="once"):
            await runner.invoke({"out": []})
        return (await runner.state()).next, await runner.invoke(None)

    waiting, final = await alike(both, builder, scenario)
    assert waiting == ("bad",)
    assert final == {"out": ["bad", "good 1"]}


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


def delta_graph(**options):
    class Long(TypedDict):
        log: Annotated[
            list,
            DeltaChannel(
                lambda old, writes: [*old, *(part for write in writes for part in write)], list, snapshot_frequency=4
            ),
        ]
        count: int

    def step(state: Long):
        return {"log": [f"step {len(state['log'])}"], "count": state.get("count", 0) + 1}

    return StateGraph(Long).add_node("step", step).add_edge(START, "step").compile(**options)


async def test_a_delta_channel_is_rebuilt_alike(both):
    async def scenario(runner):
        return [await runner.invoke({"log": [f"in {turn}"]}) for turn in range(7)]

    turns = await alike(both, delta_graph, scenario)
    assert len(turns[-1]["log"]) == 14


@pytest.mark.parametrize("turns", range(1, 8))
@pytest.mark.parametrize("durability", DURABILITIES)
async def test_pruning_and_moving_never_cut_a_delta_channels_history(saver, turns, durability):
    runner = Runner(delta_graph(checkpointer=saver), "async", durability)
    for turn in range(turns):
        await runner.invoke({"log": [f"in {turn}"]})
    values = (await runner.state()).values

    await saver.aprune(["t"])
    assert (await runner.state()).values == values
    await saver.acopy_thread("t", "copied")
    await saver.aarchive("t")
    assert (await runner.state()).values == values
    assert (await runner.state({"configurable": {"thread_id": "copied"}})).values == values
    assert (await runner.invoke({"log": ["more"]}))["log"][:-2] == values["log"]


async def test_deleting_runs_that_a_delta_channel_is_built_on_is_refused(saver):
    graph = delta_graph(checkpointer=saver)
    for run in ("r1", "r2"):
        await graph.ainvoke({"log": ["x"]}, {**AT, "metadata": {"run_id": run}})
    before = (await graph.aget_state(AT)).values
    with pytest.raises(CheckpointError, match="delta channels"):
        await saver.adelete_for_runs(["r1"])
    assert (await graph.aget_state(AT)).values == before
    await saver.adelete_for_runs(["r1", "r2"])
    assert (await graph.aget_state(AT)).values == {}


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


async def test_every_turn_but_the_first_is_read_from_the_hot_tier(saver):
    graph = chat_graph(checkpointer=saver)
    for _ in range(10):
        await graph.ainvoke({"messages": [HumanMessage("hi")]}, AT)
    stats = await saver.astats()
    assert (stats.hot_hits, stats.hot_misses) == (9, 0)


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
