"""The door between sync and async, and one value per loop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

import pytest

from langchain_llmops.core.concurrency import DOOR, Door, PerLoop, drive, run_sync
from langchain_llmops.core.errors import LLMOpsError
from tests.support.models import DEADLINE_S, eventually

WHO: ContextVar[str] = ContextVar("who", default="nobody")


async def name() -> str:
    await asyncio.sleep(0)
    return WHO.get()


async def thread_name() -> str:
    return threading.current_thread().name


async def hang() -> None:
    await asyncio.Event().wait()


# drive


async def adds(one: int, other: int) -> int:
    return one + other


async def fails() -> None:
    raise ValueError("mine")


def test_a_coroutine_that_never_waits_is_driven_without_a_loop() -> None:
    assert drive(adds(1, 2)) == 3


def test_an_error_comes_out_of_a_driven_coroutine_as_it_is() -> None:
    with pytest.raises(ValueError, match="mine"):
        drive(fails())


def test_a_coroutine_that_waits_is_refused_with_the_reason() -> None:
    with pytest.raises(LLMOpsError, match="blocking=True"):
        drive(asyncio.sleep(0))


async def test_driving_works_inside_a_running_loop() -> None:
    assert drive(adds(1, 2)) == 3


# the door


def test_sync_code_runs_a_coroutine_on_the_librarys_own_thread() -> None:
    assert run_sync(thread_name()) == "llmops-door"
    assert threading.current_thread().name != "llmops-door"


async def test_sync_code_inside_a_running_loop_works_as_in_a_notebook() -> None:
    assert run_sync(name()) == "nobody"


async def test_a_coroutine_of_another_loop_crosses() -> None:
    assert await DOOR.cross(thread_name()) == "llmops-door"


async def test_crossing_inside_the_door_does_not_cross_again() -> None:
    async def twice() -> str:
        return await DOOR.cross(thread_name())

    assert await DOOR.cross(twice()) == "llmops-door"


def test_context_variables_travel_with_a_sync_call() -> None:
    token = WHO.set("ada")
    try:
        assert run_sync(name()) == "ada"
    finally:
        WHO.reset(token)


async def test_context_variables_travel_with_an_async_call() -> None:
    WHO.set("ada")
    assert await DOOR.cross(name()) == "ada"


def test_what_the_coroutine_sets_stays_behind_the_door() -> None:
    async def renames() -> None:
        WHO.set("eve")

    run_sync(renames())
    assert run_sync(name()) == "nobody"


def test_an_error_crosses_as_it_is() -> None:
    with pytest.raises(ValueError, match="mine"):
        run_sync(fails())


def test_the_door_refuses_to_wait_on_itself() -> None:
    async def waits_on_itself() -> None:
        run_sync(name())

    with pytest.raises(LLMOpsError, match="await the async method"):
        run_sync(waits_on_itself())


def test_a_timeout_cancels_the_work() -> None:
    cancelled = threading.Event()

    async def slow() -> None:
        try:
            await hang()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    with pytest.raises(TimeoutError):
        run_sync(slow(), timeout_s=0.01)
    assert cancelled.wait(DEADLINE_S)


async def test_cancelling_the_wait_cancels_the_work() -> None:
    began, cancelled = threading.Event(), threading.Event()

    async def slow() -> None:
        began.set()
        try:
            await hang()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    task = asyncio.create_task(DOOR.cross(slow()))
    await asyncio.to_thread(began.wait, DEADLINE_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(cancelled.wait, DEADLINE_S)


def test_many_threads_meet_one_loop_even_when_all_come_first() -> None:
    async def loop_id() -> int:
        return id(asyncio.get_running_loop())

    for _ in range(30):
        door, barrier = Door("test-door"), threading.Barrier(8)

        def comes(door: Door = door, barrier: threading.Barrier = barrier) -> int:
            barrier.wait(DEADLINE_S)
            return door.run_sync(loop_id())

        with ThreadPoolExecutor(8) as threads:
            loops = {come.result(DEADLINE_S) for come in [threads.submit(comes) for _ in range(8)]}
        _shut(door)
        assert len(loops) == 1


def _shut(door: Door) -> None:
    loop = door.loop()
    loop.call_soon_threadsafe(loop.stop)
    eventually(lambda: not loop.is_running())
    loop.close()


def test_the_door_stays_shut_until_it_is_needed() -> None:
    before = threading.active_count()
    Door("unused")
    assert threading.active_count() == before


def test_the_loop_thread_is_a_daemon_and_never_keeps_a_process_alive() -> None:
    code = (
        "import asyncio\nfrom langchain_llmops.core.concurrency import DOOR, run_sync\n"
        "run_sync(asyncio.sleep(0))\nDOOR.submit(asyncio.sleep(3600))\nprint('done')"
    )
    assert _run(code) == "done\n"


FORKED = """
import asyncio, os, sys, threading
from langchain_llmops.core.concurrency import DOOR, PerLoop, run_sync
async def where():
    await asyncio.sleep(0)
    return os.getpid(), threading.current_thread().name
