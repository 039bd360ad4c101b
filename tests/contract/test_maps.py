"""What fields by key mean, on every backend."""

from __future__ import annotations

import asyncio
import math
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError, StoreError
from langchain_llmops.stores.base import MapChange, open_store

HOSTILE = [b"", b"\x00", b"\r\n$3\r\n", b"\xff\xfe", b"*", b"{a}", b"0", b"n" * 10_240]


def test_fields_come_back_as_they_were_written(opened, maps):
    key = opened.key("\x00{}* ")
    assert opened.run(maps.read_map(key)) == {}
    fields = {name: name + b"\x00\xff" for name in HOSTILE} | {b"large": bytes(range(256)) * 4000, b"empty": b""}
    opened.run(maps.write_maps([MapChange(key, fields)]))
    assert opened.run(maps.read_map(key)) == fields


def test_a_change_touches_the_fields_it_names(opened, maps):
    key = opened.key()
    opened.run(maps.write_maps([MapChange(key, {b"a": b"1", b"b": b"2", b"c": b"3"})]))
    opened.run(maps.write_maps([MapChange(key, {b"b": b"22", b"d": b"4"}, gone=[b"a", b"absent"])]))
    assert opened.run(maps.read_map(key)) == {b"b": b"22", b"c": b"3", b"d": b"4"}


def test_a_field_that_is_set_and_gone_is_gone(opened, maps):
    key = opened.key()
    opened.run(maps.write_maps([MapChange(key, {b"a": b"1", b"b": b"2"}, gone=[b"a"])]))
    assert opened.run(maps.read_map(key)) == {b"b": b"2"}


def test_a_whole_map_takes_the_place_of_the_old_one(opened, maps):
    key = opened.key()
    opened.run(maps.write_maps([MapChange(key, {b"a": b"1", b"b": b"2"})]))
    opened.run(maps.write_maps([MapChange(key, {b"c": b"3"}, whole=True)]))
    assert opened.run(maps.read_map(key)) == {b"c": b"3"}
    opened.run(maps.write_maps([MapChange(key, {}, whole=True)]))
    assert opened.run(maps.read_map(key)) == {}


def test_a_map_without_fields_is_absent_and_forgets_its_time(opened, maps):
    key = opened.key()
    opened.run(maps.write_maps([MapChange(key, {b"a": b"1"}, ttl_s=0.3)]))
    opened.run(maps.write_maps([MapChange(key, {}, gone=[b"a"])]))
    assert opened.run(maps.read_map(key)) == {}
    opened.run(maps.write_maps([MapChange(key, {b"b": b"2"})]))
    _let_pass(opened, maps, 0.4)
    assert opened.run(maps.read_map(key)) == {b"b": b"2"}


def test_nothing_to_write_is_written(opened, maps):
    key = opened.key()
    opened.run(maps.write_maps([]))
    opened.run(maps.write_maps([MapChange(key, {}), MapChange(key, {}, ttl_s=1), MapChange(key, {}, gone=[b"x"])]))
    opened.run(maps.drop_maps())
    assert opened.run(maps.read_map(key)) == {}


def test_many_maps_are_written_and_dropped_at_once(opened, maps):
    keys = [opened.key() for _ in range(300)]
    opened.run(maps.write_maps([MapChange(key, {b"n": str(n).encode()}, ttl_s=60) for n, key in enumerate(keys)]))
    assert [opened.run(maps.read_map(key)) for key in keys[::50]] == [{b"n": b"%d" % n} for n in range(0, 300, 50)]
    opened.run(maps.drop_maps(*keys[1:], opened.key(), keys[1]))
    assert [opened.run(maps.read_map(key)) for key in keys[:3]] == [{b"n": b"0"}, {}, {}]


def test_changes_of_one_key_happen_in_their_order(opened, maps):
    key = opened.key()
    opened.run(maps.write_maps([MapChange(key, {b"n": b"%d" % n}, whole=n % 2 == 0) for n in range(20)]))
    assert opened.run(maps.read_map(key)) == {b"n": b"19"}


def test_a_map_is_gone_when_its_time_is_up(opened, maps):
    short, long, forever = (opened.key() for _ in range(3))
    lives = {short: 0.05, long: 60, forever: None}
    opened.run(maps.write_maps([MapChange(key, {b"a": key.encode()}, ttl_s=ttl_s) for key, ttl_s in lives.items()]))
    _until(lambda: opened.run(maps.read_map(short)) == {})
    assert [opened.run(maps.read_map(key)) for key in (long, forever)] == [
        {b"a": key.encode()} for key in (long, forever)
    ]


