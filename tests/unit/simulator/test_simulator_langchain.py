"""ChatOpenAI and OpenAIEmbeddings work unchanged, sync and async."""

from __future__ import annotations

import openai
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_openai.chat_models.base import OpenAIRefusalError
from pydantic import BaseModel, SecretStr

from langchain_llmops.simulator import FaultPlan, Replay, Scripted, running
from langchain_llmops.simulator.recordings import Recording


@tool
def look_up(order_id: str) -> str:
    """Where an order is."""
    return f"{order_id} is on its way"


class Verdict(BaseModel):
    """A judgement."""

    good: bool
    reason: str


SCRIPT = Scripted(
    [
        {
            "when": {"regex": r"orders (?P<a>\d+) and (?P<b>\d+)"},
            "reply": {
                "tool_calls": [
                    {"name": "look_up", "arguments": {"order_id": "{a}"}},
                    {"name": "look_up", "arguments": {"order_id": "{b}"}},
                ]
            },
        },
        {"when": {"tool_result_contains": "on its way"}, "reply": "Both are coming."},
        {"default": "Hello!"},
    ]
)


@pytest.fixture
def scripted():
    with running(SCRIPT) as simulator:
        yield simulator


@pytest.fixture
def chat(http_clients):
    def make(simulator, **options):
        return ChatOpenAI(
            model="gpt-4o",
            base_url=simulator.base_url,
            api_key=SecretStr("sk-test"),
            max_retries=0,
            **http_clients,
            **options,
        )

    return make


async def test_every_way_of_calling_gives_the_same_text_and_usage(scripted, chat):
    model = chat(scripted, stream_usage=True)
    answers = [model.invoke("hi"), await model.ainvoke("hi")]
    for pieces in ([*model.stream("hi")], [piece async for piece in model.astream("hi")]):
        assert len(pieces) > 2
        total = pieces[0]
        for piece in pieces[1:]:
            total += piece
        answers.append(total)
    assert {answer.text for answer in answers} == {"Hello!"}
    assert {answer.usage_metadata["input_tokens"] for answer in answers} == {3 + 3 + 1 + 1}
    assert {answer.usage_metadata["output_tokens"] for answer in answers} == {2}
    assert {answer.response_metadata["finish_reason"] for answer in answers} == {"stop"}


@pytest.mark.parametrize("streamed", [False, True])
def test_parallel_tool_calls_go_round_and_end(scripted, chat, streamed):
    model = chat(scripted, streaming=streamed).bind_tools([look_up])
    messages = [HumanMessage("where are orders 12 and 34?")]
    first = model.invoke(messages)
    assert [(call["name"], call["args"]) for call in first.tool_calls] == [
        ("look_up", {"order_id": "12"}),
        ("look_up", {"order_id": "34"}),
    ]
    results = [ToolMessage(look_up.invoke(call["args"]), tool_call_id=call["id"]) for call in first.tool_calls]
    assert model.invoke([*messages, first, *results]).text == "Both are coming."


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
async def test_structured_output_is_an_instance(echo, chat, method):
    model = chat(echo).with_structured_output(Verdict, method=method)
    assert isinstance(model.invoke("Is it good?"), Verdict)
    assert await model.ainvoke("Is it good?") == model.invoke("Is it good?")


def test_structured_output_raises_on_a_refusal(chat):
    with running(faults=FaultPlan(rates={"refusal": 1.0})) as simulator:
        with pytest.raises(OpenAIRefusalError):
            chat(simulator).with_structured_output(Verdict).invoke("Is it good?")


@pytest.mark.parametrize("streaming", [False, True])
def test_a_context_overflow_is_langchains_own_error(chat, streaming):
    with running(faults=FaultPlan(rates={"context_overflow": 1.0})) as simulator:
        with pytest.raises(ContextOverflowError):
            chat(simulator, streaming=streaming).invoke("hi")


async def test_a_rate_limit_is_the_clients_error_in_async_too(chat):
    with running(faults=FaultPlan(rates={"rate_limit": 1.0})) as simulator:
        with pytest.raises(openai.RateLimitError):
            await chat(simulator).ainvoke("hi")


def test_a_replay_header_can_be_bound_to_a_model(chat):
    def recorded(name, answer):
        return Recording(name, ({"role": "user", "content": "hi"}, {"role": "assistant", "content": answer}))

    with running(Replay([recorded("one", "A"), recorded("two", "B")])) as simulator:
        for name, answer in (("one", "A"), ("two", "B")):
            model = chat(simulator).bind(extra_headers={"X-Replay-Conversation": name})
            assert model.invoke("hi").text == answer
        with pytest.raises(openai.ConflictError, match="one, two"):
            chat(simulator).invoke("hi")


async def test_embeddings_bring_texts_that_share_words_near(echo, http_clients):
    model = OpenAIEmbeddings(
        model="text-embedding-3-small",
        base_url=echo.base_url,
        api_key=SecretStr("sk-test"),
        check_embedding_ctx_length=False,
        **http_clients,
    )
    texts = ["cancel my flight to Rome", "please cancel my flight", "a recipe for apple pie"]
    flight, cancel, pie = model.embed_documents(texts)

    def near(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    assert len(flight) == 1536
    assert near(flight, flight) == pytest.approx(1, abs=1e-5)
    assert near(flight, cancel) > 0.5
    assert near(flight, pie) < 0.2
    assert await model.aembed_query(texts[0]) == flight
