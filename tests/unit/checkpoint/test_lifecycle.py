"""One object for sync and async, for every loop, opened by its first use and closed for good."""

from __future__ import annotations

import asyncio
import copy
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.concurrency import DOOR
from langchain_llmops.core.errors import CheckpointError, ConfigurationError, LLMOpsError
from tests.support.checkpoints import Caller, checkpoint, config

ROOT = Path(__file__).resolve().parents[3]


def test_making_one_touches_nothing(tmp_path):
    TieredCheckpointSaver.from_urls(warm=f"sqlite:///{tmp_path}/sub/ck.db", hot="redis://localhost:1/0")
    assert list(tmp_path.iterdir()) == []


def test_two_loops_and_a_sync_caller_share_one(urls):
    saver = TieredCheckpointSaver.from_urls(**urls)
    with saver:
        first = asyncio.run(Caller(saver).put("t", {"a": 1}))
        second = asyncio.run(Caller(saver).put("t", {"a": 2}, parent=first))
        assert saver.get_tuple(config("t")).checkpoint["id"] == second
        assert [one.checkpoint["id"] for one in saver.list(config("t"))] == [second, first]


async def test_sync_methods_work_inside_a_running_loop(saver):
    saver.put(config("t"), checkpoint({"a": 1}), {"step": 1}, {"a": "1"})
    assert saver.get_tuple(config("t")).checkpoint["channel_values"] == {"a": 1}
    assert len(list(saver.list(config("t")))) == 1


async def test_a_sync_call_on_the_librarys_own_loop_is_refused_not_a_deadlock(saver):
    async def wrong():
        return saver.get_tuple(config("t"))

    with pytest.raises(LLMOpsError, match="own loop"):
        await DOOR.cross(wrong())


async def test_a_listing_begun_on_one_loop_holds_nothing_between_pages(saver):
    caller = Caller(saver)
    for _ in range(120):
        await caller.put("t", {"a": 1})
    listing = saver.list(config("t"))
    next(listing)
    await caller.put("other", {"a": 1})
    await saver.adelete_thread("other")
    assert len(list(listing)) == 119
    begun = saver.alist(config("t"))
    await anext(begun)
    await begun.aclose()


async def test_a_thread_deleted_in_the_middle_of_its_listing_ends_it(saver):
    caller = Caller(saver)
    for _ in range(70):
        await caller.put("t", {"a": 1})
    seen = []
    async for one in saver.alist(config("t")):
        if not seen:
            await saver.adelete_thread("t")
        seen.append(one)
    assert len(seen) == 50


async def test_a_thread_archived_in_the_middle_of_its_listing_is_listed_whole(saver):
    caller = Caller(saver)
    made = [await caller.put("t", {"a": 1}) for _ in range(120)]
    seen = []
    async for one in saver.alist(config("t")):
        if len(seen) in (20, 70):
            assert await saver.aarchive("t")
        seen.append(one.checkpoint["id"])
    assert seen == made[::-1]


@pytest.mark.parametrize("move", ["aarchive", "adelete_thread"])
async def test_a_thread_moved_while_a_page_is_read_is_listed_whole_or_not_at_all(saver, monkeypatch, move):
    caller = Caller(saver)
    made = [await caller.put("t", {"a": 1}) for _ in range(3)]
    warm = saver._tiers.warm
    page = warm.page

    async def overtaken(*args):
        monkeypatch.setattr(warm, "page", page)
        await getattr(saver, move)("t")
        return await page(*args)

    monkeypatch.setattr(warm, "page", overtaken)
    found = [one.checkpoint["id"] for one in await caller.list(config("t"))]
    assert found == (made[::-1] if move == "aarchive" else [])


async def test_copies_share_everything_but_their_serializer(saver):
    copied = copy.copy(saver)
    allowed = saver.with_allowlist([("some.module", "Type")])
    made = await Caller(copied).put("t", {"a": 1})

    assert (await allowed.aget_tuple(config("t"))).checkpoint["id"] == made
    assert allowed.serde is not saver.serde
    await allowed.aclose()
    with pytest.raises(CheckpointError, match="closed"):
        await saver.aget_tuple(config("t"))


def test_a_closed_one_says_so_and_opens_again_when_entered(urls):
    saver = TieredCheckpointSaver.from_urls(**urls)
    with saver:
        made = asyncio.run(Caller(saver).put("t", {"a": 1}))
    saver.close()
    for attempt in (lambda: saver.get_tuple(config("t")), lambda: list(saver.list(None)), saver.stats):
        with pytest.raises(CheckpointError, match="this checkpointer is closed"):
            attempt()
    with saver:
        assert saver.get_tuple(config("t")).checkpoint["id"] == made


