"""A chain's stream is of one model: before the first chunk the next one is asked, after it an error is raised."""

from __future__ import annotations

import httpx
import openai
import pytest
from langchain_core import exceptions as core
from langchain_openai import ChatOpenAI

from langchain_llmops.core.errors import TruncatedAnswerError
from langchain_llmops.core.types import ErrorKind as Kind
from tests.support.chains import ask_astream, ask_stream, first, read, second
from tests.support.models import chunk


@pytest.mark.parametrize("reader", [ask_stream, ask_astream], ids=["sync", "async"])
async def test_after_the_first_chunk_an_error_is_raised_and_two_models_are_never_mixed(reader, chain, facts) -> None:
    one, other = first([chunk("Dear "), core.ModelConnectionError("cut")]), second()
    heard = []
    with pytest.raises(core.ModelConnectionError):
        if reader is ask_stream:
            for piece in chain(one, other).stream("hi"):
                heard.append(piece.text)
        else:
            async for piece in chain(one, other).astream("hi"):
                heard.append(piece.text)
    assert heard == ["Dear "]
    assert (one.calls, other.calls, facts.moves) == (1, 0, [])


@pytest.mark.parametrize("reader", [ask_stream, ask_astream], ids=["sync", "async"])
async def test_before_the_first_chunk_the_next_one_is_asked(reader, chain, facts) -> None:
    one, other = first([core.ModelConnectionError("cut")]), second("all of it")
    assert await reader(chain(one, other), None) == "all of it"
    assert one.calls == 2
    assert [move[0] for move in facts.moves] == ["retried", "fell back"]


@pytest.mark.parametrize("reader", [ask_stream, ask_astream], ids=["sync", "async"])
async def test_an_empty_stream_is_no_answer(reader, chain) -> None:
    assert await reader(chain(first([]), second("all of it")), None) == "all of it"


@pytest.mark.parametrize("reader", [ask_stream, ask_astream], ids=["sync", "async"])
async def test_a_stream_that_stops_without_an_end_is_found(reader, chain) -> None:
    cut = [chunk("Dear ", model_provider="openai"), chunk("Sir")]
    with pytest.raises(TruncatedAnswerError, match="without a finish reason"):
        await reader(chain(first(cut)), None)
    whole = [chunk("Dear ", model_provider="openai"), chunk("Sir"), chunk("", finish_reason="stop")]
    assert await reader(chain(first(whole)), None) == "Dear Sir"


def test_a_provider_that_never_gives_finish_reasons_is_believed(chain) -> None:
    assert read(chain(first([chunk("Dear "), chunk("Sir")]))) == "Dear Sir"


async def test_a_reader_who_leaves_ends_the_stream(chain, config, facts) -> None:
    stream = chain(first([chunk("one"), chunk("two")]), second()).stream("hi", config)
    next(stream)
    stream.close()
    assert [call.error_kind for call in facts.calls] == [Kind.CANCELLED]
    assert facts.moves == []


SSE = (
    'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,'
    '"delta":{"role":"assistant","content":"Dear "},"finish_reason":null}]}\n\n'
)
SSE_END = (
    'data: {"id":"1","object":"chat.completion.chunk","created":1,"model":"gpt-4o","choices":[{"index":0,'
    '"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
)


def chatopenai(respond) -> ChatOpenAI:
    return ChatOpenAI(
        model="gpt-4o",
        api_key="k",
        base_url="http://provider/v1",
        max_retries=0,
        http_client=httpx.Client(transport=httpx.MockTransport(respond)),
    )


def streamed(text: str) -> httpx.Response:
    return httpx.Response(200, text=text, headers={"content-type": "text/event-stream"})


def test_a_real_clients_stream_that_stops_without_an_end_is_found(chain) -> None:
    """langchain-openai takes a connection that closed early for the end of the answer."""
    assert read(chain(chatopenai(lambda _: streamed(SSE + SSE_END)))) == "Dear "
    with pytest.raises(TruncatedAnswerError):
        read(chain(chatopenai(lambda _: streamed(SSE + "data: [DONE]\n\n"))))


def test_a_real_clients_failures_move_on(chain, facts) -> None:
    for status in (429, 500, 503, 401, 404):
        failing = chatopenai(lambda _, status=status: httpx.Response(status, json={"error": {"message": "no"}}))
        assert chain(failing, second()).invoke("hi").text == "second"
        assert read(chain(failing, second())) == "second"
    wrong = chatopenai(lambda _: httpx.Response(400, json={"error": {"message": "no"}}))
    with pytest.raises(openai.BadRequestError):
        chain(wrong, second()).invoke("hi")


def test_a_real_clients_context_overflow_moves_on(chain) -> None:
    body = {"error": {"message": "too long", "code": "context_length_exceeded", "type": "invalid_request_error"}}
    assert chain(chatopenai(lambda _: httpx.Response(400, json=body)), second()).invoke("hi").text == "second"
