"""Times to live by a clock of the test's own, and what happens to what has expired."""

from __future__ import annotations

import pytest

from langchain_llmops.core.concurrency import drive
from langchain_llmops.stores.base import MapChange
from langchain_llmops.stores.memory import MemoryKeyValue, MemoryStore
from langchain_llmops.stores.sqlite import SqliteStore


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "sqlite"])
def store(request, clock, tmp_path):
    if request.param == "memory":
        store = MemoryStore(clock=clock, blocking=True)
    else:
        store = SqliteStore(str(tmp_path / "x.db"), clock=clock, blocking=True, synchronous="off")
    yield store
    drive(store.aclose())


def held(store) -> int:
    """How many entries are really kept, expired ones too."""
    if isinstance(store.kv, MemoryKeyValue):
        return len(store.kv._items)
    return drive(store.sql.fetch("SELECT COUNT(*) FROM llmops_kv"))[0][0]


def test_a_value_lives_to_its_last_moment_and_no_longer(store, clock):
    drive(store.kv.set("k", b"x", 10))
    clock.now += 9.999
    assert drive(store.kv.get("k")) == b"x"
    clock.now += 0.001
    assert drive(store.kv.get("k")) is None
    assert drive(store.kv.delete("k")) == 0


def test_a_counter_keeps_the_life_it_began_with(store, clock):
    for _ in range(3):
        drive(store.kv.increment("n", 1, 10))
        clock.now += 4
    assert drive(store.kv.increment("n", 1, 10)) == 1


def test_a_counter_without_an_end_has_none(store, clock):
    drive(store.kv.increment("n"))
    drive(store.kv.increment("n", 1, 10))
    clock.now += 1e9
    assert drive(store.kv.increment("n")) == 3


def test_adding_to_an_expired_name_takes_the_new_life(store, clock):
    assert drive(store.kv.add("k", b"old", 10))
    assert not drive(store.kv.add("k", b"new", 99))
    clock.now += 10
    assert drive(store.kv.add("k", b"new", 5))
    clock.now += 4
    assert drive(store.kv.get("k")) == b"new"
    clock.now += 1
    assert drive(store.kv.get("k")) is None


def test_what_has_expired_does_not_pile_up_beside_what_lives(store, clock):
    drive(store.kv.set_many({f"forever{n}": b"x" for n in range(300)}))
    for n in range(1500):
        drive(store.kv.set(f"short{n}", b"x", 1))
        clock.now += 0.1
    assert held(store) < 300 + 200
    assert drive(store.kv.get_many([f"forever{n}" for n in range(300)])) == [b"x"] * 300


def test_a_name_that_is_set_again_and_again_is_kept_once(store, clock):
    for _ in range(500):
        drive(store.kv.set("k", b"x", 60))
        clock.now += 1
    assert held(store) == 1
    assert drive(store.kv.get("k")) == b"x"


def test_a_sweep_spares_what_was_made_to_live_longer(store, clock):
    drive(store.kv.set("k", b"x", 1))
    drive(store.kv.set("k", b"y", 1000))
    clock.now += 10
    for n in range(100):
        drive(store.kv.set(f"other{n}", b"x", 1000))
    assert drive(store.kv.get("k")) == b"y"


def test_maps_that_have_expired_do_not_pile_up(clock):
    maps = MemoryStore(clock=clock, blocking=True).maps
    drive(maps.write_maps([MapChange("forever", {b"a": b"1"}), MapChange("renewed", {b"a": b"1"}, ttl_s=1)]))
    for n in range(500):
        change = MapChange(f"short{n}", {b"a": b"1"}, ttl_s=1)
        drive(maps.write_maps([change, MapChange("renewed", {}, ttl_s=1)]))
        clock.now += 0.1
    assert len(maps._maps) < 30
    assert drive(maps.read_map("forever")) == drive(maps.read_map("renewed")) == {b"a": b"1"}
