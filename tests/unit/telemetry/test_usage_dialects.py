"""Token usage in the dialects of the providers' integrations."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from langchain_llmops.core.tokens import HeuristicTokenCounter
from langchain_llmops.core.types import Usage
from langchain_llmops.telemetry.usage import answer_of, estimate_prompt, usage_of
from tests.support.models import tool_call


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


junk = st.dictionaries(
    st.sampled_from(["cache_read", "audio", "reasoning", "cache_creation"]), st.integers() | st.none()
)


@example(float("nan"), {}, {})
@example(float("inf"), {}, {})
@given(st.integers() | st.floats() | st.text() | st.none(), junk, junk)
def test_no_report_however_odd_raises_or_counts_below_zero(count, inputs, outputs) -> None:
    usage = usage_of({"input_tokens": count, "input_token_details": inputs, "output_token_details": outputs})
    assert usage is not None
    assert min(usage.input_tokens, usage.cache_read_tokens, usage.reasoning_tokens, usage.audio_input_tokens) >= 0


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
