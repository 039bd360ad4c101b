"""The official client, sync and async, works unchanged."""

from __future__ import annotations

import collections
import json
import math

import openai
import pytest
from pydantic import BaseModel

from langchain_llmops.simulator import FaultPlan, Scripted, running

USER = [{"role": "user", "content": "Where is my order, please? Straße 5 — 東京 🙂"}]
TEXT = USER[0]["content"]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
        },
    }
    for name in ("lookup", "refund")
]
PARALLEL = Scripted(
    [
        {
            "when": {"contains": "both"},
            "reply": {
                "tool_calls": [
                    {"name": "lookup", "arguments": {"order_id": "1", "note": "a long text that takes several pieces"}},
                    {"name": "refund", "arguments": {"order_id": "2"}},
                ]
            },
        },
        {
            "when": {"regex": r"order (?P<id>\d+)"},
            "reply": {"content": "Looking", "tool_calls": [{"name": "lookup", "arguments": {"order_id": "{id}"}}]},
        },
        {"default": "no"},
    ]
)


def text_of(chunks):
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


def test_a_plain_answer_has_every_field_the_client_reads(echo, connect):
    answer = connect(echo).chat.completions.create(model="gpt-4o", messages=USER)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.object == "chat.completion"
    assert answer.model == "gpt-4o"
    assert answer.id.startswith("chatcmpl-")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens == math.ceil(len(TEXT.encode()) / 4)
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer._request_id.startswith("req_")


def test_a_stream_adds_up_to_the_plain_answer_and_says_usage_only_when_asked(echo, connect):
    client = connect(echo)
    plain = client.chat.completions.create(model="gpt-4o", messages=USER)
    chunks = list(client.chat.completions.create(model="gpt-4o", messages=USER, stream=True))
    assert text_of(chunks) == TEXT
    assert len(chunks) > 4
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert all(chunk.usage is None for chunk in chunks)
    asked = list(
        client.chat.completions.create(
            model="gpt-4o", messages=USER, stream=True, stream_options={"include_usage": True}
        )
    )
    assert asked[-1].choices == []
    assert asked[-1].usage == plain.usage
    assert all(chunk.usage is None for chunk in asked[:-1])


async def test_the_async_client_gets_the_same(echo, aconnect):
    client = await aconnect(echo)
    answer = await client.chat.completions.create(model="gpt-4o", messages=USER)
    stream = await client.chat.completions.create(model="gpt-4o", messages=USER, stream=True)
    assert answer.choices[0].message.content == text_of([chunk async for chunk in stream]) == TEXT
    assert [model.id async for model in client.models.list()] == [
        "gpt-4o",
        "gpt-4o-mini",
        "text-embedding-3-small",
    ]


def test_ids_are_fresh_each_time(echo, connect):
    client = connect(echo)
    assert len({client.chat.completions.create(model="gpt-4o", messages=USER).id for _ in range(20)}) == 20


def test_parallel_tool_calls_are_the_same_plain_and_streamed(connect):
    with running(PARALLEL) as simulator:
        client = connect(simulator)
        question = {"model": "gpt-4o", "messages": [{"role": "user", "content": "both"}], "tools": TOOLS}
        plain = client.chat.completions.create(**question).choices[0]
        with client.chat.completions.stream(**question) as stream:
            streamed = stream.get_final_completion().choices[0]
        assert plain.finish_reason == streamed.finish_reason == "tool_calls"
        calls = [
            [(call.function.name, json.loads(call.function.arguments)) for call in one.message.tool_calls]
            for one in (plain, streamed)
        ]
        assert calls[0] == calls[1]
        assert [name for name, _ in calls[0]] == ["lookup", "refund"]
        ids = {call.id for one in (plain, streamed) for call in one.message.tool_calls}
        assert len(ids) == 4
        pieces = list(client.chat.completions.create(**question, stream=True))
        assert sum(bool(chunk.choices[0].delta.tool_calls) for chunk in pieces) > 4


def test_a_tool_call_can_come_with_text_and_goes_on_from_its_result(connect):
    with running(PARALLEL) as simulator:
        client = connect(simulator)
        messages = [{"role": "user", "content": "where is order 77?"}]
        first = client.chat.completions.create(model="gpt-4o", messages=messages, tools=TOOLS).choices[0].message
        assert first.content == "Looking"
        assert json.loads(first.tool_calls[0].function.arguments) == {"order_id": "77"}
        result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "shipped"}
        messages += [first.model_dump(exclude_none=True), result]
        second = client.chat.completions.create(model="gpt-4o", messages=messages, tools=TOOLS)
        assert second.choices[0].message.content == "no"


