"""Closed threads as objects: moved whole, verified, brought back by any use, and never silently lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import CheckpointError, ConfigurationError, StoreUnavailableError
from langchain_llmops.stores.base import open_store
from tests.support.checkpoints import Caller, checkpoint, config, until


def objects(tmp_path) -> list[Path]:
    return sorted((tmp_path / "cold").rglob("*.llmops"))


async def conversation(caller, thread="t", turns=4):
    parent = None
    for turn in range(turns):
        made = checkpoint({"log": list(range(turn)), "profile": "p" * 100}, {"log": str(turn), "profile": "1"})
        at = config(thread, "", parent)
        await caller.call("put", at, made, {"step": turn, "run_id": f"r{turn}"}, made["channel_versions"])
        await caller.write(thread, made["id"], ("log", turn), task=f"task{turn}", path=f"~{turn}")
        await caller.put(thread, {"inner": turn}, ns="child:1")
        parent = made["id"]
    return await caller.list(config(thread, None))


async def test_a_thread_comes_back_from_the_archive_as_it_was(caller, tmp_path):
    before = await conversation(caller)
    warm = (await caller.call("stats")).bytes_by_tier["warm"]

    assert await caller.call("archive", "t") is True

    archived = await caller.call("stats")
    (stored,) = objects(tmp_path)
    assert archived.checkpoints == len(before)
    assert archived.threads_by_tier == {"warm": 0, "cold": 1}
    assert archived.bytes_by_tier == {"hot": 0, "warm": 0, "cold": stored.stat().st_size}
    assert stored.stat().st_size < warm

    assert await caller.call("restore", "t") is True
    assert await caller.list(config("t", None)) == before
    assert objects(tmp_path) == []
    assert (await caller.call("stats")).bytes_by_tier["warm"] == warm


@pytest.mark.parametrize("use", ["get", "list", "put", "put_writes", "copy", "prune"])
async def test_any_use_brings_a_cold_thread_back(caller, use):
    before = await conversation(caller)
    head = before[1].checkpoint["id"]
    await caller.call("archive", "t")
    uses = {
        "get": lambda: caller.get(config("t")),
        "list": lambda: caller.list(config("t")),
        "put": lambda: caller.put("t", {"a": 1}, parent=head),
        "put_writes": lambda: caller.write("t", head, ("a", 1)),
        "copy": lambda: caller.call("copy_thread", "t", "copied"),
        "prune": lambda: caller.call("prune", ["t"]),
    }
    await uses[use]()

    assert (await caller.call("stats")).threads_by_tier["cold"] == 0
    assert head in [one.checkpoint["id"] for one in await caller.list(config("t", None))]


async def test_what_is_not_there_or_cold_already_moves_nothing(caller, tmp_path):
    assert await caller.call("archive", "nobody") is False
    assert await caller.call("restore", "nobody") is False
    await conversation(caller)
    assert await caller.call("restore", "t") is False
    await caller.call("archive", "t")
    assert await caller.call("archive", "t") is False
    assert len(objects(tmp_path)) == 1


async def test_a_put_that_comes_while_a_thread_is_archived_wins(caller, tiers, tmp_path):
    before = await conversation(caller)
    with tiers["cold"].holding("get"):
        archiving = asyncio.create_task(caller.call("archive", "t"))
        await tiers["cold"].waiting("get")
        late = await caller.put("t", {"a": 1})
    assert await archiving is False

    assert (await caller.list(config("t", None), limit=1))[0].checkpoint["id"] == late
    assert len(await caller.list(config("t", None))) == len(before) + 1
    assert objects(tmp_path) == []


async def test_two_movers_on_one_thread_leave_one_object_that_opens(caller, tiers, tmp_path):
    before = await conversation(caller)
    with tiers["cold"].holding("get"):
        movers = [asyncio.create_task(caller.call("archive", "t")) for _ in range(2)]
        await until(lambda: tiers["cold"].count("get") == 2)
    assert sorted([await mover for mover in movers]) == [False, True]

    assert len(objects(tmp_path)) == 1
    assert await caller.list(config("t", None)) == before


async def test_a_thread_deleted_while_it_is_archived_leaves_no_object(caller, tiers, tmp_path):
    await conversation(caller)
    with tiers["cold"].holding("get"):
        archiving = asyncio.create_task(caller.call("archive", "t"))
        await tiers["cold"].waiting("get")
        await caller.call("delete_thread", "t")
    assert await archiving is False

    assert objects(tmp_path) == []
    assert await caller.get(config("t")) is None


async def test_deleting_a_cold_thread_deletes_its_object_and_nobody_elses(caller, tmp_path):
    await conversation(caller)
    await conversation(caller, "other")
    await caller.call("archive", "t")
    await caller.call("archive", "other")

    await caller.call("delete_thread", "t")

    assert len(objects(tmp_path)) == 1
    assert await caller.get(config("t")) is None
    assert await caller.get(config("other")) is not None


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "swap", "missing"])
async def test_a_damaged_archive_is_a_typed_error_and_never_an_empty_thread(caller, tmp_path, damage):
    await conversation(caller)
    await conversation(caller, "other", turns=2)
    await caller.call("archive", "t")
    (path,) = objects(tmp_path)
    await caller.call("archive", "other")
    data = path.read_bytes()
    other = next(one for one in objects(tmp_path) if one != path)
    damaged = {
        "flip": data[:50] + bytes([data[50] ^ 1]) + data[51:],
        "cut": data[:-10],
        "empty": b"",
        "swap": other.read_bytes(),
    }
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])

    word = "is missing" if damage == "missing" else "is damaged"
    for attempt in (
        lambda: caller.get(config("t")),
        lambda: caller.list(config("t")),
        lambda: caller.put("t", {"a": 1}),
        lambda: caller.call("restore", "t"),
        lambda: caller.list(None),
    ):
        with pytest.raises(CheckpointError, match=f"archive of thread 't' at threads/.* {word}"):
            await attempt()
    path.write_bytes(data)
    assert (await caller.get(config("t"))).checkpoint["channel_values"]["log"] == [0, 1, 2]


async def test_an_object_that_does_not_read_back_leaves_the_thread_warm(caller, tiers, tmp_path, monkeypatch):
    before = await conversation(caller)
    inner = tiers["cold"]._inner.objects
    get = inner.get

    async def rotten(path):
        return b"x" + (await get(path) or b"")

    monkeypatch.setattr(inner, "get", rotten)
    with pytest.raises(CheckpointError, match="is damaged"):
        await caller.call("archive", "t")
    assert objects(tmp_path) == []
    assert await caller.list(config("t", None)) == before


async def test_an_object_store_that_fails_loses_nothing(caller, tiers):
    before = await conversation(caller)
    tiers["cold"].fail("put")
    with pytest.raises(StoreUnavailableError):
        await caller.call("archive", "t")
    assert await caller.list(config("t", None)) == before

    tiers["cold"].heal()
    await caller.call("archive", "t")
    tiers["cold"].fail("get")
    with pytest.raises(StoreUnavailableError):
        await caller.get(config("t"))
    tiers["cold"].heal()
    tiers["cold"].fail("delete")
    assert await caller.list(config("t", None)) == before
    assert (await caller.call("stats")).orphans == 1
    tiers["cold"].heal()
    await caller.call("delete_thread", "t")
    assert [one async for one in tiers["cold"].objects.list("threads")] == []


async def test_many_readers_of_a_cold_thread_fetch_it_once(caller, tiers):
    await conversation(caller)
    await caller.call("archive", "t")
    tiers["cold"].calls.clear()

    with tiers["cold"].holding("get"):
        reading = [asyncio.create_task(caller.get(config("t"))) for _ in range(8)]
        await tiers["cold"].waiting("get")
    found = await asyncio.gather(*reading)

    assert tiers["cold"].count("get") == 1
    assert {one.checkpoint["id"] for one in found} == {found[0].checkpoint["id"]}


async def test_listing_the_whole_store_opens_archives_only_as_far_as_it_goes(caller, tiers):
    for place in range(4):
        await conversation(caller, f"t{place}", turns=1)
        await caller.call("archive", f"t{place}")
    for limit, opened in ((1, 1), (2, 1), (3, 2), (8, 4)):
        tiers["cold"].calls.clear()
        assert len(await caller.list(None, limit=limit)) == limit
        assert tiers["cold"].count("get") == opened
    assert (await caller.call("stats")).threads_by_tier["cold"] == 4


async def test_idle_threads_are_archived_by_age(tiers):
    now = [1000.0]
    async with TieredCheckpointSaver(**tiers, clock=lambda: now[0]) as saver:
        caller = Caller(saver)
        for place in range(3):
            await conversation(caller, f"t{place}", turns=1)
            now[0] += 100
        await caller.get(config("t0"))

        assert await saver.aarchive_idle(older_than_s=150) == 2
        assert await saver.aarchive_idle(older_than_s=150) == 0
        assert (await saver.astats()).threads_by_tier == {"warm": 1, "cold": 2}
        assert await asyncio.to_thread(saver.archive_idle, 0) == 1
        await caller.put("t0", {"a": 1})
        assert await saver.aarchive_idle(older_than_s=50) == 0


async def test_more_idle_threads_than_a_page_are_all_archived(tiers):
    async with TieredCheckpointSaver(**tiers, clock=iter(range(10**6)).__next__) as saver:
        caller = Caller(saver)
        for place in range(205):
            await caller.put(f"t{place}", {"a": 1})
        assert await saver.aarchive_idle(0) == 205


async def test_without_a_cold_tier_archiving_names_the_fix(urls):
    async with TieredCheckpointSaver.from_urls(**urls) as saver:
        await Caller(saver).put("t", {"a": 1})
        await saver.aarchive("t")
    async with TieredCheckpointSaver.from_urls(**{**urls, "cold": None}) as saver:
        for attempt in (saver.aarchive("t"), saver.aget_tuple(config("t")), saver.adelete_thread("t")):
            with pytest.raises(ConfigurationError, match="needs the cold tier; give the checkpointer cold="):
                await attempt


async def test_an_encrypted_archive_opens_only_as_its_own_thread(tmp_path):
    key = Envelope(keys={"k1": b"1" * 32})
    stores = (open_store("memory://"), None, open_store(f"file://{tmp_path}/cold"))
    async with TieredCheckpointSaver(*stores, envelope=key) as saver:
        caller = Caller(saver)
        before = await conversation(caller)
        await saver.aarchive("t")
        (path,) = objects(tmp_path)
        assert b"ppppp" not in path.read_bytes()
        assert await caller.list(config("t", None)) == before
