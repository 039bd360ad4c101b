"""A stream is one record, with its first token and its pauses, also when it breaks or is left."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.exceptions import ModelTimeoutError

from langchain_llmops.core.types import ErrorKind, Usage
from tests.support.models import Hang, ScriptedModel, chunk
from tests.unit.telemetry.conftest import COST


def test_a_stream_is_one_record_with_the_time_to_its_first_token(config, told, clock) -> None:
    model = ScriptedModel([chunk("a"), chunk("b"), chunk("", usage=(10, 5), finish_reason="stop")])
    for number, _ in enumerate(model.stream("hi", config)):
        clock.pass_s(1.0)
    record = told.only
    assert record.streamed
    assert (record.ttft_s, record.latency_s) == (0.0, number + 1.0)
    assert (record.usage, record.money, record.finish_reason) == (Usage(10, 5), COST, "stop")


async def test_an_async_stream_is_the_same_record(config, told) -> None:
    async for _ in ScriptedModel("a longer answer").astream("hi", config):
        pass
    assert (told.only.streamed, told.only.usage, told.only.money) == (True, Usage(10, 5), COST)


def test_the_first_token_of_a_slow_model_comes_late(handler, told, clock) -> None:
    class Thinks(ScriptedModel):
        def _stream(self, messages, stop=None, run_manager=None, **kwargs):
            clock.pass_s(3.0)
            yield from super()._stream(messages, stop, run_manager, **kwargs)

    list(Thinks("a b").stream("hi", {"callbacks": [handler]}))
    assert told.only.ttft_s == 3.0


def test_the_pause_between_pieces_is_their_mean(config, told, clock) -> None:
    model = ScriptedModel([chunk("a"), chunk("b"), chunk("c"), chunk("", usage=(10, 5), finish_reason="stop")])
    for _ in model.stream("hi", config):
        clock.pass_s(0.5)
    assert told.only.inter_token_s == pytest.approx(0.5, rel=0.3)


def test_a_call_in_one_piece_has_no_pause(config, told) -> None:
    ScriptedModel().invoke("hi", config)
    assert (told.only.inter_token_s, told.only.ttft_s) == (None, None)


def test_typed_stream_events_count_as_tokens(config, told) -> None:
    events = ScriptedModel("a b").stream_events("hi", config, version="v3")
    for _ in events:
        pass
    assert told.only.streamed
    assert told.only.ttft_s is not None


def test_an_abandoned_stream_is_cancelled_and_may_have_cost(config, told, handler) -> None:
    stream = ScriptedModel([chunk("x" * 400), chunk("never read")]).stream("hello there", config)
    next(stream)
    stream.close()
    record = told.only
    assert (record.error_kind, record.estimated) == (ErrorKind.CANCELLED, True)
    assert record.usage.input_tokens > 0
    assert record.usage.output_tokens >= 10
    assert record.money is not None
    assert handler.open_runs == 0


async def test_an_abandoned_async_stream_is_cancelled(config, told, handler) -> None:
    stream = ScriptedModel([chunk("one"), chunk("two")]).astream("hi", config)
    await anext(stream)
    await stream.aclose()
    assert told.only.error_kind is ErrorKind.CANCELLED
    assert handler.open_runs == 0


def test_a_stream_that_breaks_is_one_failed_record(config, told, handler) -> None:
    with pytest.raises(ModelTimeoutError):
        list(ScriptedModel([chunk("some text"), ModelTimeoutError("slow")]).stream("hi", config))
    assert (told.only.error_kind, told.only.streamed, told.only.estimated) == (ErrorKind.TIMEOUT, True, True)
    assert told.only.usage.output_tokens >= 2
    assert handler.open_runs == 0


async def test_a_cancelled_stream_is_cancelled_not_failed(config, told, handler) -> None:
    hang = Hang()

    async def read() -> None:
        async for _ in ScriptedModel([chunk("one"), hang]).astream("hi", config):
            pass

    task = asyncio.create_task(read())
    await hang.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert told.only.error_kind is ErrorKind.CANCELLED
    assert handler.open_runs == 0


def test_a_stream_without_usage_is_estimated(config, told) -> None:
    list(ScriptedModel([chunk("four words "), chunk("of text"), chunk(finish_reason="stop")]).stream("hi", config))
    assert told.only.estimated
    assert told.only.usage.output_tokens >= 4
