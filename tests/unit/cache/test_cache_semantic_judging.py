"""What judgements do: to an entry's own threshold, to the published rate, to the level."""

from __future__ import annotations

import pytest

from langchain_llmops.cache.semantic import JUDGED_WINDOW, MIN_JUDGED, PROOFS
from langchain_llmops.core.stats import wilson
from tests.support.semantic import ASKED, FOREVER, OTHER, CountingEmbeddings, Question, a_near, level_of


@pytest.fixture
async def level():
    level = level_of(threshold=0.8)
    await level.learn(Question("g", ASKED), "k", FOREVER)
    return level


async def test_a_wrong_answer_is_not_given_to_that_text_again(level) -> None:
    near = await level.near(Question("g", OTHER))
    level.judge(near, False)
    assert await level.near(Question("g", OTHER)) is None


async def test_a_wrong_answer_says_nothing_of_other_entries(level) -> None:
    await level.learn(Question("g", "Where is my parcel now?"), "k2", FOREVER)
    level.judge(await level.near(Question("g", OTHER)), False)
    assert (await level.near(Question("g", "where is my parcel now"))).key == "k2"


async def test_what_was_judged_outlives_a_new_answer_at_the_same_key(level) -> None:
    level.judge(await level.near(Question("g", OTHER)), False)
    await level.learn(Question("g", ASKED), "k", FOREVER)
    assert await level.near(Question("g", OTHER)) is None


async def test_a_candidate_below_the_threshold_becomes_a_hit_when_it_proved_right_often_enough() -> None:
    level = level_of(threshold=0.99)
    await level.learn(Question("g", ASKED), "k", FOREVER)
    for _ in range(PROOFS):
        assert await level.near(Question("g", OTHER)) is None
        (near,) = level.take()
        assert not near.hit
        level.judge(near, True)
    assert (await level.near(Question("g", OTHER))).hit
    assert (level.stats()["judged"], level.stats()["judged:explored"]) == (0, PROOFS)


async def test_right_answers_never_bring_a_threshold_below_a_wrong_one(level) -> None:
    level.judge(a_near(score=0.9), False)
    for _ in range(10 * PROOFS):
        level.judge(a_near(score=0.7, hit=False), True)
    assert level._groups["g"].entries["k"].threshold > 0.9


async def test_only_the_drawn_share_of_candidates_is_explored() -> None:
    draws = iter([0.05, 0.15, 0.09, 0.95])
    level = level_of(threshold=0.99, explore=0.1, random=lambda: next(draws))
    await level.learn(Question("g", ASKED), "k", FOREVER)
    for _ in range(4):
        await level.near(Question("g", OTHER))
    assert len(level.take()) == 2


def test_the_rate_is_published_with_its_interval() -> None:
    level = level_of(max_false_hit_rate=0.5)
    for number in range(100):
        level.judge(a_near(), number >= 3)
    stats = level.stats()
    low, high = wilson(3, 100)
    assert (stats["judged"], stats["wrong"], stats["false_hit_rate"]) == (100, 3, 0.03)
    assert (stats["false_hit_low"], stats["false_hit_high"]) == (low, high)


def test_candidates_below_the_threshold_do_not_count_against_the_rate() -> None:
    level = level_of()
    for _ in range(2 * MIN_JUDGED):
        level.judge(a_near(hit=False), False)
    assert (level.stats()["judged"], level.stats()["off"]) == (0, False)


@pytest.mark.parametrize("mode", ["shadow", "serve"])
async def test_a_level_over_its_budget_switches_itself_off_and_says_so_once(mode, caplog) -> None:
    embeddings = CountingEmbeddings()
    level = level_of(embeddings, mode=mode, max_false_hit_rate=0.05)
    await level.learn(Question("g", ASKED), "k", FOREVER)
    for number in range(2 * MIN_JUDGED):
        level.judge(a_near(key="another"), number % 4 != 0)
    assert level.stats()["off"] is True
    assert len([record for record in caplog.records if "switched itself off" in record.message]) == 1
    asked = len(embeddings.asked)
    assert await level.near(Question("g", OTHER)) is None
    await level.learn(Question("g", "Where is my parcel?"), "k2", FOREVER)
    assert (len(embeddings.asked), level.stats()["entries"]) == (asked, 1)


async def test_a_level_switched_on_again_begins_anew() -> None:
    level = level_of()
    await level.learn(Question("g", ASKED), "k", FOREVER)
    for _ in range(MIN_JUDGED):
        level.judge(a_near(key="another"), False)
    assert await level.near(Question("g", OTHER)) is None
    level.switch_on()
    assert await level.near(Question("g", OTHER)) is not None
    level.judge(a_near(), True)
    assert level.stats()["off"] is False


def test_a_level_within_its_budget_stays_on() -> None:
    level = level_of(max_false_hit_rate=0.05)
    for number in range(1000):
        level.judge(a_near(), number % 25 != 0)
    assert level.stats()["off"] is False


def test_a_few_wrong_answers_are_no_rate_yet() -> None:
    level = level_of()
    for _ in range(MIN_JUDGED - 1):
        level.judge(a_near(), False)
    assert level.stats()["off"] is False


def test_a_good_past_does_not_hide_a_bad_present() -> None:
    level = level_of(max_false_hit_rate=0.05)
    for _ in range(20 * JUDGED_WINDOW):
        level.judge(a_near(), True)
    for number in range(JUDGED_WINDOW):
        level.judge(a_near(), number % 5 != 0)
    assert level.stats()["off"] is True
