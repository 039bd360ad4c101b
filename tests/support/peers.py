"""LangGraph's own savers, and graphs that use all a saver can be asked for."""

import contextlib
import datetime as dt
import decimal
import operator
import uuid
from collections.abc import Callable, Iterator
from typing import Annotated, Any, NamedTuple

from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from langchain_llmops.checkpoint.import_postgres import PostgresSource
from langchain_llmops.checkpoint.import_redis import RedisSource
from langchain_llmops.checkpoint.import_sqlite import SqliteSource
from langchain_llmops.checkpoint.import_valkey import ValkeySource
from langchain_llmops.checkpoint.import_values import Unpacker
from langchain_llmops.checkpoint.importing import Importer
from langchain_llmops.core.concurrency import drive
from langchain_llmops.stores.base import open_store
from tests.support.models import ScriptedModel, lookup, tool_call
from tests.support.redis_json import redis_with_json

__all__ = ["PEERS", "SCENARIOS", "Peer", "Scenario", "importing", "peer_named", "plain"]


class Peer(NamedTuple):
    """A saver and where it writes; `kind` is what `--from` calls it."""

    kind: str
    url: str
    saver: Any


def peer_named(name: str, request: Any, tmp_path: Any) -> contextlib.AbstractContextManager[Peer]:
    """A saver of LangGraph's, its own way of being opened included."""
    return PEERS[name](request, tmp_path)


@contextlib.contextmanager
def _postgres(request: Any, tmp_path: Any) -> Iterator[Peer]:
    from langgraph.checkpoint.postgres import PostgresSaver

    url = request.getfixturevalue("postgres_url")
    with PostgresSaver.from_conn_string(url) as saver:
        saver.setup()
        yield Peer("postgres", url, saver)


@contextlib.contextmanager
def _sqlite(request: Any, tmp_path: Any) -> Iterator[Peer]:
    from langgraph.checkpoint.sqlite import SqliteSaver

    file = tmp_path / "their own.db"
    with SqliteSaver.from_conn_string(str(file)) as saver:
        saver.setup()
        yield Peer("sqlite", str(file), saver)


@contextlib.contextmanager
def _redis(request: Any, tmp_path: Any) -> Iterator[Peer]:
    from langgraph.checkpoint.redis import RedisSaver

    with redis_with_json() as url, RedisSaver.from_conn_string(f"{url}?protocol=2") as saver:
        saver.setup()
        yield Peer("redis", url, saver)


@contextlib.contextmanager
def _valkey(request: Any, tmp_path: Any) -> Iterator[Peer]:
    from langgraph_checkpoint_aws import ValkeySaver

    url = request.getfixturevalue("clean_redis_url")
    with ValkeySaver.from_conn_string(url.replace("redis://", "valkey://")) as saver:
        yield Peer("valkey", url, saver)


PEERS = {"postgres": _postgres, "sqlite": _sqlite, "redis": _redis, "valkey": _valkey}


@contextlib.contextmanager
def importing(peer: Peer, saver: Any, *allowed: type, **options: Any) -> Iterator[Importer]:
    """An importer from a peer into a saver of ours."""
    url = f"sqlite:///{peer.url.replace(' ', '%20')}" if peer.kind == "sqlite" else peer.url
    store: Any = open_store(url, blocking=True)
    unpacker = Unpacker([(one.__module__, one.__name__) for one in allowed])
    match peer.kind:
        case "postgres":
            source: Any = PostgresSource(store, unpacker)
        case "sqlite":
            source = SqliteSource(store, unpacker)
        case "redis":
            source = RedisSource(store, store, unpacker)
        case "valkey":
            source = ValkeySource(store, store, unpacker)
    try:
        yield Importer(source, saver, unpacker, **options)
    finally:
        drive(source.aclose())


class Scenario(NamedTuple):
    """A graph over a saver, what a thread of it has been through, and how it goes on."""

    graph: Callable[[Any], Any]
    begin: Callable[[Any, Any], Any]
    go_on: Callable[[Any, Any], Any]


def plain(value: Any) -> Any:
    """A value without what two runs never share: the ids of messages, interrupts and checkpoints."""
    if isinstance(value, BaseMessage):
        calls = [call["name"] for call in getattr(value, "tool_calls", [])]
        return (value.type, value.content, calls, value.name if isinstance(value, ToolMessage) else None)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return getattr(value, "value", value) if type(value).__name__ == "Interrupt" else value


# an agent with messages and a tool


def _agent(saver: Any) -> Any:
    def say(messages: list[BaseMessage]) -> Any:
        if isinstance(messages[-1], ToolMessage):
            return f"It is {messages[-1].text}."
        if not messages[-1].text.endswith("5"):
            return f"That is {messages[-1].text}."
        return AIMessage("", tool_calls=[tool_call("lookup", order_id=messages[-1].text)])

    return create_agent(ScriptedModel(script=[say]), [lookup], checkpointer=saver)


def _ask(graph: Any, config: Any, *questions: str) -> Any:
    return [graph.invoke({"messages": [("user", question)]}, config) for question in questions][-1]


def _many_turns(graph: Any, config: Any) -> None:
    """Fifty; the saver for Redis takes longer for each, and so has fewer."""
    turns = 12 if "Redis" in type(graph.checkpointer).__name__ else 50
    _ask(graph, config, *(f"order {turn}" for turn in range(turns)))


