"""Many callers, loops and threads share one saver and few connections; a cancelled one leaves nothing behind."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from langchain_llmops.checkpoint.engine import READERS
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.support.checkpoints import Caller, checkpoint, config, until
from tests.support.combinations import HOMES, from_fixtures
from tests.support.connections import connections

CALLERS = 500
FEW = 4
TOLD = {"source": "loop", "step": 1, "parents": {}}


@pytest.fixture(params=HOMES, ids=str)
def urls(request, tmp_path):
    return from_fixtures(request.param, request, tmp_path)


@pytest.fixture
def few(urls):
    """The same databases; of PostgreSQL no more than a few connections."""
    warm = urls["warm"]
    return {**urls, "warm": f"{warm}&max_connections={FEW}" if warm.startswith("postgresql") else warm}


def made_of(saver, values: dict) -> dict:
    """A checkpoint in which every value is new, as LangGraph versions it."""
    return checkpoint(values, {name: saver.get_next_version(None, None) for name in values})


async def a_turn(caller: Caller, thread: str, number: int, *, turns: int = 2) -> None:
    """What a run does to its thread, and that it finds what it did."""
    parent = None
    for turn in range(turns):
        values = {"log": [f"{thread} {n} " + "x" * 100 for n in range(turn + 1)], "by": number}
        parent = await caller.put(thread, parent=parent, made=made_of(caller.saver, values))
        await caller.write(thread, parent, ("log", number), ("by", turn))
        found = await caller.get(config(thread))
        assert (found.checkpoint["channel_values"], len(found.pending_writes)) == (values, 2)
    assert len(await caller.list(config(thread))) == turns


async def test_500_coroutines_on_few_connections_all_finish(urls, few):
    before = connections(urls)
    async with TieredCheckpointSaver.from_urls(**few, timeout_s=60.0) as saver:
        caller = Caller(saver)

        await asyncio.gather(*(a_turn(caller, f"t{number}", number) for number in range(CALLERS)))

        held = connections(urls)
        assert held.in_transaction == 0
        assert held.warm - before.warm <= FEW
        assert len(await caller.list(None, limit=CALLERS * 3)) == CALLERS * 2
    await until(lambda: connections(urls).within(before))


async def test_500_coroutines_on_one_thread_lose_none_of_its_checkpoints(few):
    async with TieredCheckpointSaver.from_urls(**few, timeout_s=60.0) as saver:
        caller = Caller(saver)
        root = await caller.put("t", {"n": -1})

        many = [made_of(saver, {"n": n}) for n in range(CALLERS)]
        made = await asyncio.gather(*(caller.put("t", parent=root, made=one) for one in many))
        await asyncio.gather(*(caller.write("t", root, ("n", n), task=f"task {n:03}") for n in range(CALLERS)))

        listed = {one.checkpoint["id"]: one.checkpoint["channel_values"]["n"] for one in await caller.list(config("t"))}
        assert listed == {**dict(zip(made, range(CALLERS), strict=True)), root: -1}
        assert (await caller.get(config("t"))).checkpoint["id"] == max(made)
        pending = (await caller.get(config("t", "", root))).pending_writes
        assert pending == [(f"task {n:03}", "n", n) for n in range(CALLERS)]


CALLS = {
    "put": lambda saver, made, root: saver.aput(config("t", "", root), made, TOLD, made["channel_versions"]),
    "put_writes": lambda saver, made, root: saver.aput_writes(
        config("t", "", root), [("a", made["id"]), ("b", made["id"])], made["id"]
    ),
    "get": lambda saver, made, root: saver.aget_tuple(config("t")),
    "get by id": lambda saver, made, root: saver.aget_tuple(config("t", "", root)),
    "list": lambda saver, made, root: Caller(saver).list(config("t"), limit=20),
    "archive": lambda saver, made, root: saver.aarchive("t"),
    "restore": lambda saver, made, root: saver.arestore("t"),
    "copy": lambda saver, made, root: saver.acopy_thread("t", "copied"),
    "prune": lambda saver, made, root: saver.aprune(["copied"]),
    "delete": lambda saver, made, root: saver.adelete_thread("copied"),
}


def whole(found) -> bool:
    """Every channel of a checkpoint, and every pair of writes, is of one call."""
    values = found.checkpoint["channel_values"]
    pairs = {}
    for task, channel, value in found.pending_writes:
        pairs.setdefault(task, {})[channel] = value
    return values["a"] == values["b"] and all(pair == {"a": task, "b": task} for task, pair in pairs.items())


async def cut_short(saver, name: str, root: str, deadline_s: float | None) -> tuple[str, bool]:
    """A call that may run so long; its id, and whether it was cut."""
    made = made_of(saver, {"a": name, "b": name})
    made["channel_values"] = {"a": made["id"], "b": made["id"]}
    try:
        async with asyncio.timeout(deadline_s):
            await CALLS[name](saver, made, root)
    except TimeoutError:
        return made["id"], True
    return made["id"], False


@pytest.mark.parametrize("seed", range(3))
async def test_calls_cancelled_at_any_await_leave_no_connection_and_nothing_half(urls, few, seed):
    before, chance = connections(urls), random.Random(seed)
    outcomes = []
    async with TieredCheckpointSaver.from_urls(**few, timeout_s=60.0) as saver:
        caller = Caller(saver)
        root = await caller.put("t", {"a": "root", "b": "root"})
        for _ in range(12):
            names = chance.choices(list(CALLS), k=12)
            deadlines = [chance.choice([0.0, None, *(chance.random() * 0.02 for _ in range(6))]) for _ in names]
            jobs = [cut_short(saver, name, root, deadline) for name, deadline in zip(names, deadlines, strict=True)]
            outcomes += zip(names, await asyncio.gather(*jobs), strict=True)

        cut = [was_cut for _, (_, was_cut) in outcomes]
        assert 5 < cut.count(True) < len(cut) - 5
        listed = await caller.list(config("t"))
        assert all(whole(found) for found in listed)
        done = {made for name, (made, was_cut) in outcomes if name == "put" and not was_cut}
        assert done <= {found.checkpoint["id"] for found in listed}
        pending = {task for task, _, _ in (await caller.get(config("t", "", root))).pending_writes}
        assert {made for name, (made, was_cut) in outcomes if name == "put_writes" and not was_cut} <= pending
        await a_turn(caller, "after", 1)
        await until(lambda: connections(urls).in_transaction == 0)
        assert connections(urls).warm - before.warm <= FEW
    await until(lambda: connections(urls).within(before))


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_cancelled_after_any_turn_of_its_loop_ends_whole_or_not_at_all(urls, name):
    async with TieredCheckpointSaver.from_urls(**urls) as saver:
        caller = Caller(saver)
        root = await caller.put("t", {"a": "root", "b": "root"})
        for turns in range(20):
            task = asyncio.ensure_future(cut_short(saver, name, root, None))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome, tuple | asyncio.CancelledError), outcome
            assert whole(await caller.get(config("t")))
        assert all(whole(found) for found in await caller.list(config("t")))
        await a_turn(caller, "after", 1)


def test_two_loops_and_bare_threads_use_one_saver_at_once(urls):
    saver = TieredCheckpointSaver.from_urls(**urls, timeout_s=60.0)
    together = threading.Barrier(6)

    def looping(name: str) -> None:
        async def turns():
            together.wait()
            await asyncio.gather(*(a_turn(Caller(saver), f"{name} {n}", n) for n in range(8)))
            await asyncio.gather(*(Caller(saver).write("shared", root, ("n", n), task=f"{name} {n}") for n in range(8)))

        asyncio.run(turns())

    def blocking(name: str) -> None:
        together.wait()
        for n in range(8):
            made = checkpoint({"n": f"{name} {n}"})
            saver.put(config(f"{name} {n}"), made, TOLD, made["channel_versions"])
            assert saver.get_tuple(config(f"{name} {n}")).checkpoint["channel_values"] == made["channel_values"]
            saver.put_writes(config("shared", "", root), [("n", n)], f"{name} {n}")

    with saver:
        made = checkpoint({"n": 0})
        root = saver.put(config("shared"), made, TOLD, made["channel_versions"])["configurable"]["checkpoint_id"]
        with ThreadPoolExecutor(6) as threads:
            jobs = [threads.submit(looping, f"loop {n}") for n in range(2)]
            jobs += [threads.submit(blocking, f"thread {n}") for n in range(4)]
            for job in jobs:
                job.result()

        names = sorted(
            [f"loop {a} {n}" for a in range(2) for n in range(8)]
            + [f"thread {a} {n}" for a in range(4) for n in range(8)]
        )
        assert [task for task, _, _ in saver.get_tuple(config("shared")).pending_writes] == names
        assert {one.config["configurable"]["thread_id"] for one in saver.list(None)} == {*names, "shared"}


def test_a_loop_that_ended_amid_its_calls_leaves_the_saver_to_the_next(urls):
    before = connections(urls)
    with TieredCheckpointSaver.from_urls(**urls) as saver:
        caller = Caller(saver)
        for _ in range(3):

            async def abandon():
                await caller.put("t", {"n": 0})
                for n in range(20):
                    asyncio.ensure_future(a_turn(caller, f"left {n}", n)).add_done_callback(lambda _: None)
                await asyncio.sleep(0)

            asyncio.run(abandon())
        asyncio.run(a_turn(caller, "next", 1))
        assert saver.get_tuple(config("t")) is not None
    asyncio.run(until(lambda: connections(urls).within(before)))


async def test_copies_of_two_threads_into_each_other_all_finish(urls):
    savers = [TieredCheckpointSaver.from_urls(**urls) for _ in range(2)]
    callers = [Caller(saver, "sync") for saver in savers]
    for thread in ("a", "b"):
        for turn in range(20):
            await callers[0].put(thread, {"log": f"{thread}{turn}" * 100})
    ways = zip(callers, (("a", "b"), ("b", "a")), strict=True)

    async def copied(caller: Caller, way: tuple[str, str]) -> None:
        for _ in range(10):
            await caller.call("copy_thread", *way)

    await asyncio.gather(*(copied(caller, way) for caller, way in ways))

    listed = [await callers[0].list(config(thread)) for thread in ("a", "b")]
    assert [len(found) for found in listed] == [40, 40]
    for saver in savers:
        saver.close()


async def test_a_read_without_a_thread_to_be_had_raises_and_the_next_is_answered(tmp_path, monkeypatch):
    def refused(_):
        raise RuntimeError("can't start new thread")

    with TieredCheckpointSaver.from_urls(warm=f"sqlite:///{tmp_path}/ck.db", mover_interval_s=None) as saver:
        for _ in range(READERS):
            with monkeypatch.context() as patched:
                patched.setattr(threading.Thread, "start", refused)
                with pytest.raises(RuntimeError, match="can't start"):
                    await saver.aget_tuple(config("t"))
        assert await asyncio.wait_for(saver.aget_tuple(config("t")), 30) is None
