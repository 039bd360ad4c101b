"""Latency, token counts, embeddings and generated instances: the small parts."""

from __future__ import annotations

import base64
import json
import math
import statistics
import struct
import time
from enum import StrEnum
from itertools import islice
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, create_model

from langchain_llmops.simulator import ApiError, Latency, Reply, Request, SimulatorError, ToolCall, running
from langchain_llmops.simulator.draws import Occasion
from langchain_llmops.simulator.embeddings import vector_of
from langchain_llmops.simulator.schema import instance_of
from langchain_llmops.simulator.tokens import default_count, limited, prompt_tokens, split_text, usage_of

USER = {"role": "user", "content": "hello"}


# Latency


def test_delays_follow_the_stated_distribution():
    latency = Latency(ttft_s=0.5, ttft_sigma=0.3, token_s=0.01, token_sigma=0.2)
    firsts = [next(latency.delays(1, Occasion(b"%d" % i), 1.0)) for i in range(2000)]
    tokens = list(islice(latency.delays(1, Occasion(b"x"), 1.0), 1, 2001))
    assert statistics.median(firsts) == pytest.approx(0.5, rel=0.05)
    assert statistics.stdev(map(math.log, firsts)) == pytest.approx(0.3, rel=0.1)
    assert statistics.median(tokens) == pytest.approx(0.01, rel=0.05)


def test_delays_depend_on_seed_and_request_only_and_speed_multiplies_them():
    def drawn(seed, occasion, speed=1.0):
        return list(islice(Latency().delays(seed, occasion, speed), 5))

    base = drawn(1, Occasion(b"x", nth=1, ordinal=1))
    assert drawn(1, Occasion(b"x", nth=1, ordinal=9)) == base
    assert drawn(2, Occasion(b"x")) != base
    assert drawn(1, Occasion(b"x", nth=2)) != base
    assert drawn(1, Occasion(b"x"), 0.5) == pytest.approx([delay / 2 for delay in base])
    assert drawn(1, Occasion(b"x"), 0.0) == [0.0] * 5


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_takes_at_least_its_drawn_time(ask, stream):
    with running(latency=Latency(ttft_s=0.05, ttft_sigma=0, token_s=0.005, token_sigma=0)) as simulator:
        begun = time.monotonic()
        answer = ask(simulator, "word " * 20, stream=stream)
        if stream:
            list(answer)
    # A lower bound alone: a busy machine can only make it longer.
    assert time.monotonic() - begun >= 0.05 + 19 * 0.005


@pytest.mark.parametrize("field", ["ttft_s", "ttft_sigma", "token_s", "token_sigma"])
@pytest.mark.parametrize("value", [-1, math.inf, math.nan])
def test_a_wrong_latency_is_refused(field, value):
    with pytest.raises(SimulatorError, match=field):
        Latency(**{field: value})


def test_a_wrong_speed_is_refused():
    with pytest.raises(SimulatorError, match="speed must be at least 0"):
        with running(speed=-1):
            pass


# Token counts


@given(st.text())
def test_pieces_of_a_text_join_to_it(text):
    assert "".join(split_text(text)) == text


