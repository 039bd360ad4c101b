"""Who leads and fails, goes on, pauses or is forgotten holds nobody up, and keeps nothing that is no longer so."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.language_models import LLM

from langchain_llmops.cache import answers, flight
from langchain_llmops.cache.model import cached
from tests.support.cache import KEPT
from tests.support.models import ScriptedModel, answer, chunk, eventually
from tests.support.waiting import until

MANY = 20


class Texts(LLM):
    """A text model that fails, or waits until it is told to answer."""

    name_of: str = "t"
    fails: bool = False
    hangs: bool = False

    @property
    def _llm_type(self) -> str:
        return "texts"

    @property
    def _identifying_params(self):
        return {"model": self.name_of}

    def _call(self, prompt, stop=None, run_manager=None, **kwargs) -> str:
        raise AssertionError("it is asked by async callers")

    async def _acall(self, prompt, stop=None, run_manager=None, **kwargs) -> str:
        for _ in range(20):
            await asyncio.sleep(0)
        if self.hangs:
            await asyncio.Event().wait()
        if self.fails:
            raise RuntimeError("down")
        return "ok"


async def tried(*models) -> str:
    """As a chain with fallbacks, in one task."""
    for model in models:
        try:
            return await model.ainvoke("p")
        except RuntimeError:
            continue
    return "all failed"


@pytest.mark.parametrize("how", ["failed", "timed out"])
@pytest.mark.parametrize("lease_s", [0, 3.0])
async def test_an_async_text_call_that_ended_without_answer_holds_nobody_up(make, how, lease_s) -> None:
    here, there = make(lease_s=lease_s), make(lease_s=lease_s)
    over, go_on = asyncio.Event(), asyncio.Event()

    async def lead() -> None:
        with pytest.raises((RuntimeError, TimeoutError)):
            async with asyncio.timeout(0.01 if how == "timed out" else None):
                await Texts(cache=here, fails=how == "failed", hangs=how == "timed out").ainvoke("p")
        over.set()
        await go_on.wait()

    leading = asyncio.create_task(lead())
    await over.wait()
    for cache in (here, there):
        assert await asyncio.wait_for(Texts(cache=cache).ainvoke("p"), 5) == "ok"
    go_on.set()
    await leading


async def test_tasks_that_try_the_same_text_models_in_other_orders_do_not_hang(make) -> None:
    cache = make()
    one, other = (Texts(cache=cache, name_of=name, fails=True) for name in "ab")
    assert await asyncio.wait_for(asyncio.gather(tried(one, other), tried(other, one)), 5) == ["all failed"] * 2


async def test_many_calls_in_one_task_leave_one_callback_on_it(make) -> None:
    model, task = Texts(cache=make()), asyncio.current_task()
    before = len(task._callbacks or ())
    for number in range(MANY):
        await model.ainvoke(str(number))
    assert len(task._callbacks or ()) <= before + 1


async def test_a_provider_that_is_down_fails_all_within_three_calls(make) -> None:
    """Each in turn would take twenty times as long as one."""
    model = InRounds(cache=make())
    tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(MANY)]
    await _ask_in_rounds(model)
    assert all(isinstance(one, RuntimeError) for one in await asyncio.gather(*tasks, return_exceptions=True))


async def test_streams_of_a_provider_that_is_down_fail_within_three(make) -> None:
    model = InRounds(cache=None)
    both = cached(model, cache=make())
    tasks = [asyncio.create_task(_all(both.astream("hi"))) for _ in range(MANY)]
    await _ask_in_rounds(model)
    assert all(isinstance(one, RuntimeError) for one in await asyncio.gather(*tasks, return_exceptions=True))


async def test_calls_that_are_cancelled_do_not_set_all_others_off(make) -> None:
    model = InRounds(cache=make())
    tasks = [asyncio.create_task(model.ainvoke("hi")) for _ in range(MANY)]
    for number in range(4):
        await until(lambda: len(model.here) == 1)
        model.here.clear()
        tasks[number].cancel()
    await until(lambda: len(model.here) == 1)
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(model.here) == 1
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_threads_whose_provider_is_down_fail_within_three_calls(make) -> None:
    model = ThreadRounds(cache=make())
    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(model.invoke, "hi") for _ in range(8)]
        flying = model.cache.answers._flights._flying
        for size, waiting in ((1, 7), (1, 6), (6, 0)):
            eventually(lambda size=size: len(model.here) == size)
            eventually(lambda waiting=waiting: sum(len(one.done._waiters) for one in flying.values()) == waiting)
            model.next_round()
        assert all(isinstance(one.exception(20), RuntimeError) for one in futures)


@pytest.mark.parametrize("l2", [True, False])
async def test_a_stream_that_was_left_aside_keeps_nothing_invalidated_meanwhile(make, l2, monkeypatch) -> None:
    monkeypatch.setattr(flight, "LONGEST_HOLD_S", 0.0)
    cache = make(l2=l2, tags_of=lambda prompt, llm_string: ["t"])
    model = cached(ScriptedModel([chunk("a"), chunk("b", finish_reason="stop")], cache=None), cache=cache)
    held = model.astream("hi")
    await anext(held)
    other = model.astream("hi")
    await anext(other)  # which finds the first left aside
    await other.aclose()
    await cache.ainvalidate(["t"])
    assert [piece async for piece in held]
    assert "llmops_cache" not in (await model.ainvoke("hi")).response_metadata


@pytest.mark.parametrize("how", ["swept", "evicted", "long forgotten"])
def test_an_answer_of_a_forgotten_look_is_as_old_as_the_look(make, how, monkeypatch) -> None:
    cache = make(tags_of=lambda prompt, llm_string: ["t"])
    assert look(cache, "p") is None
    if how == "swept":
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(look, cache, "p").result() is None
    else:
        monkeypatch.setattr(flight, "REMEMBERED", 2)
        for number in range(10 if how == "long forgotten" else 2):
            look(cache, str(number))
    cache.invalidate(["t"])
    cache.update("p", "m", KEPT)
    assert cache.lookup("p", "m") is None


def test_an_answer_that_nobody_looked_for_is_kept(make) -> None:
    cache = make()
    cache.update("p", "m", KEPT)
    assert cache.lookup("p", "m")


def look(cache, prompt):
    """In a function that ends before the answer comes."""
    return cache.lookup(prompt, "m")


async def test_what_is_past_its_time_is_served_while_another_process_asks(make, clock) -> None:
    caches = [make(lease_s=3.0, l1_s=5, l2_s=10, stale_s=1000) for _ in range(2)]
    await ScriptedModel(answer("old"), cache=caches[0]).ainvoke("hi")
    clock.pass_s(20)
    asks = InRounds(cache=caches[0], fails=False)
    refreshing = asyncio.create_task(asks.ainvoke("hi"))
    await until(lambda: asks.here)
    never = ScriptedModel(RuntimeError("nobody is asked"), cache=caches[1])
    for _ in range(2):
        said = await asyncio.wait_for(never.ainvoke("hi"), 5)
        assert (said.text, said.response_metadata["llmops_cache"]["stale"]) == ("old", True)
    asks.next_round()
    await refreshing


async def test_a_sync_call_on_a_loop_does_not_wait_for_the_lease_of_its_own_task(make, monkeypatch) -> None:
    monkeypatch.setattr(answers.time, "sleep", lambda _: pytest.fail("the loop stood still"))
    here, there = make(lease_s=3.0), make(lease_s=3.0)
    asks = InRounds(cache=here, fails=False)
    leading = asyncio.create_task(asks.ainvoke("hi"))
    await until(lambda: asks.here)
    assert ScriptedModel(answer("mine"), cache=there).invoke("hi").text == "mine"
    asks.next_round()
    await leading


async def _ask_in_rounds(model) -> None:
    """One is asked, then another, then all the rest."""
    for size in (1, 1, MANY - 2):
        await until(lambda size=size: len(model.here) == size)
        model.next_round()


async def _all(stream):
    return [piece async for piece in stream]


class InRounds(ScriptedModel):
    """Calls wait for the end of their round, and fail then."""

    here: list = []  # noqa: RUF012 - pydantic copies it for each model
    fails: bool = True

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        end = asyncio.Event()
        self.here.append(end)
        await end.wait()
        if self.fails:
            raise RuntimeError("down")
        return self._result(answer("new"))

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        await self._agenerate(messages)
        yield

    def _result(self, message):
        from langchain_core.outputs import ChatGeneration, ChatResult

        return ChatResult(generations=[ChatGeneration(message=message)])

    def next_round(self) -> None:
        ended, self.here[:] = list(self.here), []
        for end in ended:
            end.set()


class ThreadRounds(ScriptedModel):
    """The same for threads."""

    here: list = []  # noqa: RUF012 - pydantic copies it for each model

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        end = threading.Event()
        self.here.append(end)
        assert end.wait(20)
        raise RuntimeError("down")

    def next_round(self) -> None:
        ended, self.here[:] = list(self.here), []
        for end in ended:
            end.set()
