"""Delta channels, which live in pending writes, are rebuilt alike and survive whatever is done to their thread."""

from __future__ import annotations

import operator
from typing import Annotated

import pytest
from langgraph.channels import DeltaChannel
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from langchain_llmops.core.errors import CheckpointError
from tests.support.graphs import AT, DURABILITIES, Runner, alike, looks, plain


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


def ordered(old: list, writes: list) -> list:
    """A reducer that tells in which order it got what: each part carries the length it was added at."""
    new = list(old)
    for write in writes:
        for part in write:
            new.append(f"{len(new)}:{part}")
    return new


def delta_fan_out(**options):
    class Fan(TypedDict):
        log: Annotated[list, DeltaChannel(ordered, list, snapshot_frequency=3)]
        turns: Annotated[int, operator.add]

    def work(state: dict):
        return {"log": [f"work {state['n']}", f"and {state['n']}"]}

    def ask(state: Fan):
        return {"log": [f"asked {interrupt(len(state['log']))}"], "turns": 1}

    graph = StateGraph(Fan).add_node("work", work).add_node("ask", ask)
    graph = graph.add_conditional_edges(START, lambda _: [Send("work", {"n": n}) for n in range(12)], ["work"])
    return graph.add_edge("work", "ask").compile(**options)


async def test_a_delta_channel_written_by_a_fan_out_is_rebuilt_in_its_order(both):
    async def scenario(runner):
        results = []
        for turn in range(4):
            results.append(plain(await runner.invoke({"log": [f"in {turn}"], "turns": 0})))
            results.append(looks(await runner.state()))
            results.append(plain(await runner.invoke(Command(resume=f"yes {turn}"))))
        return results

    results = await alike(both, delta_fan_out, scenario)
    assert [part.partition(":")[0] for part in results[-1]["log"]] == [str(n) for n in range(4 * 26)]


async def test_branches_of_a_delta_thread_are_rebuilt_each_from_its_own_way(both):
    async def scenario(runner):
        for turn in range(5):
            await runner.invoke({"log": [f"in {turn}"]})
        history = await runner.history()
        past = next(one for one in history if len(one.values.get("log", [])) == 4)
        left = await runner.invoke({"log": ["left"]}, past.config)
        edited = await runner.update(past.config, {"log": ["edited"]})
        right = await runner.invoke({"log": ["right"]}, edited)
        replayed = await runner.invoke(None, past.config)
        return left, looks(await runner.state(edited)), right, replayed, looks(await runner.state(past.config))

    await alike(both, delta_graph, scenario)


async def test_updates_of_a_delta_thread_are_rebuilt_alike(both):
    async def scenario(runner):
        states = []
        for turn in range(6):
            await runner.update(AT, {"log": [f"update {turn}"]}, as_node="step")
            states.append(looks(await runner.state()))
        return states, await runner.invoke({"log": ["on"]})

    await alike(both, delta_graph, scenario)