def test_usage_is_counted_as_stated():
    count = len
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    messages = (
        {"role": "system", "content": "be kind"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": "x"}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "ok", "tool_call_id": "c"},
    )
    words = 6 + 7 + 4 + 5 + 9 + 0 + 4 + 7 + 4 + 2
    tools = ({"type": "function", "function": {"name": "look"}},)
    assert prompt_tokens(Request("m", messages), count) == 3 + 4 * 3 + words
    schema = len(json.dumps(tools, separators=(",", ":")))
    assert prompt_tokens(Request("m", messages, tools=tools), count) == 3 + 4 * 3 + words + schema
    reply = Reply(content="abc", tool_calls=(ToolCall("look", "{}"),))
    assert usage_of(Request("m", messages, n=2), reply, count).completion == 2 * (3 + 4 + 2)
    assert usage_of(Request("m", messages), Reply(refusal="no"), count).completion == 2


@given(st.text(min_size=1), st.integers(1, 40))
def test_a_limited_reply_keeps_the_beginning_within_the_limit(text, limit):
    cut = limited(Reply(content=text), limit, default_count)
    assert text.startswith(cut.content)
    assert default_count(cut.content) <= limit
    assert (cut.finish == "length") == (cut.content != text)


def test_a_counter_of_the_callers_own_is_used(ask):
    with running(count_tokens=lambda text: 1000 * len(text)) as simulator:
        assert ask(simulator, "hello").usage.completion_tokens == 5000


# Embeddings


@given(st.lists(st.text(min_size=1), min_size=1), st.sampled_from([1, 2, 8, 256, 1536]))
def test_a_vector_has_length_one_and_depends_on_its_words_only(words, dimensions):
    vector = vector_of(tuple(words), dimensions)
    assert len(vector) == dimensions
    assert math.sqrt(math.fsum(x * x for x in vector)) == pytest.approx(1)
    assert vector == vector_of(tuple(words), dimensions)


def test_base64_is_little_endian_float32_of_the_same_numbers(echo, connect):
    client = connect(echo)

    def raw(**options):
        return client.embeddings.with_raw_response.create(model="text-embedding-3-small", input="hi", **options)

    packed = json.loads(raw(encoding_format="base64").text)["data"][0]["embedding"]
    numbers = json.loads(raw(encoding_format="float").text)["data"][0]["embedding"]
    assert struct.unpack("<1536f", base64.b64decode(packed)) == pytest.approx(numbers)


def test_embeddings_keep_order_take_tokens_and_dimensions_and_count(echo, connect):
    client = connect(echo)
    answer = client.embeddings.create(model="text-embedding-3-small", input=["abcd", "efghijkl"], dimensions=64)
    assert [one.index for one in answer.data] == [0, 1]
    assert {len(one.embedding) for one in answer.data} == {64}
    assert answer.usage.total_tokens == 3
    tokens = client.embeddings.create(model="text-embedding-3-small", input=[[1, 2, 3], [1, 2, 4]])
    assert tokens.usage.prompt_tokens == 6
    one = client.embeddings.create(model="text-embedding-3-small", input=[1, 2, 3])
    assert one.data[0].embedding == tokens.data[0].embedding


# Generated instances


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    name: str
    weight: float | None = None


class Tree(BaseModel):
    leaf: Leaf
    children: list[Tree]
    parent: Tree | None


SIMPLE = st.sampled_from(
    [
        str, int, float, bool, None, Colour, Literal["a", 3], dict[str, int], Leaf, Tree,
        Annotated[int, Field(ge=5, le=9)], Annotated[int, Field(gt=-3, lt=-1)], Annotated[float, Field(gt=0, lt=1)],
        Annotated[int, Field(multiple_of=7, ge=8)], Annotated[float, Field(le=-0.5)], Annotated[float, Field(gt=5)],
        Annotated[str, Field(min_length=12)], Annotated[str, Field(max_length=2)], tuple[int, str],
        Annotated[list[int], Field(min_length=3)], Annotated[set[Colour], Field(min_length=2)],
        Annotated[list[str], Field(max_length=0)],
    ]
)  # fmt: skip
TYPES = st.recursive(
    SIMPLE,
    lambda inner: st.one_of(
        inner.map(lambda one: list[one]),
        inner.map(lambda one: one | None if one is not None else one),
        st.tuples(inner, inner).map(lambda two: tuple[two]),
        st.lists(inner, min_size=1, max_size=3).map(
            lambda members: create_model("Made", **{f"field_{i}": (one, ...) for i, one in enumerate(members)})
        ),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(TYPES)
def test_an_instance_is_valid_against_its_schema_and_always_the_same(kind):
    adapter = TypeAdapter(kind)
    schema = adapter.json_schema()
    instance = instance_of(schema)
    adapter.validate_json(json.dumps(instance), strict=False)
    assert instance_of(schema) == instance


@pytest.mark.parametrize("form", ["date", "time", "date-time", "email", "uuid", "uri", "ipv4", "ipv6", "duration"])
def test_a_format_gets_its_own_text(form):
    assert instance_of({"type": "string", "format": form}) != instance_of({"type": "string"})


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"type": "string", "pattern": "a+"}, "keyword 'pattern'"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "in a circle"),
        ({"$ref": "https://example.com/x"}, "only references inside"),
        ({"$ref": "#/$defs/a"}, "malformed"),
        ({"type": "shape"}, "no JSON type"),
        ({"type": "object", "properties": 3}, "malformed"),
        ({"enum": []}, "malformed"),
        ({"type": "integer", "minimum": 3, "maximum": 2}, "no number keeps"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True, "minItems": 2}, "unique items"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}},
                                               "required": ["a"]}}}, "no finite instance"),
    ],
)  # fmt: skip
def test_a_schema_without_a_generated_instance_is_a_400(schema, reason):
    with pytest.raises(ApiError, match=reason) as caught:
        instance_of(schema)
    assert caught.value.status == 400
