"""With keys, what is stored says nothing, opens only where it was put, and cannot be replaced by what another wrote."""

from __future__ import annotations

from itertools import pairwise

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.checkpoint.schema import Step
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import CheckpointError, ConfigurationError, EnvelopeError
from tests.support.checkpoints import COLOURS, Caller, checkpoint, config
from tests.support.forging import CELLS, commands, read_all
from tests.support.remains import Remains

KEYS = {"k1": b"1" * 32}
WORDS = ("thread", "namespace", "value", "inline", "note", "channel", "write", "task", "path", "user", "run-of-ann")


@pytest.fixture(params=["embedded", "servers"])
def urls(request, tmp_path):
    if request.param == "embedded":
        return {"warm": f"sqlite:///{tmp_path}/ck.db", "hot": "memory://", "cold": f"file://{tmp_path}/cold"}
    names = {"warm": "postgres_url", "hot": "clean_redis_url", "cold": "s3_url"}
    return {tier: request.getfixturevalue(name) for tier, name in names.items()}


@pytest.fixture
def opened(urls):
    savers = []

    def make(**options):
        savers.append(TieredCheckpointSaver.from_urls(**{**urls, "keys": KEYS, **options}))
        return savers[-1]

    yield make
    for saver in savers:
        saver.close()


async def write(caller: Caller, thread: str, value: str) -> list[str]:
    """Two checkpoints, of which the second is a delta, with writes and chunks; their ids."""
    items = [f"{value}-{number}" * 60 for number in range(20)]
    first = await caller.put(thread, {"items": items[:-1], "who": value})
    made = checkpoint({"items": items, "who": value}, {"items": "2", "who": "1"})
    await caller.put(thread, made=made, parent=first)
    for task in ("one", "two"):
        await caller.write(thread, made["id"], ("items", f"{value} {task}" * 40), ("who", task), task=task)
    return [first, made["id"]]


async def forget(saver) -> None:
    engine = saver._engine
    await (await engine.warm.sql()).execute("UPDATE llmops_ck_thread SET stamp = stamp + 1, epoch = epoch + 1")
    engine.recent.clear()


async def test_nothing_of_what_was_said_is_readable_in_any_tier(opened, urls):
    saver = opened()
    caller, words = Caller(saver), {word: f"canary-{word}" for word in WORDS}
    at = {"metadata": {"user_id": words["user"], "run_id": words["run-of-ann"]}}
    made = checkpoint({words["channel"]: words["value"] * 30, "inline": words["inline"]})
    told = {"source": "loop", "step": 1, "note": words["note"]}
    for ns in ("", words["namespace"]):
        await saver.aput(config(words["thread"], ns, **at), made, told, made["channel_versions"])
        await caller.write(
            words["thread"], made["id"], (words["channel"], words["write"]),
            task=words["task"], path=words["path"], ns=ns, **at,
        )  # fmt: skip
    engine = saver._engine
    engine.hot.fill([engine.place(words["thread"]).thread])
    remains = Remains(engine, urls)
    assert remains.hot()
    assert remains.words(*words.values()) == set(words.values())
    stored = b"".join(remains.raw())
    assert not [word for word in words.values() if word.encode() in stored]
    assert b"canary" not in stored


