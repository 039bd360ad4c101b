"""A cached answer as bytes: the answer comes back fresh, and nothing else ever comes back."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, ChatMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_llmops.cache import codec
from langchain_llmops.cache.codec import Entry, encode, rebuild, unpacked
from langchain_llmops.core.errors import EnvelopeError
from tests.support.cache import request
from tests.support.models import ScriptedModel, answer, tool_call

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(max_size=5), anything, max_size=3)


def through(*answers: Generation, level: str = "L1", age_s: float = 1.0) -> list[Generation]:
    stored = Entry(5.0, 60.0, 0.5, {"tag": 2}, encode(answers)).packed()
    return rebuild(unpacked(stored), {"level": level, "age_s": age_s})


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


def test_ids_of_calls_by_which_responses_go_on_change_with_them() -> None:
    """OpenAI's Responses pair a call with its result by `call_id`, and have an id of their own for the item."""
    calls = [tool_call("lookup", q="1"), tool_call("refund", q="2")]
    blocks = [
        {"type": "reasoning", "id": "rs_1", "summary": []},
        *({"type": "function_call", "id": f"fc_{n}", "call_id": call["id"]} for n, call in enumerate(calls)),
    ]
    extra = {"__openai_function_call_ids__": {call["id"]: f"fc_{n}" for n, call in enumerate(calls)}}
    message = AIMessage(blocks, tool_calls=calls, additional_kwargs=extra)
    (back,) = (one.message for one in through(ChatGeneration(message=message)))
    made = [call["id"] for call in back.tool_calls]
    assert not {*made} & {call["id"] for call in calls}
    assert [block.get("call_id") for block in back.content] == [None, *made]
    assert [block["id"] for block in back.content] == ["rs_1", "fc_0", "fc_1"]
    assert back.additional_kwargs == {"__openai_function_call_ids__": dict(zip(made, ["fc_0", "fc_1"], strict=True))}


def test_a_block_without_an_id_gets_none_from_a_call_without_one() -> None:
    calls = [{"name": "f", "args": {}, "id": None}]
    (back,) = through(ChatGeneration(message=AIMessage([{"type": "text", "text": "a"}], tool_calls=calls)))
    assert back.message.content == [{"type": "text", "text": "a"}]


@pytest.mark.parametrize("body", [b"+[]", encode([Generation(text="x")])])
def test_an_entry_without_a_message_is_no_hit_of_a_chat(make, clock, body) -> None:
    model = ScriptedModel(cache=make(l2=False))
    asked = model.cache.asked(*request("hi", model=model))
    entry = Entry(clock(), 60.0, 0.0, model.cache._tags.local(asked.tag_keys), body)
    model.cache._engine.memory.put(asked.key, entry, 30.0, size=10)
    assert [model.invoke("hi").text for _ in range(2)] == ["ok", "ok"]
    assert model.calls == 1
    assert model.cache.stats()["error:L1"]


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
            encode([broken])


def test_half_an_emoji_survives() -> None:
    assert through(Generation(text="\ud83d"))[0].text == "\ud83d"


# what is not ours


def packed(body: object, head: object = (2, 1.0, 60.0, 0.5, {"tag": 2})) -> bytes:
    head, body = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (head, body))
    return head + b"\n+" + body


STORED = {"content": "x", "tool_calls": [], "usage": None, "meta": {}, "extra": {}, "name": None}


def whole(**changes: object) -> list:
    return [{"text": "x", "info": None, "message": {**STORED, **changes}}]


HOSTILE = {
    "nothing": b"",
    "text": b"hello",
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94.",
    "no JSON": packed(b"{"),
    "not UTF-8": packed(b"\xff"),
    "null": packed(None),
    "no answer": packed([]),
    "too deep": packed(b"[" * 100_000),
    "a head too deep": packed([], b"[" * 100_000),
    "another version": packed([], (3, 1.0, 60.0, 0.5, {})),
    "no time": packed([], (2, "now", 60.0, 0.5, {})),
    "no generations": packed([], (2, 1.0, 60.0, 0.5, [])),
    "an endless generation": packed([], b'[2,1,1,1,{"tag":1e999}]'),
    "a head too long": packed([], (2, 1.0, 60.0, 0.5, {}, 1)),
    "answers that are none": packed(3),
    "an answer that is none": packed([3]),
    "an answer that is text": packed(["message"]),
    "an answer without text": packed([{"info": None}]),
    "information that is none": packed([{"text": "x", "info": 3}]),
    "a message that is none": packed([{"text": "x", "info": None, "message": 3}]),
    "a message without content": packed([{"text": "x", "info": None, "message": {}}]),
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
        rebuild(unpacked(stored), {"level": "L2", "age_s": 0.0})


nearly = st.fixed_dictionaries({"text": st.text(), "info": st.none() | objects, "message": st.dictionaries(
    st.sampled_from(sorted(STORED)), anything).map(lambda odd: {**STORED, **odd})})  # fmt: skip


@given(anything | st.lists(anything | nearly, max_size=2), anything)
def test_any_json_is_an_entry_or_one_typed_error(body, head) -> None:
    with contextlib.suppress(EnvelopeError):
        unpacked(packed(body, head))
    try:
        entry = unpacked(packed(body))
        rebuild(entry, {"level": "L2", "age_s": 0.0})
    except EnvelopeError:
        return
    assert isinstance(entry, Entry)


def test_nothing_stored_is_ever_constructed_by_name() -> None:
    """LangChain's own format would build any class it is told to."""
    forged = {"lc": 1, "type": "constructor", "id": ["langchain_core", "prompts", "PromptTemplate"], "kwargs": {}}
    (back,) = rebuild(unpacked(packed(whole(extra={"x": forged}, content=[forged]))), {})
    assert back.message.additional_kwargs == {"x": forged}
    assert back.message.content == [forged]


def test_a_forked_child_gives_no_id_that_its_parent_gives() -> None:
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking with threads
        child = os.fork()
    if child == 0:
        os.write(theirs, " ".join(codec._IDS.new() for _ in range(3)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        known = pipe.read().decode().split()
    known += [codec._IDS.new() for _ in range(3)]
    assert len({*known}) == 6
    assert all(str(uuid.UUID(one)) == one for one in known)
