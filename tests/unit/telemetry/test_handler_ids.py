"""Runs whose ids the caller has chosen, and keeps."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from langchain_core.callbacks import CallbackManager

from langchain_llmops.core.types import ErrorKind
from tests.support.models import Hang, ScriptedModel, chunk


async def cancelled(config) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(ScriptedModel(Hang()).ainvoke("hi", config), 0.001)


async def test_a_cancelled_call_whose_id_is_kept_is_given_up_when_its_task_is_over(
    config, told, handler, clock
) -> None:
    kept = config | {"run_id": uuid4()}
    await cancelled(kept)
    assert handler.open_runs == 1
    clock.pass_s(301)
    assert handler.open_runs == 0
    assert told.only.error_kind is ErrorKind.CANCELLED
    assert told.only.run_id == str(kept["run_id"])
    assert told.only.cost_usd > 0


async def test_a_call_that_goes_on_is_not_given_up(config, told, handler, clock) -> None:
    hang = Hang()
    task = asyncio.create_task(ScriptedModel(hang).ainvoke("hi", config | {"run_id": uuid4()}))
    await hang.reached.wait()
    clock.pass_s(3000)
    assert handler.open_runs == 1
    assert not told
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_stream_that_another_task_goes_on_with_is_not_given_up(config, told, handler, clock) -> None:
    pieces = ScriptedModel([chunk("one "), chunk("two")]).astream("hi", config | {"run_id": uuid4()})
    await asyncio.create_task(anext(pieces))
    clock.pass_s(3000)
    assert handler.open_runs == 1
    async for _ in pieces:
        pass
    assert told.only.error_kind is None


def test_calls_at_one_time_with_one_id_are_all_recorded(config, told, handler) -> None:
    both = threading.Barrier(2, timeout=10)
    model = ScriptedModel(lambda _: str(both.wait() < 2))
    shared = config | {"run_id": uuid4()}
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda text: model.invoke(text, shared).text, ["one", "two"]))
    assert answers == ["True", "True"]
    assert [record.error_kind for record in told] == [None, None]
    assert handler.open_runs == 0


def test_a_start_that_is_told_twice_is_one_call(told, handler) -> None:
    manager = CallbackManager([handler, handler], inheritable_handlers=[handler, handler])
    ScriptedModel().invoke("hi", {"callbacks": manager})
    assert len(told) == 1
    assert handler.open_runs == 0