@pytest.mark.parametrize(("table", "column"), CELLS)
async def test_rows_that_change_places_are_refused(opened, table, column):
    """Between threads of one tenant, of two tenants with one thread id, and within a thread."""
    mine, other = Caller(opened()), Caller(opened(tenant="other"))
    ids = await write(mine, "t", "mine")
    await write(mine, "u", "yours")
    await write(other, "t", "theirs")
    sql = await mine.saver._engine.warm.sql()
    keys = {"thread": "thread", "step": "thread, ns, id", "chunk": "thread, name", "write": "thread, id, task, idx"}[
        table
    ]
    where = " AND ".join(f"{name} = ?" for name in keys.split(", "))
    rows = await sql.fetch(f"SELECT {column}, {keys} FROM llmops_ck_{table} ORDER BY {keys}")
    assert len(rows) >= 3
    bodies = [bytes(row[0]) for row in rows]
    for shift in (1, len(rows) // 3):
        for row, (at, _) in zip(rows, enumerate(rows), strict=True):
            moved = bodies[(at + shift) % len(rows)]
            await sql.execute(f"UPDATE llmops_ck_{table} SET {column} = ? WHERE {where}", (moved, *row[1:]))
        await forget(mine.saver)
        results = await read_all(mine, "t", ids[1])
        assert [one for one in results if isinstance(one, EnvelopeError)]
        assert "failed authentication" in str(next(one for one in results if isinstance(one, EnvelopeError)))
        for row in rows:
            await sql.execute(f"UPDATE llmops_ck_{table} SET {column} = ? WHERE {where}", row)
        await forget(mine.saver)
        rows = await sql.fetch(f"SELECT {column}, {keys} FROM llmops_ck_{table} ORDER BY {keys}")
        bodies = [bytes(row[0]) for row in rows]


async def test_a_checkpoint_with_another_parent_is_refused(opened):
    caller = Caller(opened())
    first, second = await write(caller, "t", "mine")
    twin = await caller.put("t", {"items": ["other" * 60], "who": "other"})
    sql = await caller.saver._engine.warm.sql()
    for parent in (twin.encode(), b"", None):
        await sql.execute("UPDATE llmops_ck_step SET parent = ? WHERE id = ?", (parent, second.encode()))
        await forget(caller.saver)
        with pytest.raises(EnvelopeError, match="failed authentication"):
            await caller.get(config("t", "", second))
    await sql.execute("UPDATE llmops_ck_step SET parent = ? WHERE id = ?", (first.encode(), second.encode()))
    await forget(caller.saver)
    assert await caller.get(config("t", "", second)) is not None


async def test_a_copy_of_an_earlier_state_in_redis_is_a_miss(opened, urls):
    caller = Caller(opened())
    await write(caller, "t", "old")
    engine = caller.saver._engine
    thread = engine.place("t").thread
    engine.hot.fill([thread])
    ((key, fields),) = Remains(engine, urls).hot().items()
    made = await caller.put("t", {"who": "new"})
    await engine.hot._maps.drop_maps(key.decode())
    from langchain_llmops.stores.base import MapChange

    await engine.hot._maps.write_maps([MapChange(key.decode(), fields, whole=True)])
    engine.recent.clear()
    assert (await caller.get(config("t"))).checkpoint["id"] == made
    assert engine.hot.hits == 0


async def test_an_earlier_ciphertext_of_the_same_place_is_accepted_as_is_said(opened):
    """Of a checkpoint that was put twice: whoever can write rows can bring the first back; nothing else of it."""
    caller = Caller(opened())
    made = checkpoint({"a": 1})
    await caller.put("t", made=made)
    sql = await caller.saver._engine.warm.sql()
    columns = ", ".join(Step._fields)
    ((*old,),) = await sql.fetch(f"SELECT {columns} FROM llmops_ck_step")
    await caller.put("t", made={**made, "channel_values": {"a": 2}})
    await sql.execute("UPDATE llmops_ck_step SET metadata = ?, body = ?", (old[5], old[6]))
    await forget(caller.saver)
    assert (await caller.get(config("t"))).checkpoint["channel_values"] == {"a": 1}


@pytest.mark.parametrize(("table", "column"), CELLS)
async def test_plaintext_is_refused_wherever_it_is_put(opened, table, column, tmp_path):
    target = tmp_path / "executed"
    caller = Caller(opened())
    ids = await write(caller, "t", "mine")
    sql = await caller.saver._engine.warm.sql()
    await sql.execute(f"UPDATE llmops_ck_{table} SET {column} = ?", (Envelope().seal(commands(target)[0]),))
    await forget(caller.saver)
    results = await read_all(caller, "t", ids[1])
    assert [one for one in results if isinstance(one, EnvelopeError) and "plaintext" in str(one)]
    assert not target.exists()


async def test_plaintext_from_before_the_keys_and_ciphertext_without_them_are_clear_errors(opened):
    await write(Caller(opened(keys={})), "plain", "mine")
    await write(Caller(opened()), "sealed", "mine")
    with pytest.raises(
        EnvelopeError,
        match="plaintext, and this store is configured to hold ciphertext only; use keys with a new store",
    ):
        await opened().aget_tuple(config("plain"))
    with pytest.raises(EnvelopeError, match="need encryption key 'k1', which is not configured"):
        await opened(keys={}).aget_tuple(config("sealed"))
    with pytest.raises(EnvelopeError, match="failed authentication"):
        await opened(keys={"k1": b"2" * 32}).aget_tuple(config("sealed"))


@pytest.mark.parametrize("colour", COLOURS)
async def test_a_new_key_seals_while_the_old_one_opens(opened, urls, colour):
    old = opened()
    ids = await write(Caller(old, colour), "t", "mine")
    new = opened(keys={**KEYS, "k2": b"2" * 32}, key_id="k2")
    caller = Caller(new, colour)
    before = await caller.get(config("t"))
    made = checkpoint({**before.checkpoint["channel_values"], "who": "me"}, {"items": "2", "who": "3"})
    await caller.put("t", made=made, parent=ids[1])
    await caller.call("copy_thread", "t", "copy")
    names = {bytes(body)[5:7] for (body,) in Remains(new._engine, urls).rows("llmops_ck_step", "body")}
    assert names == {b"k1", b"k2"}
    for thread in ("t", "copy"):
        found = await caller.list(config(thread))
        assert [one.checkpoint["channel_values"]["who"] for one in found] == ["me", "mine", "mine"]
        assert all(len(one.checkpoint["channel_values"]["items"]) >= 19 for one in found)
    only_new = opened(keys={"k2": b"2" * 32})
    assert len(await Caller(only_new, colour).list(config("copy"))) == 3
    with pytest.raises(EnvelopeError, match="need encryption key 'k1'"):
        await only_new.aget_tuple(config("t", "", ids[0]))


async def test_two_tenants_share_no_name_of_a_chunk(opened, urls):
    for tenant in ("one", "two"):
        for keys in ({}, KEYS):
            await write(Caller(opened(tenant=tenant, keys=keys)), f"t{bool(keys)}", "same")
    saver = opened()
    rows = Remains(saver._engine, urls).rows("llmops_ck_chunk", "thread, name")
    by_thread: dict[bytes, set[bytes]] = {}
    for thread, name in rows:
        by_thread.setdefault(thread, set()).add(name)
    assert len(by_thread) == 4
    assert all(not one & other for one, other in pairwise(by_thread.values()))
    with pytest.raises(CheckpointError):
        await saver.aput_writes(config("t"), [("a", 1)], "t")


@pytest.mark.parametrize("keys", ["k1=AAAA", [b"1" * 32], {"k1": "1" * 32}])
def test_keys_of_another_shape_are_refused_with_the_shape_they_take(keys):
    with pytest.raises(ConfigurationError, match=r"keys takes \{'id': 32 bytes\}"):
        TieredCheckpointSaver.from_urls(warm="memory://", keys=keys)
