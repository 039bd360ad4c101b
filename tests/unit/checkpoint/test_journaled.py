"""What Redis acknowledges: replicated writes reach the warm tier, cached ones need none, and nobody reads old ones."""

from __future__ import annotations

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import (
    CheckpointError,
    ConfigurationError,
    StoreUnavailableError,
    ThreadOwnerMismatch,
)
from langchain_llmops.stores.base import open_store
from tests.support.checkpoints import Caller, facts, until
from tests.support.checkpoints import config as named
from tests.support.servers import redis_server

LONG = "x" * 500
MODES = ("replicated", "cached")


@pytest.fixture(scope="module")
def durable_redis():
    with redis_server("--appendonly", "yes") as server:
        yield server


@pytest.fixture
def redis(durable_redis):
    import redis

    with redis.Redis.from_url(durable_redis.url) as client:
        client.flushall()
    return durable_redis


@pytest.fixture
def opened(redis, tmp_path):
    """Savers as processes have them: each with stores of its own."""
    made = []

    def open_one(ack: str, hot: str = redis.url, **options):
        warm = "memory://" if ack == "cached" else f"sqlite:///{tmp_path}/ck.db"
        saver = TieredCheckpointSaver.from_urls(warm=warm, hot=hot, ack=ack, **{"replicas": 0, **options})
        made.append(saver)
        return saver

    yield open_one
    for saver in made:
        saver.close()


@pytest.mark.parametrize("ack", MODES)
async def test_another_process_reads_what_was_acknowledged(opened, ack):
    ours, theirs = Caller(opened(ack)), Caller(opened(ack))
    parent = None
    for turn in range(5):
        parent = await ours.put("t", {"messages": [LONG + str(n) for n in range(turn + 1)]}, parent=parent)
        await ours.write("t", parent, ("messages", f"w{turn}"), task=f"k{turn}")

        found = await theirs.get(named("t"))

        assert found.checkpoint["channel_values"]["messages"] == [LONG + str(n) for n in range(turn + 1)]
        assert [write[2] for write in found.pending_writes] == [f"w{turn}"]
    assert len(await theirs.list(named("t"))) == 5


@pytest.mark.parametrize("ack", MODES)
async def test_two_processes_that_write_in_turn_lose_nothing(opened, ack):
    callers = [Caller(opened(ack)), Caller(opened(ack))]
    parent = None
    for turn in range(8):
        await callers[turn % 2].get(named("t"))
        parent = await callers[turn % 2].put("t", {"messages": [LONG + str(n) for n in range(turn + 1)]}, parent=parent)

    histories = [[facts(found) for found in await caller.list(named("t"))] for caller in callers]

    assert histories[0] == histories[1]
    assert [len(found[1]["channel_values"]["messages"]) for found in histories[0]] == list(range(8, 0, -1))


@pytest.mark.parametrize("ack", MODES)
async def test_a_writer_who_did_not_look_first_is_stored_whole(opened, ack):
    ours, theirs = Caller(opened(ack)), Caller(opened(ack))
    first = await ours.put("t", {"messages": [LONG]})
    second = await theirs.put("t", {"messages": [LONG, "theirs"]}, parent=first)
    third = await ours.put("t", {"messages": [LONG, "ours"]}, parent=first)

    for caller in (ours, theirs):
        for checkpoint_id, end in ((second, "theirs"), (third, "ours")):
            found = await caller.get(named("t", "", checkpoint_id))
            assert found.checkpoint["channel_values"]["messages"] == [LONG, end]


async def test_replicated_writes_are_in_the_warm_tier_once_settled(opened, tmp_path):
    saver = opened("replicated")
    ours = Caller(saver)
    parent = None
    for turn in range(20):
        parent = await ours.put("t", {"messages": [LONG + str(n) for n in range(turn + 1)]}, parent=parent)
    await saver.aclose()

    async with TieredCheckpointSaver.from_urls(warm=f"sqlite:///{tmp_path}/ck.db", hot=None) as durable:
        history = await Caller(durable).list(named("t"))

    assert [len(found.checkpoint["channel_values"]["messages"]) for found in history] == list(range(20, 0, -1))


@pytest.mark.parametrize("ack", MODES)
async def test_a_deleted_thread_is_gone_for_every_process(opened, ack):
    ours, theirs = Caller(opened(ack)), Caller(opened(ack))
    await ours.put("t", {"a": LONG})
    assert await theirs.get(named("t")) is not None

    await ours.call("delete_thread", "t")

    assert await theirs.get(named("t")) is None
    await theirs.put("t", {"a": "again"})
    assert (await ours.get(named("t"))).checkpoint["channel_values"] == {"a": "again"}
    assert len(await ours.list(named("t"))) == 1


