"""Contents of checkpoints for the model-based test: channel values, how steps of a graph change them, and writes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, SCHEDULED, _DeltaSnapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["CHANNELS", "Change", "Numbers", "changed", "changes", "writes", "written"]

CHANNELS: Final = ("messages", "log", "doc", "any", "big", "branch:to:модель")
LISTS: Final = ("messages", "log")
SPECIAL: Final = (ERROR, INTERRUPT, RESUME, SCHEDULED)
SIZES: Final = (8, 118, 122, 126, 130, 700, 700, 4_000)  # an item is a chunk from 128 bytes


class Change(NamedTuple):
    """What one step of a graph does to one channel; the numbers mean places, counts and contents."""

    channel: str
    how: str
    place: int
    count: int
    number: int
    size: int


@dataclass
class Numbers:
    """Ids and versions that grow as LangGraph's do, and are the same in every run of a test."""

    ids: int = 0
    versions: int = 0

    def id(self, *, before: str | None = None) -> str:
        """The next checkpoint id; or one that is older than another, made late."""
        self.ids += 1
        if before is None:
            return f"1f0{self.ids:05x}-0000-6000-8000-ffffffffffff"
        return f"{before[:-12]}{0xFFFFFFFFFFFF - self.ids:012x}"

    def version(self, current: str | None) -> str:
        """As `get_next_version` makes them: a counter, and an end that tells forks apart."""
        self.versions += 1
        return f"{int(current.split('.')[0]) + 1 if current else 1:032}.0.{self.versions:014}"


# values


def _content(number: int, size: int) -> str:
    return (f"{number}·" * (size // 2 + 1))[:size]


def message(number: int, size: int) -> Any:
    content = _content(number, size)
    kinds: list[Callable[[], Any]] = [
        lambda: HumanMessage(content, id=f"m{number}"),
        lambda: AIMessage(
            content, id=f"m{number}", tool_calls=[{"name": "look", "args": {"n": number}, "id": f"c{number}"}]
        ),
        lambda: ToolMessage(content, id=f"m{number}", tool_call_id=f"c{number}"),
    ]
    return kinds[number % len(kinds)]()


def anything(number: int, size: int) -> Any:
    content = _content(number, size)
    values: list[Any] = [
        content,
        None,
        number,
        content.encode(),
        True,
        number / 7,
        (content, number),
        {"text": content, "more": [number, {"deep": None}]},
        [content, number],
        "",
        b"",
        {1: content, "1": number},
        [],
        {},
        {content, "member"},
        datetime.fromtimestamp(number, UTC),
        [number, content],
        _DeltaSnapshot([content, number]),
        float("nan"),
        [None, [[]], {}],
    ]
    return values[number % len(values)]


def _item(channel: str, number: int, size: int) -> Any:
    return message(number, size) if channel == "messages" else anything(number, size)


# changes

ON_LISTS: Final[dict[str, Callable[[list, list, int, int], list]]] = {
    "append": lambda old, new, place, count: [*old, *new],
    "trim": lambda old, new, place, count: old[count:],
    "drop": lambda old, new, place, count: old[: max(len(old) - count, 0)],
    "replace": lambda old, new, place, count: new,
    "splice": lambda old, new, place, count: [*old[:place], *new, *old[place + count :]],
    "reverse": lambda old, new, place, count: old[::-1],
    "double": lambda old, new, place, count: old[:60] * 2,
    "clear": lambda old, new, place, count: [],
}
ON_DICTS: Final[dict[str, Callable[[dict, Any, str], dict]]] = {
    "append": lambda old, new, name: {**old, name: new},
    "trim": lambda old, new, name: {key: value for key, value in old.items() if key != name},
    "replace": lambda old, new, name: {name: new},
    "splice": lambda old, new, name: {key: new if key == name else value for key, value in old.items()},
    "reverse": lambda old, new, name: dict(reversed(old.items())),
    "clear": lambda old, new, name: {},
}
ON_CHANNELS: Final = ("touch", "consume", "leave", "turn")
HOWS: Final = (*ON_LISTS, *ON_CHANNELS)


def changes() -> st.SearchStrategy[Change]:
    """One change to one channel."""
    return st.builds(
        Change,
        channel=st.sampled_from(("messages", *CHANNELS)),
        how=st.sampled_from(("append", "append", "append", "append", "splice", *HOWS)),
        place=st.integers(0, 4),
        count=st.integers(0, 3),
        number=st.integers(0, 19),
        size=st.sampled_from(SIZES),
    )


def changed(old: dict[str, Any], versions: dict[str, str], change: Change, numbers: Numbers) -> tuple[dict, dict]:
    """Values and versions after a change; what was given stays as it was."""
    channel, how = change.channel, change.how
    values = dict(old)
    if how == "leave":  # the graph has no such channel any more: its version stays
        values.pop(channel, None)
        return values, versions
    if how == "consume":
        values.pop(channel, None)
    elif how != "touch":
        values[channel] = _value(values.get(channel), change)
    return values, {**versions, channel: numbers.version(versions.get(channel))}


def _value(old: Any, change: Change) -> Any:
    channel, how, place, count, number, size = change
    if channel.startswith("branch:"):
        return None
    if channel == "big":
        return _content(number, size * 5)
    if channel == "any" or how == "turn":
        return anything(number, size)
    if channel in LISTS:
        new = [_item(channel, number + step, size) for step in range(count)]
        return ON_LISTS[how](old if isinstance(old, list) else [], new, place, count)
    act = ON_DICTS.get(how, ON_DICTS["append"])
    return act(old if isinstance(old, dict) else {}, anything(number, size), f"key {place % 5}")


def writes() -> st.SearchStrategy[list[tuple[str, int, int]]]:
    """A task's writes: channel, number, size."""
    channel = st.sampled_from((*CHANNELS, *CHANNELS, *SPECIAL))
    return st.lists(st.tuples(channel, st.integers(0, 19), st.sampled_from(SIZES)), max_size=4)


def written(drawn: Sequence[tuple[str, int, int]]) -> list[tuple[str, Any]]:
    """Writes as `put_writes` takes them."""
    return [(channel, _item(channel, number, size)) for channel, number, size in drawn]
