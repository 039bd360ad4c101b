"""A cached answer as bytes: the answer comes back fresh, and nothing else ever comes back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ChatMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_llmops.cache.codec import Entry, decode, encode, rebuild
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import EnvelopeError
from tests.support.models import answer, tool_call

ENVELOPE = Envelope()
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=5), anything, max_size=3)


def through(*answers: Generation, level: str = "L1", age_s: float = 1.0) -> list[Generation]:
    stored = encode(answers, created=5.0, generation=2, envelope=ENVELOPE)
    return rebuild(decode(stored, ENVELOPE), level=level, age_s=age_s)


@given(st.text(), objects, objects, st.none() | objects)
def test_an_answer_comes_back_as_it_was(text, meta, extra, info) -> None:
    extra = {name: value for name, value in extra.items() if name not in ("tool_calls", "parsed")}
    message = AIMessage(text, response_metadata=meta, additional_kwargs=extra, name="n")
    (back,) = through(ChatGeneration(message=message, generation_info=info))
    told = dict(back.message.response_metadata)
    told.pop("llmops_cache")
    meta.pop("token_usage", None)
    assert (back.text, told, back.message.additional_kwargs, back.generation_info, back.message.name) == (
        text, meta, extra, info, "n"
    )  # fmt: skip


def test_content_blocks_come_back_as_they_were() -> None:
    blocks = [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "hi"}]
    (back,) = through(ChatGeneration(message=AIMessage(blocks)))
    assert back.message.content == blocks
    assert back.message.text == "hi"


def test_a_text_models_answer_comes_back() -> None:
    assert through(Generation(text="hi", generation_info={"a": 1})) == [Generation(text="hi", generation_info={"a": 1})]


def test_several_answers_come_back_in_order() -> None:
    back = through(*(ChatGeneration(message=AIMessage(text)) for text in "abc"))
    assert [generation.text for generation in back] == ["a", "b", "c"]
    assert isinstance(back, list), "langchain-core takes nothing else for a hit"


def test_a_hit_says_where_it_came_from_and_what_it_saved() -> None:
    (back,) = through(ChatGeneration(message=answer(usage=(10, 5))), level="L2", age_s=7.5)
    assert back.message.response_metadata["llmops_cache"] == {
        "level": "L2",
        "age_s": 7.5,
        "saved": {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15},
    }
    assert back.message.usage_metadata == {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


def test_the_providers_own_count_of_tokens_is_not_said_twice() -> None:
    told = {"token_usage": {"total_tokens": 15}, "model_name": "m"}
    (back,) = through(ChatGeneration(message=answer(response_metadata=told)))
    assert "token_usage" not in back.message.response_metadata
    assert back.message.response_metadata["model_name"] == "m"


def test_every_hit_has_new_ids() -> None:
    original = answer(id="run-1", tool_calls=[tool_call("lookup", q="1"), tool_call("refund", q="2")])
    backs = [through(ChatGeneration(message=original))[0].message for _ in range(2)]
    ids = {original.id, *(back.id for back in backs)}
    assert len(ids) == 3
    calls = {call["id"] for message in (original, *backs) for call in message.tool_calls}
    assert len(calls) == 2 + 4
    assert [[(c["name"], c["args"]) for c in back.tool_calls] for back in backs] == [
        [("lookup", {"q": "1"}), ("refund", {"q": "2"})]
    ] * 2


def test_ids_of_tool_calls_inside_the_content_change_with_them() -> None:
    """Anthropic's messages name a call twice; a history with two names for it is refused."""
    call = {"name": "lookup", "args": {"q": "1"}, "id": "toolu_1", "type": "tool_call"}
    blocks = [
        {"type": "text", "text": "a"},
        {"type": "tool_use", "id": "toolu_1", "name": "lookup", "input": {"q": "1"}},
    ]
    (back,) = through(ChatGeneration(message=AIMessage(blocks, tool_calls=[call])))
    (made,) = back.message.tool_calls
    assert made["id"] != "toolu_1"
    assert back.message.content[1]["id"] == made["id"]


def test_tool_calls_and_parsed_objects_are_not_stored_twice() -> None:
    extra = {"tool_calls": [{"id": "c1"}], "parsed": object(), "refusal": None}
    (back,) = through(ChatGeneration(message=AIMessage("x", additional_kwargs=extra)))
    assert back.message.additional_kwargs == {"refusal": None}


def test_an_answer_that_json_cannot_hold_is_refused_at_once() -> None:
    for broken in (
        ChatGeneration(message=AIMessage("x", additional_kwargs={"raw": object()})),
        ChatGeneration(message=ChatMessage("x", role="critic")),
    ):
        with pytest.raises(TypeError):
            encode([broken], created=0.0, generation=0, envelope=ENVELOPE)


