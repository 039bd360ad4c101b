"""Steps of many tasks at once join in the same order, and what failed is resumed, as with LangGraph's own saver."""

from __future__ import annotations

import asyncio
import operator
from typing import Annotated

import pytest
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send
from typing_extensions import TypedDict

from tests.support.graphs import AT, alike, looks
from tests.support.models import eventually


class Log(TypedDict):
    log: Annotated[list, operator.add]


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
    """Of the first step, whose checkpoint may be stored after it began (with durability "async")."""
    found = saver.get_tuple(AT)
    began = found is not None and found.metadata["step"] >= 0
    return [channel for _, channel, _ in found.pending_writes] if began else []


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


async def test_a_fan_out_that_failed_in_one_place_redoes_only_that(both):
    def builder(**options):
        runs, saver = [], options["checkpointer"]

        def work(state: dict):
            runs.append(state["n"])
            if state["n"] == 3 and runs.count(3) == 1:
                eventually(lambda: waiting_channels(saver).count("log") == 7)
                raise RuntimeError("once")
            return {"log": [f"{state['n']} run {runs.count(state['n'])}"]}

        graph = StateGraph(Log).add_node("work", work)
        graph = graph.add_conditional_edges(START, lambda _: [Send("work", {"n": n}) for n in range(8)], ["work"])
        return graph.compile(**options)

    async def scenario(runner):
        runner.durability = "sync" if runner.durability == "exit" else runner.durability
        with pytest.raises(RuntimeError, match="once"):
            await runner.invoke({"log": []})
        waiting = await runner.state()
        results = sorted((task.path[1], task.result) for task in waiting.tasks if task.result)
        return results, await runner.invoke(None)

    results, final = await alike(both, builder, scenario)
    assert len(results) == 7
    assert final["log"] == ["0 run 1", "1 run 1", "2 run 1", "3 run 2", "4 run 1", "5 run 1", "6 run 1", "7 run 1"]


async def test_packets_sent_by_tasks_of_a_subgraph_and_by_commands_arrive_alike(both):
    def builder(**options):
        inner = StateGraph(Log).add_node("leaf", lambda state: {"log": [f"leaf {state['n']}"]})
        inner = inner.add_conditional_edges(
            START, lambda _: [Send("leaf", {"n": n}) for n in range(5)], ["leaf"]
        ).compile()

        def spread(state: Log) -> Command:
            return Command(update={"log": ["spread"]}, goto=[Send("late", {"n": n}) for n in (2, 0, 1)])

        graph = StateGraph(Log).add_node("inner", inner).add_node("spread", spread)
        graph.add_node("late", lambda state: {"log": [f"late {state['n']}"]})
        graph.add_node("end", lambda _: {"log": ["end"]}, defer=True)
        return graph.add_edge(START, "inner").add_edge("inner", "spread").add_edge("late", "end").compile(**options)

    async def scenario(runner):
        return [await runner.invoke({"log": [turn]}) for turn in range(2)]

    turns = await alike(both, builder, scenario)
    assert turns[0]["log"][-5:] == ["spread", "late 2", "late 0", "late 1", "end"]


async def test_a_replay_of_a_fan_out_sends_the_same_packets(both):
    async def scenario(runner):
        runner.durability = "sync"
        await runner.invoke({"items": [], "count": 0})
        history = await runner.history()
        waiting = next(one for one in history if "work" in one.next)
        replayed = await runner.invoke(None, waiting.config)
        edited = await runner.update(waiting.config, {"items": ["edited"], "count": 100}, as_node="work")
        return len(waiting.next), replayed, await runner.invoke(None, edited), looks(await runner.state())

    packets, replayed, edited, _ = await alike(both, fan_out, scenario)
    assert packets == 24
    assert replayed["items"] == [*range(24), "join"]
    assert edited == {"items": ["edited", "join"], "count": 100}


async def test_what_is_streamed_while_it_runs_is_alike(both):
    async def scenario(runner):
        streamed = await runner.stream({"items": [], "count": 0}, stream_mode=["values", "updates"])
        updates = sorted(repr(part) for mode, part in streamed if mode == "updates")
        return [part for mode, part in streamed if mode == "values"], updates

    await alike(both, fan_out, scenario)


async def test_ten_runs_at_once_on_threads_of_their_own_end_alike(both):
    async def scenario(runner):
        places = [{"configurable": {"thread_id": f"own {n}"}} for n in range(10)]
        answers = await asyncio.gather(*(runner.invoke({"items": [n], "count": 0}, at) for n, at in enumerate(places)))
        await runner.invoke({"items": [], "count": 0}, AT)
        return answers, [looks(await runner.state(at)) for at in places]

    answers, _ = await alike(both, fan_out, scenario)
    assert [one["items"][0] for one in answers] == list(range(10))