@pytest.mark.parametrize(
    ("choice", "name", "reason"),
    [
        ("required", "lookup", "tool_calls"),
        ({"type": "function", "function": {"name": "refund"}}, "refund", "stop"),
    ],
)
def test_a_forced_tool_is_called_with_arguments_of_its_schema(echo, ask, choice, name, reason):
    answer = ask(echo, tools=TOOLS, tool_choice=choice).choices[0]
    assert answer.message.tool_calls[0].function.name == name
    assert json.loads(answer.message.tool_calls[0].function.arguments) == {"order_id": "order_id"}
    assert answer.finish_reason == reason


class Item(BaseModel):
    name: str
    count: int
    tags: list[str]


class Order(BaseModel):
    items: list[Item]
    gift: bool | None


def test_a_response_format_gives_an_instance_of_its_schema(echo, connect):
    parsed = connect(echo).chat.completions.parse(model="gpt-4o", messages=USER, response_format=Order)
    assert isinstance(parsed.choices[0].message.parsed, Order)
    again = connect(echo).chat.completions.parse(model="gpt-4o", messages=USER, response_format=Order)
    assert again.choices[0].message.content == parsed.choices[0].message.content


def test_json_mode_gives_an_object(echo, ask):
    answer = ask(echo, "answer in JSON", response_format={"type": "json_object"})
    assert json.loads(answer.choices[0].message.content) == {"text": "answer in JSON"}


def test_logprobs_cover_the_text_and_are_lawful(echo, ask):
    plain = ask(echo, TEXT, logprobs=True, top_logprobs=5).choices[0].logprobs.content
    chunks = list(ask(echo, TEXT, logprobs=True, top_logprobs=5, stream=True))
    streamed = [
        entry
        for chunk in chunks
        for entry in (chunk.choices[0].logprobs.content if chunk.choices[0].logprobs else None) or []
    ]
    assert plain == streamed
    assert "".join(entry.token for entry in plain) == TEXT
    for entry in plain:
        assert bytes(entry.bytes).decode() == entry.token
        assert len(entry.top_logprobs) == 5
        assert entry.top_logprobs[0].token == entry.token
        ranked = [top.logprob for top in entry.top_logprobs]
        assert ranked == sorted(ranked, reverse=True)
        assert sum(map(math.exp, ranked)) <= 1
    assert ask(echo).choices[0].logprobs is None


def test_n_choices_are_counted_n_times(echo, ask):
    one, three = ask(echo, TEXT), ask(echo, TEXT, n=3)
    assert [choice.index for choice in three.choices] == [0, 1, 2]
    assert {choice.message.content for choice in three.choices} == {TEXT}
    assert three.usage.completion_tokens == 3 * one.usage.completion_tokens
    assert three.usage.prompt_tokens == one.usage.prompt_tokens
    chunks = list(ask(echo, TEXT, n=2, stream=True))
    for index in (0, 1):
        assert text_of(chunk for chunk in chunks if chunk.choices[0].index == index) == TEXT


def test_max_tokens_cuts_the_text_and_says_length(echo, ask):
    answer = ask(echo, "word " * 100, max_tokens=10)
    assert answer.choices[0].finish_reason == "length"
    assert 0 < answer.usage.completion_tokens <= 10
    assert ("word " * 100).startswith(answer.choices[0].message.content)


def test_models_can_be_listed_and_fetched(echo, connect):
    client = connect(echo)
    assert client.models.retrieve("gpt-4o").id == "gpt-4o"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-99")
    assert caught.value.code == "model_not_found"


