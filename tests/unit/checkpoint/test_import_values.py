"""How an import orders what it reads, and what it takes for equal."""

from __future__ import annotations

import math

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Interrupt, Send

from langchain_llmops.checkpoint.import_redis import RedisSource
from langchain_llmops.checkpoint.import_source import Name, StoredWrite, in_order, oldest_first
from langchain_llmops.checkpoint.import_values import Unpacker, Value, alike
from langchain_llmops.checkpoint.importing import _placed

STRICT = JsonPlusSerializer(allowed_msgpack_modules=None)


def write(channel: str, idx: int, task: str = "t", path: str = "") -> StoredWrite:
    return StoredWrite(task, path, idx, channel, Value(channel))


def test_parents_come_before_their_children_whatever_their_ids_say() -> None:
    parents = {Name("", "1"): "3", Name("", "2"): "1", Name("", "3"): None, Name("n", "0"): "gone"}
    assert oldest_first(parents) == [Name("", "3"), Name("", "1"), Name("", "2"), Name("n", "0")]


def test_a_circle_of_parents_ends() -> None:
    assert len(oldest_first({Name("", "1"): "2", Name("", "2"): "1"})) == 2


def test_writes_are_ordered_by_path_task_and_place() -> None:
    writes = [write("d", 0, "a", "~2"), write("b", 1, "b", "~1"), write("a", 0, "b", "~1"), write("c", 0, "c", "~1")]
    assert [one.channel for one in in_order(writes)] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("writes", "row"),
    [
        ([write("__resume__", -4), write("a", 1), write("b", 2)], ["__resume__", "a", "b"]),
        ([write("__error__", -1), write("a", 0)], ["a", "__error__"]),
        ([write("a", 3), write("b", 9)], ["a", "b"]),
        ([write("__interrupt__", -3), write("__resume__", -4)], ["__interrupt__", "__resume__"]),
    ],
)
def test_a_write_stands_where_langgraph_would_put_it_again(writes, row) -> None:
    assert [channel for channel, _ in _placed(writes)] == row


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        ({1, 2, 1024}, {1024, 2, 1}, True),
        ([math.nan], [math.nan], True),
        ([1], [True], False),
        ([1], [1.0], False),
        ([1, 2], [2, 1], False),
        ({"a": None}, {}, False),
    ],
)
def test_values_are_alike_when_they_are_stored_the_same(one, other, same) -> None:
    assert alike(one, other, STRICT) is same


@pytest.mark.parametrize(
    ("document", "value"),
    [
        ({"__send__": True, "node": "n", "arg": {"__bytes__": "AP8="}}, Send("n", {"__bytes__": "AP8="})),
        ([{"__interrupt__": True, "value": "v", "id": "i"}], [Interrupt("v", id="i")]),
        ({"lc": 2, "type": "constructor", "id": ["builtins", "set"], "kwargs": {"__set_items__": [1, 2]}}, {1, 2}),
        ({"raw": {"__bytes__": "AP8="}}, {"raw": b"\x00\xff"}),
        ({"lc": 1}, {"lc": 1}),
    ],
)
def test_the_marks_of_the_redis_saver_become_what_they_stand_for(document, value) -> None:
    source = RedisSource(None, None, Unpacker())
    read = source._value(document)
    assert read.value == value
    assert Unpacker().lost(read) == []


def test_a_constructor_of_the_redis_saver_that_nobody_trusts_is_lost() -> None:
    unpacker = Unpacker()
    forged = {"lc": 2, "type": "constructor", "id": ["os", "system"], "args": ["true"]}
    read = RedisSource(None, None, unpacker)._value([{"deep": forged}])
    assert unpacker.lost(read) == ["os.system"]
