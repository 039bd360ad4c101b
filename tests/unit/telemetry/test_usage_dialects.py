"""Token usage in the dialects of the providers' integrations."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult
from langchain_openai import ChatOpenAI, OpenAI

from langchain_llmops.core.tokens import HeuristicTokenCounter
from langchain_llmops.core.types import Usage
from langchain_llmops.core.usage import MAX_TOKENS, answer_of, estimate_prompt, read_usage, usage_of
from tests.support.models import ScriptedModel, answer, tool_call


def said(inputs: dict | None = None, outputs: dict | None = None, **counts: object) -> dict:
    usage = {"input_tokens": 1000, "output_tokens": 100, "total_tokens": 1100, **counts}
    return usage | {"input_token_details": inputs or {}, "output_token_details": outputs or {}}


DIALECTS = {
    "plain": (said(), Usage(1000, 100)),
    "openai": (said({"cache_read": 400, "audio": 0}, {"reasoning": 60, "audio": 0}), Usage(1000, 100, 400, 0, 0, 60)),
    "openai audio": (
        said({"audio": 300}, {"audio": 50}),
        Usage(1000, 100, audio_input_tokens=300, audio_output_tokens=50),
    ),
    "openai flex": (
        said({"flex_cache_read": 400, "flex": 600}, {"flex_reasoning": 60, "flex": 40}),
        Usage(1000, 100, 400, 0, 0, 60),
    ),
    "openai priority": (
        said({"priority_cache_read": 400, "priority": 600}, {"priority_reasoning": 60, "priority": 40}),
        Usage(1000, 100, 400, 0, 0, 60),
    ),
    "anthropic": (said({"cache_read": 200, "cache_creation": 300}), Usage(1000, 100, 200, 300)),
    "anthropic by time to live": (
        said(
            {
                "cache_read": 200,
                "cache_creation": 0,
                "ephemeral_5m_input_tokens": 100,
                "ephemeral_1h_input_tokens": 300,
            }
        ),
        Usage(1000, 100, 200, 100, 300),
    ),
    "nulls": (said({"cache_read": None}, {"reasoning": None}), Usage(1000, 100)),
    "no details": ({"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}, Usage(5, 2)),
    "null details": (
        {"input_tokens": 5, "output_tokens": 2, "input_token_details": None, "output_token_details": None},
        Usage(5, 2),
    ),
    "floats": (said(input_tokens=5.0, output_tokens=2.0), Usage(5, 2)),
    "below zero": (said({"cache_read": -3}, input_tokens=-1), Usage(0, 100)),
    "with extras": (said(total_cost=0, service="x"), Usage(1000, 100)),
}


@pytest.mark.parametrize(("metadata", "usage"), DIALECTS.values(), ids=DIALECTS)
def test_every_dialect_is_read(metadata, usage) -> None:
    assert usage_of(metadata) == usage


@pytest.mark.parametrize("metadata", [None, {}, {"total_cost": 0}])
def test_what_reports_no_tokens_is_no_usage(metadata) -> None:
    assert usage_of(metadata) is None


number = st.integers() | st.floats() | st.booleans() | st.text(max_size=3) | st.none()
junk = st.dictionaries(
    st.sampled_from(
        ["cache_read", "audio", "reasoning", "cache_creation", "ephemeral_1h_input_tokens", "flex_cache_read", "flex"]
    ),
    number,
)


@example(float("nan"), 0, 0, {}, {})
@example(float("inf"), 10**30, -1, {}, {})
@given(number, number, number, junk, junk)
def test_no_report_however_odd_raises_or_breaks_the_sums(total_in, total_out, total, inputs, outputs) -> None:
    """No kind is below zero or above its total, and no total beyond what three full requests could hold."""
    said = {"input_tokens": total_in, "output_tokens": total_out, "total_tokens": total}
    usage = usage_of({**said, "input_token_details": inputs, "output_token_details": outputs})
    cached = usage.cache_read_tokens + usage.cache_write_tokens + usage.cache_write_1h_tokens
    assert 0 <= cached + usage.audio_input_tokens <= usage.input_tokens <= 5 * MAX_TOKENS
    assert 0 <= max(usage.reasoning_tokens, usage.audio_output_tokens) <= usage.output_tokens <= 5 * MAX_TOKENS
    assert min(usage.cache_read_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens) >= 0


IMPOSSIBLE = [-1, float("nan"), True, "12", 10**10, 2.5]


@pytest.mark.parametrize("count", IMPOSSIBLE, ids=repr)
@pytest.mark.parametrize("kind", ["input_tokens", "output_tokens", "cache_read"])
def test_an_impossible_count_is_cut_and_said_so(kind, count) -> None:
    metadata = said({"cache_read": count}) if kind == "cache_read" else said(**{kind: count})
    reading = read_usage(chat(metadata))
    assert reading.clamped
    assert reading.usage is not None


@pytest.mark.parametrize("metadata", [said({"audio": 1001}), said(None, {"audio": 101})], ids=["in", "out"])
def test_more_audio_than_tokens_is_cut_and_said_so(metadata) -> None:
    reading = read_usage(chat(metadata))
    assert reading.clamped
    assert max(reading.usage.audio_input_tokens - 1000, reading.usage.audio_output_tokens - 100) <= 0


@pytest.mark.parametrize("metadata", [said(), said({"cache_read": 400}), said({"cache_read": 0, "audio": None})])
def test_a_possible_report_is_not_cut(metadata) -> None:
    assert not read_usage(chat(metadata)).clamped


def chat(metadata: dict | None, told: dict | None = None) -> LLMResult:
    message = AIMessage("hi", response_metadata=told or {}).model_copy(update={"usage_metadata": metadata})
    return LLMResult(generations=[[ChatGeneration(message=message)]])


RAW_OPENAI = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "total_tokens": 1100,
    "prompt_tokens_details": {"cached_tokens": 400, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 60, "audio_tokens": 0},
}


def openai_result(tier: str | None, choices: int = 1) -> LLMResult:
    """An answer of the API, read by the installed langchain-openai."""
    choice = {"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    body = {
        "id": "x",
        "model": "gpt-5-2025-08-07",
        "choices": [{**choice, "index": index} for index in range(choices)],
        "usage": RAW_OPENAI,
        **({"service_tier": tier} if tier else {}),
    }
    made = ChatOpenAI(model="gpt-5", api_key="k")._create_chat_result(body)
    for generation in made.generations:  # as `generate` does
        generation.message.response_metadata = {**(made.llm_output or {}), **(generation.generation_info or {})}
    return LLMResult(generations=[made.generations], llm_output=made.llm_output)


@pytest.mark.parametrize(
    ("tier", "read"), [(None, None), ("default", None), ("flex", "flex"), ("priority", "priority")]
)
def test_what_langchain_openai_makes_of_an_answer_is_read_whole(tier, read) -> None:
    reading = read_usage(openai_result(tier))
    assert reading == (Usage(1000, 100, 400, 0, 0, 60), read, False, False, "gpt-5-2025-08-07", "stop")


def test_several_answers_to_one_request_have_one_usage() -> None:
    assert read_usage(openai_result(None, choices=3)).usage == Usage(1000, 100, 400, 0, 0, 60)


@pytest.mark.parametrize("word", ["auto", "on_demand", "standard", "scale", {"type": "priority"}, 7, None])
def test_a_word_that_is_no_tier_of_ours_is_none(word) -> None:
    assert read_usage(chat(said(), {"service_tier": word})).service_tier is None


def test_anthropic_tells_its_tier_and_its_fast_mode_in_the_usage() -> None:
    assert read_usage(chat(said(), {"usage": {"service_tier": "batch"}})).service_tier == "batch"
    assert read_usage(chat(said(), {"usage": {"service_tier": "standard", "speed": "fast"}})).service_tier == "fast"


@pytest.mark.parametrize(
    ("told", "reason"),
    [({"finish_reason": "length"}, "length"), ({"stop_reason": "end_turn"}, "end_turn"), ({"stopReason": "x"}, "x")],
)
def test_the_reason_to_stop_has_a_name_with_each_provider(told, reason) -> None:
    assert read_usage(chat(said(), told)).finish_reason == reason


@pytest.mark.parametrize("odd", [{"a": 1}, ["x"], 3, None])
def test_a_name_or_reason_that_is_no_text_is_none(odd) -> None:
    reading = read_usage(chat(said(), {"model_name": odd, "finish_reason": odd, "usage": odd, "token_usage": odd}))
    assert (reading.model, reading.finish_reason, reading.usage) == (None, None, Usage(1000, 100))


def test_nothing_reported_is_no_usage() -> None:
    for result in (chat(None), chat({}), chat(None, {"token_usage": None}), chat(None, {"usage": {}})):
        assert read_usage(result).usage is None
    assert read_usage(LLMResult(generations=[])).usage is None
    assert read_usage(LLMResult(generations=[[]])).usage is None


class Last(BaseCallbackHandler):
    """Keeps the last result, as a handler is given it."""

    def on_llm_end(self, response, **kwargs):
        self.result = response


def test_an_answer_from_langchains_cache_is_told_from_a_provider_s() -> None:
    last = Last()
    model = ScriptedModel(answer(usage=(10, 5)), cache=InMemoryCache())
    model.invoke("hi", {"callbacks": [last]})
    first = read_usage(last.result)
    model.invoke("hi", {"callbacks": [last]})
    assert (first.other_cache, read_usage(last.result).other_cache) == (False, True)
    assert first.usage == read_usage(last.result).usage == Usage(10, 5)


def text_result(*prompts: str, usage: dict) -> list[LLMResult]:
    """A batch of the installed text model, as LangChain hands it to each run."""
    choices = [{"text": "ok", "finish_reason": "stop", "logprobs": None} for _ in prompts]
    model = OpenAI(model="gpt-3.5-turbo-instruct", api_key="k")
    return model.create_llm_result(choices, list(prompts), {}, usage).flatten()


def test_a_text_model_reports_in_its_output() -> None:
    (result,) = text_result("hi", usage={"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15})
    assert read_usage(result) == (Usage(10, 5), None, False, False, "gpt-3.5-turbo-instruct", "stop")


def test_a_batch_of_a_text_model_counts_its_tokens_once() -> None:
    usage = {"prompt_tokens": 30, "completion_tokens": 15, "total_tokens": 45}
    results = text_result("one", "two", "three", usage=usage)
    assert [read_usage(result, batch_size=3).usage for result in results] == [Usage(30, 15), Usage(), Usage()]


def test_a_streamed_text_model_reports_nothing_and_is_estimated() -> None:
    (result,) = text_result("hi", usage={})
    assert read_usage(result).usage is None


def test_the_answer_is_the_first_generations_message() -> None:
    message = AIMessage("hi")
    assert answer_of(LLMResult(generations=[[ChatGeneration(message=message)]])) is message
    assert answer_of(LLMResult(generations=[[Generation(text="hi")]])) is None
    assert answer_of(LLMResult(generations=[[]])) is None
    assert answer_of(LLMResult(generations=[])) is None


def test_an_estimate_counts_texts_tool_calls_and_a_frame_per_message() -> None:
    counter = HeuristicTokenCounter()
    few = [SystemMessage("be brief"), HumanMessage("hello there")]
    assert estimate_prompt([], counter) == 0
    assert estimate_prompt([HumanMessage("")], counter) == 3
    assert estimate_prompt(few, counter) == 6 + counter.count("be brief") + counter.count("hello there")
    called = AIMessage("", tool_calls=[tool_call("lookup", order_id="A-1")])
    assert estimate_prompt([called], counter) > estimate_prompt([AIMessage("")], counter) + 3
    blocks = HumanMessage([{"type": "text", "text": "hello there"}])
    assert estimate_prompt([blocks], counter) == estimate_prompt([HumanMessage("hello there")], counter)


def test_an_estimate_counts_the_schemas_that_go_with_a_prompt() -> None:
    counter = HeuristicTokenCounter()
    hello = [HumanMessage("hello")]
    plain = estimate_prompt(hello, counter)
    assert estimate_prompt(hello, counter, {"model": "gpt-4o", "temperature": 1, "tools": []}) == plain
    schema = {"type": "function", "function": {"name": "lookup", "description": "Look up an order by its number."}}
    with_tool = estimate_prompt(hello, counter, {"tools": [schema]})
    assert with_tool - plain == counter.count(json.dumps([schema], separators=(",", ":")))
    circle: list = []
    circle.append(circle)
    assert estimate_prompt(hello, counter, {"tools": circle}) == plain
    assert estimate_prompt(hello, counter, {"tools": [object, {object: 1}]}) > plain
