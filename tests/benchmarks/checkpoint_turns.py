"""A conversation as LangGraph's runtime hands it to a checkpointer, and the text that it is about.

One turn of a graph of two nodes with `durability="sync"`: a get of the newest checkpoint, a put for the input, and for
each of three steps the task's writes and a put: 8 calls. The channel `messages` grows by 5,000 characters a turn: 1,000
of a user and 1,500 of a model (prose, from the manual that Python carries), 2,500 of a tool (source of Python's own
library). No piece of text comes twice in 250 turns of a conversation. Every get asserts the number of messages. Turns
can be prepared before a clock starts, so that making them costs no side anything.
"""

from __future__ import annotations

import functools
import pydoc_data.topics
import random
import sysconfig
import time
import uuid
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base.id import uuid6

if TYPE_CHECKING:
    from collections.abc import Iterator

    Call = tuple[str, tuple[Any, ...]]

TURN_BYTES = 5_000
HUMAN, MODEL, TOOL = 1_000, 1_500, 2_500
CALLS_A_TURN = 8
MESSAGES_A_TURN = 3
METHODS = {"get": "aget_tuple", "put": "aput", "writes": "aput_writes"}
LIBRARY_BYTES = 8_000_000


class LostStateError(AssertionError):
    """A saver gave back another number of messages than were put."""


class Conversation:
    """One thread; `seed` decides its text and ids."""

    def __init__(self, saver: Any, seed: int) -> None:
        self.saver = saver
        self.thread = f"t-{seed}-{uuid.uuid4().hex[:8]}"
        self._random = random.Random(seed)
        self._latest: dict[str, Any] = {"configurable": {"thread_id": self.thread, "checkpoint_ns": ""}}
        self._at = self._latest
        self._prose, self._source = (self._random.sample(texts, len(texts)) for texts in _texts())
        self._messages: list[AnyMessage] = []
        self._versions: dict[str, Any] = {}
        self._seen: dict[str, dict[str, Any]] = {}
        self._step = -1
        self._made = 0
        self._prepared: deque[list[Call]] = deque()
        self.turns = 0

    async def run(self, turns: int, spent: dict[str, list[float]] | None = None) -> None:
        """So many turns; `spent` takes seconds of every call, by its kind."""
        for _ in range(turns):
            if not self._prepared:
                self.prepare(1)
            for kind, arguments in self._prepared.popleft():
                began = time.perf_counter()
                found = await getattr(self.saver, METHODS[kind])(*arguments)
                if spent is not None:
                    spent.setdefault(kind, []).append(time.perf_counter() - began)
                if kind == "get":
                    self._check(found)
            self.turns += 1

    def prepare(self, turns: int) -> Conversation:
        """Make the arguments of so many turns."""
        self._prepared.extend(list(self._turn()) for _ in range(turns))
        return self

    async def begin(self) -> None:
        """The put of the first turn's input, and no more."""
        self.prepare(1)
        _, (kind, arguments), *_ = self._prepared[0]
        await getattr(self.saver, METHODS[kind])(*arguments)

    async def get(self, saver: Any | None = None) -> float:
        """Read the newest checkpoint, perhaps with another saver; the seconds it took."""
        began = time.perf_counter()
        found = await (saver or self.saver).aget_tuple(self._latest)
        took = time.perf_counter() - began
        self._check(found)
        return took

    def _check(self, found: Any) -> None:
        held = 0 if found is None else len(found.checkpoint["channel_values"].get("messages", ()))
        if held != MESSAGES_A_TURN * self.turns:
            put = MESSAGES_A_TURN * self.turns
            raise LostStateError(f"{type(self.saver).__name__} gave {held} messages of {put} in {self.thread}")

    def _turn(self) -> Iterator[Call]:
        number, self._made = self._made, self._made + 1
        prose = self._prose[number % len(self._prose)]
        human = HumanMessage(prose[:HUMAN], id=self._id())
        asked = {"name": "search", "args": {"q": prose[HUMAN : HUMAN + 60]}, "id": self._id()}
        usage = {"input_tokens": 900, "output_tokens": 200, "total_tokens": 1100}
        model = AIMessage(prose[HUMAN:], id=self._id(), tool_calls=[asked], usage_metadata=usage)
        source = self._source[number % len(self._source)]
        tool = ToolMessage(source, tool_call_id=asked["id"], id=self._id())
        yield "get", (self._latest,)
        yield self._put("input", {"__start__": {"messages": [human]}}, "__start__")
        for node, message, following in (("__start__", human, "agent"), ("agent", model, "tools"), ("tools", tool, "")):
            branch = f"branch:to:{following}"
            writes = [("messages", [message] if node == "__start__" else message), (branch, None)]
            yield "writes", (self._at, writes, self._id(), f"~__pregel_pull, {node}")
            self._messages = [*self._messages, message]
            self._seen[node] = {"messages": self._versions.get("messages", self.saver.get_next_version(None, None))}
            yield self._put("loop", {branch: None}, "messages", branch)

    def _put(self, source: str, values: dict[str, Any], *channels: str) -> Call:
        newest = self.saver.get_next_version(max(self._versions.values(), default=None), None)
        changed = dict.fromkeys(channels, newest)
        self._versions |= changed
        made = {
            "v": 4,
            "ts": "2026-11-21T00:00:00.000000+00:00",
            "id": str(uuid6(clock_seq=self._step)),
            "channel_values": {"messages": self._messages, **values},
            "channel_versions": dict(self._versions),
            "versions_seen": {node: dict(seen) for node, seen in self._seen.items()},
            "updated_channels": list(channels),
        }
        told = {"source": source, "step": self._step, "parents": {}, "run_id": f"run-{self._made}"}
        below, self._at = self._at, {"configurable": {**self._latest["configurable"], "checkpoint_id": made["id"]}}
        self._step += 1
        return "put", (below, made, told, changed)

    def _id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128)))


@functools.cache
def _texts() -> tuple[list[str], list[str]]:
    """Pieces of prose for a user and a model, and pieces of source for a tool."""
    prose = "\n".join(pydoc_data.topics.topics.values())
    source, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        source.append(path.read_text(encoding="utf-8", errors="ignore"))
        size += len(source[-1])
        if size > LIBRARY_BYTES:
            break
    return _pieces(prose, HUMAN + MODEL), _pieces("\n".join(source), TOOL)


def _pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text) - size, size)]