@pytest.mark.parametrize("ack", MODES)
async def test_pruning_holds_for_every_process(opened, ack):
    ours, theirs = Caller(opened(ack)), Caller(opened(ack))
    parent = None
    for turn in range(4):
        parent = await ours.put("t", {"messages": [LONG] * (turn + 1)}, parent=parent)
    assert len(await theirs.list(named("t"))) == 4

    await ours.call("prune", ["t"])
    await theirs.get(named("t"))
    await theirs.put("t", {"messages": [LONG] * 5}, parent=parent)

    for caller in (ours, theirs):
        lengths = [len(found.checkpoint["channel_values"]["messages"]) for found in await caller.list(named("t"))]
        assert lengths == [5, 4]


@pytest.mark.parametrize("ack", MODES)
async def test_a_thread_belongs_to_its_first_user(opened, ack):
    ours, theirs = Caller(opened(ack)), Caller(opened(ack))
    await ours.put("t", {"a": 1}, user="ann")

    for caller in (ours, theirs):
        with pytest.raises(ThreadOwnerMismatch):
            await caller.put("t", {"a": 2}, user="bob")


@pytest.mark.parametrize("ack", MODES)
async def test_without_redis_reads_and_writes_raise(opened, ack, redis):
    ours = Caller(opened(ack))
    await ours.put("t", {"a": 1})
    redis.pause()
    try:
        with pytest.raises(StoreUnavailableError):
            await ours.get(named("t"))
        with pytest.raises(StoreUnavailableError):
            await ours.put("t", {"a": 2})
    finally:
        redis.resume()
    assert (await ours.get(named("t"))) is not None


async def test_a_redis_that_forgets_is_refused(opened, clean_redis_url):
    with pytest.raises(ConfigurationError, match="append-only"):
        await Caller(opened("replicated", hot=clean_redis_url)).put("t", {"a": 1})


async def test_replicas_that_are_not_there_are_missed(opened):
    with pytest.raises(ConfigurationError, match="replicas=0"):
        await Caller(opened("replicated", replicas=1)).put("t", {"a": 1})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"ack": "replicated", "hot": None}, "needs the hot tier"),
        ({"ack": "replicated", "fencing": "strict"}, "needs ack='durable'"),
        ({"ack": "soon"}, "'durable' or 'replicated' or 'cached'"),
        ({"replicas": -1}, "0 or more"),
    ],
)
def test_a_choice_that_cannot_be_kept_is_refused_at_once(options, told):
    hot = open_store("memory://", blocking=True) if "hot" not in options else options["hot"]
    with pytest.raises((ConfigurationError, CheckpointError), match=told):
        TieredCheckpointSaver(open_store("memory://", blocking=True), **{"hot": hot, **options})


async def test_a_user_is_not_told_that_conversations_were_erased_that_only_redis_holds(opened):
    ours, theirs = opened("cached"), opened("cached")
    await Caller(ours).put("t", {"messages": [LONG]}, user="u1")

    with pytest.raises(CheckpointError, match="delete_thread"):
        ours.delete_user("u1")
    assert theirs.get_tuple(named("t")) is not None

    ours.delete_thread("t")
    assert theirs.get_tuple(named("t")) is None


async def test_a_settling_that_fails_in_any_way_is_tried_again(opened, monkeypatch, caplog):
    saver = opened("replicated")
    journaled, failed = saver._engine.journaled, []
    settle_all = journaled.settle_all

    async def failing_twice():
        if len(failed) < 2:
            failed.append(1)
            raise ValueError("a record of another shape")
        await settle_all()

    monkeypatch.setattr(journaled, "settle_all", failing_twice)
    await Caller(saver).put("t", {"n": 1})

    await until(lambda: drive(saver._engine.warm.thread(saver._engine.place("t").thread)) is not None)
    assert len([record for record in caplog.records if "wait for the warm tier" in record.message]) == 1


@pytest.mark.parametrize("hot", [None, "memory://"])
@pytest.mark.parametrize("ack", MODES)
def test_what_redis_should_acknowledge_is_not_kept_in_memory(ack, hot):
    with pytest.raises(ConfigurationError, match="give hot='redis://"):
        TieredCheckpointSaver.from_urls(warm="memory://", hot=hot, ack=ack)
