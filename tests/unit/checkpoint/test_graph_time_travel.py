"""Going back in time, branching, replaying and editing the past behave as with LangGraph's own saver."""

from __future__ import annotations

import operator
from typing import Annotated

import pytest
from langchain_core.messages import HumanMessage, RemoveMessage
from langgraph.graph import START, StateGraph
from langgraph.types import StateUpdate
from typing_extensions import TypedDict

from tests.support.graphs import AT, alike, chat_graph, looks, seen


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


def steps(**options):
    """Three steps in a line, each noting what it saw."""

    class Line(TypedDict):
        log: Annotated[list, operator.add]
        last: str

    def step(name):
        return lambda state: {"log": [f"{name}{len(state['log'])}"], "last": name}

    graph = StateGraph(Line)
    for name in "abc":
        graph.add_node(name, step(name))
    return graph.add_edge(START, "a").add_edge("a", "b").add_edge("b", "c").compile(**options)


@pytest.mark.parametrize("next_step", [("a",), ("b",), ("c",)])
async def test_a_replay_from_any_step_branches_there_alike(both, next_step):
    async def scenario(runner):
        if runner.durability == "exit":
            runner.durability = "sync"  # exit keeps no steps to go back to
        await runner.invoke({"log": ["in"]})
        past = next(one for one in await runner.history() if one.next == next_step)
        replays = [await runner.invoke(None, past.config) for _ in range(2)]
        children = [one for one in await runner.history() if one.parent_config == past.config]
        return replays, len(children), [looks(one) for one in children]

    replays, children, _ = await alike(both, steps, scenario)
    assert replays[0] == replays[1] == {"log": ["in", "a1", "b2", "c3"], "last": "c"}
    assert children >= 2


async def test_an_old_checkpoint_stays_as_it_was_when_a_branch_grew_from_it(both):
    async def scenario(runner):
        for turn in range(3):
            await runner.invoke({"log": [f"in {turn}"]})
        before = await runner.history()
        past = before[-2]
        branch = await runner.update(past.config, {"log": ["edited"]}, as_node="a")
        await runner.invoke(None, branch)
        old = [await runner.state(one.config) for one in before]
        assert seen(old) == seen(before)
        return looks(await runner.state(branch)), len(before)

    await alike(both, steps, scenario)


async def test_updates_as_any_node_decide_what_comes_next_alike(both):
    async def scenario(runner):
        await runner.invoke({"log": ["in"]})
        answers = []
        for node in ("a", "b", "c", None):
            at = await runner.update(AT, {"log": [f"as {node}"], "last": "me"}, as_node=node)
            answers.append(looks(await runner.state(at)))
        answers.append(await runner.invoke(None))
        answers.append(looks(await runner.state(await runner.update(AT, None))))
        await runner.bulk_update(
            AT,
            [[StateUpdate({"log": ["bulk a"]}, "a")], [StateUpdate({"log": ["bulk b"]}, "b")]],
        )
        answers.append(await runner.invoke(None))
        return answers

    await alike(both, steps, scenario)


async def test_a_branch_can_be_left_and_taken_up_again(both):
    async def scenario(runner):
        await runner.invoke({"messages": [HumanMessage("hi", id="h0")]})
        fork = (await runner.state()).config
        left = await runner.invoke({"messages": [HumanMessage("left", id="l")]}, fork)
        left_end = (await runner.state()).config
        right = await runner.invoke({"messages": [HumanMessage("right", id="r")]}, fork)
        again = await runner.invoke({"messages": [HumanMessage("left on", id="l2")]}, left_end)
        return left, right, again, looks(await runner.state())

    answers = await alike(both, chat_graph, scenario)
    assert [message.id for message in answers[2]["messages"]] == ["h0", "a1", "l", "a3", "l2", "a5"]


async def test_messages_are_replaced_and_removed_in_the_past_alike(both):
    async def scenario(runner):
        for turn in range(2):
            await runner.invoke({"messages": [HumanMessage("hi", id=f"h{turn}")]})
        removed = await runner.update(AT, {"messages": [RemoveMessage("h0")]})
        past = next(one for one in await runner.history() if len(one.values.get("messages", [])) == 2)
        replaced = await runner.update(past.config, {"messages": [HumanMessage("other", id="h0")]})
        return looks(await runner.state(removed)), looks(await runner.state(replaced)), looks(await runner.state())

    await alike(both, chat_graph, scenario)


async def test_a_history_is_filtered_and_limited_alike(both):
    async def scenario(runner):
        for turn in range(3):
            told = {**AT, "metadata": {"note": f"turn {turn}", "user_id": "ann"}}
            await runner.invoke({"log": [f"in {turn}"]}, told)
        whole = await runner.history()
        middle = whole[len(whole) // 2]
        return [
            seen(await runner.history(filter={"note": "turn 1"})),
            seen(await runner.history(filter={"source": "input", "note": "turn 1"})),
            seen(await runner.history(filter={"note": "none"})),
            seen(await runner.history(limit=2)),
            seen(await runner.history(before=middle.config)),
            seen(await runner.history(before=middle.config, limit=1, filter={"user_id": "ann"})),
            seen(await runner.history(middle.config)),
        ]

    found = await alike(both, steps, scenario)
    assert [bool(one) for one in (found[0], found[2], found[3])] == [True, False, True]


async def test_two_threads_of_one_graph_stay_apart(both):
    async def scenario(runner):
        answers = []
        for turn in range(3):
            for thread in ("t", "other", "t:other"):
                answers.append(
                    await runner.invoke({"log": [f"{thread} {turn}"]}, {"configurable": {"thread_id": thread}})
                )
        return answers, [
            seen(await runner.history({"configurable": {"thread_id": one}})) for one in ("other", "t:other")
        ]

    await alike(both, steps, scenario)
