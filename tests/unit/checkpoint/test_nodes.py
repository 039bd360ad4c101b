"""Channel values item by item: what is joined again is what was split, and what is equal is stored once."""

from __future__ import annotations

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langchain_llmops.checkpoint.msgpack import array, binary, mapping
from langchain_llmops.checkpoint.nodes import Joiner, Splitter, refs
from langchain_llmops.core.errors import EnvelopeError

SERDE = JsonPlusSerializer(allowed_msgpack_modules=None)
LONG = "x" * 400
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(max_size=300)
VALUES = st.recursive(
    SCALARS | st.just(LONG),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(), inner, max_size=20),
    max_leaves=30,
)


class Plain:
    """A serializer that is not LangGraph's own, so that nothing is joined as bytes."""

    dumps_typed = staticmethod(SERDE.dumps_typed)
    loads_typed = staticmethod(SERDE.loads_typed)


def split(*values, key=b"k", serde=SERDE):
    splitter = Splitter(serde, key)
    return [splitter.split(value) for value in values], splitter.chunks


@given(st.dictionaries(st.text(), VALUES, max_size=20))
def test_what_is_joined_is_what_was_split(channels):
    for serde in (SERDE, Plain()):
        splitter = Splitter(serde, b"k")
        nodes = {name: splitter.split(value) for name, value in channels.items()}
        joiner = Joiner(serde, splitter.chunks.__getitem__)

        assert joiner.values(nodes) == channels
        assert {name: joiner.value(node) for name, node in nodes.items()} == channels


@given(VALUES)
def test_a_node_survives_the_way_through_msgpack(value):
    (node,), chunks = split(value)

    again = SERDE.loads_typed(SERDE.dumps_typed(node))

    assert Joiner(SERDE, chunks.__getitem__).value(again) == value


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65_535, 65_536])
def test_arrays_maps_and_bytes_of_every_size_are_msgpack(count):
    items = [ormsgpack.packb(number % 7) for number in range(count)]

    assert ormsgpack.unpackb(array(items)) == [number % 7 for number in range(count)]
    assert ormsgpack.unpackb(binary(b"b" * count)) == b"b" * count
    named = {"k" * (number % 40) + str(number): items[0] for number in range(min(count, 70_000))}
    assert ormsgpack.unpackb(mapping(named)) == dict.fromkeys(named, 0)


def test_messages_come_back_as_themselves():
    messages = [
        HumanMessage(LONG, id="1"),
        AIMessage("", id="2", tool_calls=[{"name": "f", "args": {"q": LONG}, "id": "c"}]),
        ToolMessage(LONG, tool_call_id="c", id="3"),
    ]

    nodes, chunks = split(messages, {"messages": messages[:1]}, _DeltaSnapshot(messages))
    joiner = Joiner(SERDE, chunks.__getitem__)

    assert [joiner.value(node) for node in nodes] == [messages, {"messages": messages[:1]}, _DeltaSnapshot(messages)]
    assert len(chunks) == 3


def test_an_equal_item_is_one_chunk_wherever_it_stands():
    nodes, chunks = split([LONG, LONG], {"a": LONG, "b": [LONG]}, LONG)

    assert len(chunks) == 1
    assert {name for node in nodes for name in refs(node)} == set(chunks)


def test_small_items_and_numbers_need_no_chunk():
    nodes, chunks = split(["a", None, b"b", {"c": 1}], list(range(20)), {"k": "v"})

    assert chunks == {}
    assert [list(refs(node)) for node in nodes] == [[], [], []]


def test_a_tenants_key_makes_names_of_its_own():
    _, ours = split(LONG)
    _, others = split(LONG, key=b"other")

    assert ours.keys().isdisjoint(others)
    assert list(ours.values()) == list(others.values())


def test_a_chunk_that_holds_more_than_one_value_is_refused():
    (node,), chunks = split([LONG])
    joiner = Joiner(SERDE, lambda name: chunks[name] + ormsgpack.packb("more"))

    with pytest.raises(EnvelopeError):
        joiner.values({"a": node, "b": [0, ormsgpack.packb(1)]})


def again(splitter: Splitter, serde=SERDE) -> Splitter:
    """For the next put of a thread whose chunks are stored."""
    return Splitter(serde, b"k", splitter.marks)


class Counting:
    def __init__(self) -> None:
        self.calls = 0

    def dumps_typed(self, value):
        self.calls += 1
        return SERDE.dumps_typed(value)

    loads_typed = staticmethod(SERDE.loads_typed)


def test_a_message_that_is_stored_is_not_serialized_again():
    serde = Counting()
    messages = [HumanMessage(LONG, id="1"), AIMessage(LONG, id="2")]
    first = Splitter(serde, b"k")
    nodes = first.split(messages)

    second = again(first, serde)

    assert second.split(list(messages)) == nodes
    assert second.split([HumanMessage(LONG, id="1")]) == [1, nodes[1][:1]]
    assert serde.calls == 2


@pytest.mark.parametrize(
    "change",
    [
        lambda message: setattr(message, "content", LONG + "!"),
        lambda message: setattr(message, "id", "other"),
        lambda message: message.additional_kwargs.update(a=1),
        lambda message: message.response_metadata.update(deep={"er": [1]}),
        lambda message: message.tool_calls[0]["args"].update(q=2),
        lambda message: setattr(message, "usage_metadata", {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}),
    ],
)
def test_a_message_changed_in_place_is_stored_anew(change):
    message = AIMessage(LONG, id="1", tool_calls=[{"name": "f", "args": {"q": 1}, "id": "c"}])
    first = Splitter(SERDE, b"k")
    before = first.split([message])
    change(message)

    second = again(first)
    after = second.split([message])

    assert after != before
    assert Joiner(SERDE, second.chunks.__getitem__).value(after) == [message]


@pytest.mark.parametrize("odd", [(1, 2), {"a": {1, 2}}, "\ud800", object])
def test_a_message_with_more_than_plain_values_is_always_serialized(odd):
    message = HumanMessage(LONG, id="1", additional_kwargs={"odd": odd} if odd is not object else {})
    message.__dict__["response_metadata"] = {"odd": odd} if odd is not object else {"odd": HumanMessage("x")}
    first = Splitter(SERDE, b"k")
    first.split([message])

    assert first.marks == {}
    assert len(again(first).chunks) == 0


def test_a_message_of_another_class_is_another_message():
    first = Splitter(SERDE, b"k")
    human = first.split([HumanMessage(LONG, id="1")])
    other = HumanMessage(LONG, id="1")
    other.__class__ = type("Other", (HumanMessage,), {})

    assert again(first).split([other]) != human