def test_a_model_that_is_not_served_is_a_404_and_a_dated_name_is_served(echo, connect, ask):
    client = connect(echo)
    with pytest.raises(openai.NotFoundError, match="The simulator serves: gpt-4o") as caught:
        client.chat.completions.create(model="gpt-99", messages=USER)
    assert caught.value.code == "model_not_found"
    assert client.chat.completions.create(model="gpt-4o-2024-08-06", messages=USER).model == "gpt-4o-2024-08-06"
    with running(models=None) as anything:
        assert connect(anything).chat.completions.create(model="gpt-99", messages=USER).model == "gpt-99"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("kind", "error", "code"),
    [
        ("rate_limit", openai.RateLimitError, "rate_limit_exceeded"),
        ("server_error", openai.InternalServerError, None),
        ("unavailable", openai.InternalServerError, "service_unavailable"),
        ("context_overflow", openai.BadRequestError, "context_length_exceeded"),
        ("cut", openai.APIConnectionError, None),
        ("malformed", json.JSONDecodeError, None),
    ],
)
def test_each_fault_is_the_clients_own_error(echo, ask, kind, error, code, stream):
    with pytest.raises(error) as caught:
        list(ask(echo, stream=stream, extra_headers={"X-Simulate-Fault": kind}))
    assert getattr(caught.value, "code", None) == code
    assert echo.stats.faults == {kind: 1}


def test_a_cut_stream_gives_its_beginning_first(echo, ask):
    seen = []
    stream = ask(echo, "many words " * 50, stream=True, extra_headers={"X-Simulate-Fault": "cut"})
    with pytest.raises(openai.APIConnectionError):
        collections.deque(map(seen.append, stream))
    assert len(seen) > 10
    assert ("many words " * 50).startswith(text_of(seen))
    assert len(text_of(seen)) < len("many words " * 50) * 0.6


@pytest.mark.parametrize("stream", [False, True])
def test_a_refusal_has_no_content(connect, stream):
    with running(faults=FaultPlan(rates={"refusal": 1.0})) as simulator:
        client = connect(simulator)
        if stream:
            with client.chat.completions.stream(model="gpt-4o", messages=USER) as events:
                choice = events.get_final_completion().choices[0]
        else:
            choice = client.chat.completions.create(model="gpt-4o", messages=USER).choices[0]
    assert choice.message.content is None
    assert choice.message.refusal
    assert choice.finish_reason == "stop"


def test_a_hang_ends_in_the_clients_timeout_and_leaves_nothing_running(echo, connect, eventually):
    client = connect(echo, timeout=1.0)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(model="gpt-4o", messages=USER, extra_headers={"X-Simulate-Fault": "hang"})
    eventually(lambda: echo.stats.in_flight == 0)
    assert echo.stats.faults == {"hang": 1}


def test_a_rate_limit_says_when_and_a_retry_succeeds(connect):
    plan = FaultPlan(schedule={1: "rate_limit", 2: "unavailable"}, retry_after_s=0.01)
    with running(faults=plan) as simulator:
        client = connect(simulator)
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(model="gpt-4o", messages=USER)
        assert caught.value.response.headers["retry-after"] == "0.01"
        patient = connect(simulator, max_retries=1)
        assert patient.chat.completions.create(model="gpt-4o", messages=USER).choices[0].message.content == TEXT
    assert simulator.stats.by_status == {429: 1, 503: 1, 200: 1}
    assert simulator.stats.faults == {"rate_limit": 1, "unavailable": 1}


def test_a_behaviour_that_fails_is_a_500_that_names_its_error(connect, caplog):
    class Broken:
        def answer(self, request):
            raise KeyError("nothing here")

    with running(Broken()) as simulator:
        with pytest.raises(openai.InternalServerError, match="KeyError while answering: 'nothing here'"):
            connect(simulator).chat.completions.create(model="gpt-4o", messages=USER)
    assert "nothing here" in caplog.text


def test_stats_count_models_paths_and_statuses(echo, connect):
    client = connect(echo)
    for model in ("gpt-4o", "gpt-4o", "gpt-4o-mini"):
        client.chat.completions.create(model=model, messages=USER)
    client.embeddings.create(model="text-embedding-3-small", input="a")
    stats = echo.stats
    assert stats.requests == 4
    assert stats.by_model == {"gpt-4o": 2, "gpt-4o-mini": 1, "text-embedding-3-small": 1}
    assert stats.by_path == {"/v1/chat/completions": 3, "/v1/embeddings": 1}
    assert stats.by_status == {200: 4}


def test_keys_are_asked_for_only_when_configured(connect):
    with running(api_keys=["right-key"]) as simulator:
        assert connect(simulator, api_key="right-key").models.list().data
        with pytest.raises(openai.AuthenticationError) as caught:
            connect(simulator, api_key="wrong-key").models.list()
        assert caught.value.code == "invalid_api_key"
