"""Equal streams, and streams and calls, at once make one provider call, whatever becomes of who streams first."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from langchain_llmops.cache import flight
from langchain_llmops.cache.model import cached
from tests.support.models import Hang, ScriptedModel, chunk, eventually
from tests.support.waiting import all_wait

MANY = 50


class GatedModel(ScriptedModel):
    """Streams a first piece, and the rest when told to."""

    gate: object = None
    thread_gate: object = None
    good: bool = True

    async def _astream(self, messages, stop=None, run_manager=None, **kwargs):
        number = self._number(messages)
        for piece in self._said(number):
            yield piece
            if number == 1:
                await self.gate.wait()

    def _stream(self, messages, stop=None, run_manager=None, **kwargs):
        number = self._number(messages)
        for piece in self._said(number):
            yield piece
            if number == 1:
                assert self.thread_gate.wait(20)

    def _number(self, messages):
        with self.lock:
            self.asked.append((messages, {}))
            return len(self.asked)

    def _said(self, number):
        from langchain_core.outputs import ChatGenerationChunk

        last = chunk(" b", usage=(10, 5), finish_reason="stop" if self.good else "length")
        return [ChatGenerationChunk(message=one) for one in (chunk("a"), last)]


@pytest.fixture
def gated():
    return GatedModel(gate=asyncio.Event(), thread_gate=threading.Event())


async def streamed(model, asked="hi"):
    return "".join([piece.text async for piece in model.astream(asked)])


@pytest.mark.parametrize("l2", [True, False])
async def test_fifty_streams_at_once_make_one_call(make, gated, l2) -> None:
    model = cached(gated, cache=make(l2=l2, lease_s=3.0))
    tasks = [asyncio.create_task(streamed(model)) for _ in range(MANY)]
    await all_wait(lambda: gated.calls, tasks)
    gated.gate.set()
    assert set(await asyncio.gather(*tasks)) == {"a b"}
    assert gated.calls == 1


async def test_calls_wait_for_a_stream_and_streams_for_a_call(make, gated) -> None:
    model = cached(gated, cache=make())
    tasks = [asyncio.create_task(streamed(model)) for _ in range(5)]
    await all_wait(lambda: gated.calls, tasks)
    tasks += [asyncio.create_task(model.ainvoke("hi")) for _ in range(5)]
    await all_wait(lambda: gated.calls, tasks)
    gated.gate.set()
    await asyncio.gather(*tasks)
    assert gated.calls == 1


def test_fifty_threads_that_stream_make_one_call(make, gated) -> None:
    model = cached(gated, cache=make())
    with ThreadPoolExecutor(MANY) as pool:
        futures = [pool.submit(lambda: "".join(one.text for one in model.stream("hi"))) for _ in range(MANY)]
        eventually(lambda: gated.calls == 1)
        gated.thread_gate.set()
        assert {one.result(20) for one in futures} == {"a b"}
    assert gated.calls == 1


async def test_a_stream_whose_steps_are_tasks_of_their_own_leads_on(make, gated) -> None:
    model = cached(gated, cache=make())
    stream = model.astream("hi")
    first = await asyncio.ensure_future(_next(stream))
    task = asyncio.create_task(streamed(model))
    await all_wait(lambda: gated.calls, [task])
    gated.gate.set()
    async for piece in stream:
        first += piece
    assert first.text == await task == "a b"
    assert gated.calls == 1


async def _next(stream):
    return await anext(stream)


@pytest.mark.parametrize("how", ["cancelled", "closed", "dropped"])
async def test_a_stream_that_is_abandoned_releases_the_others(make, gated, how, monkeypatch) -> None:
    monkeypatch.setattr(flight, "LOOK_SELDOM_S", 60)  # they are told
    model = cached(gated, cache=make())
    stream = model.astream("hi")
    assert (await anext(stream)).text == "a"
    waiting = [asyncio.create_task(streamed(model)) for _ in range(10)]
    await all_wait(lambda: gated.calls, waiting)
    if how == "cancelled":
        task = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    elif how == "closed":
        await stream.aclose()
    else:
        del stream
    assert set(await asyncio.wait_for(asyncio.gather(*waiting), 5)) == {"a b"}
    assert gated.calls == 2


def test_a_thread_that_drops_its_stream_releases_the_others(make, gated) -> None:
    model = cached(gated, cache=make())
    stream = model.stream("hi")
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(model.invoke, "hi")
        eventually(lambda: model.cache.answers._flights._flying)
        stream.close()
        assert waiting.result(10).text


async def test_a_stream_that_nobody_reads_on_is_not_waited_for(make, gated, monkeypatch) -> None:
    monkeypatch.setattr(flight, "LONGEST_HOLD_S", 0.05)
    monkeypatch.setattr(flight, "LOOK_SELDOM_S", 0.02)
    model = cached(gated, cache=make())
    stream = model.astream("hi")
    await anext(stream)
    assert await asyncio.wait_for(asyncio.create_task(streamed(model)), 5) == "a b"
    assert gated.calls == 2
    gated.gate.set()
    assert (await anext(stream)).text == " b"


async def test_a_stream_that_fails_costs_one_exception(make) -> None:
    model = ScriptedModel([chunk("a"), RuntimeError("down")], "good")
    both = cached(model, cache=make())
    outcomes = await asyncio.gather(*(streamed(both) for _ in range(MANY)), return_exceptions=True)
    assert sum(isinstance(one, RuntimeError) for one in outcomes) == 1
    assert model.calls == 2


async def test_an_answer_that_may_not_be_kept_releases_all_at_once(make, gated) -> None:
    gated.good = False
    model = cached(gated, cache=make())
    tasks = [asyncio.create_task(streamed(model)) for _ in range(10)]
    await all_wait(lambda: gated.calls, tasks)
    gated.gate.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 5)
    assert gated.calls == 10


async def test_one_task_that_reads_two_equal_streams_in_turn_does_not_wait_for_itself(make, gated) -> None:
    gated.gate.set()
    model = cached(gated, cache=make())
    one, other = model.astream("hi"), model.astream("hi")
    assert [(await anext(s)).text for s in (one, other, one, other)] == ["a", "a", " b", " b"]


@pytest.mark.parametrize("again", [True, False])
@pytest.mark.parametrize("l2", [True, False])
async def test_what_is_invalidated_while_it_is_streamed_is_no_hit(make, gated, l2, again) -> None:
    gated.gate.set()
    cache = make(l2=l2, tags_of=lambda prompt, llm_string: ["t"])
    model = cached(gated, cache=cache)
    stream = model.astream("hi")
    await anext(stream)
    second = model.astream("hi")
    if again:
        await anext(second)
    await cache.ainvalidate(["t"])
    if again:
        await anext(model.astream("hi"))
    for one in (stream, second) if again else (stream,):
        _ = [piece async for piece in one]
    assert "llmops_cache" not in (await model.ainvoke("hi")).response_metadata


def test_one_thread_that_reads_two_equal_streams_in_turn_does_not_wait_for_itself(make, gated) -> None:
    gated.thread_gate.set()
    model = cached(gated, cache=make())
    one, other = model.stream("hi"), model.stream("hi")
    assert [next(s).text for s in (one, other, one, other)] == ["a", "a", " b", " b"]


async def test_a_cancelled_call_of_a_cached_model_hangs_nobody(make) -> None:
    hang = Hang()
    model = ScriptedModel(hang, "good")
    both = cached(model, cache=make())
    first = asyncio.create_task(both.ainvoke("hi"))
    await hang.reached.wait()
    others = [asyncio.create_task(both.ainvoke("hi")) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    assert {one.text for one in await asyncio.wait_for(asyncio.gather(*others), 5)} == {"good"}
    assert model.calls == 2


async def test_two_processes_that_stream_make_one_call(make, gated) -> None:
    here, there = (cached(gated, cache=make(lease_s=3.0)) for _ in range(2))
    tasks = [asyncio.create_task(streamed(one)) for one in (here, there) for _ in range(5)]
    await all_wait(lambda: gated.calls, tasks)
    gated.gate.set()
    assert set(await asyncio.wait_for(asyncio.gather(*tasks), 10)) == {"a b"}
    assert gated.calls == 1