def test_closing_one_that_was_never_used_is_nothing(urls):
    TieredCheckpointSaver.from_urls(**urls).close()
    asyncio.run(TieredCheckpointSaver.from_urls(**urls).aclose())


async def test_many_callers_at_once_make_the_tables_once_and_lose_nothing(saver):
    callers = [Caller(saver, colour) for colour in ("async", "sync") * 20]
    made = await asyncio.gather(*(caller.put(f"t{place}", {"a": place}) for place, caller in enumerate(callers)))
    assert [(await saver.aget_tuple(config(f"t{place}"))).checkpoint["id"] for place in range(40)] == list(made)


@pytest.mark.parametrize("backend", ["embedded", "servers"])
async def test_a_cancelled_call_leaves_the_store_usable_and_whole(request, urls, backend):
    if backend == "servers":
        fixtures = {"hot": "clean_redis_url", "warm": "postgres_url", "cold": "s3_url"}
        urls = {tier: request.getfixturevalue(name) for tier, name in fixtures.items()}
    async with TieredCheckpointSaver.from_urls(**urls) as saver:
        caller = Caller(saver)
        await caller.put("t", {"a": 0})
        cut = [await DOOR.cross(_cancelled_after(ticks, saver)) for ticks in range(60)]
        assert cut.count(True) > 10
        for found in await caller.list(config("t")):
            assert len(set(found.checkpoint["channel_values"].values())) == 1
        made = await caller.put("t", {"a": 1})
        assert (await caller.get(config("t"))).checkpoint["id"] == made


async def _cancelled_after(ticks: int, saver) -> bool:
    """A put cancelled after so many turns of the loop; whether that came before its end."""
    made = checkpoint({"a": ticks, "b": ticks}, {"a": str(ticks), "b": str(ticks)})
    task = asyncio.ensure_future(saver.aput(config("t"), made, {"step": ticks}, made["channel_versions"]))
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(outcome, dict | asyncio.CancelledError), outcome
    return isinstance(outcome, asyncio.CancelledError)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_it_goes_on_in_a_forked_child(tmp_path):
    program = f"""
import os
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.support.checkpoints import checkpoint, config
saver = TieredCheckpointSaver.from_urls(warm="sqlite:///{tmp_path}/ck.db")
saver.put(config("t"), checkpoint({{"a": 1}}), {{}}, {{"a": "1"}})
child = os.fork()
if child == 0:
    saver.put(config("t"), checkpoint({{"a": 2}}, {{"a": "2"}}), {{}}, {{"a": "2"}})
    os._exit(0 if saver.get_tuple(config("t")).checkpoint["channel_values"] == {{"a": 2}} else 1)
assert os.waitpid(child, 0)[1] == 0
assert saver.get_tuple(config("t")).checkpoint["channel_values"] == {{"a": 2}}
saver.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_an_unclosed_one_does_not_keep_the_process_alive(tmp_path):
    program = f"""
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
saver = TieredCheckpointSaver.from_urls(warm="sqlite:///{tmp_path}/ck.db")
assert saver.get_tuple({{"configurable": {{"thread_id": "t"}}}}) is None
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_urls_that_cannot_work_name_their_setting(tmp_path):
    with pytest.raises(ConfigurationError, match=r"^warm: "):
        TieredCheckpointSaver.from_urls(warm="mysql://x")
    with pytest.raises(ConfigurationError, match="keeps objects only"):
        TieredCheckpointSaver.from_urls(warm=f"file://{tmp_path}", hot=f"file://{tmp_path}")
    saver = TieredCheckpointSaver.from_urls(
        warm="sqlite:////proc/none/ck.db", settings=("LLMOPS_STATE_DIR", "LLMOPS_REDIS_URL", "LLMOPS_OBJECTS_URL")
    )
    with pytest.raises(ConfigurationError, match=r"^LLMOPS_STATE_DIR: "):
        saver.get_tuple(config("t"))


def test_bare_threads_share_it(urls):
    with TieredCheckpointSaver.from_urls(**urls) as saver:
        made: list[str] = []

        def work(number):
            made.append(asyncio.run(Caller(saver).put(f"t{number}", {"a": number})))

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({one.checkpoint["id"] for one in saver.list(None)} & set(made)) == 8
