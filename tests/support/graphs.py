"""Graphs run alike over two savers, and everything a user can see of the runs, without what differs by chance."""

from __future__ import annotations

import asyncio
import re
from itertools import groupby
from typing import Annotated, Any

from langchain_core.messages import AIMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from typing_extensions import TypedDict

__all__ = ["AT", "DURABILITIES", "Runner", "alike", "chat_graph", "looks", "plain", "seen", "stored"]

DURABILITIES = ("sync", "async", "exit")
AT = {"configurable": {"thread_id": "t"}}
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
COMPARED = ("source", "step", "user_id", "note")


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

    async def _all(self, name: str, *args: Any, **kwargs: Any) -> list:
        if self._colour == "async":
            return [one async for one in getattr(self.graph, f"a{name}")(*args, **kwargs)]
        return await asyncio.to_thread(lambda: list(getattr(self.graph, name)(*args, **kwargs)))

    async def invoke(self, value: Any, config: Any = AT, **options: Any) -> Any:
        return await self._call("invoke", value, config, durability=self.durability, **options)

    async def stream(self, value: Any, config: Any = AT, **options: Any) -> list:
        return await self._all("stream", value, config, durability=self.durability, **options)

    async def state(self, config: Any = AT, **options: Any) -> Any:
        return await self._call("get_state", config, **options)

    async def update(self, config: Any, values: Any, **options: Any) -> Any:
        return await self._call("update_state", config, values, **options)

    async def bulk_update(self, config: Any, supersteps: Any) -> Any:
        return await self._call("bulk_update_state", config, supersteps)

    async def history(self, config: Any = AT, **options: Any) -> list:
        return await self._all("get_state_history", config, **options)

    async def checkpoints(self) -> list:
        saver = self.graph.checkpointer
        if self._colour == "async":
            return [one async for one in saver.alist(AT)]
        return await asyncio.to_thread(lambda: list(saver.list(AT)))


def plain(result: Any) -> Any:
    """What a run answered, its interrupts as their values."""
    if not isinstance(result, dict) or "__interrupt__" not in result:
        return result
    return {**result, "__interrupt__": sorted((one.value for one in result["__interrupt__"]), key=repr)}


def looks(state: Any) -> Any:
    """A snapshot without ids and times; a subgraph's own snapshot is looked at as well."""
    return (
        state.values,
        state.next,
        {key: value for key, value in (state.metadata or {}).items() if key in COMPARED},
        sorted((one.value for one in state.interrupts), key=repr),
        [
            (task.name, task.path, str(task.error), [i.value for i in task.interrupts], task.result, _inner(task.state))
            for task in state.tasks
        ],
    )


def _inner(state: Any) -> Any:
    if state is None or isinstance(state, dict):
        return state and UUID.sub("id", str(state["configurable"].get("checkpoint_ns")))
    return looks(state)


def seen(history: list) -> list:
    """A history in its order, each snapshot with the place of its parent."""
    places = {one.config["configurable"]["checkpoint_id"]: place for place, one in enumerate(reversed(history))}
    parents = [one.parent_config and one.parent_config["configurable"]["checkpoint_id"] for one in history]
    return [(looks(one), places.get(parent)) for one, parent in zip(history, parents, strict=True)]


async def stored(runner: Runner) -> list:
    """Every checkpoint that the saver lists, namespace by namespace in the order they began, newest first."""
    found = await runner.checkpoints()
    found.sort(key=lambda one: one.config["configurable"]["checkpoint_ns"])  # stable: newest first within each
    groups = [list(group) for _, group in groupby(found, lambda one: one.config["configurable"]["checkpoint_ns"])]
    groups.sort(key=lambda group: group[-1].checkpoint["id"])
    return [
        [
            (
                UUID.sub("id", one.config["configurable"]["checkpoint_ns"]),
                {key: value for key, value in one.metadata.items() if key in COMPARED},
                sorted(one.checkpoint["channel_values"]),
                [_write(channel, value) for _, channel, value in one.pending_writes],
            )
            for one in group
        ]
        for group in groups
    ]


def _write(channel: str, value: Any) -> tuple[str, Any]:
    return channel, [one.value for one in value] if channel == "__interrupt__" else repr(value)


async def alike(both: Any, builder: Any, scenario: Any) -> Any:
    """Run a scenario over both savers: what it returns, the whole history and all that is stored must be equal."""
    results = []
    for runner in both(builder):
        answer = await scenario(runner)
        results.append((answer, seen(await runner.history()), await stored(runner)))
    ours, model = results
    for mine, theirs in zip(ours, model, strict=True):
        assert mine == theirs, f"ours:\n{mine}\nLangGraph's:\n{theirs}"
    assert ours[1]
    return ours[0]


class Chat(TypedDict):
    messages: Annotated[list, add_messages]
    turns: int


def chat_graph(**options):
    def answer(state: Chat):
        count = len(state["messages"])
        return {"messages": [AIMessage(f"answer {count}", id=f"a{count}")], "turns": state.get("turns", 0) + 1}

    return StateGraph(Chat).add_node("answer", answer).add_edge(START, "answer").compile(**options)