@pytest.mark.parametrize("whole", [False, True])
def test_a_change_without_a_time_leaves_it_and_a_whole_map_forgets_it(opened, maps, whole):
    key = opened.key()
    opened.run(maps.write_maps([MapChange(key, {b"a": b"1"}, ttl_s=0.3)]))
    opened.run(maps.write_maps([MapChange(key, {b"b": b"2"}, gone=[b"a"], whole=whole)]))
    _let_pass(opened, maps, 0.4)
    assert opened.run(maps.read_map(key)) == ({b"b": b"2"} if whole else {})


def test_a_time_alone_gives_a_map_more_of_it(opened, maps):
    key = opened.key()
    opened.run(maps.write_maps([MapChange(key, {b"a": b"1"}, ttl_s=0.3)]))
    opened.run(maps.write_maps([MapChange(key, {}, ttl_s=60)]))
    _let_pass(opened, maps, 0.4)
    assert opened.run(maps.read_map(key)) == {b"a": b"1"}


@pytest.mark.parametrize("ttl_s", [0, -1, math.nan, math.inf])
def test_a_time_that_is_none_is_refused_and_nothing_is_written(opened, maps, ttl_s):
    one, other = opened.key(), opened.key()
    with pytest.raises(ConfigurationError, match="time to live must be"):
        opened.run(maps.write_maps([MapChange(one, {b"a": b"1"}), MapChange(other, {b"a": b"1"}, ttl_s=ttl_s)]))
    assert opened.run(maps.read_map(one)) == {}


def test_a_reader_never_sees_half_of_a_change(opened, maps):
    key, seen, over = opened.key(), False, threading.Event()
    store = opened.store if opened.url == "memory://" and opened.blocking else open_store(opened.url, blocking=True)
    writer_maps = maps if opened.url == "memory://" else store.maps

    def write():
        for n in range(200):
            value = b"%d" % n
            fields = {b"f%d" % i: value for i in range(n % 7 + 1)} | {b"count": b"%d" % (n % 7 + 1)}
            drive(writer_maps.write_maps([MapChange(key, fields, ttl_s=60, whole=True)]))
        over.set()

    thread = threading.Thread(target=write)
    thread.start()
    while not (over.is_set() and seen):
        found = opened.run(maps.read_map(key))
        seen = True
        if found:
            assert len(found) == int(found[b"count"]) + 1
            assert len(set(found.values()) - {found[b"count"]}) <= 1
    thread.join()
    if writer_maps is not maps:
        drive(store.aclose())


@pytest.mark.between_processes
def test_a_refused_change_is_a_typed_error_and_holds_up_no_other(opened, maps):
    """Inside of MULTI an error is an answer among others."""
    text, other = opened.key(), opened.key()
    opened.run(opened.store.kv.set(text, b"no map"))
    changes = [MapChange(key, {b"a": b"canary"}, ttl_s=60) for key in (text, other)]
    with pytest.raises(StoreError, match="WRONGTYPE") as caught:
        opened.run(maps.write_maps(changes))
    assert "canary" not in str(caught.value)
    assert opened.run(opened.store.kv.get(text)) == b"no map"
    assert opened.run(maps.read_map(other)) == {b"a": b"canary"}
    with pytest.raises(StoreError, match="WRONGTYPE"):
        opened.run(maps.read_map(text))


@pytest.mark.async_only
def test_a_crowd_writes_maps_and_cancelled_ones_leave_the_store_usable(opened, maps):
    keys = [opened.key() for _ in range(60)]

    async def work():
        tasks = [asyncio.create_task(maps.write_maps([MapChange(key, {b"a": b"x" * 20_000})])) for key in keys]
        for number, task in enumerate(tasks):
            if number % 3 == 0:
                await asyncio.sleep(0)
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await maps.write_maps([MapChange(key, {b"n": key.encode()}, whole=True) for key in keys])
        return await asyncio.gather(*(maps.read_map(key) for key in keys))

    assert opened.run(work()) == [{b"n": key.encode()} for key in keys]


CHANGES = st.lists(
    st.builds(
        lambda fields, gone, whole: MapChange("", fields, gone, None, whole),
        st.dictionaries(st.binary(max_size=3), st.binary(max_size=20), max_size=4),
        st.lists(st.binary(max_size=3), max_size=3),
        st.booleans(),
    ),
    max_size=6,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES)
def test_changes_mean_what_they_mean_for_a_dictionary(opened, maps, changes):
    key, model = opened.key(), {}
    for change in changes:
        opened.run(maps.write_maps([change._replace(key=key)]))
        model = {**({} if change.whole else model), **change.fields}
        model = {name: value for name, value in model.items() if name not in change.gone}
    assert opened.run(maps.read_map(key)) == model


def _let_pass(opened, maps, seconds):
    """By the clock of the backend itself."""
    watch = opened.key()
    opened.run(maps.write_maps([MapChange(watch, {b"w": b""}, ttl_s=seconds)]))
    _until(lambda: opened.run(maps.read_map(watch)) == {})


def _until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
