"""What bytes by key mean, on every backend."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_llmops.core.concurrency import drive
from langchain_llmops.stores.base import open_store

HOSTILE = [
    "",
    "a b",
    "{tag}",
    "*",
    "?[a-z]",
    "a:b:c",
    "\x00",
    "ü\U0001f600",
    "'; DROP TABLE llmops_kv; --",
    "k" * 10_240,
]


def test_a_value_comes_back_as_it_was_set(opened, kv):
    key = opened.key()
    assert opened.run(kv.get(key)) is None
    for value in (b"", b"\x00\xff\r\n", b"x" * 1_000_000):
        opened.run(kv.set(key, value))
        assert opened.run(kv.get(key)) == value


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_any_text_is_a_key_and_touches_no_other(opened, kv, text):
    key, neighbour = opened.key(text), opened.key(text)
    opened.run(kv.set(key, b"mine"))
    opened.run(kv.set(neighbour, b"other"))
    assert opened.run(kv.delete(key)) == 1
    assert opened.run(kv.get_many([key, neighbour])) == [None, b"other"]


def test_many_values_come_in_the_order_asked(opened, kv):
    keys = [opened.key() for _ in range(50)]
    opened.run(kv.set_many({key: str(n).encode() for n, key in enumerate(keys)}))
    asked = [*reversed(keys), "absent:" + keys[0], keys[0]]
    wanted = [str(n).encode() for n in reversed(range(50))] + [None, b"0"]
    assert opened.run(kv.get_many(asked)) == wanted
    assert opened.run(kv.get_many([])) == []


def test_a_value_is_gone_when_its_time_is_up(opened, kv):
    short, long, forever = opened.key(), opened.key(), opened.key()
    opened.run(kv.set(short, b"1", 0.05))
    opened.run(kv.set_many({long: b"2"}, 60))
    opened.run(kv.set(forever, b"3"))
    _until(lambda: opened.run(kv.get(short)) is None)
    assert opened.run(kv.get_many([short, long, forever])) == [None, b"2", b"3"]
    assert opened.run(kv.delete(short)) == 0


def test_setting_anew_forgets_the_old_time_to_live(opened, kv):
    key, watch = opened.key(), opened.key()
    opened.run(kv.set(key, b"short", 0.05))
    opened.run(kv.set(key, b"long"))
    opened.run(kv.set(watch, b"x", 0.1))
    _until(lambda: opened.run(kv.get(watch)) is None)
    assert opened.run(kv.get(key)) == b"long"


def test_only_one_of_many_adds_wins(opened, kv):
    key = opened.key()
    wins = []
    threads = [threading.Thread(target=_add, args=(opened.url, key, wins)) for _ in range(8)]
    if opened.url == "memory://":
        wins = [opened.run(kv.add(key, b"x")) for _ in range(8)]
    else:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(wins) == [False] * 7 + [True]


def test_an_expired_value_can_be_added_again(opened, kv):
    key = opened.key()
    assert opened.run(kv.add(key, b"1", 0.05))
    _until(lambda: opened.run(kv.get(key)) is None)
    assert opened.run(kv.add(key, b"2"))
    assert opened.run(kv.get(key)) == b"2"


def test_a_counter_counts_and_expires_from_its_making(opened, kv):
    key = opened.key()
    assert [opened.run(kv.increment(key, by)) for by in (1, 5, -2)] == [1, 6, 4]
    assert opened.run(kv.get(key)) == b"4"
    short = opened.key()
    opened.run(kv.increment(short, 3, 0.05))
    _until(lambda: opened.run(kv.get(short)) is None)
    assert opened.run(kv.increment(short, 1, 60)) == 1


@pytest.mark.between_processes
def test_no_increment_is_lost_between_processes(opened, kv):
    key = opened.key()
    opened.run(kv.increment(key, 0))
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_count, args=(opened.url, key, 50)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert opened.run(kv.get(key)) == b"100"


def test_deleting_says_how_many_there_were(opened, kv):
    keys = [opened.key() for _ in range(3)]
    opened.run(kv.set_many(dict.fromkeys(keys[:2], b"x")))
    assert opened.run(kv.delete(*keys)) == 2
    assert opened.run(kv.delete(*keys)) == 0
    assert opened.run(kv.delete()) == 0


@pytest.mark.async_only
def test_a_store_serves_a_second_event_loop(opened, kv):
    key = opened.key()
    opened.run(kv.set(key, b"first loop"))
    assert asyncio.run(_from_another_loop(kv, key)) == b"first loop"
    assert opened.run(kv.get(key)) == b"first loop"


@pytest.mark.async_only
def test_many_coroutines_share_few_connections(opened, kv):
    keys = [opened.key() for _ in range(300)]

    async def crowd():
        await asyncio.gather(*(kv.set(key, key.encode()) for key in keys))
        return await asyncio.gather(*(kv.get(key) for key in keys))

    assert opened.run(crowd()) == [key.encode() for key in keys]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(items=st.dictionaries(st.text(max_size=30), st.binary(max_size=200), max_size=8))
def test_what_is_set_is_what_is_read(opened, kv, items):
    prefix = opened.key()
    named = {prefix + key: value for key, value in items.items()}
    opened.run(kv.set_many(named))
    assert opened.run(kv.get_many(list(named))) == list(named.values())


def _add(url, key, wins):
    store = open_store(url, blocking=True)
    wins.append(drive(store.kv.add(key, b"x")))
    drive(store.aclose())


def _count(url, key, times):
    store = open_store(url, blocking=True, timeout_s=30)
    for _ in range(times):
        drive(store.kv.increment(key))
    drive(store.aclose())


async def _from_another_loop(kv, key):
    return await kv.get(key)


def _until(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
