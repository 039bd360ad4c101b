"""Equal requests on their way at once make one provider call, whatever becomes of who leads."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.language_models import LLM
from langchain_core.outputs import ChatGeneration

from langchain_llmops.cache import flight
from langchain_llmops.cache.tiered import TieredCache
from tests.support.models import ScriptedModel, answer, eventually
from tests.support.waiting import all_wait, until

MANY = 50


class Slow:
    """A provider that answers when told to; async callers wait for `let_go`, sync ones for `let_go_thread`."""

    def __init__(self, *script) -> None:
        self.script = list(script)
        self.asked = 0
        self.let_go = asyncio.Event()
        self.let_go_thread = threading.Event()


class SlowModel(ScriptedModel):
    held: object = None

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        self.held.asked += 1
        number = self.held.asked
        await self.held.let_go.wait()
        return self._said(number)

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        with self.lock:
            self.held.asked += 1
            number = self.held.asked
        assert self.held.let_go_thread.wait(20)
        return self._said(number)

    def _said(self, number):
        line = self.held.script[min(number, len(self.held.script)) - 1]
        if isinstance(line, Exception):
            raise line
        from langchain_core.outputs import ChatResult

        return ChatResult(generations=[ChatGeneration(message=line)])


def slow(cache, *script) -> SlowModel:
    return SlowModel(held=Slow(*(script or [answer()])), cache=cache)


@pytest.mark.parametrize("l2", [True, False])
async def test_fifty_at_once_make_one_call(make, l2) -> None:
    model = slow(make(l2=l2))
    tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(MANY)]
    await all_wait(lambda: model.held.asked, tasks)
    model.held.let_go.set()
    answers = await asyncio.gather(*tasks)
    assert model.held.asked == 1
    assert {one.text for one in answers} == {"ok"}
    assert len({one.id for one in answers}) == MANY
    assert sum(one.usage_metadata["input_tokens"] for one in answers) == 10, "one of them cost something"


async def test_a_batch_of_equal_questions_is_one_call(make) -> None:
    model = slow(make())
    model.held.let_go.set()
    assert len(await model.abatch(["a", "b"] * 20)) == 40
    assert model.held.asked == 2


def test_fifty_threads_make_one_call(make) -> None:
    model = slow(make())
    with ThreadPoolExecutor(MANY) as pool:
        futures = [pool.submit(model.invoke, "hi") for _ in range(MANY)]
        eventually(lambda: model.held.asked == 1)
        model.held.let_go_thread.set()
        assert {one.result(20).text for one in futures} == {"ok"}
    assert model.held.asked == 1


async def test_a_leader_that_fails_costs_one_exception(make) -> None:
    model = slow(make(), RuntimeError("down"), answer())
    tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(MANY)]
    await all_wait(lambda: model.held.asked, tasks)
    model.held.let_go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(one, RuntimeError) for one in outcomes) == 1
    assert model.held.asked == 2


def test_a_leading_thread_that_fails_costs_one_exception(make) -> None:
    model = slow(make(), RuntimeError("down"), answer())
    with ThreadPoolExecutor(10) as pool:
        futures = [pool.submit(model.invoke, "hi") for _ in range(10)]
        eventually(lambda: model.held.asked == 1)
        model.held.let_go_thread.set()
        outcomes = [one.exception(20) for one in futures]
    assert sum(isinstance(one, RuntimeError) for one in outcomes) == 1
    assert model.held.asked == 2


async def test_a_cancelled_leader_hangs_nobody(make) -> None:
    model = slow(make())
    tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(10)]
    await all_wait(lambda: model.held.asked, tasks)
    tasks[0].cancel()
    await until(lambda: model.held.asked == 2)
    model.held.let_go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(one).__name__ for one in outcomes].count("CancelledError") == 1
    assert model.held.asked == 2


async def test_a_cancelled_follower_takes_nobody_with_it(make) -> None:
    model = slow(make())
    tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(10)]
    await all_wait(lambda: model.held.asked, tasks)
    tasks[-1].cancel()
    await asyncio.sleep(0)
    model.held.let_go.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert model.held.asked == 1
    assert [getattr(one, "text", None) for one in outcomes].count("ok") == 9


async def test_an_answer_that_may_not_be_kept_lets_all_ask_at_once(make) -> None:
    """One after another they would wait fifty times as long."""
    model = slow(make(), answer("half", finish="length"))
    tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(10)]
    await all_wait(lambda: model.held.asked, tasks)
    model.held.let_go.set()
    await asyncio.gather(*tasks)
    assert model.held.asked == 10


async def test_those_who_wait_get_the_answer_although_memory_keeps_none(make) -> None:
    model = slow(make(l1_max_bytes=0, l2=False))
    tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(10)]
    await all_wait(lambda: model.held.asked, tasks)
    model.held.let_go.set()
    await asyncio.gather(*tasks)
    assert model.held.asked == 1


def test_a_task_waits_for_a_thread_and_a_thread_for_a_task(make) -> None:
    cache = make()
    model = slow(cache)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(model.invoke, "hi")
        eventually(lambda: model.held.asked == 1)
        second = pool.submit(lambda: asyncio.run(model.ainvoke("hi")))
        eventually(lambda: cache.answers._flights._flying)
        model.held.let_go_thread.set()
        assert (first.result(20).text, second.result(20).text) == ("ok", "ok")
    assert model.held.asked == 1


async def test_asking_again_in_the_same_task_waits_for_nobody(cache) -> None:
    assert [await cache.alookup("p", "m") for _ in range(2)] == [None, None]


def test_asking_again_in_the_same_thread_waits_for_nobody(cache) -> None:
    assert [cache.lookup("p", "m") for _ in range(2)] == [None, None]


async def test_a_sync_call_within_a_loop_does_not_wait_for_that_loop(make) -> None:
    model = slow(make())
    model.held.let_go_thread.set()
    leading = asyncio.create_task(model.ainvoke("hi"))
    await all_wait(lambda: model.held.asked, [leading])
    assert model.invoke("hi").text == "ok"
    model.held.let_go.set()
    await leading


def test_flights_of_calls_that_failed_are_not_kept_for_ever(cache) -> None:
    model = ScriptedModel(RuntimeError("down"), cache=cache)
    for number in range(3 * flight.MANY):
        with pytest.raises(RuntimeError):
            model.invoke(str(number))
    assert len(cache.answers._flights._flying) <= flight.MANY + 1


async def test_nothing_is_left_of_tasks_that_failed(cache) -> None:
    model = ScriptedModel(RuntimeError("down"), cache=cache)
    await asyncio.gather(*(model.ainvoke(str(number)) for number in range(20)), return_exceptions=True)
    await asyncio.sleep(0)
    gc.collect()
    assert cache.answers._flights._flying == {}


async def test_a_loop_that_was_closed_with_a_leader_in_it_holds_nobody_up(monkeypatch) -> None:
    monkeypatch.setattr(flight, "LOOK_SELDOM_S", 0.01)
    cache = TieredCache()

    def abandon() -> None:
        loop = asyncio.new_event_loop()
        task = loop.create_task(cache.alookup("p", "m"))
        loop.run_until_complete(task)

        async def lead() -> None:
            await cache.alookup("q", "m")
            await asyncio.Event().wait()

        left = loop.create_task(lead())
        loop.run_until_complete(asyncio.sleep(0.01))
        left._log_destroy_pending = False
        loop.close()
        kept.append(left)

    kept: list = []
    await asyncio.to_thread(abandon)
    assert await asyncio.wait_for(cache.alookup("q", "m"), 5) is None


def test_threads_that_ask_a_text_model_the_same_make_one_call(cache) -> None:
    model = SlowTexts(cache=cache)
    with ThreadPoolExecutor(8) as pool:
        said = set(pool.map(model.invoke, ["hi"] * 8))
    assert (said, model.calls) == ({"ok"}, ["hi"])


class SlowTexts(LLM):
    """A text model that answers when several have asked."""

    calls: list[str] = []  # noqa: RUF012 - pydantic copies it for each model

    @property
    def _llm_type(self) -> str:
        return "slow"

    def _call(self, prompt, stop=None, run_manager=None, **kwargs) -> str:
        self.calls.append(prompt)
        waiting = self.cache.answers._flights
        eventually(lambda: all(flight.done._waiters for flight in waiting._flying.values()))
        return "ok"
