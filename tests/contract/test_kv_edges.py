"""The corners of bytes by key, on every backend."""

from __future__ import annotations

import asyncio
import math
import random

import pytest

from langchain_llmops.core.errors import ConfigurationError, StoreError

COUNTER_MAX = 2**63 - 1


@pytest.mark.parametrize("ttl_s", [0, -1, math.nan, math.inf])
def test_a_time_to_live_that_is_none_is_refused_and_nothing_is_stored(opened, kv, ttl_s):
    key = opened.key()
    for call in (
        lambda: kv.set(key, b"x", ttl_s),
        lambda: kv.set_many({key: b"x"}, ttl_s),
        lambda: kv.add(key, b"x", ttl_s),
        lambda: kv.increment(key, 1, ttl_s),
    ):
        with pytest.raises(ConfigurationError, match="time to live must be"):
            opened.run(call())
    assert opened.run(kv.get(key)) is None


@pytest.mark.parametrize("ttl_s", [1e-9, 3600 * 24 * 365 * 1000.0])
def test_tiny_and_enormous_times_to_live_are_taken(opened, kv, ttl_s):
    opened.run(kv.set(opened.key(), b"x", ttl_s))


@pytest.mark.parametrize("value", [b"", b"twelve", b"1.5", b"\xff\x00", b"9" * 30])
def test_what_is_no_counter_is_refused_and_stays_as_it_was(opened, kv, value):
    key = opened.key()
    opened.run(kv.set(key, value, 60))
    with pytest.raises(StoreError, match="no counter"):
        opened.run(kv.increment(key))
    assert opened.run(kv.get(key)) == value


def test_a_counter_that_would_overflow_is_refused_and_stays_as_it_was(opened, kv):
    key = opened.key()
    assert opened.run(kv.increment(key, COUNTER_MAX)) == COUNTER_MAX
    with pytest.raises(StoreError, match="no counter"):
        opened.run(kv.increment(key))
    assert opened.run(kv.get(key)) == str(COUNTER_MAX).encode()


def test_a_counter_made_by_set_can_be_counted_on(opened, kv):
    key = opened.key()
    opened.run(kv.set(key, b"-41"))
    assert opened.run(kv.increment(key, 83)) == 42


def test_counting_does_not_lengthen_a_life(opened, kv):
    key, watch = opened.key(), opened.key()
    opened.run(kv.increment(key, 1, 0.2))
    opened.run(kv.set(watch, b"x", 0.2))
    opened.run(kv.increment(key, 1, 3600))
    while opened.run(kv.get(watch)) is not None:
        continue
    assert opened.run(kv.increment(key, 1)) == 1


def test_two_long_keys_that_differ_at_their_end_are_two_keys(opened, kv):
    long = opened.key() + "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=10_240))
    opened.run(kv.set_many({long + "a": b"a", long + "b": b"b"}))
    assert opened.run(kv.get_many([long + "b", long + "a"])) == [b"b", b"a"]
    assert opened.run(kv.increment(long)) == 1


@pytest.mark.parametrize("text", ["\ud800", "\udfff\x00", "\uffff", "é", "e\u0301"], ids=range(5))
def test_text_that_is_no_valid_unicode_is_a_key_all_the_same(opened, kv, text):
    key = opened.key(text)
    opened.run(kv.set(key, b"x"))
    assert opened.run(kv.get_many([key, key[:-1]])) == [b"x", None]


def test_thousands_of_items_go_at_once(opened, kv):
    prefix = opened.key()
    items = {f"{prefix}{n}": str(n).encode() for n in range(5000)}
    opened.run(kv.set_many(items, 60))
    asked = [f"{prefix}{n}" for n in range(18_000)]
    found = opened.run(kv.get_many(asked))
    assert found[:5000] == list(items.values())
    assert set(found[5000:]) == {None}
    assert opened.run(kv.delete(*asked)) == 5000


def test_a_key_named_twice_is_deleted_once_and_read_twice(opened, kv):
    key = opened.key()
    opened.run(kv.set(key, b"x"))
    assert opened.run(kv.get_many([key, key])) == [b"x", b"x"]
    assert opened.run(kv.delete(key, key)) == 1


def test_nothing_to_do_is_done(opened, kv):
    opened.run(kv.set_many({}))
    assert opened.run(kv.get_many([])) == []
    assert opened.run(kv.delete()) == 0


@pytest.mark.async_only
def test_one_of_a_hundred_coroutines_adds(opened, kv):
    key = opened.key()

    async def race():
        return await asyncio.gather(*(kv.add(key, str(n).encode(), 60) for n in range(100)))

    wins = opened.run(race())
    assert wins.count(True) == 1
    assert opened.run(kv.get(key)) == str(wins.index(True)).encode()


@pytest.mark.async_only
def test_writers_of_the_same_items_in_any_order_do_not_block_each_other(opened, kv):
    keys = [opened.key() for _ in range(400)]

    async def write(seed: int):
        order = random.Random(seed).sample(keys, len(keys))
        await kv.set_many(dict.fromkeys(order, str(seed).encode()))
        await kv.delete(*order[:5])

    async def crowd():
        await asyncio.gather(*(write(seed) for seed in range(30)))
        await kv.set_many(dict.fromkeys(keys, b"last"))
        return await kv.get_many(keys)

    assert opened.run(crowd()) == [b"last"] * 400


@pytest.mark.async_only
def test_a_cancelled_call_leaves_the_store_usable(opened, kv):
    key = opened.key()

    async def work():
        for delay in range(12):
            tasks = [asyncio.create_task(kv.set(f"{key}{n}", b"x" * 50_000)) for n in range(20)]
            for _ in range(delay):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert await kv.get(f"{key}{1}") == b"x" * 50_000
        return await asyncio.gather(*(kv.increment(key) for _ in range(30)))

    assert sorted(opened.run(work())) == list(range(1, 31))