parent = run_sync(where())
assert parent == (os.getpid(), "llmops-door"), parent
locks = [v for held in vars(DOOR).values() for v in (held.values() if isinstance(held, dict) else [held])]
locks = [lock for lock in locks if hasattr(lock, "acquire")]
assert locks and all(lock.acquire() for lock in locks)  # a fork may copy a lock while another thread holds it
pid = os.fork()
if pid == 0:
    child = run_sync(where(), timeout_s=20)
    os._exit(0 if child == (os.getpid(), "llmops-door") and child != parent else 1)
for lock in locks:
    lock.release()
status = os.waitpid(pid, 0)[1]
assert run_sync(where()) == parent
print("child", os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_gets_a_loop_of_its_own() -> None:
    assert _run(FORKED) == "child 0\n"


def test_an_interrupt_while_waiting_at_the_door_cancels_the_work() -> None:
    code = (
        "import asyncio, sys, threading\nfrom langchain_llmops.core.concurrency import run_sync\n"
        "caller = threading.get_ident()\n"
        "async def slow():\n"
        "    while sys._current_frames()[caller].f_code.co_name != 'wait':\n        await asyncio.sleep(0)\n"
        "    print('began', flush=True)\n"
        "    try:\n        await asyncio.Event().wait()\n"
        "    except asyncio.CancelledError:\n        print('cancelled', flush=True)\n        raise\n"
        "try:\n    run_sync(slow())\nexcept KeyboardInterrupt:\n    run_sync(asyncio.sleep(0))\n    print('interrupted')\n"  # noqa: E501 - a program in one text
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "began\n"
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=30)
    assert out.split() == ["cancelled", "interrupted"]


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# one client per loop


class Client:
    def __init__(self) -> None:
        self.closed_on: asyncio.AbstractEventLoop | None = None

    async def aclose(self) -> None:
        await asyncio.sleep(0)
        self.closed_on = asyncio.get_running_loop()


@pytest.fixture
def clients() -> PerLoop[Client]:
    return PerLoop(Client, Client.aclose)


def test_every_loop_has_a_client_of_its_own_and_keeps_it(clients) -> None:
    async def twice() -> tuple[Client, Client]:
        return await clients.get(), await clients.get()

    first, again = asyncio.run(twice())
    other, _ = asyncio.run(twice())
    assert first is again
    assert first is not other


def test_a_client_is_closed_on_its_own_loop_when_the_loop_ends(clients) -> None:
    async def use() -> tuple[Client, asyncio.AbstractEventLoop]:
        return await clients.get(), asyncio.get_running_loop()

    client, loop = asyncio.run(use())
    assert client.closed_on is loop


def test_loops_that_run_at_once_do_not_share(clients) -> None:
    barrier = threading.Barrier(8)

    async def use() -> Client:
        client = await clients.get()
        barrier.wait(DEADLINE_S)
        assert await clients.get() is client
        return client

    with ThreadPoolExecutor(8) as threads:
        used = list(threads.map(lambda _: asyncio.run(use()), range(8)))
    assert len({id(client) for client in used}) == 8


async def test_tasks_of_one_loop_share(clients) -> None:
    assert len({id(client) for client in await asyncio.gather(*(clients.get() for _ in range(20)))}) == 1
    await clients.aclose()


async def test_a_closed_client_is_forgotten_and_made_anew(clients) -> None:
    client = await clients.get()
    await clients.aclose()
    await clients.aclose()
    assert client.closed_on is asyncio.get_running_loop()
    assert await clients.get() is not client
    await clients.aclose()


def test_a_loop_that_is_gone_is_forgotten(clients) -> None:
    async def use() -> None:
        await clients.get()

    asyncio.run(use())
    gc.collect()
    assert len(clients._clients) == 0
