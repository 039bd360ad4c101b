"""What records in order mean, on every backend."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import StoreError, StoreUnavailableError
from langchain_llmops.stores.base import Appended, Durability, open_store
from tests.support.callers import Caller
from tests.support.servers import redis_server

COLOURS = pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
HOSTILE = [b"", b"\x00", b"\r\n$3\r\n", b"\xff\xfe", b"x" * 1_000_000]


def append(opened, key: str, *records: bytes) -> list[int]:
    return opened.run(opened.store.journal.append([(key, record) for record in records])).numbers


def test_records_come_back_in_their_order_as_they_were_given(opened, journal):
    key = opened.key("\x00{}* ")
    assert opened.run(journal.read(key)) == []
    numbers = append(opened, key, *HOSTILE)
    assert numbers == sorted(set(numbers))
    assert min(numbers) >= 1
    assert opened.run(journal.read(key)) == list(zip(numbers, HOSTILE, strict=True))


def test_reading_goes_on_after_a_number_and_stops_at_a_limit(opened, journal):
    key = opened.key()
    numbers = append(opened, key, *(b"%d" % n for n in range(10)))
    assert opened.run(journal.read(key, after=numbers[6])) == list(zip(numbers[7:], [b"7", b"8", b"9"], strict=True))
    assert opened.run(journal.read(key, after=numbers[6], limit=2)) == [(numbers[7], b"7"), (numbers[8], b"8")]
    assert opened.run(journal.read(key, after=numbers[9])) == []


def test_records_of_many_keys_are_numbered_in_the_order_given(opened, journal):
    keys = [opened.key() for _ in range(40)]
    entries = [(key, b"%d" % n) for n in range(3) for key in keys]
    numbers = opened.run(journal.append(entries)).numbers
    for place, key in enumerate(keys):
        own = numbers[place :: len(keys)]
        assert opened.run(journal.read(key)) == list(zip(own, [b"0", b"1", b"2"], strict=True))


def test_a_record_knows_the_one_before_it_even_when_that_was_trimmed(opened, journal):
    key, other = opened.key(), opened.key()
    assert opened.run(journal.last(key)) == 0
    first = opened.run(journal.append([(key, b"a"), (other, b"x"), (key, b"b")]))
    assert first.previous == [0, 0, first.numbers[0]]
    opened.run(journal.trim(key, first.numbers[2]))
    assert opened.run(journal.last(key)) == first.numbers[2]
    assert opened.run(journal.append([(key, b"c")])).previous == [first.numbers[2]]


def test_records_that_expire_are_never_pending(opened, journal):
    key = opened.key()
    numbers = opened.run(journal.append([(key, b"a")], ttl_s=60)).numbers
    assert opened.run(journal.read(key)) == [(numbers[0], b"a")]
    assert key not in opened.run(journal.pending(10_000))


def test_nothing_appended_is_nothing_there(opened, journal):
    assert opened.run(journal.append([])) == Appended([], [], 0)
    opened.run(journal.trim(opened.key(), 10**9))


def test_trimming_forgets_the_oldest_and_again_is_as_once(opened, journal):
    key, other = opened.key(), opened.key()
    numbers = append(opened, key, b"a", b"b", b"c")
    append(opened, other, b"other")
    for _ in range(2):
        opened.run(journal.trim(key, numbers[1]))
        assert opened.run(journal.read(key)) == [(numbers[2], b"c")]
    opened.run(journal.trim(key, numbers[2] + 1000))
    assert opened.run(journal.read(key)) == []
    assert len(opened.run(journal.read(other))) == 1


def test_a_late_trim_never_touches_a_newer_record(opened, journal):
    """Two who work off the same records: the slower one speaks of numbers that are long gone."""
    key = opened.key()
    (last,) = append(opened, key, b"old")
    opened.run(journal.trim(key, last))
    (newer,) = append(opened, key, b"new")
    assert newer > last
    opened.run(journal.trim(key, last))
    assert opened.run(journal.read(key, after=last)) == [(newer, b"new")]


def test_keys_with_records_are_known_until_they_are_trimmed(opened, journal):
    keys = {opened.key(text) for text in ("", "\x00", "\ud800", "{x}", "k" * 10_240)}
    last = {key: append(opened, key, b"1", b"2")[-1] for key in keys}
    assert keys <= set(opened.run(journal.pending(10**6)))
    for key in keys:
        opened.run(journal.trim(key, last[key] - 1))
    assert keys <= set(opened.run(journal.pending(10**6)))
    for key in keys:
        opened.run(journal.trim(key, last[key]))
    assert not keys & set(opened.run(journal.pending(10**6)))


@pytest.mark.between_processes
def test_threads_and_processes_never_get_the_same_number(opened, journal):
    key, results = opened.key(), []

    def work(mark: bytes) -> None:
        store = open_store(opened.url, blocking=True)
        for n in range(50):
            results.append(drive(store.journal.append([(key, mark + b"%d" % n)])).numbers[0])
        drive(store.aclose())

    threads = [threading.Thread(target=work, args=(mark,)) for mark in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = opened.run(journal.read(key))
    assert sorted(results) == [number for number, _ in found]
    assert len(set(results)) == 150
    for mark in (b"a", b"b", b"c"):
        own = [record for _, record in found if record.startswith(mark)]
        assert own == [mark + b"%d" % n for n in range(50)]


@pytest.mark.async_only
def test_coroutines_append_at_once(opened, journal):
    keys = [opened.key() for _ in range(100)]

    async def crowd():
        return await asyncio.gather(*(journal.append([(key, b"1"), (key, b"2")]) for key in keys))

    for key, done in zip(keys, opened.run(crowd()), strict=True):
        assert [number for number, _ in opened.run(journal.read(key))] == done.numbers


def test_servers_without_an_append_only_file_say_so(opened, journal):
    assert opened.run(journal.durability()) == Durability(aof=False, replicas=0)
    assert opened.run(journal.append([(opened.key(), b"x")], replicas=0)).replicas == 0


@COLOURS
def test_records_are_counted_on_replicas_and_a_silent_one_does_not_count(blocking):
    with (
        redis_server("--appendonly", "yes") as server,
        redis_server("--replicaof", "127.0.0.1", str(server.port)) as other,
    ):
        with Caller(server.url, blocking=blocking, timeout_s=20.0) as caller:
            journal = caller.store.journal
            until(lambda: caller.run(journal.append([("k", b"1")], replicas=1)).replicas == 1)  # it is still copying
            assert caller.run(journal.durability()) == Durability(aof=True, replicas=1)
            assert caller.run(journal.append([("k", b"2"), ("l", b"3")], replicas=1)).replicas == 1
        with Caller(server.url, blocking=blocking, timeout_s=0.4) as caller:
            other.pause()
            try:
                done = caller.run(caller.store.journal.append([("k", b"4")], replicas=1))
            finally:
                other.resume()
            assert done.replicas == 0
            assert caller.run(caller.store.journal.read("k"))[-1] == (done.numbers[0], b"4")


@COLOURS
def test_records_outlive_the_server_where_it_keeps_a_file(blocking):
    with redis_server("--appendonly", "yes", "--appendfsync", "always") as server:
        with Caller(server.url, blocking=blocking) as caller:
            journal = caller.store.journal
            numbers = caller.run(journal.append([("k", b"1"), ("k", b"2")])).numbers
            server.kill()
            for call in (
                lambda: journal.append([("k", b"3")]),
                lambda: journal.read("k"),
                lambda: journal.trim("k", 9),
                journal.pending,
                journal.durability,
            ):
                with pytest.raises(StoreUnavailableError):
                    caller.run(call())
            server.restart()
            until(lambda: answers(caller))  # it loads its file
            assert caller.run(journal.read("k")) == list(zip(numbers, [b"1", b"2"], strict=True))
            assert caller.run(journal.append([("k", b"4")])).numbers[0] > numbers[1]


@pytest.mark.between_processes
def test_a_refused_command_is_a_typed_error(opened, journal):
    key = opened.key()
    (number,) = append(opened, key, b"1")
    with pytest.raises(StoreError, match="refused a command"):
        opened.run(journal.read(key, after=number, limit=-(2**70)))
    with pytest.raises(StoreError):
        opened.run(journal.trim(key, 2**70))


@COLOURS
def test_a_shard_that_has_moved_is_found_and_what_is_appended_is_there_once(redis_cluster_url, blocking):
    with Caller(redis_cluster_url, blocking=blocking) as caller:
        journal, key = caller.store.journal, f"moved-{blocking}"
        caller.run(journal.append([(key, b"1")]))
        driver = caller.run(caller.store._redis._line._clients.get()).driver
        cache = driver.nodes_manager.slots_cache
        nodes = [cache[slot] for slot in (0, 8000, 16_000)]
        for slot in range(16_384):  # as if every slot had gone to another node
            cache[slot] = nodes[(nodes.index(cache[slot]) + 1) % 3] if cache[slot] in nodes else nodes[0]
        caller.run(journal.append([(key, b"2")]))
        assert [record for _, record in caller.run(journal.read(key))][-2:] == [b"1", b"2"]
        caller.run(journal.trim(key, 10**9))


def answers(caller: Caller) -> bool:
    try:
        return caller.run(caller.store.ping()) >= 0
    except StoreUnavailableError:
        return False


def until(condition) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
