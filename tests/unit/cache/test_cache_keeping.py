"""Which answers are worth keeping: none that was cut off, refused, broken or meant to vary."""

from __future__ import annotations

import pytest
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from tests.support.cache import KEPT
from tests.support.models import ScriptedModel, answer, tool_call

NOT_KEPT = {
    "cut off": answer("half an ans", finish="length"),
    "filtered": answer("x", finish="content_filter"),
    "cut off by Anthropic": answer("x", finish=None, response_metadata={"stop_reason": "max_tokens"}),
    "refused by Anthropic": answer("x", finish=None, response_metadata={"stop_reason": "refusal"}),
    "cut off by Gemini": answer("x", finish="MAX_TOKENS"),
    "filtered by Gemini": answer("x", finish="SAFETY"),
    "stopped by Bedrock": answer("x", finish=None, response_metadata={"stopReason": "guardrail_intervened"}),
    "incomplete by Responses": answer("x", finish=None, response_metadata={"status": "incomplete"}),
    "refused": answer("", additional_kwargs={"refusal": "I cannot"}),
    "refused in a block": answer([{"type": "refusal", "refusal": "I cannot"}]),
    "empty": answer(""),
    "a list of nothing": answer([]),
    "a broken tool call": answer(
        "x", invalid_tool_calls=[{"name": "f", "args": "{", "id": "1", "error": None, "type": "invalid_tool_call"}]
    ),
    "a tool call": answer("", tool_calls=[tool_call("lookup", q="1")]),
    "a tool call with words": answer("let me see", tool_calls=[tool_call("lookup", q="1")]),
    "what JSON cannot hold": answer("x", additional_kwargs={"raw": object()}),
}


@pytest.mark.parametrize("said", NOT_KEPT.values(), ids=NOT_KEPT)
def test_an_answer_not_worth_repeating_is_not_kept(said, cache, shelf) -> None:
    model = ScriptedModel(said, cache=cache)
    assert [model.invoke("hi").content for _ in range(2)] == [said.content] * 2
    assert model.calls == 2
    assert cache.stats()["l1_entries"] == 0
    assert shelf.items._items == {}


def test_an_answer_that_holds_itself_is_given_but_not_kept(cache) -> None:
    extra: dict = {}
    extra["self"] = extra
    cache.update("p", "m", [ChatGeneration(message=AIMessage("x", additional_kwargs={"loop": extra}))])
    assert cache.lookup("p", "m") is None


def test_tool_calls_are_kept_when_asked(make) -> None:
    model = ScriptedModel(answer("", tool_calls=[tool_call("lookup", q="1")]), cache=make(tool_calls=True))
    first, again = model.invoke("hi"), model.invoke("hi")
    assert model.calls == 1
    assert again.tool_calls[0]["args"] == first.tool_calls[0]["args"]
    assert again.tool_calls[0]["id"] != first.tool_calls[0]["id"]


@pytest.mark.parametrize(("temperature", "calls"), [(None, 1), (0.0, 1), (0.7, 2)])
def test_answers_meant_to_vary_are_not_kept(cache, temperature, calls) -> None:
    model = ScriptedModel(temperature=temperature, cache=cache)
    model.invoke("hi")
    model.invoke("hi")
    assert model.calls == calls


def test_a_text_models_answer_is_kept_unless_it_was_cut(cache) -> None:
    model = FakeListLLM(responses=["one", "two"], cache=cache)
    assert [model.invoke("hi"), model.invoke("hi")] == ["one", "one"]
    cache.update("p", "m", [Generation(text="")])
    cache.update("q", "m", [Generation(text="half", generation_info={"finish_reason": "length"})])
    assert cache.lookup("p", "m") is None
    assert cache.lookup("q", "m") is None


def test_of_several_answers_one_bad_one_spoils_them_all(cache) -> None:
    cache.update("p", "m", [*KEPT, ChatGeneration(message=answer("x", finish="length"))])
    assert cache.lookup("p", "m") is None
