"""Archives under damage, failing stores, crashes and races: nothing is lost, or silently empty, or stays."""

from __future__ import annotations

import asyncio

import pytest

from langchain_llmops.checkpoint.outbox import LEASE_S
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import CheckpointError, StoreUnavailableError
from langchain_llmops.stores.base import open_store
from tests.support.archives import conversation, killed, listed, objects, rows, tier
from tests.support.checkpoints import Caller, config, facts, until

NEVER = 1e12


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def restarted(urls, clock):
    """Savers of processes that know nothing but what is stored."""
    made = []

    def start(**options):
        made.append(TieredCheckpointSaver.from_urls(**urls, clock=clock, warm_s=NEVER, **options))
        return made[-1]

    yield start
    for one in made:
        one.close()


def of_store(saver, tmp_path) -> tuple[list[str], list[str]]:
    """Objects that are stored, and those the warm tier knows as live."""
    folder = tmp_path / "cold"
    return (
        [str(path.relative_to(folder)) for path in objects(folder)],
        sorted(path for path, state in rows(saver, "object", "path, state") if state == "live"),
    )


@pytest.mark.parametrize("kind", ["head", "rest"])
@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "swap", "missing"])
async def test_a_damaged_archive_is_a_typed_error_and_never_an_empty_thread(caller, saver, tmp_path, kind, damage):
    before = await conversation(caller)
    await conversation(caller, "other", turns=2)
    await caller.call("archive", "t")
    (path,) = objects(tmp_path / "cold", kind)
    await caller.call("archive", "other")
    data = path.read_bytes()
    other = next(one for one in objects(tmp_path / "cold", kind) if one != path)
    damaged = {
        "flip": data[:50] + bytes([data[50] ^ 1]) + data[51:],
        "cut": data[:-10],
        "empty": b"",
        "swap": other.read_bytes(),
    }
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])

    word = "is missing; bring" if damage == "missing" else "is damaged .*; bring"
    attempts = [lambda: caller.list(config("t")), lambda: caller.call("restore", "t"), lambda: caller.list(None)]
    if kind == "head":
        attempts += [lambda: caller.get(config("t")), lambda: caller.put("t", {"a": 1})]
    for attempt in attempts:
        with pytest.raises(CheckpointError, match=rf"archive of thread 't' at \w+/\w+/\w+\.{kind} {word}"):
            await attempt()
    assert tier(saver) == "cold"
    path.write_bytes(data)
    assert await listed(caller) == before


async def test_an_object_of_another_thread_does_not_open_as_this_ones(caller, saver, tmp_path):
    """Not even where the rows that name the objects were exchanged."""
    for thread in ("t", "other"):
        await conversation(caller, thread)
        await caller.call("archive", thread)
    sql = await saver._engine.warm.sql()
    mine, others = (saver._engine.place(thread).thread for thread in ("t", "other"))
    for old, new in ((mine, b"x"), (others, mine), (b"x", others)):
        await sql.execute("UPDATE llmops_ck_object SET thread = ? WHERE thread = ?", (new, old))
    with pytest.raises(CheckpointError, match="cannot be read .*another thread's"):
        await caller.get(config("t"))


async def test_a_chunk_that_is_missing_before_the_move_stops_it(caller, saver, tmp_path):
    await conversation(caller)
    sql = await saver._engine.warm.sql()
    await sql.execute("DELETE FROM llmops_ck_chunk WHERE name = (SELECT MIN(name) FROM llmops_ck_chunk)")
    with pytest.raises(CheckpointError, match="1 of its chunks are missing"):
        await caller.call("archive", "t")
    assert tier(saver) == "warm"
    assert objects(tmp_path / "cold") == []


async def test_an_object_that_does_not_read_back_leaves_the_thread_warm(caller, saver, tiers, tmp_path, monkeypatch):
    before = await conversation(caller)
    inner = tiers["cold"]._inner.objects
    get = inner.get

    async def rotten(path):
        return b"x" + (await get(path) or b"")

    monkeypatch.setattr(inner, "get", rotten)
    with pytest.raises(CheckpointError, match="is damaged"):
        await caller.call("archive", "t")
    assert tier(saver) == "warm"
    assert await listed(caller) == before
    await caller.call("sweep")
    assert objects(tmp_path / "cold") == []


async def test_a_store_that_fails_loses_nothing_and_is_swept_later(caller, saver, tiers, tmp_path):
    before = await conversation(caller)
    tiers["cold"].fail("put")
    with pytest.raises(StoreUnavailableError):
        await caller.call("archive", "t")
    assert tier(saver) == "warm"
    tiers["cold"].heal()
    await caller.call("archive", "t")
    tiers["cold"].fail("get")
    with pytest.raises(StoreUnavailableError):
        await caller.get(config("t"))
    tiers["cold"].heal()

    tiers["cold"].fail("delete")
    assert await listed(caller) == before
    assert rows(saver, "object", "state, errors") == [("dead", 1)] * 4
    assert (await caller.call("sweep")).objects_refused == 4
    tiers["cold"].heal()
    assert (await caller.call("sweep")).objects_deleted == 4
    assert objects(tmp_path / "cold") == []


async def test_a_put_that_comes_while_a_thread_is_copied_wins(caller, saver, tiers, tmp_path):
    before = await conversation(caller)
    with tiers["cold"].holding("get"):
        archiving = asyncio.create_task(caller.call("archive", "t"))
        await tiers["cold"].waiting("get")
        late = await caller.put("t", {"a": 1})
    assert await archiving is False

    assert tier(saver) == "warm"
    assert (await caller.get(config("t"))).checkpoint["id"] == late
    assert (await listed(caller))[1:] == before
    assert objects(tmp_path / "cold") == rows(saver, "object") == []


