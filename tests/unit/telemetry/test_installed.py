"""A handler in every run of the process or of a block, never twice, and nothing left behind."""

from __future__ import annotations

import asyncio
import threading

import pytest
from langchain.agents import create_agent
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import _configure_hooks

from langchain_llmops.telemetry.handler import OpsCallbackHandler
from langchain_llmops.telemetry.installed import Installation
from tests.support.models import ScriptedModel


@pytest.fixture
def installation(handler):
    before = list(_configure_hooks)
    installation = Installation(handler)
    yield installation
    installation.uninstall()
    assert _configure_hooks == before


def in_thread(work) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


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
