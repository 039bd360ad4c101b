"""What the checkpointer tells of its commits."""

from __future__ import annotations

import logging

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.events import Bus, CheckpointsStored, ConversationArchived, ConversationGrown
from tests.support.checkpoints import Caller, until


class Heard(list):
    def of(self, kind: type) -> list:
        return [event for event in self if isinstance(event, kind)]


@pytest.fixture
def bus():
    return Bus()


@pytest.fixture
def heard(bus):
    events = Heard()
    bus.subscribe(events.append)
    return events


@pytest.fixture
def opened(tmp_path, bus):
    made = []

    def opened(**options):
        made.append(TieredCheckpointSaver.from_urls(warm=f"sqlite:///{tmp_path}/ck.db", bus=bus, **options))
        return made[-1]

    yield opened
    for saver in made:
        saver.close()


async def test_every_commit_is_told_with_its_writes_and_the_bytes_after_it(opened, heard):
    saver = opened(tenant="acme")
    caller = Caller(saver)
    made = await caller.put("a", {"text": "x" * 500})
    await caller.write("a", made, ("text", "y" * 500))
    await until(lambda: len(heard) == 2)
    (first, second) = heard.of(CheckpointsStored)
    assert (first.writes, second.writes, first.tenant) == (1, 1, "acme")
    assert 0 < first.seconds < 60
    assert 0 < first.sizes[0] < second.sizes[0]
    assert second.sizes == (saver.stats().bytes_by_tier["warm"],)


async def test_a_conversation_that_passes_the_threshold_is_told_and_logged_once(opened, heard, caplog):
    caller = Caller(opened(warn_bytes=4_000))
    values: dict[str, str] = {}
    with caplog.at_level(logging.WARNING, "langchain_llmops"):
        for number in range(20):
            values[f"v{number}"] = f"{number:03}" * 300
            await caller.put("long one", dict(values))
            await caller.put(f"short {number}", {"v": "x"})
    await until(lambda: len(heard.of(CheckpointsStored)) == 40)
    (grown,) = heard.of(ConversationGrown)
    assert (grown.thread_id, grown.limit_bytes, grown.tenant) == ("long one", 4_000, "default")
    assert grown.size_bytes > 4_000
    (record,) = [record for record in caplog.records if "has grown" in record.message]
    assert "long one" in record.message


async def test_a_conversation_that_was_pruned_and_grows_again_is_told_no_second_time(opened, heard):
    caller = Caller(opened(warn_bytes=1_000))
    for _ in range(2):
        for number in range(8):
            await caller.put("a", {"v": f"{number:03}" * 300 + "-" * number})
        await caller.call("prune", ["a"])
    await until(lambda: len(heard.of(CheckpointsStored)) == 16)
    assert len(heard.of(ConversationGrown)) == 1


async def test_a_process_that_finds_a_conversation_large_already_does_not_warn_of_it(opened, heard):
    for _ in range(2):
        caller = Caller(opened(warn_bytes=100))
        await caller.put("a", {"v": "x" * 50})
        await caller.put("a", {"v": "y" * 50})
    await until(lambda: len(heard.of(CheckpointsStored)) == 4)
    assert len(heard.of(ConversationGrown)) == 1


async def test_a_listener_that_fails_hurts_no_write(opened, bus):
    def fails(event):
        raise ZeroDivisionError

    bus.subscribe(fails)
    caller = Caller(opened(warn_bytes=1))
    for _ in range(3):
        await caller.put("a", {"v": "x"})
    assert len(await caller.list(None)) == 3
    assert sum(bus.failures.values()) >= 3


async def test_a_conversation_that_becomes_cold_is_told_with_the_bytes_of_its_objects(opened, heard, tmp_path):
    saver = opened(cold=f"file://{tmp_path}/cold")
    await Caller(saver).put("a", {"v": "x" * 500})
    saver.archive("a")
    (archived,) = heard.of(ConversationArchived)
    assert archived.size_bytes == saver.stats().bytes_by_tier["cold"] > 0