async def test_a_pin_that_comes_while_a_thread_is_copied_holds(caller, saver, tiers, tmp_path):
    await conversation(caller)
    with tiers["cold"].holding("get"):
        archiving = asyncio.create_task(caller.call("archive", "t"))
        await tiers["cold"].waiting("get")
        assert await caller.call("pin", "t", 60.0) is True
    assert await archiving is False
    assert tier(saver) == "warm"
    assert objects(tmp_path / "cold") == rows(saver, "object") == []


@pytest.mark.parametrize("stage", ["put", "get"])
async def test_a_thread_deleted_while_it_is_copied_leaves_no_object(caller, saver, tiers, tmp_path, stage):
    await conversation(caller)
    with tiers["cold"].holding(stage):
        archiving = asyncio.create_task(caller.call("archive", "t"))
        await tiers["cold"].waiting(stage)
        await caller.call("delete_thread", "t")
    assert await archiving is False

    assert objects(tmp_path / "cold") == rows(saver, "object") == []
    assert await caller.get(config("t")) is None


async def test_two_movers_on_one_thread_leave_one_archive_that_opens(caller, saver, tiers, urls, tmp_path):
    before = await conversation(caller)
    cold = tiers["cold"]
    other = TieredCheckpointSaver(open_store(urls["warm"], blocking=True), None, cold)
    with cold.holding("get"):
        movers = [asyncio.create_task(Caller(one, caller.colour).call("archive", "t")) for one in (saver, other)]
        await until(lambda: cold.count("get") == 2)
    assert sorted([await mover for mover in movers]) == [False, True]

    assert len(rows(saver, "object")) == 2
    assert of_store(saver, tmp_path)[0] == of_store(saver, tmp_path)[1]
    assert await listed(caller) == before


async def test_a_reader_that_a_deletion_overtakes_brings_nothing_back(caller, saver, tiers, tmp_path):
    await conversation(caller)
    await caller.call("archive", "t")
    with tiers["cold"].holding("get"):
        reading = asyncio.create_task(caller.get(config("t")))
        await tiers["cold"].waiting("get")
        await caller.call("delete_thread", "t")
    assert await reading is None
    assert [rows(saver, table) for table in ("thread", "step", "chunk", "object")] == [[], [], [], []]


async def test_a_reader_whom_another_process_overtakes_reads_what_it_brought_back(caller, saver, tiers, urls):
    before = await conversation(caller)
    await caller.call("archive", "t")
    other = TieredCheckpointSaver.from_urls(**urls)
    with tiers["cold"].holding("get"):
        reading = asyncio.create_task(caller.get(config("t")))
        await tiers["cold"].waiting("get")
        assert await other.arestore("t") is True
    assert facts(await reading) == before[1]
    assert tier(saver) == "warm"
    other.close()


POINTS = [
    ("outbox", "intend", "after", 1),
    ("objects", "put", "before", 1),
    ("objects", "put", "after", 1),
    ("objects", "put", "after", 2),
    ("objects", "get", "after", 1),
    ("outbox", "copied", "before", 1),
    ("outbox", "copied", "after", 1),
    ("archive", "_switch", "after", 1),
    ("archive", "_finish", "after", 1),
    ("outbox", "deleted", "before", 1),
]


@pytest.mark.parametrize("again", [False, True], ids=["warm", "mixed"])
@pytest.mark.parametrize(("owner", "name", "when", "at"), POINTS)
async def test_a_mover_that_dies_at_any_point_loses_nothing_and_leaves_nothing(
    restarted, clock, tmp_path, again, owner, name, when, at
):
    first = restarted()
    await conversation(Caller(first))
    if again:
        first.archive("t")
        await Caller(first).put("t", {"more": "m" * 300})
    elif name == "deleted":
        first.archive("t")
        first.restore("t")
    before = facts(first.get_tuple(config("t")))
    archive = first._engine.tiers.archive
    dying = {"archive": archive, "outbox": archive.outbox, "objects": archive._cold._objects}[owner]
    if name == "deleted" and not again:
        with killed(dying, name, when, at=at):
            first.archive("t")
            first.restore("t")
    else:
        with killed(dying, name, when, at=at):
            first.archive("t")

    second = restarted()
    swept = second.sweep()
    assert swept.failures == ()
    assert swept.finished == (name in ("copied", "_switch") and when == "after")
    clock.now += LEASE_S + 1
    second.sweep()
    assert {row[0] for row in rows(second, "object", "state")} <= {"live"}
    stored, live = of_store(second, tmp_path)
    assert stored == live
    assert facts(second.get_tuple(config("t"))) == before
    second.archive("t")
    assert len(await listed(Caller(second))) == 8 + again
    assert of_store(second, tmp_path) == ([], [])


@pytest.mark.parametrize(
    ("owner", "name", "when"),
    [("objects", "get", "after"), ("outbox", "restamp", "after"), ("outbox", "bury", "after"),
     ("archive", "sweep_thread", "before")],
)  # fmt: skip
async def test_a_reader_that_dies_while_it_brings_a_thread_back_leaves_it_whole(restarted, tmp_path, owner, name, when):
    first = restarted()
    before = await conversation(Caller(first))
    first.archive("t")
    archive = first._engine.tiers.archive
    dying = {"archive": archive, "outbox": archive.outbox, "objects": archive._cold._objects}[owner]
    with killed(dying, name, when):
        first.get_tuple(config("t"))
        first.restore("t")

    second = restarted()
    second.sweep()
    assert of_store(second, tmp_path)[0] == of_store(second, tmp_path)[1]
    assert facts(second.get_tuple(config("t"))) == before[1]
    assert await listed(Caller(second)) == before
    assert of_store(second, tmp_path) == ([], [])
