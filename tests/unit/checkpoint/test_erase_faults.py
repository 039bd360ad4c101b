"""An erasure that is interrupted or refused is never reported as done, and whoever asks again finishes it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import NamedTuple

import pytest

from langchain_llmops.checkpoint.names import digest
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.checkpoint.tombstones import COUNTED
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ErasureIncomplete, StoreAuthError, StoreUnavailableError, UserErased
from langchain_llmops.stores.base import open_store
from tests.support.breaking import BreakingStore, Crash, Steps
from tests.support.checkpoints import Caller, config, until
from tests.support.remains import Remains

OPTIONS = {"keys": {"k1": b"1" * 32}, "user_keys": True}
FAULTS = {
    "hot": StoreUnavailableError("hot: Redis at 127.0.0.1 cannot be reached; start it or correct the URL"),
    "cold": StoreAuthError("cold: S3 refused access; check the keys and what they may do"),
}


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class House(NamedTuple):
    """A checkpointer, another process' one whose stores break, and what they hold."""

    saver: TieredCheckpointSaver
    breaking: TieredCheckpointSaver
    stores: dict[str, BreakingStore]
    remains: Remains
    clock: Clock

    async def write(self, user: str, threads: int = 2) -> None:
        """Threads with copies and archives."""
        caller, engine = Caller(self.saver), self.saver._engine
        for number in range(threads):
            name = f"thread-{user}-{number}"
            made = await caller.put(name, {"a": f"canary-{user}" * 30}, user=user)
            await caller.write(name, made, ("a", f"canary-{user}" * 20), metadata={"user_id": user})
            await self.plant(name, user)
        engine.hot.fill([engine.place(f"thread-{user}-{number}").thread for number in range(threads)])
        assert self.remains.words(f"canary-{user}")

    async def plant(self, thread: str, user: str, state: str = "live") -> str:
        """An object of a thread, with its row."""
        engine = self.saver._engine
        place, codec = engine.place(thread), engine.codec.of(digest("default", user))
        path = f"{engine.tenant.hex()}/{place.thread.hex()}/{user}-{state}.head"
        await engine.eraser._cold.put(path, codec.seal_object(b"x", codec.pack(f"canary-{user}")))
        columns = {"path": path, "thread": place.thread, "state": state, "bytes": 1, "stamp": 1, "since": self.clock()}
        columns |= {"attempt": 1, "until": self.clock() + 900 if state == "copying" else 0.0, "errors": 0}
        await (await engine.warm.sql()).execute(
            f"INSERT INTO llmops_ck_object ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})",
            list(columns.values()),
        )
        return path


@pytest.fixture(params=["embedded", "servers"])
def house(request, tmp_path):
    urls = {"warm": f"sqlite:///{tmp_path}/ck.db", "hot": "memory://", "cold": f"file://{tmp_path}/cold"}
    if request.param == "servers":
        names = {"warm": "postgres_url", "hot": "clean_redis_url", "cold": "s3_url"}
        urls = {tier: request.getfixturevalue(name) for tier, name in names.items()}
    clock = Clock()
    stores = {tier: open_store(url, blocking=True) for tier, url in urls.items()}
    breaking = {tier: BreakingStore(store) for tier, store in stores.items()}
    saver = TieredCheckpointSaver(**stores, **OPTIONS, clock=clock)
    other = TieredCheckpointSaver(**breaking, **OPTIONS, clock=clock)
    for one in (saver, other):
        one._engine.hot.close()  # no copies but those made here
    yield House(saver, other, breaking, Remains(saver._engine, urls), clock)
    saver.close()


@pytest.mark.parametrize("is_done", [False, True], ids=["before", "after"])
async def test_after_a_crash_at_any_step_another_process_finishes(house, is_done):
    crashes = 0
    for last in range(1, 1000):
        user = f"user{last}"
        await house.write(user)
        steps = Steps(last, is_done=is_done)
        for store in house.stores.values():
            store.steps = steps
        with contextlib.suppress(Crash):
            house.breaking.delete_user(user)
            break
        crashes += 1
        if last % 2:  # again, at a later step
            steps.taken, steps.last = 0, last + 3
            with contextlib.suppress(Crash):
                house.breaking.delete_user(user)

        receipt = house.saver.delete_user(user)
        assert house.remains.words(f"canary-{user}") == set()
        counts = {name: getattr(receipt, name) for name in COUNTED}
        assert counts | {"warm_bytes": 0, "hot_keys": 2} == {
            "threads": 2, "checkpoints": 2, "writes": 2, "chunks": 4, "warm_bytes": 0, "hot_keys": 2
        }  # fmt: skip
        assert (receipt.state, len(receipt.keys)) == ("done", 1)
        assert len(receipt.objects) <= 2
    assert crashes > 30
    assert not house.remains.hot()
    assert not house.remains.objects()


