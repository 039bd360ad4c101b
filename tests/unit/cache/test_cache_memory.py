"""The cache's first level: how much it holds, how long, what it gives back, and who has to leave."""

from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
import threading
import tracemalloc
import weakref
from bisect import bisect
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from unittest.mock import MagicMock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from langchain_llmops.cache.codec import Entry
from langchain_llmops.cache.memory import ENTRY_BYTES, Memory
from langchain_llmops.core.errors import ConfigurationError
from tests.support.cache import Clock

ROOM = 20_000
KEYS = [f"{number:02x}" for number in range(40)]


@pytest.fixture
def steady() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock, steady) -> Memory:
    return Memory(ROOM, clock=clock, steady=steady)


class Against(RuleBasedStateMachine):
    """Any walk over a memory that is mostly full, beside a dict that forgets only what it is told to forget."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.memory = Memory(ROOM, clock=self.clock, steady=Clock())
        self.model: dict[str, tuple[bytes, float]] = {}
        self.number = 0

    @rule(
        key=st.sampled_from(KEYS),
        size=st.integers(0, 2_500),
        left_s=st.sampled_from([-1.0, 0.0, 5.0, 30.0, float("nan"), float("inf")]),
    )
    def put(self, key, size, left_s) -> None:
        self.number += 1
        data = b"%d:" % self.number + b"x" * size
        self.memory.put(key, data, left_s)
        self.model.pop(key, None)
        if left_s > 0:
            self.model[key] = (data, self.clock() + left_s)
        if left_s > 0 and size < ROOM / 10 - ENTRY_BYTES - 1_000:
            assert self.memory.get(key) == data  # what was just put is there
        else:
            assert self.memory.get(key) in (data if left_s > 0 else None, None)

    @rule(count=st.integers(1, 40), size=st.integers(100, 1_200))
    def put_many(self, count, size) -> None:
        for key in KEYS[:count]:
            self.put(key, size, 30.0)

    @rule(key=st.sampled_from(KEYS), times=st.integers(1, 4))
    def look(self, key, times) -> None:
        for _ in range(times):
            found = self.memory.get(key)
            data, until = self.model.get(key, (None, 0.0))
            assert found is None or (found == data and self.clock() < until)

    @rule(key=st.sampled_from(KEYS))
    def remove(self, key) -> None:
        self.memory.remove(key)
        self.model.pop(key, None)

    @rule(seconds=st.sampled_from([0.5, 4.9, 5.0, 29.0]))
    def wait(self, seconds) -> None:
        self.clock.pass_s(seconds)

    @precondition(lambda self: self.number % 5 == 4)
    @rule()
    def clear(self) -> None:
        self.memory.clear()
        self.model.clear()
        assert len(self.memory) == self.memory.bytes == 0

    @invariant()
    def bound_is_kept(self) -> None:
        held = sum(self.memory.get(key) is not None for key in KEYS)
        assert held <= len(self.memory) <= len(KEYS)
        assert self.memory.bytes <= ROOM
        assert self.memory.bytes >= held * ENTRY_BYTES

    def teardown(self) -> None:
        for key in KEYS:
            self.memory.remove(key)
        assert len(self.memory) == self.memory.bytes == 0


Against.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyWalk = Against.TestCase


# bytes


@pytest.mark.parametrize("size", [0, 300, 5_000])
def test_what_it_counts_is_not_less_than_what_python_takes(size) -> None:
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        memory = Memory(1_000_000)
        for number in range(2_500):
            memory.put(os.urandom(32).hex(), os.urandom(size), 1e6 + number)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    taken = after - before
    assert memory.bytes <= min(1_000_000, 1.4 * taken)
    assert taken <= memory.bytes * 1.02


@pytest.mark.parametrize(("size", "tags"), [(0, 1), (300, 1), (300, 4), (5_000, 2)])
def test_what_an_entry_says_it_takes_is_not_less_than_what_python_takes(size, tags) -> None:
    gc.collect()
    names = [os.urandom(16).hex() for _ in range(tags)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        memory = Memory(10_000_000)
        for number in range(1_000):
            generations = {name: 2**61 + number * 7 + place for place, name in enumerate(names)}
            entry = Entry(1e9 + number, 60.0 + number, 0.5 + number, generations, os.urandom(size))
            memory.put(os.urandom(32).hex(), entry, 1e6 + number, size=entry.size)
            del entry, generations
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    taken = after - before
    assert memory.bytes <= 1.7 * taken
    assert taken <= memory.bytes * 1.02


def test_an_entry_over_a_tenth_of_the_bound_is_not_kept_and_takes_the_old_one_with_it(memory) -> None:
    memory.put("a", b"small", 10)
    memory.put("b", b"other", 10)
    memory.put("a", b"x" * (ROOM // 10), 10)
    assert (memory.get("a"), memory.get("b")) == (None, b"other")


def test_no_bytes_keep_nothing_and_fewer_are_refused() -> None:
    memory = Memory(0)
    memory.put("a", b"", 10)
    assert (memory.get("a"), len(memory)) == (None, 0)
    with pytest.raises(ConfigurationError, match="max_bytes"):
        Memory(-1)


# time


def test_an_entry_ends_when_its_time_is_over(memory, clock, steady) -> None:
    memory.put("a", b"1", 10)
    clock.pass_s(9.9)
    steady.pass_s(9.9)
    assert memory.get("a") == b"1"
    clock.pass_s(0.1)
    assert memory.get("a") is None


def test_a_clock_set_back_keeps_nothing_longer(memory, clock, steady) -> None:
    memory.put("a", b"1", 10)
    for _ in range(9):
        clock.pass_s(-3600)
        steady.pass_s(1)
        assert memory.get("a") == b"1"
    steady.pass_s(1)
    assert memory.get("a") is None


def test_a_sleep_that_the_steady_clock_does_not_see_ends_entries(memory, clock) -> None:
    memory.put("a", b"1", 10)
    clock.pass_s(3600)
    assert memory.get("a") is None


def test_an_ended_entry_never_comes_back_when_the_clock_is_set_back_after_a_new_one(memory, clock, steady) -> None:
    memory.put("a", b"old", 10)
    clock.pass_s(60)
    memory.put("a", b"new", 10)
    clock.pass_s(-60)
    assert memory.get("a") == b"new"
    steady.pass_s(10)
    assert memory.get("a") is None


def test_entries_that_have_ended_leave_first_however_often_they_were_asked_for(memory, clock) -> None:
    _fill(memory, 10, 5, name="short")
    _fill(memory, 25, 60, name="long")
    _look(memory, 10, name="short")
    _look(memory, 25, name="long")
    _fill(memory, 60, 5, name="scan")  # all that were looked for are old hands now
    for _ in range(3):
        assert _look(memory, 10, name="short") == 10
    clock.pass_s(5)
    _fill(memory, 15, 60, name="new")
    assert (_look(memory, 25, name="long"), _look(memory, 15, name="new")) == (25, 15)


# who leaves


def _fill(memory, count, left_s, *, name="x") -> None:
    for number in range(count):
        memory.put(f"{name}{number}", b"x" * 80, left_s)


def _look(memory, count, *, name) -> int:
    return sum(memory.get(f"{name}{number}") is not None for number in range(count))


def test_a_scan_pushes_nothing_out_that_was_asked_for_twice(memory) -> None:
    memory.put("hot", b"1", 60)
    _fill(memory, 10, 60)
    memory.get("hot")
    _fill(memory, 500, 60, name="scan")
    assert memory.get("hot") == b"1"


def test_one_that_comes_back_soon_after_it_left_stays_through_a_scan(memory) -> None:
    _fill(memory, 60, 60)
    gone = next(f"x{number}" for number in reversed(range(60)) if memory.get(f"x{number}") is None)
    memory.put(gone, b"back", 60)
    _fill(memory, 30, 60, name="scan")
    assert memory.get(gone) == b"back"


@pytest.mark.parametrize("exponent", [1.0, 1.2])
@pytest.mark.parametrize("entries", [20, 100, 200])
def test_it_hits_as_often_as_the_least_recently_used_policy_on_skewed_traffic(entries, exponent) -> None:
    chooser = random.Random(7)
    weights = list(accumulate((rank + 1) ** -exponent for rank in range(2_000)))
    asked = [f"{bisect(weights, chooser.random() * weights[-1]):04d}" for _ in range(6_000)]
    data = b"x" * 400
    memory = Memory(entries * (ENTRY_BYTES + sys.getsizeof("0000") + sys.getsizeof(data)))
    lru: OrderedDict[str, None] = OrderedDict()
    ours = theirs = 0
    for key in asked:
        if memory.get(key) is None:
            memory.put(key, data, 60)
        else:
            ours += 1
        if key in lru:
            theirs += 1
        lru[key] = None
        lru.move_to_end(key)
        if len(lru) > entries:
            lru.popitem(last=False)
    assert len(memory) == entries
    assert ours > 1.02 * theirs


# threads and processes


@pytest.mark.usefixtures("threads_that_interrupt_each_other_often")
def test_threads_find_only_whole_answers_of_their_key_and_the_bound_holds() -> None:
    memory = Memory(ROOM)
    over, wrong, ready = [], [], threading.Barrier(8)

    def walk(seed: int) -> None:
        chooser = random.Random(seed)
        ready.wait()
        for _ in range(3_000):
            key = chooser.choice(KEYS)
            match chooser.randrange(8):
                case 0 | 1 | 2:
                    data = key.encode() * chooser.randrange(1, 500)
                    memory.put(key, data, 60)
                case 3:
                    memory.remove(key)
                case _:
                    found = memory.get(key)
                    if found is not None and found != key.encode() * (len(found) // 2):
                        wrong.append(key)
            if memory._lock.acquire(timeout=5):
                over.append(memory.bytes > ROOM)
                memory._lock.release()

    _together(walk)
    assert not wrong
    assert not any(over)
    for key in KEYS:
        memory.remove(key)
    assert len(memory) == memory.bytes == memory._small_bytes == 0


@pytest.mark.usefixtures("threads_that_interrupt_each_other_often")
def test_a_key_that_stays_is_found_at_every_moment_while_others_come_and_go() -> None:
    memory = Memory(ROOM)
    lost, ready = [], threading.Barrier(8)
    memory.put("hot", b"1", 60)
    memory.get("hot")

    def walk(seed: int) -> None:
        ready.wait()
        for number in range(2_000):
            if seed % 2:
                memory.put(f"{number % 60}", b"x" * 300, 60)  # comes back as a ghost: the main queue turns
            lost.append(memory.get("hot") is None)

    _together(walk)
    assert not any(lost)


def _together(walk) -> None:
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(walk, range(8)))


def test_a_look_waits_for_nobody(memory, clock) -> None:
    memory.put("a", b"1", 10)
    with memory._lock:
        assert memory.get("a") == b"1"
        clock.pass_s(10)
        assert memory.get("a") is None
        assert memory.get("b") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda memory: memory.put("a", b"1", 10),
        lambda memory: memory.remove("a"),
        lambda memory: memory.clear(),
    ],
)
def test_whoever_changes_it_does_so_alone(memory, change) -> None:
    memory._lock = MagicMock()
    change(memory)
    assert [name for name, *_ in memory._lock.mock_calls] == ["__enter__", "__exit__"]


FORK = """
import os, signal, sys
from langchain_llmops.cache.memory import Memory

memory = Memory(100_000)
memory.put("a", b"1", 60)
held = sys.argv[1] == "held"
if held:
    memory._lock.acquire()  # as when another thread is putting
child = os.fork()
if child == 0:
    signal.alarm(10)
    print(memory.get("a"), len(memory), memory.bytes > 0)
    memory.put("b", b"2", 60)
    print(memory.get("b"), flush=True)
    os._exit(0)
if held:
    memory._lock.release()
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), memory.get("a"), memory.get("b"))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize(("moment", "kept"), [("free", "b'1' 1 True"), ("held", "None 0 False")])
def test_a_forked_child_keeps_what_was_whole_and_waits_for_no_thread_of_its_parent(moment, kept) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK, moment],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.stdout, done.stderr) == (f"{kept}\nb'2'\n0 b'1' None\n", "")


def test_a_memory_that_nobody_holds_goes_away() -> None:
    memory = weakref.ref(Memory(1_000))
    gc.collect()
    assert memory() is None
