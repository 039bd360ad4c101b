"""What is stored where, and whether all of it can be read."""

from __future__ import annotations

import sqlite3

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.support.checkpoints import COLOURS, Caller

KEYS = {"k": bytes(range(32))}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "ck.db"


@pytest.fixture
def saver(file, tmp_path):
    with TieredCheckpointSaver.from_urls(warm=f"sqlite:///{file}", cold=f"file://{tmp_path}/cold", keys=KEYS) as made:
        yield made


@pytest.fixture(params=COLOURS)
def caller(request, saver):
    return Caller(saver, request.param)


async def talk(caller, thread: str, turns: int = 3, user: str | None = None) -> list[str]:
    """A conversation whose checkpoints share long items; the last has a pending write."""
    items: list[str] = []
    made: list[str] = []
    for turn in range(turns):
        items.append(f"{turn} of {thread} " * 40)
        made.append(await caller.put(thread, {"items": list(items)}, parent=made[-1] if made else None, user=user))
    await caller.write(thread, made[-1], ("items", "later " * 40))
    return made


def change(file, statement: str, *values) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(statement, values)
    connection.close()


async def test_stats_count_conversations_checkpoints_and_bytes_by_tier(caller, saver):
    empty = await caller.call("stats")
    assert (empty.checkpoints, empty.threads_by_tier) == (0, {"warm": 0, "mixed": 0, "cold": 0})
    await talk(caller, "a")
    await talk(caller, "b", turns=5)
    stats = await caller.call("stats")
    assert (stats.checkpoints, stats.threads_by_tier, stats.orphans) == (8, {"warm": 2, "mixed": 0, "cold": 0}, 0)
    assert stats.bytes_by_tier["warm"] > 0
    assert stats.bytes_by_tier["cold"] == 0


async def test_stats_are_of_one_tenant(caller, file):
    await talk(caller, "a")
    with TieredCheckpointSaver.from_urls(warm=f"sqlite:///{file}", tenant="other", keys=KEYS) as other:
        assert other.stats().checkpoints == 0
        assert other.explain("a") is None
        assert other.verify().threads == 0


async def test_explain_tells_where_each_checkpoint_is(caller):
    made = await talk(caller, "a", user="u1")
    told = await caller.call("explain", "a")
    assert (told.thread_id, told.tier, told.is_owned, told.is_ended) == ("a", "warm", True, False)
    assert [one.checkpoint_id for one in told.checkpoints] == made[::-1]
    assert [one.parent_id for one in told.checkpoints] == [made[1], made[0], None]
    assert [one.pending_writes for one in told.checkpoints] == [1, 0, 0]
    assert told.checkpoints[-1].is_full
    assert all(0 < one.bytes < told.bytes_by_tier["warm"] for one in told.checkpoints)
    assert told.as_dict()["checkpoints"][0]["checkpoint_id"] == made[-1]
    assert await caller.call("explain", "nobody") is None


async def test_verify_reads_everything_and_counts_it(caller):
    await talk(caller, "a")
    await talk(caller, "b", turns=5)
    found = await caller.call("verify")
    assert (found.threads, found.checkpoints, found.writes, found.faults) == (2, 8, 2, [])
    assert found.chunks == 10
    one = await caller.call("verify", "a")
    assert (one.threads, one.checkpoints) == (1, 3)
    assert (await caller.call("verify", "nobody")).threads == 0


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM llmops_ck_chunk WHERE name = (SELECT MIN(name) FROM llmops_ck_chunk)", "chunks it needs"),
        ("UPDATE llmops_ck_chunk SET body = zeroblob(40)", "'a': "),
        ("UPDATE llmops_ck_step SET metadata = substr(metadata, 1, length(metadata) - 1)", "'a': "),
        ("UPDATE llmops_ck_write SET body = (SELECT MAX(metadata) FROM llmops_ck_step)", "'a': "),
        ("UPDATE llmops_ck_thread SET label = zeroblob(20)", "thread "),
    ],
)
async def test_what_cannot_be_read_is_a_fault_that_is_named(caller, file, statement, words):
    await talk(caller, "a")
    change(file, statement)
    found = await caller.call("verify")
    assert (found.threads, len(found.faults)) == (0, 1)
    assert words in found.faults[0]


async def test_a_damaged_conversation_leaves_the_others_counted(caller, file):
    await talk(caller, "a")
    await talk(caller, "b")
    change(file, "DELETE FROM llmops_ck_chunk WHERE thread = (SELECT MIN(thread) FROM llmops_ck_thread)")
    found = await caller.call("verify")
    assert (found.threads, found.checkpoints, len(found.faults)) == (1, 3, 1)


async def test_counts_for_metrics_name_no_conversation_and_wait_for_nothing(caller, saver):
    await talk(caller, "a", user="u1")
    saver.counts()
    saver._engine.standing.wait()
    counts = saver.counts()
    assert counts["conversations:warm"] == 1
    assert counts["bytes:warm"] == saver.stats().bytes_by_tier["warm"]
    assert (counts["orphans"], counts["refused"]) == (0, 0)
    assert all(isinstance(value, int | float) for value in counts.values())


async def test_counts_after_the_end_read_nothing(caller, saver):
    await talk(caller, "a")
    saver.close()
    saver.counts()
    saver._engine.standing.wait()
    assert "conversations:warm" not in saver.counts()


async def test_cold_conversations_are_counted_and_read_where_they_are(caller, saver):
    made = await talk(caller, "a", user="u1")
    await talk(caller, "b")
    before = await caller.call("verify")
    assert await caller.call("archive", "a")
    stats = await caller.call("stats")
    assert (stats.checkpoints, stats.threads_by_tier) == (6, {"warm": 1, "mixed": 0, "cold": 1})
    assert stats.bytes_by_tier["cold"] > 0
    told = await caller.call("explain", "a")
    assert (told.tier, told.checkpoints, told.cold_checkpoints, len(told.objects)) == ("cold", [], 3, 2)
    assert told.bytes_by_tier == {"warm": 0, "cold": stats.bytes_by_tier["cold"]}
    assert await caller.call("verify") == before
    assert (await caller.call("explain", "a")).tier == "cold"

    assert (await caller.get({"configurable": {"thread_id": "a", "checkpoint_ns": ""}})).checkpoint["id"] == made[-1]
    mixed = await caller.call("explain", "a")
    assert (mixed.tier, len(mixed.checkpoints), mixed.cold_checkpoints) == ("mixed", 1, 2)
    assert (await caller.call("stats")).checkpoints == 6
    assert await caller.call("verify") == before
    assert saver.counts()["mover:archived"] == 1


async def test_an_object_that_is_damaged_or_gone_is_a_fault(caller, tmp_path):
    await talk(caller, "a")
    await talk(caller, "b")
    for thread in "ab":
        await caller.call("archive", thread)
    objects = sorted(path for path in (tmp_path / "cold").rglob("*") if path.is_file())
    assert len(objects) == 4
    objects[0].unlink()
    objects[-1].write_bytes(objects[-1].read_bytes()[:-1])
    found = await caller.call("verify")
    assert (found.threads, len(found.faults)) == (0, 2)
    assert any("is missing" in fault for fault in found.faults)
    assert any("is damaged" in fault for fault in found.faults)


async def test_a_cold_conversation_without_its_cold_tier_is_a_fault_that_names_the_fix(caller, file):
    await talk(caller, "a")
    await caller.call("archive", "a")
    with TieredCheckpointSaver.from_urls(warm=f"sqlite:///{file}", keys=KEYS) as other:
        assert "give cold='s3://" in other.verify().faults[0]
