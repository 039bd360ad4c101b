"""The same for sync callers on many threads."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.embeddings import Embeddings

from langchain_llmops.cache.embeddings import CachedEmbeddings
from tests.support.models import DEADLINE_S
from tests.support.shelves import MemoryShelves


class Gated(Embeddings):
    """Answers when `gate` is open; `entered` counts the calls that came in."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)
        self.errors: list[BaseException] = []
        self.bad: set[str] = set()

    def embed_documents(self, texts):
        self.calls.append(list(texts))
        self.entered.release()
        assert self.gate.wait(DEADLINE_S)
        if self.errors:
            raise self.errors.pop()
        if self.bad & set(texts):
            raise ValueError("no such text")
        return [[float(len(text)), 0.1] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


@pytest.fixture
def gated() -> Gated:
    return Gated()


@pytest.fixture
def cached(gated, clock) -> CachedEmbeddings:
    shelves = MemoryShelves(clock)
    return CachedEmbeddings(gated, shelves, shelves, model="gated", symmetric=True, window_s=DEADLINE_S)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(64) as pool:
        yield pool


def aboard(cached) -> int:
    return sum(len(line._waiting) for line in [*cached._threads.values()])


def until(condition) -> None:
    turn = threading.Event()
    for _ in range(int(DEADLINE_S * 1000)):
        if condition():
            return
        turn.wait(0.001)
    raise AssertionError("it never came to that")


def behind_a_call(cached, gated, pool, texts):
    """Callers of texts, all of whom came while a call of another was under way; and that call."""
    gated.gate.clear()
    first = pool.submit(cached.embed_query, "first")
    assert gated.entered.acquire(timeout=DEADLINE_S)
    callers = [pool.submit(cached.embed_query, text) for text in texts]
    until(lambda: aboard(cached) == len(set(texts)) and cached.stats()["asked"] == len(texts) + 1)
    return first, callers


def test_fifty_threads_with_thirty_texts_behind_a_call_are_one_call(cached, gated, pool):
    texts = ["x" * (n % 30) for n in range(50)]
    first, callers = behind_a_call(cached, gated, pool, texts)
    gated.gate.set()
    assert [caller.result(DEADLINE_S) for caller in callers] == [[float(len(text)), 0.1] for text in texts]
    assert first.result(DEADLINE_S) == [5.0, 0.1]
    assert [len(call) for call in gated.calls] == [1, 30]
    assert not cached._threads


def test_many_threads_at_once_ask_for_each_text_once(cached, gated, pool):
    texts = ["x" * (n % 30) for n in range(300)]
    assert [*pool.map(cached.embed_query, texts)] == [[float(len(text)), 0.1] for text in texts]
    assert sorted(text for call in gated.calls for text in call) == sorted(set(texts))


def test_a_full_batch_does_not_wait(gated, clock, pool):
    shelves = MemoryShelves(clock)
    cached = CachedEmbeddings(
        gated, shelves, shelves, model="gated", symmetric=True, window_s=6 * DEADLINE_S, max_batch=4
    )
    _, callers = behind_a_call(cached, gated, pool, ["a", "bb", "ccc"])
    last = pool.submit(cached.embed_query, "dddd")
    assert gated.entered.acquire(timeout=DEADLINE_S / 2)  # while the first call is still under way
    assert sorted(map(len, gated.calls)) == [1, 4]
    gated.gate.set()
    assert [caller.result(DEADLINE_S)[0] for caller in [*callers, last]] == [1, 2, 3, 4]


def test_one_bad_text_fails_its_thread_alone(cached, gated, pool):
    gated.bad = {"bad"}
    _, callers = behind_a_call(cached, gated, pool, ["a", "bad", "cc", "dd d"])
    gated.gate.set()
    assert [type(caller.exception(DEADLINE_S)) for caller in callers] == [
        type(None),
        ValueError,
        type(None),
        type(None),
    ]


def test_a_thread_that_is_interrupted_leaves_its_work_to_who_waits_for_it(cached, gated, pool):
    gated.gate.clear()
    gated.errors = [KeyboardInterrupt()]

    def interrupted():
        with pytest.raises(KeyboardInterrupt):
            cached.embed_query("a")

    first = pool.submit(interrupted)
    assert gated.entered.acquire(timeout=DEADLINE_S)
    waiting = [pool.submit(cached.embed_query, "a") for _ in range(5)]
    until(lambda: cached.stats()["asked"] == 6)
    gated.gate.set()
    first.result(DEADLINE_S)
    assert [caller.result(DEADLINE_S) for caller in waiting] == [[1.0, 0.1]] * 5
    assert gated.calls == [["a"], ["a"]]


async def test_a_sync_call_inside_a_running_loop_waits_for_no_other_thread(cached, gated, pool):
    gated.gate.clear()
    other = pool.submit(cached.embed_query, "a")
    assert gated.entered.acquire(timeout=DEADLINE_S)
    pool.submit(lambda: gated.entered.acquire(timeout=DEADLINE_S) and gated.gate.set())
    assert cached.embed_query("a") == [1.0, 0.1]  # its own call, which opens the gate
    assert other.result(DEADLINE_S) == [1.0, 0.1]
    assert gated.calls == [["a"], ["a"]]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_a_thread_asks_does_not_wait_for_it(cached, gated, pool):
    gated.gate.clear()
    parent = pool.submit(cached.embed_query, "a")
    assert gated.entered.acquire(timeout=DEADLINE_S)
    child = os.fork()
    if not child:
        gated.gate = threading.Event()
        gated.gate.set()
        os._exit(0 if cached.embed_query("a") == [1.0, 0.1] else 1)
    ended: list[int] = []
    until(lambda: ended.extend(status for pid, status in [os.waitpid(child, os.WNOHANG)] if pid) or ended)
    assert ended == [0]
    gated.gate.set()
    assert parent.result(DEADLINE_S) == [1.0, 0.1]
