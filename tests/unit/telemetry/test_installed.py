"""A handler in every run of the process or of a block, never twice, and nothing left behind."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from itertools import permutations

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import LangChainTracer
from langchain_core.tracers import context as langchain_context
from langchain_core.tracers.context import _configure_hooks, tracing_v2_enabled

from langchain_llmops.telemetry.handler import OpsCallbackHandler
from langchain_llmops.telemetry.installed import Installation
from tests.support.models import ScriptedModel


class Silent(LangChainTracer):
    """A tracer that sends nothing."""

    def __init__(self, **kwargs) -> None:
        super().__init__(**{"client": object(), **kwargs})

    def _persist_run_single(self, run) -> None:
        pass

    def _update_run_single(self, run) -> None:
        pass


OURS = Silent()


@pytest.fixture
def nothing_left():
    hooks, variable = list(_configure_hooks), langchain_context.tracing_v2_callback_var
    yield
    assert _configure_hooks == hooks
    assert langchain_context.tracing_v2_callback_var is variable
    assert variable.get() is None


@pytest.fixture
def installation(nothing_left, handler):
    installation = Installation(handler, lambda: OURS)
    yield installation
    installation.uninstall()


def in_effect() -> LangChainTracer | None:
    """The tracer that LangChain would take."""
    return langchain_context.tracing_v2_callback_var.get()


def in_thread(work):
    got = []
    thread = threading.Thread(target=lambda: got.append(work()))
    thread.start()
    thread.join()
    return got[0]


def elsewhere(work, *arguments):
    return contextvars.copy_context().run(work, *arguments)


def test_every_run_is_seen_in_threads_that_were_there_before_too(installation, told) -> None:
    begin, done = threading.Event(), threading.Event()

    def early() -> None:
        begin.wait()
        ScriptedModel().invoke("hi")
        done.set()

    thread = threading.Thread(target=early)
    thread.start()
    installation.install()
    begin.set()
    done.wait()
    thread.join()
    in_thread(lambda: ScriptedModel().invoke("hi"))
    ScriptedModel().invoke("hi")
    assert len(told) == 3


async def test_tasks_and_whole_agents_are_seen(installation, told) -> None:
    installation.install()
    await asyncio.create_task(ScriptedModel().ainvoke("hi"))
    await create_agent(ScriptedModel(), []).ainvoke({"messages": [("user", "hi")]})
    assert [record.kind for record in told] == ["model", "model", "turn"]
    assert told[1].trace_id == told[2].run_id


def test_a_handler_that_is_passed_as_well_records_once(installation, config, told) -> None:
    installation.install()
    chain = RunnableLambda(lambda text: text) | ScriptedModel()
    chain.invoke("hi", config)
    ScriptedModel(callbacks=config["callbacks"]).invoke("hi")
    with installation.block():
        ScriptedModel().invoke("hi", config)
    assert [record.kind for record in told] == ["model", "turn", "model", "model"]


def test_installing_twice_is_installing_once(installation, told) -> None:
    installation.install()
    installation.install()
    ScriptedModel().invoke("hi")
    installation.uninstall()
    ScriptedModel().invoke("hi")
    installation.uninstall()
    assert len(told) == 1


def test_a_block_sees_what_starts_in_it_and_nothing_else(installation, told) -> None:
    ScriptedModel().invoke("before")
    with installation.block():
        ScriptedModel().invoke("in it")
        in_thread(lambda: ScriptedModel().invoke("beside it"))
        with installation.block():
            ScriptedModel().invoke("in two")
        ScriptedModel().invoke("in one")
    ScriptedModel().invoke("after")
    assert len(told) == 3


async def test_blocks_of_tasks_at_once_do_not_end_each_other(installation, told) -> None:
    both = asyncio.Barrier(2)

    async def work(pauses: int) -> None:
        with installation.block():
            await both.wait()
            for _ in range(pauses):
                await asyncio.sleep(0)
            await ScriptedModel().ainvoke("hi")

    await asyncio.gather(work(0), work(5))
    assert len(told) == 2


def test_a_thousand_blocks_leave_no_hook(installation) -> None:
    before = len(_configure_hooks)
    for _ in range(1000):
        with installation.block():
            pass
    assert len(_configure_hooks) == before


def test_a_block_that_fails_leaves_no_hook(installation, told) -> None:
    with pytest.raises(KeyError), installation.block():
        raise KeyError("x")
    ScriptedModel().invoke("hi")
    assert not told


def test_a_second_one_is_warned_of_the_first(installation, bus, caplog) -> None:
    installation.install()
    assert not caplog.records
    other = Installation(OpsCallbackHandler(bus))
    other.install()
    other.uninstall()
    assert "another LLMOps observes this process already" in caplog.text


async def test_our_tracer_is_in_effect_in_every_context_and_in_none_after(installation) -> None:
    async def install() -> None:
        installation.install()

    begin = asyncio.Event()

    async def late() -> LangChainTracer | None:
        await begin.wait()
        return in_effect()

    waiting = asyncio.create_task(late())
    await asyncio.create_task(install())
    begin.set()
    assert [await waiting, await asyncio.create_task(late()), in_thread(in_effect), in_effect()] == [OURS] * 4
    begin.clear()
    waiting = asyncio.create_task(late())
    await asyncio.sleep(0)
    installation.uninstall()
    begin.set()
    assert [await waiting, in_thread(in_effect), in_effect()] == [None] * 3


def test_what_the_tracer_says_counts_when_a_run_starts(nothing_left, handler) -> None:
    now = [None]
    installation = Installation(handler, lambda: now[0])
    installation.install()
    assert in_effect() is None
    now[0] = OURS
    assert in_effect() is OURS
    installation.uninstall()


def test_a_block_has_our_tracer_and_what_is_beside_it_has_not(installation) -> None:
    with installation.block():
        assert (in_effect(), elsewhere(in_effect), in_thread(in_effect)) == (OURS, OURS, None)
    assert in_effect() is None


def test_the_users_own_tracer_stays_in_effect_and_is_restored(installation) -> None:
    with tracing_v2_enabled(client=object()) as own:
        with installation.block():
            assert in_effect() is own
            with tracing_v2_enabled(client=object()) as inner:
                assert in_effect() is inner
            assert in_effect() is own
        installation.install()
        assert in_effect() is own
        installation.uninstall()
        assert in_effect() is own
        installation.install()
    assert in_effect() is OURS
    with tracing_v2_enabled(client=object()) as own:
        installation.uninstall()
        assert in_effect() is own
    assert in_effect() is None


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_several_may_go_in_any_order_and_the_newest_there_has_its_tracer_in_effect(nothing_left, bus, order) -> None:
    tracers = [Silent() for _ in range(3)]
    every = [Installation(OpsCallbackHandler(bus), lambda tracer=tracer: tracer) for tracer in tracers]
    for one in every:
        one.install()
    left = list(range(3))
    for gone in order:
        assert in_thread(in_effect) is tracers[left[-1]]
        every[gone].uninstall()
        left.remove(gone)
    assert in_effect() is None


def test_a_block_goes_before_what_is_installed(installation, bus) -> None:
    tracer = Silent()
    other = Installation(OpsCallbackHandler(bus), lambda: tracer)
    with other.block():
        installation.install()
        assert (in_effect(), in_thread(in_effect)) == (tracer, OURS)
    assert in_effect() is OURS


def test_a_block_may_be_left_in_another_context_than_it_was_entered_in(installation, told) -> None:
    for enter, leave in [(elsewhere, elsewhere), (in_thread, elsewhere), (elsewhere, in_thread)]:
        block = installation.block()
        enter(block.__enter__)
        leave(lambda block=block: block.__exit__(None, None, None))
    here = installation.block()
    here.__enter__()
    elsewhere(here.__exit__, None, None, None)
    ScriptedModel().invoke("hi")
    assert (in_effect(), told) == (None, [])


def test_blocks_that_are_left_in_the_order_of_entering_are_left(installation, told) -> None:
    first, second = installation.block(), installation.block()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    ScriptedModel().invoke("in the second")
    second.__exit__(None, None, None)
    with installation.block():
        in_thread(lambda: ScriptedModel().invoke("beside it"))
    ScriptedModel().invoke("after")
    assert len(told) == 1


def test_blocks_left_elsewhere_are_not_kept(installation) -> None:
    for _ in range(1000):
        block = installation.block()
        block.__enter__()
        elsewhere(block.__exit__, None, None, None)
    with installation.block():
        assert installation._blocks._innermost.get().outer is None


async def test_a_task_that_outlives_its_block_is_seen_no_more_also_while_others_are_open(installation, told) -> None:
    begin = asyncio.Event()

    async def late() -> None:
        await begin.wait()
        assert in_effect() is None
        await ScriptedModel().ainvoke("late")

    with installation.block():
        outliving = asyncio.create_task(late())
        await asyncio.sleep(0)
    with installation.block():
        begin.set()
        await outliving
    assert not told


def test_a_block_that_another_thread_leaves_while_langchain_asks_breaks_no_call(installation) -> None:
    """LangChain asks its hooks twice at each run, and calls None when only the second answer is None."""
    with installation.block():  # keeps the hook
        block = installation.block()
        block.__enter__()
        seen = installation._blocks.get()
        block_here = contextvars.copy_context()
        block.__exit__(None, None, None)
    assert seen is not None
    assert block_here.run(installation._blocks.get) is not None