# a subgraph that waits for a person


class Talk(TypedDict):
    messages: Annotated[list, add_messages]
    seen: Annotated[list, operator.add]


def _with_subgraph(saver: Any) -> Any:
    def remember(state: Talk) -> Any:
        return {"seen": [f"inner {len(state['messages'])}"]}

    def confirm(state: Talk) -> Any:
        return {"seen": [interrupt({"question": "Send it?", "at": len(state["messages"])})]}

    inner = StateGraph(Talk).add_node("remember", remember).add_node("confirm", confirm)
    inner = inner.add_edge(START, "remember").add_edge("remember", "confirm").add_edge("confirm", END)
    outer = StateGraph(Talk).add_node("inner", inner.compile()).add_node("kept", inner.compile(checkpointer=True))
    return outer.add_edge(START, "inner").add_edge("inner", "kept").add_edge("kept", END).compile(checkpointer=saver)


def _until_the_second_interrupt(graph: Any, config: Any) -> None:
    _ask(graph, config, "hello")
    graph.invoke(Command(resume="yes"), config)


def _resume(graph: Any, config: Any) -> Any:
    return graph.invoke(Command(resume="certainly"), config), graph.get_state(config, subgraphs=False).next


# a fan-out of which one branch has failed


class Jobs(TypedDict):
    jobs: list
    done: Annotated[list, operator.add]


def _fan_out(saver: Any) -> Any:
    def work(job: dict, config: RunnableConfig) -> Any:
        if job["name"] == "third" and config["configurable"].get("fails"):
            raise RuntimeError("the third job fails")
        return {"done": [job["name"]]}

    def send(state: Jobs) -> list[Send]:
        return [Send("work", {"name": name}) for name in state["jobs"]]

    graph = StateGraph(Jobs).add_node("plan", lambda state: {}).add_node("work", work)
    graph = graph.add_edge(START, "plan").add_conditional_edges("plan", send, ["work"]).add_edge("work", END)
    return graph.compile(checkpointer=saver)


def _fail_once(graph: Any, config: Any) -> None:
    failing = {"configurable": {**config["configurable"], "fails": True}}
    with contextlib.suppress(RuntimeError):
        graph.invoke({"jobs": ["first", "second", "third", "fourth"]}, failing)


def _finish(graph: Any, config: Any) -> Any:
    return graph.invoke(None, config)


# a channel that keeps what is new


def _delta(saver: Any) -> Any:
    class Long(TypedDict):
        log: Annotated[
            list, DeltaChannel(lambda old, new: [*old, *(x for one in new for x in one)], list, snapshot_frequency=4)
        ]
        count: int

    def step(state: Long) -> Any:
        return {"log": [f"step {len(state['log'])}"], "count": state.get("count", 0) + 1}

    return StateGraph(Long).add_node("step", step).add_edge(START, "step").compile(checkpointer=saver)


def _seven_steps(graph: Any, config: Any) -> None:
    for turn in range(7):
        graph.invoke({"log": [f"in {turn}"]}, config)


def _two_steps(graph: Any, config: Any) -> Any:
    return [graph.invoke({"log": [f"later {turn}"]}, config) for turn in range(2)]


# a thread that was changed by hand, and went two ways


def _fork(graph: Any, config: Any) -> None:
    _ask(graph, config, "order 5", "two")
    newest = graph.checkpointer.get_tuple(config)
    before = {"configurable": {**newest.parent_config["configurable"]}}
    graph.update_state(config, {"messages": [("ai", "by hand")]})
    changed = graph.update_state(before, {"messages": [("user", "another two")]}, as_node="__start__")
    graph.invoke(None, changed)


# values of many kinds


class Many(TypedDict):
    text: str
    number: int
    share: float
    flag: bool
    nothing: Any
    raw: bytes
    when: Any
    deep: dict
    unlike: Any
    documents: Annotated[list, operator.add]


def _many(saver: Any) -> Any:
    def fill(state: Many) -> Any:
        return {
            "number": state["number"] + 1,
            "share": 0.5,
            "flag": True,
            "nothing": None,
            "when": [dt.datetime(2026, 1, 2, tzinfo=dt.UTC), decimal.Decimal("1.10"), uuid.UUID(int=5)],
            "deep": {"ü": [{"a": {"b": [1, 2.5, None, "x" * 300]}}]},
            "unlike": {"s": {1, 2, 3}, "lc": 1},
            "documents": [Document(page_content=f"page {state['number']}", metadata={"n": state["number"]})],
        }

    graph = StateGraph(Many).add_node("fill", fill).add_edge(START, "fill").add_edge("fill", END)
    return graph.compile(checkpointer=saver)


def _fill(graph: Any, config: Any) -> Any:
    return graph.invoke({"text": "zß水🍌", "number": 3, "raw": b"\x00\xff"}, config)


SCENARIOS = {
    "many turns of an agent": Scenario(_agent, _many_turns, lambda g, c: _ask(g, c, "order 55")),
    "a subgraph waits": Scenario(_with_subgraph, _until_the_second_interrupt, _resume),
    "a branch has failed": Scenario(_fan_out, _fail_once, _finish),
    "a delta channel": Scenario(_delta, _seven_steps, _two_steps),
    "two ways by hand": Scenario(_agent, _fork, lambda g, c: _ask(g, c, "three")),
    "values of many kinds": Scenario(_many, _fill, _fill),
}
