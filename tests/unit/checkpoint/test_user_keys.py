"""With a key for each user, to destroy the key is to erase what it sealed, wherever a copy of that may be."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading

import pytest

from langchain_llmops.checkpoint.names import digest
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.checkpoint.user_keys import CACHED_S, USED_S
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError, EnvelopeError, UserErased
from langchain_llmops.stores.base import open_store
from tests.support.checkpoints import COLOURS, Caller, checkpoint, config
from tests.support.remains import Remains

KEYS = {"k1": b"1" * 32}
ANN, BEN = digest("default", "ann"), digest("default", "ben")
CELLS = (("thread", "label"), ("step", "metadata"), ("step", "body"), ("chunk", "body"), ("write", "body"))


@pytest.fixture
def urls(tmp_path):
    return {"warm": f"sqlite:///{tmp_path}/ck.db", "hot": "memory://", "cold": f"file://{tmp_path}/cold"}


@pytest.fixture(params=["in the warm tier", "in a store of their own"])
def key_store(request, tmp_path):
    return None if request.param == "in the warm tier" else f"sqlite:///{tmp_path}/keys.db"


@pytest.fixture
def opened(urls):
    savers = []

    def make(**options):
        savers.append(TieredCheckpointSaver.from_urls(**{**urls, "keys": KEYS, "user_keys": True, **options}))
        return savers[-1]

    yield make
    for saver in savers:
        saver.close()


@pytest.fixture
def saver(opened, key_store):
    return opened(key_store=key_store)


def key_ids(remains: Remains) -> dict[str, set[str]]:
    """By place, the ids of the keys that sealed what is there."""
    found = {
        f"{table}.{column}": {key_id(body) for (body,) in remains.rows(f"llmops_ck_{table}", column)}
        for table, column in CELLS
    }
    return {**found, "hot": {key_id(value) for fields in remains.hot().values() for value in fields.values()}}


def key_id(sealed: bytes) -> str:
    assert sealed[:2] == b"LO"
    assert sealed[3] & 2
    return sealed[5 : 5 + sealed[4]].decode()


@pytest.mark.parametrize("colour", COLOURS)
async def test_everything_of_a_user_is_sealed_with_their_own_key_whatever_is_done_to_it(saver, urls, colour):
    caller, remains = Caller(saver, colour), Remains(saver._engine, urls)
    log = [f"{number}" * 200 for number in range(30)]
    for thread in ("t", "u"):
        ids = [await caller.put(thread, {"a": log, "b": 1}, user="ann")]
        for number in range(7):  # runs that name nobody, and deltas
            made = checkpoint({"a": log, "b": number}, {"a": "1", "b": str(number)})
            await caller.put(thread, made=made, parent=ids[-1], metadata={"run_id": f"run{number}"})
            ids.append(made["id"])
        await caller.write(thread, ids[-1], ("a", "y" * 500), ("b", "short"))
        saver._engine.recent.clear()
        await caller.write(thread, ids[-1], ("a", "z" * 500), task="another")
        await caller.put(thread, made=checkpoint({"a": "x" * 500}) | {"id": ids[1]}, parent=ids[0])
    await caller.call("copy_thread", "t", "copy")
    await caller.call("delete_for_runs", ["run2"])
    assert (0,) in remains.rows("llmops_ck_step", "base")  # there are deltas, of which prune makes full ones
    await caller.call("prune", ["u"])
    assert (await caller.get(config("t"))).pending_writes
    saver._engine.hot.fill([saver._engine.place("t").thread])

    found = key_ids(remains)
    (own,) = found["step.body"]
    assert own.startswith("~")
    assert set(found) == {*(f"{table}.{column}" for table, column in CELLS), "hot"}
    assert all(ids == {own} for ids in found.values()), found

    await caller.put("t2", {"a": 1}, user="ben")
    assert len(key_ids(remains)["thread.label"]) == 2
    await caller.put("t3", {"a": 1})
    assert "k1" in key_ids(remains)["thread.label"]


async def test_what_was_written_before_a_thread_had_an_owner_has_the_tenants_key(saver, urls):
    caller, remains = Caller(saver), Remains(saver._engine, urls)
    await caller.put("t", {"a": 1})
    await caller.put("t", {"a": 1}, user="ann")
    assert len(key_ids(remains)["step.body"]) == 2


@pytest.mark.parametrize("colour", COLOURS)
async def test_a_backup_made_before_the_erasure_cannot_be_opened_with_what_is_left(opened, urls, tmp_path, colour):
    key_store = f"sqlite:///{tmp_path}/keys.db"
    saver = opened(key_store=key_store)
    caller, remains = Caller(saver, colour), Remains(saver._engine, urls)
    for user in ("ann", "ben"):
        made = await caller.put(user, {"a": f"canary-{user}" * 30}, user=user)
        await caller.write(user, made, ("a", f"canary-{user}"))
    engine = saver._engine
    engine.hot.fill([engine.place(user).thread for user in ("ann", "ben")])
    copies = {key: fields for key, fields in remains.hot().items() if engine.place("ann").thread.hex() in key.decode()}
    with (
        contextlib.closing(sqlite3.connect(tmp_path / "ck.db")) as source,
        contextlib.closing(sqlite3.connect(tmp_path / "backup.db")) as target,
    ):
        source.backup(target)

    receipt = await caller.call("delete_user", "ann")
    assert len(receipt.keys) == 1

    restored = opened(key_store=key_store, warm=f"sqlite:///{tmp_path}/backup.db")
    reader = Caller(restored, colour)
    assert (await reader.get(config("ben"))).checkpoint["channel_values"] == {"a": "canary-ben" * 30}
    with pytest.raises(EnvelopeError, match="is not configured or was destroyed"):
        await reader.get(config("ann"))
    with pytest.raises(EnvelopeError, match="was destroyed"):
        await reader.list(config("ann"))
    codec, thread = restored._engine.codec, engine.place("ann").thread
    (fields,) = copies.values()
    for name, body in fields.items():
        with pytest.raises(EnvelopeError, match="was destroyed"):
            codec.open_chunk(thread, name, body)
    everything = (tmp_path / "backup.db").read_bytes() + b"".join(fields.values()) + (tmp_path / "keys.db").read_bytes()
    assert b"canary" not in everything


async def test_the_destroyed_key_is_in_no_file_of_the_key_store(opened, tmp_path):
    saver = opened(key_store=f"sqlite:///{tmp_path}/keys.db")
    await Caller(saver).put("t", {"a": 1}, user="ann")
    rows = await (await saver._engine.keys.sql()).fetch("SELECT id, body FROM llmops_ck_user_key")
    ((_, body),) = rows
    await saver.adelete_user("ann")
    await saver.aclose()
    left = b"".join(file.read_bytes() for file in tmp_path.glob("keys.db*"))
    assert bytes(body) not in left


async def test_two_processes_that_begin_with_a_user_agree_on_one_key(opened, key_store):
    savers = [opened(key_store=key_store) for _ in range(3)]
    await asyncio.gather(*(Caller(saver).put(f"t{at}", {"a": 1}, user="ann") for at, saver in enumerate(savers)))
    assert len({saver._engine.keys.of(ANN) for saver in savers}) == 1
    for saver in savers:
        for at in range(3):
            assert (await saver.aget_tuple(config(f"t{at}"))).checkpoint["channel_values"] == {"a": 1}


async def test_no_key_is_read_on_the_event_loop(opened, key_store, monkeypatch):
    saver = opened(key_store=key_store)
    keys, seen = saver._engine.keys, set()
    read = keys._stored

    async def watched(*args):
        seen.add(threading.current_thread())
        return await read(*args)

    monkeypatch.setattr(keys, "_stored", watched)
    caller = Caller(saver)
    made = await caller.put("t", {"a": "x" * 500}, user="ann")
    keys.clear()
    await caller.write("t", made, ("a", 1))
    keys.clear()
    saver._engine.recent.clear()
    assert await caller.get(config("t")) is not None
    assert await caller.list(None)
    await caller.call("copy_thread", "t", "u")
    await caller.call("prune", ["t"])
    assert seen
    assert threading.current_thread() not in seen


async def test_a_process_holds_a_destroyed_key_for_a_bounded_time(opened, key_store):
    one, two = opened(key_store=key_store), opened(key_store=key_store)
    await Caller(one).put("t", {"a": 1}, user="ann")
    assert await two.aget_tuple(config("t")) is not None
    keys, now = two._engine.keys, [0.0]
    keys.clear()
    keys._clock = lambda: now[0]
    await two._engine.run(lambda: keys.ready(ANN), blocking=False)
    key_id, key = keys.of(ANN)
    await one.adelete_user("ann")

    now[0] = CACHED_S - 1
    assert keys.find(key_id) == key
    now[0] = CACHED_S + 1
    assert keys.find(key_id) is None
    assert not keys.is_ready(ANN)
    now[0] = CACHED_S + USED_S + 1
    with pytest.raises(UserErased):
        keys.of(ANN)
    assert await (await keys.sql()).fetch("SELECT * FROM llmops_ck_user_key") == []


async def test_a_user_who_starts_anew_gets_another_key(opened, key_store):
    now = [1_800_000_000.0]
    saver = opened(key_store=key_store, clock=lambda: now[0])
    caller = Caller(saver)
    await caller.put("t", {"a": 1}, user="ann")
    old = saver._engine.keys.of(ANN)
    await saver.adelete_user("ann")
    now[0] += 3601
    await caller.put("t", {"a": 2}, user="ann")
    assert saver._engine.keys.of(ANN) != old
    saver._engine.recent.clear()
    assert (await caller.get(config("t"))).checkpoint["channel_values"] == {"a": 2}


async def test_keys_of_users_outlive_the_rotation_of_the_tenants_key(opened, key_store):
    old = opened(key_store=key_store)
    await Caller(old).put("t", {"a": 1}, user="ann")
    new = opened(key_store=key_store, keys={**KEYS, "k2": b"2" * 32}, key_id="k2")
    assert (await new.aget_tuple(config("t"))).checkpoint["channel_values"] == {"a": 1}
    await Caller(new).put("t", {"a": 2}, user="ann")
    await Caller(new).put("u", {"a": 3}, user="ben")
    assert (await old.aget_tuple(config("t"))).checkpoint["channel_values"] == {"a": 2}
    with pytest.raises(EnvelopeError, match="needs encryption key 'k2'|need encryption key 'k2'"):
        await old.aget_tuple(config("u"))


async def test_without_user_keys_nothing_of_them_is_read_and_the_key_is_destroyed_all_the_same(opened, urls):
    await Caller(opened()).put("t", {"a": 1}, user="ann")
    plain = opened(user_keys=False)
    with pytest.raises(EnvelopeError, match="is not configured or was destroyed"):
        await plain.aget_tuple(config("t"))
    assert len((await plain.adelete_user("ann")).keys) == 1
    assert Remains(plain._engine, urls).rows("llmops_ck_user_key") == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": {}}, "user_keys needs keys="),
        ({"user_keys": False, "key_store": "memory://"}, "set user_keys=True"),
        ({"erase_grace_s": 599.0}, "erase_grace_s takes 600 or more"),
        ({"erase_grace_s": 0}, "erase_grace_s takes a number above 0"),
        ({"key_store": "redis://127.0.0.1:1"}, "key_store"),
    ],
)
def test_options_that_do_not_go_together_are_refused_with_the_fix(opened, options, message):
    with pytest.raises(ConfigurationError, match=message):
        saver = opened(**options)
        drive(saver._engine.keys.ready(BEN))


def test_a_store_that_was_opened_already_may_hold_the_keys(urls):
    store = open_store("memory://", blocking=True)
    with TieredCheckpointSaver.from_urls(**urls, keys=KEYS, user_keys=True, key_store=store) as saver:
        made = checkpoint({"a": 1})
        saver.put(config("t", metadata={"user_id": "ann"}), made, {}, made["channel_versions"])
        assert drive(store.sql.fetch("SELECT owner FROM llmops_ck_user_key")) == [(ANN,)]
