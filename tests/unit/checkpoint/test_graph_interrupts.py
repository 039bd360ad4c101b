"""Interrupts, several at once, in subgraphs and in fan-outs are shown and resumed as with LangGraph's own saver."""

from __future__ import annotations

import operator
from typing import Annotated

import pytest
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from tests.support.graphs import AT, alike, looks, plain


class Log(TypedDict):
    log: Annotated[list, operator.add]


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
        return [plain(one) for one in results]

    results = await alike(both, subgraph, scenario)
    assert results[0]["__interrupt__"] == [{"question": "x"}]
    assert results[-1]["log"][-2:] == ["asked yes", "told really"]


def several(**options):
    """Three nodes at once that ask, of which one asks twice, and one that does not."""

    def asking(name, times=1):
        return lambda _: {"log": [f"{name} {[interrupt(f'{name}{n}') for n in range(times)]}"]}

    graph = StateGraph(Log).add_node("a", asking("a")).add_node("b", asking("b", 2)).add_node("c", asking("c"))
    graph.add_node("quiet", lambda _: {"log": ["quiet"]}).add_node("join", lambda _: {"log": ["join"]})
    for name in ("a", "b", "c", "quiet"):
        graph.add_edge(START, name)
    return graph.add_edge(["a", "b", "c", "quiet"], "join").compile(**options)


async def answers_to(runner, *asked: str, config=AT) -> Command:
    """Answers by id to those interrupts that ask one of these."""
    waiting = (await runner.state(config)).interrupts
    return Command(resume={one.id: f"to {one.value}" for one in waiting if one.value in asked})


async def test_several_interrupts_at_once_are_resumed_together(both):
    async def scenario(runner):
        results = [plain(await runner.invoke({"log": ["in"]})), looks(await runner.state())]
        results.append(plain(await runner.invoke(await answers_to(runner, "a0", "b0", "c0"))))
        results.append(looks(await runner.state()))
        results.append(plain(await runner.invoke(await answers_to(runner, "b1"))))
        return results

    results = await alike(both, several, scenario)
    assert results[0]["__interrupt__"] == ["a0", "b0", "c0"]
    assert results[-1]["log"] == ["in", "a ['to a0']", "b ['to b0', 'to b1']", "c ['to c0']", "quiet", "join"]


async def test_several_interrupts_at_once_are_resumed_one_after_another(both):
    async def scenario(runner):
        results = [plain(await runner.invoke({"log": ["in"]}))]
        for asked in ("c0", "b0", "a0", "b1"):
            results.append(plain(await runner.invoke(await answers_to(runner, asked))))
            results.append(looks(await runner.state()))
        return results

    results = await alike(both, several, scenario)
    assert results[-2]["log"][-1] == "join"


def asking_fan_out(**options):
    def work(state: dict):
        if state["n"] % 3 == 0:
            return {"log": [f"{state['n']} {interrupt(state['n'])}"]}
        return {"log": [str(state["n"])]}

    graph = StateGraph(Log).add_node("work", work).add_node("join", lambda _: {"log": ["join"]})
    graph = graph.add_conditional_edges(START, lambda _: [Send("work", {"n": n}) for n in range(9)], ["work"])
    return graph.add_edge("work", "join").compile(**options)


async def test_interrupts_inside_a_fan_out_keep_the_work_of_the_others(both):
    async def scenario(runner):
        results = [plain(await runner.invoke({"log": []})), looks(await runner.state())]
        waiting = (await runner.state()).interrupts
        results.append(plain(await runner.invoke(Command(resume={one.id: "yes" for one in waiting if one.value}))))
        results.append(looks(await runner.state()))
        results.append(plain(await runner.invoke(Command(resume="at last"))))
        return results

    results = await alike(both, asking_fan_out, scenario)
    assert results[0]["__interrupt__"] == [0, 3, 6]
    assert results[-1]["log"] == ["0 at last", "1", "2", "3 yes", "4", "5", "6 yes", "7", "8", "join"]


