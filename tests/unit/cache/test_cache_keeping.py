"""Which answers are worth keeping: none that was cut off, refused, broken or meant to vary."""

from __future__ import annotations

import pytest
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from pydantic import BaseModel, field_validator

from langchain_llmops.cache.engine import PREFIX
from langchain_llmops.cache.model import cached
from langchain_llmops.cache.policy import Policy
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
    "incomplete without a status": answer(
        "x", finish=None, response_metadata={"incomplete_details": {"reason": "max_output_tokens"}}
    ),
    "cut off by Ollama": answer("x", finish=None, response_metadata={"done": True, "done_reason": "length"}),
    "cut off in camels": answer("x", finish=None, response_metadata={"finishReason": "MAX_TOKENS"}),
    "cut off by Titan": answer("x", finish=None, response_metadata={"completionReason": "LENGTH"}),
    "cut off by Titan, in snakes": answer("x", finish=None, response_metadata={"completion_reason": "LENGTH"}),
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
    assert not [name for name in shelf.items._items if name.startswith(PREFIX)]


WHOLE = {
    "finish_reason": ["stop", "STOP", "COMPLETE", "eos_token", "end_turn", "stop_sequence", None],
    "stop_reason": ["end_turn", "stop", "endoftext"],
    "done_reason": ["stop"],
    "finishReason": ["STOP"],
    "completionReason": ["FINISH"],
    "status": ["completed"],
    "incomplete_details": [None],
}


@pytest.mark.parametrize(("name", "end"), [(name, end) for name, ends in WHOLE.items() for end in ends])
def test_an_answer_that_is_whole_in_its_providers_words_is_kept(cache, name, end) -> None:
    model = ScriptedModel(answer("x", finish=None, response_metadata={name: end}), cache=cache)
    assert [model.invoke("hi").text for _ in range(2)] == ["x", "x"]
    assert model.calls == 1


class City(BaseModel):
    name: str

    @field_validator("name")
    @classmethod
    def is_known(cls, name: str) -> str:
        return {"Bern": "Bern", "Rom": "Roma"}[name]


AS_JSON = {"response_format": {"type": "json_object"}}
BY_SCHEMA = {"response_format": {"type": "json_schema", "json_schema": {"name": "city", "schema": {}}}}
BY_CLASS = {"response_format": City}
FORMS = {
    "cut JSON": (AS_JSON, '{"name": "Be', False),
    "words": (AS_JSON, "Bern", False),
    "words for a schema": (BY_SCHEMA, "Bern", False),
    "words beside what cannot be read": ({**AS_JSON, "penalty": float("inf")}, "Bern", False),
    "words that nobody asked to be JSON": ({"response_format": {"type": "text"}}, "Bern", True),
    "JSON": (AS_JSON, '{"name": "Bern"}', True),
    "JSON for a schema": (BY_SCHEMA, '{"name": "Bern"}', True),
    "words for a class": (BY_CLASS, "Bern", False),
    "JSON of another class": (BY_CLASS, '{"nome": "Bern"}', False),
    "JSON at which the class's own check fails": (BY_CLASS, '{"name": "Ur"}', False),
    "JSON of the class": (BY_CLASS, '{"name": "Bern"}', True),
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("asked", "said", "kept"), FORMS.values(), ids=FORMS)
def test_an_answer_in_another_form_than_was_asked_is_not_kept(cache, asked, said, kept, stream) -> None:
    """Whoever asks again after it would not parse must not get it from the cache."""
    model = ScriptedModel(said, said)
    asking = cached(model, cache=cache) if stream else model.model_copy(update={"cache": cache})
    for _ in range(2):
        if stream:
            assert "".join(chunk.text for chunk in asking.stream("hi", **asked)) == said
        else:
            assert asking.invoke("hi", **asked).text == said
    assert cache.answers.counts["hit:L1"] == kept


def test_a_call_of_a_tool_in_place_of_json_is_kept(make) -> None:
    model = ScriptedModel(answer("", tool_calls=[tool_call("lookup", q="1")]), cache=make(tool_calls=True))
    for _ in range(2):
        model.invoke("hi", **AS_JSON)
    assert model.calls == 1


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


@pytest.mark.parametrize(
    "broken",
    [{"policy": Policy(keep=lambda answers: {}["k"])}, {"tags_of": lambda *_: {}["k"]}, {"tags_of": lambda *_: [1]}],
)
def test_a_function_that_raises_costs_the_answer_its_place_and_not_the_call(make, broken) -> None:
    model = ScriptedModel(cache=make(**broken))
    assert [model.invoke("hi").text for _ in range(2)] == ["ok", "ok"]
    assert model.calls == 2