@pytest.mark.parametrize("tier", ["hot", "cold"])
async def test_a_tier_that_refuses_leaves_the_erasure_open_with_its_name(house, tier):
    await house.write("ann")
    house.stores[tier].failing = FAULTS[tier]

    with pytest.raises(ErasureIncomplete, match=f"the {tier} tier, 2 threads: {FAULTS[tier]}") as caught:
        house.breaking.delete_user("ann")

    receipt = caught.value.receipt
    assert caught.value.is_retryable
    assert (receipt.state, receipt.finished_at, receipt.threads, len(receipt.left)) == ("open", None, 2, 1)
    assert bool(house.remains.hot()) == (tier == "hot")
    assert bool(house.remains.objects()) == (tier == "cold")
    assert not house.remains.rows("llmops_ck_thread")
    assert not house.remains.rows("llmops_ck_user_key")
    house.clock.now += 1_000_000
    with pytest.raises(UserErased):
        await Caller(house.saver).put("new", {"a": 1}, user="ann")

    house.stores[tier].failing = None
    (finished,) = drive(house.breaking._engine.eraser.resume())
    assert (finished.state, finished.left, finished.threads, finished.asked_at) == ("done", (), 2, receipt.asked_at)
    assert house.remains.words("canary-ann") == set()
    assert drive(house.breaking._engine.eraser.resume()) == []


async def test_resuming_says_what_still_refuses(house):
    await house.write("ann")
    house.stores["cold"].failing = FAULTS["cold"]
    with pytest.raises(ErasureIncomplete):
        house.breaking.delete_user("ann")
    (receipt,) = drive(house.breaking._engine.eraser.resume())
    assert receipt.state == "open"
    assert "refused access" in receipt.left[0]


async def test_objects_without_a_cold_tier_to_delete_them_from_leave_the_erasure_open(house, tmp_path):
    await house.write("ann")
    engine = house.saver._engine
    without = TieredCheckpointSaver(engine.stores[0], engine.stores[1], **OPTIONS, clock=house.clock)
    with pytest.raises(ErasureIncomplete, match="1 objects need it: give cold="):
        without.delete_user("ann")
    assert house.saver.delete_user("ann").state == "done"
    assert house.remains.words("canary-ann") == set()


async def test_an_archive_that_may_still_be_written_is_waited_for(house):
    await house.write("ann")
    path = await house.plant("thread-ann-0", "ann", "copying")
    with pytest.raises(ErasureIncomplete, match="an archive may still be written, until"):
        house.saver.delete_user("ann")
    await house.saver._engine.eraser._cold.put(path, b"canary-ann")

    house.clock.now += 901
    assert house.saver.delete_user("ann").state == "done"
    assert house.remains.words("canary-ann") == set()
    assert house.remains.rows("llmops_ck_object") == []


async def test_another_user_who_takes_the_threads_name_meanwhile_keeps_everything(house):
    await house.write("ann")
    house.stores["cold"].failing = FAULTS["cold"]
    with pytest.raises(ErasureIncomplete):
        house.breaking.delete_user("ann")
    caller = Caller(house.saver)
    await caller.put("thread-ann-0", {"a": "canary-ben" * 30}, user="ben")
    path = await house.plant("thread-ann-0", "ben")
    engine = house.saver._engine
    engine.hot.fill([engine.place("thread-ann-0").thread])

    assert house.saver.delete_user("ann").state == "done"

    assert house.remains.words("canary-ann", "canary-ben") == {"canary-ben"}
    assert list(house.remains.objects()) == [path]
    found = await caller.get(config("thread-ann-0"))
    assert found.checkpoint["channel_values"] == {"a": "canary-ben" * 30}


async def test_a_write_that_began_before_the_tombstone_is_waited_for(postgres_url):
    """Its transaction is open when the user is erased; it commits, and its thread is found and erased."""
    import psycopg

    saver = TieredCheckpointSaver.from_urls(warm=postgres_url, hot=None)
    await Caller(saver).put("t", {"a": 1}, user="ann")
    late, waits = digest("default", "late"), "SELECT COUNT(*) FROM pg_locks WHERE NOT granted AND mode = 'ShareLock'"
    with psycopg.connect(postgres_url) as writer, psycopg.connect(postgres_url, autocommit=True) as watcher:
        writer.execute(
            "INSERT INTO llmops_ck_thread (thread, label, tenant, owner, tier, stamp, prior, epoch, created_at,"
            " updated_at, stored_bytes) SELECT %s, label, tenant, owner, tier, stamp, prior, epoch, created_at,"
            " updated_at, stored_bytes FROM llmops_ck_thread",
            (late,),
        )
        erasing = asyncio.create_task(saver.adelete_user("ann"))
        await until(lambda: watcher.execute(waits).fetchone()[0] == 1)
        writer.commit()
        receipt = await erasing
        assert receipt.threads == 2
        assert watcher.execute("SELECT COUNT(*) FROM llmops_ck_thread").fetchone()[0] == 0
    await saver.aclose()
