"""What happens to conversations by age: archive, pin, retention, and the thread for it."""

from __future__ import annotations

import asyncio
import gc
import logging
import subprocess
import sys
import threading
import weakref
from pathlib import Path

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError, EnvelopeError, StoreUnavailableError
from tests.support.archives import conversation, listed, objects, rows, tier
from tests.support.checkpoints import Caller, config, until

ROOT = Path(__file__).resolve().parents[3]
DAY = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def made(tiers, clock):
    """Savers over the same stores, with options."""
    savers = []

    def make(**options):
        savers.append(TieredCheckpointSaver(**tiers, clock=clock, **{"mover_interval_s": None, **options}))
        return savers[-1]

    yield make
    for saver in savers:
        saver.close()


async def test_a_sweep_archives_what_was_idle_for_long_and_nothing_else(made, clock):
    saver = made(warm_s=DAY)
    for thread in ("old", "read", "new"):
        await conversation(Caller(saver), thread, turns=2)
        clock.now += DAY / 2
    saver.get_tuple(config("read"))

    swept = await saver.asweep()

    assert (swept.archived, swept.finished, swept.deleted, swept.failures) == (1, 0, 0, ())
    assert [tier(saver, thread) for thread in ("old", "read", "new")] == ["cold", "warm", "warm"]
    assert saver.sweep().archived == 0


async def test_what_a_reader_brought_back_stays_warm_for_as_long_as_what_was_written(made, clock):
    saver = made(warm_s=DAY)
    await conversation(Caller(saver))
    clock.now += 2 * DAY
    assert saver.sweep().archived == 1
    saver.get_tuple(config("t"))
    clock.now += DAY / 2
    assert saver.sweep().archived == 0
    clock.now += DAY
    assert saver.sweep().archived == 1


async def test_a_pinned_thread_stays_until_its_pin_ends(made, clock):
    saver = made(warm_s=DAY)
    assert saver.pin("t", 1.0) is False
    await conversation(Caller(saver))
    assert await saver.apin("t", 3 * DAY) is True
    clock.now += 2 * DAY
    assert saver.sweep().archived == 0
    assert saver.archive("t") is False
    saver.pin("t", 0.0)
    assert saver.sweep().archived == 1


async def test_a_conversation_that_timed_out_is_archived_at_once(made, clock):
    saver = made(warm_s=DAY, conversation_timeout_s=60.0)
    await conversation(Caller(saver))
    clock.now += 61
    assert saver.sweep().archived == 1


@pytest.mark.parametrize("where", ["warm", "mixed", "cold"])
async def test_retention_deletes_from_every_tier(made, clock, tmp_path, where):
    saver = made(warm_s=100 * DAY, retention_s=30 * DAY)
    await conversation(Caller(saver))
    if where != "warm":
        saver.archive("t")
    if where == "mixed":
        saver.get_tuple(config("t"))
    clock.now += 20 * DAY
    await conversation(Caller(saver), "kept", turns=1)
    assert saver.sweep().deleted == 0
    clock.now += 11 * DAY

    assert saver.sweep().deleted == 1

    assert (tier(saver, "t"), tier(saver, "kept")) == (None, "warm")
    assert objects(tmp_path / "cold") == rows(saver, "object") == rows(saver, "cold_run") == []
    assert saver.get_tuple(config("t")) is None


async def test_retention_spares_a_thread_that_is_written_meanwhile(made, clock, monkeypatch):
    saver = made(retention_s=DAY)
    await conversation(Caller(saver))
    clock.now += 2 * DAY
    upkeep = saver._engine.upkeep
    expired = upkeep.expired

    async def overtaken(before):
        found = await expired(before)
        if found:
            await asyncio.to_thread(lambda: asyncio.run(Caller(saver).put("t", {"a": 1})))
        return found

    monkeypatch.setattr(upkeep, "expired", lambda before: _driven(overtaken(before)))
    assert saver.sweep().deleted == 0
    assert len(await listed(Caller(saver))) == 9


def _driven(coroutine):
    """A coroutine that suspends, as one that does not."""

    async def run():
        result = []
        thread = threading.Thread(target=lambda: result.append(asyncio.run(coroutine)))
        thread.start()
        thread.join(60)
        return result[0]

    return run()


async def test_a_tenant_moves_and_deletes_its_own_threads_only(made, clock):
    ours, theirs = made(tenant="a", warm_s=DAY, retention_s=9 * DAY), made(tenant="b", warm_s=DAY)
    for saver in (ours, theirs):
        await conversation(Caller(saver))
    clock.now += 2 * DAY
    assert ours.sweep().archived == 1
    assert (tier(ours), tier(theirs)) == ("cold", "warm")
    clock.now += 8 * DAY
    assert ours.sweep().deleted == 1
    assert (tier(ours), tier(theirs)) == (None, "warm")