def test_half_an_emoji_survives() -> None:
    assert through(Generation(text="\ud83d"))[0].text == "\ud83d"


# what is not ours


def packed(body: object) -> bytes:
    return ENVELOPE.seal(body if isinstance(body, bytes) else json.dumps(body).encode())


GOOD = {"v": 1, "t": 1.0, "g": 0, "a": []}
STORED = {"content": "x", "tool_calls": [], "usage": None, "meta": {}, "extra": {}, "name": None}


def whole(**changes: object) -> dict:
    return {**GOOD, "a": [{"text": "x", "info": None, "message": {**STORED, **changes}}]}


HOSTILE = {
    "nothing": b"",
    "text": b"hello",
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "an envelope of nothing": packed(b""),
    "no JSON": packed(b"{"),
    "not UTF-8": packed(b"\xff"),
    "a number": packed(3),
    "a list": packed([]),
    "null": packed(None),
    "too deep": packed(b"[" * 100_000),
    "too deep inside": packed(b'{"v":1,"t":1,"g":0,"a":' + b"[" * 100_000),
    "another version": packed({**GOOD, "v": 2}),
    "no version": packed({"t": 1.0, "g": 0, "a": []}),
    "no time": packed({**GOOD, "t": "now"}),
    "an endless generation": packed(b'{"v":1,"t":1,"g":1e999,"a":[]}'),
    "answers that are none": packed({**GOOD, "a": 3}),
    "an answer that is none": packed({**GOOD, "a": [3]}),
    "an answer that is text": packed({**GOOD, "a": ["message"]}),
    "an answer without text": packed({**GOOD, "a": [{"info": None}]}),
    "information that is none": packed({**GOOD, "a": [{"text": "x", "info": 3}]}),
    "a message that is none": packed({**GOOD, "a": [{"text": "x", "info": None, "message": 3}]}),
    "a message without content": packed({**GOOD, "a": [{"text": "x", "info": None, "message": {}}]}),
    "content of another kind": packed(whole(content=3)),
    "calls of another kind": packed(whole(tool_calls=3)),
    "a call of another kind": packed(whole(tool_calls=[3])),
    "a call without a name": packed(whole(tool_calls=[{}])),
    "a call with text for arguments": packed(whole(tool_calls=[{"name": "f", "args": "x"}])),
    "metadata of another kind": packed(whole(meta=3)),
    "metadata that is a list": packed(whole(meta=[3])),
    "extras of another kind": packed(whole(extra=3)),
    "a name of another kind": packed(whole(name=3)),
    "usage of another kind": packed(whole(usage="input_tokens")),
}


@pytest.mark.parametrize("stored", HOSTILE.values(), ids=HOSTILE)
def test_what_is_not_a_whole_entry_is_one_typed_error(stored) -> None:
    with pytest.raises(EnvelopeError):
        rebuild(decode(stored, ENVELOPE), level="L2", age_s=0.0)


nearly = st.fixed_dictionaries({"text": st.text(), "info": st.none() | objects, "message": st.dictionaries(
    st.sampled_from(sorted(STORED)), anything).map(lambda odd: {**STORED, **odd})})  # fmt: skip


@given(anything | st.lists(anything | nearly, max_size=2).map(lambda answers: {**GOOD, "a": answers}))
def test_any_json_is_an_entry_or_one_typed_error(body) -> None:
    try:
        entry = decode(packed(body), ENVELOPE)
        rebuild(entry, level="L2", age_s=0.0)
    except EnvelopeError:
        return
    assert isinstance(entry, Entry)


def test_nothing_stored_is_ever_constructed_by_name() -> None:
    """LangChain's own format would build any class it is told to."""
    forged = {"lc": 1, "type": "constructor", "id": ["langchain_core", "prompts", "PromptTemplate"], "kwargs": {}}
    (back,) = rebuild(decode(packed(whole(extra={"x": forged}, content=[forged])), ENVELOPE), level="L2", age_s=0.0)
    assert back.message.additional_kwargs == {"x": forged}
    assert back.message.content == [forged]


@given(st.integers(min_value=0), st.integers(0, 7))
def test_a_damaged_entry_never_becomes_another_answer(place, bit) -> None:
    stored = bytearray(
        encode([ChatGeneration(message=answer("a" * 500))], created=5.0, generation=2, envelope=ENVELOPE)
    )
    stored[place % len(stored)] ^= 1 << bit
    with pytest.raises(EnvelopeError):
        rebuild(decode(bytes(stored), ENVELOPE), level="L2", age_s=0.0)