async def test_an_answer_can_be_taken_back_by_going_back_to_the_question(both):
    async def scenario(runner):
        await runner.invoke({"topic": "x", "log": []})
        question = await runner.state()
        first = plain(await runner.invoke(Command(resume="yes")))
        again = plain(await runner.invoke(Command(resume="no"), question.config))
        return first, again, looks(await runner.state()), looks(await runner.state(question.config))

    await alike(both, subgraph, scenario)


async def test_a_replay_of_an_answered_question_asks_again_alike(both):
    async def scenario(runner):
        await runner.invoke({"topic": "x", "log": []})
        question = await runner.state()
        done = [plain(await runner.invoke(Command(resume=word))) for word in ("yes", "really")]
        replayed = plain(await runner.invoke(None, question.config))
        return done, replayed, looks(await runner.state())

    await alike(both, subgraph, scenario)


async def test_what_a_subgraph_holds_is_read_and_edited_alike(both):
    async def scenario(runner):
        await runner.invoke({"topic": "x", "log": []})
        waiting = await runner.state(subgraphs=True)
        inner = waiting.tasks[0].state.config
        history = [looks(one) for one in await runner.history(inner)]
        await runner.update(inner, {"log": ["edited inside"]})
        edited = looks(await runner.state(subgraphs=True))
        results = [plain(await runner.invoke(Command(resume=word))) for word in ("yes", "really")]
        return history, edited, results

    await alike(both, subgraph, scenario)


@pytest.mark.parametrize("when", ["interrupt_before", "interrupt_after"])
async def test_stops_around_a_node_are_gone_on_from_alike(both, when):
    async def scenario(runner):
        results = [plain(await runner.invoke({"log": ["in"]}, **{when: ["a", "quiet"]})), looks(await runner.state())]
        await runner.update(AT, {"log": ["while it waited"]}, as_node="quiet")
        results += [looks(await runner.state()), plain(await runner.invoke(None))]
        return results

    await alike(both, several, scenario)


async def test_a_new_input_drops_a_question_alike(both):
    async def scenario(runner):
        results = [plain(await runner.invoke({"topic": "x", "log": []}))]
        results.append(plain(await runner.invoke({"topic": "y", "log": ["new"]})))
        results.append(looks(await runner.state()))
        results += [plain(await runner.invoke(Command(resume=word))) for word in ("yes", "really")]
        return results

    await alike(both, subgraph, scenario)


async def test_a_question_two_graphs_deep_is_answered_alike(both):
    def builder(**options):
        deepest = (
            StateGraph(Log).add_node("ask", lambda _: {"log": [interrupt("deep?")]}).add_edge(START, "ask").compile()
        )
        middle = StateGraph(Log).add_node("deepest", deepest).add_node("also", lambda _: {"log": ["also"]})
        middle = middle.add_edge(START, "deepest").add_edge("deepest", "also").compile()
        return StateGraph(Log).add_node("middle", middle).add_edge(START, "middle").compile(**options)

    async def scenario(runner):
        results = [plain(await runner.invoke({"log": ["in"]})), looks(await runner.state(subgraphs=True))]
        results.append(plain(await runner.invoke(Command(resume="answer", update={"log": ["and update"]}))))
        return [*results, looks(await runner.state(subgraphs=True))]

    await alike(both, builder, scenario)


async def test_a_subgraph_with_a_memory_of_its_own_keeps_it_over_turns(both):
    def builder(**options):
        inner = (
            StateGraph(Log).add_node("n", lambda state: {"log": [f"inner {len(state['log'])}"]}).add_edge(START, "n")
        )
        inner = inner.compile(checkpointer=True)

        class Outer(TypedDict):
            seen: Annotated[list, operator.add]

        def call(_):
            return {"seen": [inner.invoke({"log": ["call"]})["log"]]}

        return StateGraph(Outer).add_node("call", call).add_edge(START, "call").compile(**options)

    async def scenario(runner):
        return [await runner.invoke({"seen": []}) for _ in range(3)]

    turns = await alike(both, builder, scenario)
    assert [len(one) for one in turns[-1]["seen"]] == [2, 4, 6]
