"""The semantic level: whose answers it offers, and when."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_llmops.cache.semantic import CANDIDATES, MAX_CHARS, PAUSE_AFTER_ERROR_S, PENDING
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError
from tests.support.semantic import ASKED, FOREVER, OTHER, CountingEmbeddings, Question, level_of

PHRASES = [
    ASKED,
    OTHER,
    "Where is my parcel now?",
    "Where is my parcel right now?",
    "Cancel my plan",
    "cancel my plan!",
]


async def test_an_answer_to_other_words_of_the_question_is_near() -> None:
    level = level_of()
    await level.learn(Question("g", ASKED), "k", FOREVER)
    near = await level.near(Question("g", OTHER))
    assert near is not None
    assert (near.key, near.text, near.known, near.hit) == ("k", OTHER, ASKED, True)
    assert level.stats()["served"] == 1


def test_blocking_callers_get_the_same_with_no_event_loop() -> None:
    embeddings = CountingEmbeddings()
    level = level_of(embeddings)
    drive(level.learn(Question("g", ASKED), "k", FOREVER, blocking=True))
    near = drive(level.near(Question("g", OTHER), blocking=True))
    assert near is not None
    assert near.key == "k"
    assert {colour for colour, _ in embeddings.asked} == {"blocking"}


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "a b"]), st.sampled_from(PHRASES), st.booleans()), max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_group_never_sees_an_answer_of_another(steps) -> None:
    level = level_of()
    for number, (group, text, learns) in enumerate(steps):
        if learns:
            drive(level.learn(Question(group, text), f"{group}:{number}", FOREVER, blocking=True))
        else:
            near = drive(level.near(Question(group, text), blocking=True))
            assert near is None or (near.group == group and near.key.rpartition(":")[0] == group)


async def test_what_a_gate_refuses_is_not_near_however_alike_it_looks() -> None:
    level = level_of(threshold=0.0, min_similarity=-1.0)
    await level.learn(Question("g", "Convert 10 USD to EUR"), "k", FOREVER)
    assert await level.near(Question("g", "Convert 100 USD to EUR")) is None
    assert level.stats()["refused:numbers"] == 1


async def test_what_is_not_alike_enough_is_not_near() -> None:
    level = level_of(min_similarity=0.999)
    await level.learn(Question("g", ASKED), "k", FOREVER)
    assert await level.near(Question("g", OTHER)) is None


async def test_the_best_of_several_answers_is_near() -> None:
    level = level_of(threshold=0.1)
    await level.learn(Question("g", "How do I reset the account password of a friend?"), "far", FOREVER)
    await level.learn(Question("g", ASKED), "close", FOREVER)
    near = await level.near(Question("g", OTHER))
    assert near is not None
    assert near.key == "close"


async def test_shadow_never_serves_and_keeps_what_it_would_have_served() -> None:
    level = level_of(mode="shadow")
    await level.learn(Question("g", ASKED), "k", FOREVER)
    for text in PHRASES:
        assert await level.near(Question("g", text)) is None
    kept = level.take()
    assert {near.known for near in kept} == {ASKED}
    assert (level.stats()["would_be"], level.stats()["served"]) == (len(kept), 0)
    assert level.take() == []


async def test_an_answer_is_near_until_it_ends_and_not_longer(clock) -> None:
    level = level_of(clock=clock)
    await level.learn(Question("g", ASKED), "k", clock() + 10)
    clock.pass_s(9.9)
    assert await level.near(Question("g", OTHER)) is not None
    clock.pass_s(0.2)
    assert await level.near(Question("g", OTHER)) is None
    assert level.stats()["entries"] == 0


async def test_an_answer_that_has_ended_is_not_learnt(clock) -> None:
    level = level_of(clock=clock)
    await level.learn(Question("g", ASKED), "k", clock())
    assert level.stats()["entries"] == 0


async def test_a_forgotten_answer_is_not_near_in_any_group() -> None:
    level = level_of()
    for group in ("a", "b"):
        await level.learn(Question(group, ASKED), "k", FOREVER)
    level.forget("k")
    level.forget("never learnt")
    assert [await level.near(Question(group, OTHER)) for group in ("a", "b")] == [None, None]
    assert (level.stats()["entries"], level.stats()["groups"]) == (0, 0)


# what it costs


async def test_a_call_that_misses_and_learns_embeds_its_text_once() -> None:
    embeddings = CountingEmbeddings()
    level = level_of(embeddings)
    await level.learn(Question("g", ASKED), "k", FOREVER)
    other = Question("g", "Where is my parcel?")
    assert await level.near(other) is None
    await level.learn(other, "k2", FOREVER)
    assert embeddings.asked == [("async", ASKED), ("async", other.text)]


async def test_a_group_that_holds_nothing_costs_no_embedding() -> None:
    embeddings = CountingEmbeddings()
    assert await level_of(embeddings).near(Question("g", ASKED)) is None
    assert embeddings.asked == []


async def test_a_text_that_is_empty_or_a_document_is_neither_embedded_nor_kept() -> None:
    embeddings = CountingEmbeddings()
    level = level_of(embeddings)
    for text in ("", "word " * MAX_CHARS):
        await level.learn(Question("g", text), "k", FOREVER)
    assert (embeddings.asked, level.stats()["entries"]) == ([], 0)


@pytest.mark.parametrize("options", [{"max_entries": 20}, {"max_entries_per_group": 5}])
async def test_memory_is_bounded_and_the_least_recently_used_goes_first(options) -> None:
    level = level_of(**options)
    await level.learn(Question("g0", ASKED), "kept", FOREVER)
    for number in range(60):
        await level.learn(Question(f"g{number % 4}", f"a question on subject{number}x"), f"k{number}", FOREVER)
        assert await level.near(Question("g0", OTHER)) is not None, number
    assert level.stats()["entries"] == 20
    assert len(level._order) == sum(len(group.entries) for group in level._groups.values()) == len(level._homes)
    assert all(len(group.entries) <= options.get("max_entries_per_group", 20) for group in level._groups.values())


async def test_what_waits_for_a_judge_is_bounded() -> None:
    level = level_of()
    await level.learn(Question("g", ASKED), "k", FOREVER)
    for _ in range(PENDING + 10):
        await level.near(Question("g", OTHER))
    assert len(level.take(10 * PENDING)) == PENDING


@pytest.mark.usefixtures("threads_that_interrupt_each_other_often")
def test_threads_may_share_a_level() -> None:
    level = level_of(max_entries=25, max_entries_per_group=CANDIDATES + 4)

    def work(number: int) -> None:
        question = Question(f"g{number % 5}", PHRASES[number % len(PHRASES)])
        drive(level.learn(question, f"k{number % 40}", FOREVER, blocking=True))
        near = drive(level.near(question, blocking=True))
        if near is not None:
            level.judge(near, True)
        level.forget(f"k{(number * 7) % 40}")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(400)))
    stats = level.stats()
    assert stats["errors"] == 0
    assert stats["judged"] == stats["served"] > 0
    assert stats["entries"] == sum(len(group.entries) for group in level._groups.values()) <= 25


GUARDED = ("_candidates", "_put", "_touch", "_remove", "_remember", "_move", "_interval")


@pytest.mark.parametrize("name", GUARDED)
async def test_what_threads_share_is_touched_under_the_lock_alone(name, monkeypatch) -> None:
    level = level_of(max_entries=1)
    held = []
    inner = getattr(level, name)
    monkeypatch.setattr(level, name, lambda *a, **k: (held.append(level._lock.locked()), inner(*a, **k))[1])
    await level.learn(Question("g", "Where is my parcel?"), "k1", FOREVER)
    await level.learn(Question("g", ASKED), "k", FOREVER)
    level.judge(await level.near(Question("g", OTHER)), True)
    level.stats()
    level.forget("k")
    assert held
    assert all(held)


async def test_tasks_may_share_a_level() -> None:
    level = level_of()
    await level.learn(Question("g", ASKED), "k", FOREVER)
    found = await asyncio.gather(*(level.near(Question("g", OTHER)) for _ in range(50)))
    assert {near.key for near in found if near} == {"k"}


# what may go wrong


async def test_embeddings_that_fail_make_a_miss_and_are_left_alone_for_a_while(clock, caplog) -> None:
    embeddings = CountingEmbeddings()
    level = level_of(embeddings, clock=clock)
    await level.learn(Question("g", ASKED), "k", FOREVER)
    embeddings.failing = ConnectionError("away, with a secret in its text")
    for text in ("one thing", "another thing"):
        assert await level.near(Question("g", text)) is None
        await level.learn(Question("g", text), "k2", FOREVER)
    assert (len(embeddings.asked), level.stats()["errors"]) == (2, 1)
    clock.pass_s(PAUSE_AFTER_ERROR_S + 0.1)
    assert await level.near(Question("g", OTHER)) is None
    assert level.stats()["errors"] == 2
    assert [record.message for record in caplog.records] == ["the semantic cache is skipped: ConnectionError"]
    embeddings.failing = None
    clock.pass_s(PAUSE_AFTER_ERROR_S + 0.1)
    assert await level.near(Question("g", OTHER)) is not None


class Wrong(CountingEmbeddings):
    def __init__(self) -> None:
        super().__init__()
        self.vector = [1.0] * 64

    async def aembed_query(self, text: str) -> list[float]:
        return self.vector


@pytest.mark.parametrize("vector", [[], [0.0] * 64, [float("nan")] * 64, [float("inf")] * 64, [1.0] * 63, None, ["x"]])
async def test_embeddings_that_answer_nonsense_make_a_miss(vector) -> None:
    embeddings = Wrong()
    level = level_of(embeddings)
    await level.learn(Question("g", ASKED), "k", FOREVER)
    embeddings.vector = vector
    assert await level.near(Question("g", OTHER)) is None
    assert level.stats()["errors"] == 1


class Hanging(CountingEmbeddings):
    async def aembed_query(self, text: str) -> list[float]:
        return await asyncio.Future()


async def test_embeddings_that_hang_hold_a_call_no_longer_than_told() -> None:
    level = level_of(Hanging(), timeout_s=0.001)
    async with asyncio.timeout(3):
        await level.learn(Question("g", ASKED), "k", FOREVER)
    assert level.stats()["errors"] == 1


async def test_a_cancelled_call_is_cancelled() -> None:
    task = asyncio.ensure_future(level_of(Hanging(), timeout_s=60).learn(Question("g", ASKED), "k", FOREVER))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@given(st.text(max_size=40), st.text(max_size=40))
@settings(deadline=None)
def test_no_text_raises_into_a_call(one, other) -> None:
    level = level_of(threshold=0.0, min_similarity=-1.0)
    for text in (one, "\ud800 " + one):
        drive(level.learn(Question("g", text), "k", FOREVER, blocking=True))
        drive(level.near(Question("g", other), blocking=True))
    assert level.stats()["errors"] == 0


@pytest.mark.parametrize(
    "options", [{"mode": "on"}, {"max_false_hit_rate": 0.0}, {"max_false_hit_rate": 1.0}, {"max_entries": 0}]
)
def test_an_option_that_makes_no_sense_is_refused(options) -> None:
    with pytest.raises(ConfigurationError):
        level_of(**options)


def test_the_level_works_without_numpy() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from tests.support.semantic import *\n"
        "from langchain_llmops.core.concurrency import drive\n"
        "level = level_of()\n"
        "drive(level.learn(Question('g', ASKED), 'k', FOREVER, blocking=True))\n"
        "print(drive(level.near(Question('g', OTHER), blocking=True)).key)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.stdout.strip(), done.stderr) == ("k", "")