async def test_a_thread_that_cannot_be_moved_stops_no_other(made, clock, tmp_path):
    saver = made(warm_s=DAY)
    for thread in ("a", "broken", "c"):
        await conversation(Caller(saver), thread, turns=2)
        clock.now += 20
    broken = saver._engine.place("broken").thread
    await (await saver._engine.warm.sql()).execute("DELETE FROM llmops_ck_chunk WHERE thread = ?", (broken,))
    clock.now += 2 * DAY

    swept = saver.sweep()

    assert (swept.archived, len(swept.failures)) == (2, 1)
    assert [tier(saver, thread) for thread in ("a", "broken", "c")] == ["cold", "warm", "cold"]
    with pytest.raises(type(swept.failures[0]), match="chunks are missing"):
        saver.archive_idle(0)


async def test_idle_threads_are_archived_by_age_more_than_a_page_of_them(made, clock):
    saver = made()
    for place in range(205):
        await Caller(saver).put(f"t{place}", {"a": 1})
        clock.now += 20
    assert await saver.aarchive_idle(older_than_s=20 * 105 - 10) == 101
    assert saver.archive_idle(older_than_s=0) == 104
    assert await saver.aarchive_idle(older_than_s=0) == 0


async def test_without_a_cold_tier_a_sweep_still_deletes_what_is_past_its_retention(urls, clock):
    with TieredCheckpointSaver.from_urls(**{**urls, "cold": None}, clock=clock, retention_s=DAY) as saver:
        await conversation(Caller(saver))
        clock.now += 2 * DAY
        assert saver.sweep().deleted == 1


async def test_the_background_thread_sweeps_counts_failures_logs_one_and_ends_with_close(made, clock, tiers, caplog):
    saver = made(warm_s=DAY, mover_interval_s=0.001)
    background = saver._engine.background
    tiers["cold"].fail("put")
    await conversation(Caller(saver))
    clock.now += 2 * DAY
    with caplog.at_level(logging.WARNING):
        await until(lambda: background.errors >= 3)
    assert sum("a sweep of the checkpoints failed" in one.message for one in caplog.records) == 1
    tiers["cold"].heal()
    clock.now += 2 * DAY
    await until(lambda: tier(saver) == "cold")

    thread = background._thread
    await saver.aclose()
    assert not thread.is_alive()


def test_no_thread_runs_before_first_use_or_when_it_is_off(made):
    for options in ({}, {"mover_interval_s": 0.001}):
        saver = made(**options)
        assert saver._engine.background._thread is None
    saver.get_tuple(config("t"))
    assert saver._engine.background._thread.is_alive()
    off = made()
    off.get_tuple(config("t"))
    assert off._engine.background._thread is None
    with pytest.raises(ConfigurationError, match="mover_interval_s takes a number above 0"):
        made(mover_interval_s=0)


async def test_a_checkpointer_that_nobody_holds_any_more_is_let_go_with_its_thread(urls):
    saver = TieredCheckpointSaver.from_urls(**urls, mover_interval_s=0.001)
    saver.get_tuple(config("t"))
    background = weakref.ref(saver._engine.background)
    thread = saver._engine.background._thread
    del saver
    await until(lambda: gc.collect() is not None and background() is None)
    await until(lambda: not thread.is_alive())


def test_a_store_that_is_gone_fails_the_pass_and_not_the_thread(made, tiers, monkeypatch):
    saver = made(mover_interval_s=1000.0)
    saver.get_tuple(config("t"))

    async def gone(*_):
        raise StoreUnavailableError("gone")

    monkeypatch.setattr(saver._engine.tiers.archive.outbox, "attempts", gone)
    saver._engine.background.sweep()
    assert (saver._engine.background.errors, saver._engine.background.passes) == (1, 1)


def test_a_forked_child_has_a_mover_of_its_own(tmp_path):
    program = f"""
import os, threading
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.support.checkpoints import config
saver = TieredCheckpointSaver.from_urls(warm="sqlite:///{tmp_path}/ck.db", cold="file://{tmp_path}/cold")
saver.get_tuple(config("t"))
child = os.fork()
if child == 0:
    saver.get_tuple(config("t"))
    os._exit(0 if "llmops-mover" in [one.name for one in threading.enumerate()] else 1)
assert os.waitpid(child, 0)[1] == 0
saver.close()
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


async def test_a_conversation_that_cannot_be_read_keeps_no_other_from_the_archive(made, tiers, clock):
    saver = made(warm_s=DAY)
    await conversation(Caller(saver), "forged", turns=2)
    engine = saver._engine
    forged = engine.codec.seal_write(engine.place("forged"), b"id", b"task", 0, ["another shape"])
    await tiers["warm"].sql.execute("UPDATE llmops_ck_write SET body = ?", (forged,))
    clock.now += 1
    await conversation(Caller(saver), "sound", turns=2)
    clock.now += 2 * DAY

    swept = await asyncio.to_thread(drive, engine.mover.sweep())

    assert [type(error) for error in swept.failures] == [EnvelopeError]
    assert (tier(saver, "forged"), tier(saver, "sound")) == ("warm", "cold")


async def test_an_erasure_that_cannot_go_on_holds_up_nothing_else(made, clock):
    saver = made(warm_s=60.0)
    await conversation(Caller(saver))
    clock.now += 61

    async def refused():
        raise StoreUnavailableError("the test made it fail")

    saver._engine.mover._resume = refused
    swept = saver.sweep()

    assert swept.archived == 1
    assert [str(failure) for failure in swept.failures] == ["the test made it fail"]
