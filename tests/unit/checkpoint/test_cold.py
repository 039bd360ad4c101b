"""Closed threads as objects: moved whole, brought back by any use as far as it needs, and listed where they are."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import CheckpointError
from tests.support.archives import conversation, listed, objects, rows, tier
from tests.support.checkpoints import Caller, checkpoint, config, facts


async def test_a_thread_comes_back_from_the_archive_as_it_was(caller, saver, tmp_path):
    before = await conversation(caller)

    assert await caller.call("archive", "t") is True

    assert tier(saver) == "cold"
    assert [rows(saver, table) for table in ("step", "chunk", "write")] == [[], [], []]
    assert len(objects(tmp_path, "head")) == len(objects(tmp_path, "rest")) == 1
    sizes = [one.stat().st_size for kind in ("head", "rest") for one in objects(tmp_path, kind)]
    columns = "head_bytes, rest_bytes, cold_steps, stored_bytes"
    assert rows(saver, "thread", columns) == [(*sizes, len(before), 0)]
    assert sorted(rows(saver, "object", "state, bytes")) == sorted(("live", size) for size in sizes)

    assert await caller.call("restore", "t") is True
    assert tier(saver) == "warm"
    assert await listed(caller) == before
    assert objects(tmp_path / "cold") == []
    assert rows(saver, "object") == rows(saver, "cold_run") == []


async def test_a_reader_of_the_newest_checkpoint_fetches_one_object_and_no_history(caller, saver, tiers):
    before = await conversation(caller)
    await caller.call("archive", "t")
    tiers["cold"].calls.clear()

    newest = {ns: facts(await caller.get(config("t", ns))) for ns in ("", "child:1")}

    assert list(newest.values()) == [before[1], before[0]]
    assert await caller.get(config("t", "no such")) is None
    assert [name for name, _ in tiers["cold"].calls] == ["get"]
    assert tier(saver) == "mixed"
    assert rows(saver, "thread", "cold_steps") == [(len(before) - 2,)]
    assert await listed(caller) == before
    assert tier(saver) == "warm"


@pytest.mark.parametrize("change", ["write", "put again"])
@pytest.mark.parametrize("reads", ["by id", "of all"])
async def test_writes_of_an_old_checkpoint_are_whole_when_some_are_cold(caller, saver, change, reads):
    old = checkpoint({"a": 1})
    await caller.put("t", made=old)
    await caller.write("t", old["id"], ("a", "cold"), task="1")
    await caller.put("t", {"a": 2}, parent=old["id"])
    await caller.call("archive", "t")
    await caller.get(config("t"))
    if change == "write":
        await caller.write("t", old["id"], ("a", "warm"), task="2")
    else:
        await caller.put("t", made=old)
    assert tier(saver) == "mixed"

    found = await caller.get(config("t", "", old["id"])) if reads == "by id" else (await caller.list(None))[-1]
    assert found.pending_writes == [("1", "a", "cold"), ("2", "a", "warm")][: 2 if change == "write" else 1]
    assert tier(saver) == ("warm" if reads == "by id" else "mixed")


@pytest.mark.parametrize("use", ["older", "list", "fork", "old_write", "copy", "prune", "delete_runs", "history"])
async def test_whatever_needs_history_brings_it_back(caller, saver, use):
    before = await conversation(caller)
    ids = [one[1]["id"] for one in before if not one[0]["checkpoint_ns"]]
    await caller.call("archive", "t")
    uses = {
        "older": lambda: caller.get(config("t", "", ids[2])),
        "list": lambda: caller.list(config("t", None)),
        "fork": lambda: caller.put("t", {"a": 1}, parent=ids[2]),
        "old_write": lambda: caller.write("t", ids[2], ("a", 1)),
        "copy": lambda: caller.call("copy_thread", "t", "copied"),
        "prune": lambda: caller.call("prune", ["t"]),
        "delete_runs": lambda: caller.call("delete_for_runs", ["r1"]),
        "history": lambda: caller.call("get_delta_channel_history", config=config("t"), channels=["log"]),
    }
    await uses[use]()
    assert tier(saver) == ("mixed" if use in ("fork", "old_write") else "warm")

    after = await listed(caller)
    lost = {"prune": set(ids[1:]), "delete_runs": {ids[2]}}.get(use, set())
    kept = [one for one in before if one[1]["id"] not in lost]
    if use == "prune":
        kept = [before[0], before[1]]
    changed = {"old_write": ids[2]}.get(use)
    assert [one for one in kept if one[1]["id"] != changed] == [
        one for one in after if one in kept and one[1]["id"] != changed
    ]
    if use == "copy":
        assert len(await listed(caller, "copied")) == len(before)


async def test_a_conversation_goes_on_over_its_cold_history_and_is_one_again(caller, saver, tmp_path):
    before = await conversation(caller)
    await caller.call("archive", "t")
    head = (await caller.get(config("t"))).config["configurable"]["checkpoint_id"]
    inherits = checkpoint({"new": "n" * 200}, {"log": "3", "profile": "1", "new": "1"})
    await caller.call("put", config("t", "", head), inherits, {"step": 9}, {"new": "1"})
    late = await caller.put("t", {"a": 1}, parent=inherits["id"])
    assert tier(saver) == "mixed"
    old = objects(tmp_path / "cold")

    assert await caller.call("archive", "t") is True

    assert len(objects(tmp_path / "cold")) == 2
    assert not set(old) & set(objects(tmp_path / "cold"))
    assert (await caller.get(config("t"))).checkpoint["id"] == late
    after = await listed(caller)
    assert [one for one in after if one in before] == before
    assert len(after) == len(before) + 2
    assert len((await caller.get(config("t", "", inherits["id"]))).checkpoint["channel_values"]["log"]) == 4


async def test_a_thread_that_was_only_read_goes_cold_again_without_a_copy(caller, saver, tiers):
    before = await conversation(caller)
    await caller.call("archive", "t")
    await caller.get(config("t"))
    tiers["cold"].calls.clear()

    assert await caller.call("archive", "t") is True

    assert tiers["cold"].calls == []
    assert rows(saver, "thread", "cold_steps") == [(len(before),)]
    assert await listed(caller) == before


@pytest.mark.parametrize("again", [False, True], ids=["restored", "merged"])
async def test_a_first_write_wins_though_it_is_cold_and_a_special_one_is_replaced(caller, again):
    made = await caller.put("t", {"a": 1})
    await caller.write("t", made, ("a", "first"), ("__error__", "old"))
    await caller.put("t", {"a": 2}, parent=made)
    await caller.call("archive", "t")
    await caller.write("t", made, ("a", "second"), ("__error__", "new"), ("b", "more"))
    if again:
        assert await caller.call("archive", "t") is True

    found = await caller.get(config("t", "", made))

    written = {(channel, value) for _, channel, value in found.pending_writes}
    assert written == {("a", "first"), ("__error__", "new"), ("b", "more")}


async def test_writes_that_came_before_their_checkpoint_wait_for_it_with_the_head(caller, saver):
    first = await caller.put("t", {"a": 1})
    coming = checkpoint({"a": 2})
    await caller.write("t", coming["id"], ("a", 3))
    await caller.call("archive", "t")
    await caller.put("t", made=coming, parent=first)

    assert tier(saver) in ("warm", "mixed")
    assert (await caller.get(config("t"))).pending_writes == [("t", "a", 3)]


async def test_an_old_checkpoint_put_again_leaves_those_built_on_it_as_they_are(caller):
    before = await conversation(caller, turns=6)
    old = next(one for one in before if one[2].get("step") == 2 and not one[0]["checkpoint_ns"])
    await caller.call("archive", "t")
    again = {**checkpoint({"log": ["other"]}, {"log": "99"}), "id": old[1]["id"]}
    await caller.put("t", made=again)

    after = await listed(caller)

    assert next(one for one in after if one[1]["id"] == old[1]["id"])[1]["channel_values"] == {"log": ["other"]}
    assert [one for one in after if one[1]["id"] != old[1]["id"]] == [one for one in before if one is not old]


async def test_what_is_not_there_or_cold_already_moves_nothing(caller, tmp_path):
    assert await caller.call("archive", "nobody") is False
    assert await caller.call("restore", "nobody") is False
    await conversation(caller)
    assert await caller.call("restore", "t") is False
    await caller.call("archive", "t")
    assert await caller.call("archive", "t") is False
    assert len(objects(tmp_path / "cold")) == 2


async def test_one_checkpoint_is_one_object(caller, saver, tmp_path):
    made = await caller.put("t", {"a": "x" * 500})
    await caller.call("archive", "t")
    assert [one.suffix for one in objects(tmp_path / "cold")] == [".head"]
    assert (await caller.get(config("t"))).checkpoint["id"] == made
    assert tier(saver) == "warm"
    assert objects(tmp_path / "cold") == []


async def test_deleting_a_cold_thread_deletes_its_objects_and_nobody_elses(caller, saver, tmp_path):
    await conversation(caller)
    await conversation(caller, "other")
    await caller.call("archive", "t")
    await caller.call("archive", "other")

    await caller.call("delete_thread", "t")

    assert {one.parent.name for one in objects(tmp_path / "cold")} == {saver._engine.place("other").thread.hex()}
    assert len(rows(saver, "object")) == 2
    assert await caller.get(config("t")) is None
    assert await caller.get(config("other")) is not None


async def test_a_hundred_readers_of_a_cold_thread_fetch_its_head_once(saver, tiers):
    before = await conversation(Caller(saver))
    saver.archive("t")
    tiers["cold"].calls.clear()
    together = Barrier(100)

    def read(_):
        together.wait(60)
        return facts(saver.get_tuple(config("t")))

    with ThreadPoolExecutor(100) as pool:
        found = await asyncio.to_thread(lambda: list(pool.map(read, range(100))))

    assert found == [before[1]] * 100
    assert tiers["cold"].count("get") == 1


async def test_listing_the_whole_store_looks_into_archives_only_as_far_as_it_goes_and_moves_nothing(
    caller, saver, tiers
):
    expected = []
    for place in range(4):
        await conversation(caller, f"t{place}", turns=1)
        expected = await listed(caller, f"t{place}") + expected
        await caller.call("archive", f"t{place}")
    for limit, opened in ((1, 1), (2, 1), (3, 2), (8, 4)):
        tiers["cold"].calls.clear()
        assert [facts(one) for one in await caller.list(None, limit=limit)] == expected[:limit]
        assert tiers["cold"].count("get") == opened
    assert {tier(saver, f"t{place}") for place in range(4)} == {"cold"}


async def test_a_listing_of_the_whole_store_is_the_same_whatever_is_cold(caller, saver):
    for turn in range(3):
        for place in range(12):
            await caller.put(f"t{place}", {"a": turn}, metadata={"even": turn % 2 == 0})
    queries = ({}, {"filter": {"even": True}}, {"limit": 7})
    warm = [[facts(one) for one in await caller.list(None, **query)] for query in queries]
    middle = config("t0", "", warm[0][17][1]["id"])
    below = [facts(one) for one in await caller.list(None, before=middle)]
    for place in range(0, 12, 2):
        await caller.call("archive", f"t{place}")
    for place in range(0, 12, 4):
        await caller.get(config(f"t{place}"))

    assert [[facts(one) for one in await caller.list(None, **query)] for query in queries] == warm
    assert [facts(one) for one in await caller.list(None, before=middle)] == below == warm[0][18:]
    assert [tier(saver, f"t{place}") for place in range(4)] == ["mixed", "warm", "cold", "warm"]


async def test_without_a_cold_tier_cold_threads_name_the_fix(urls):
    async with TieredCheckpointSaver.from_urls(**urls) as saver:
        await Caller(saver).put("t", {"a": 1})
        await saver.aarchive("t")
    async with TieredCheckpointSaver.from_urls(**{**urls, "cold": None}) as saver:
        caller = Caller(saver)
        for attempt in (caller.call("archive", "t"), caller.get(config("t")), caller.list(None), caller.put("t", {})):
            with pytest.raises(CheckpointError, match=r"needs the cold tier; give cold='s3://…'"):
                await attempt
        with pytest.raises(CheckpointError, match=r"^archive_idle needs the cold tier; give cold='s3://…'"):
            await caller.call("archive_idle", 0.0)
        await saver.adelete_thread("t")
        assert await caller.get(config("t")) is None


def test_scratch_threads_are_not_archived_and_the_error_names_their_ack(urls, clean_redis_url):
    with TieredCheckpointSaver.from_urls(**urls | {"hot": clean_redis_url}, ack="cached") as saver:
        for archive in (lambda: saver.archive("t"), lambda: saver.archive_idle(0.0)):
            with pytest.raises(CheckpointError, match="ack='cached' archives nothing, choose another ack"):
                archive()


async def test_an_encrypted_archive_shows_nothing_and_opens_with_its_key_only(urls, tmp_path):
    async with TieredCheckpointSaver.from_urls(**urls, keys={"k1": b"1" * 32}) as saver:
        before = await conversation(Caller(saver))
        await saver.aarchive("t")
        assert not [one for one in objects(tmp_path / "cold") if b"ppppp" in one.read_bytes()]
    keys = {"k2": b"2" * 32, "k1": b"1" * 32}
    async with TieredCheckpointSaver.from_urls(**urls, keys=keys, key_id="k2") as saver:
        assert await listed(Caller(saver)) == before
