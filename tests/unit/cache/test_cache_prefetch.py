"""The likely next request is asked ahead, within its budget and its group, and only while that pays."""

from __future__ import annotations

import asyncio
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_llmops.cache.payoff import Verdict
from langchain_llmops.cache.prefetch import Asked
from tests.support.cache import Clock
from tests.support.prefetching import World

HOUR = 3_600.0


@pytest.fixture
def world(clock) -> World:
    return World(clock)


async def test_the_likely_next_request_is_answered_before_it_comes(world) -> None:
    world.teach("ab")
    assert await world.walk("ab") == [False, True]
    assert [(wanted.text, wanted.after.text) for wanted in world.asked] == [("b", "a")]
    stats = world.prefetcher.stats()
    assert {name: stats[name] for name in ("issued", "used", "wasted", "open")} == {
        "issued": 1, "used": 1, "wasted": 0, "open": 0
    }  # fmt: skip
    assert stats["precision"] == 1.0
    assert stats["precision_low"] < 0.25
    assert (stats["spent_usd"], stats["saved_usd"], stats["saved_s"]) == pytest.approx((0.001, 0.001, 3.0))


async def test_a_prefetch_counts_once_and_only_within_its_time_to_live(world, clock) -> None:
    world.teach("ab")
    await world.walk("abb")
    assert world.count("used") == 1
    clock.pass_s(301.0)
    await world.walk("a", session="two")
    clock.pass_s(300.0)
    await world.walk("b", session="two")
    assert (world.count("issued"), world.count("used"), world.count("wasted")) == (2, 1, 1)


@pytest.mark.parametrize(("age_s", "share"), [(0.0, 1.0), (75.0, 0.75), (270.0, 0.1)])
async def test_a_use_gains_the_less_the_older_the_answer_is(world, clock, age_s, share) -> None:
    """The answer that it spared would have lived for a whole time to live from now on."""
    world.teach("ab")
    await world.walk("a")
    clock.pass_s(age_s)
    await world.walk("b")
    assert (world.count("saved_usd"), world.count("saved_s")) == pytest.approx((0.001 * share, 3.0 * share))
    assert world.count("used") == 1


async def test_a_prefetch_that_the_cache_has_lost_is_wasted(world) -> None:
    world.teach("ab")
    await world.walk("a")
    world.cache.clear()
    assert await world.walk("b") == [False]
    assert (world.count("used"), world.count("wasted"), world.count("open")) == (0, 1, 0)


async def test_a_request_that_comes_while_it_is_prefetched_saves_what_it_did_not_wait(world) -> None:
    world.teach("ab")
    landing = asyncio.Event()

    async def slow(wanted) -> Asked:
        await landing.wait()
        return Asked(0.001)

    world.answer = slow
    await world.walk("a")
    world.cache[world.asked[0].name] = math.inf  # the flight that the request joins
    world.request("b")
    world.request("b", "another session")
    assert (world.count("in_flight"), world.count("used")) == (1, 0)
    assert world.count("saved_usd") == pytest.approx(0.001)
    landing.set()
    await world.prefetcher.aclose()
    assert (world.count("in_flight"), world.count("used"), world.count("open")) == (0, 1, 0)


@pytest.mark.parametrize(
    ("told", "options", "reason"),
    [
        ({"tools": True}, {}, None),
        ({}, {"idle": lambda: False}, "busy"),
        ({}, {"key": lambda _: None}, "unaskable"),
        ({}, {"cached": lambda _: True}, "cached"),
        ({}, {"budget_usd_per_hour": 0.009}, "budget"),
        ({}, {"max_in_flight": 0}, "full"),
        ({}, {"min_probability": 0.99}, None),
        ({}, {"usd_per_second": 0.0}, None),
        ({}, {"verdict": lambda: Verdict(trickle=0)}, "trial"),
    ],
)
async def test_nothing_is_asked_ahead(clock, told, options, reason) -> None:
    world = World(clock, **options)
    world.teach("ab")
    await world.walk("a", **told)
    assert world.asked == []
    skipped = {name: n for name, n in world.prefetcher.stats().items() if name.startswith("skipped:")}
    assert skipped == ({} if reason is None else {f"skipped:{reason}": 1})


async def test_requests_with_tools_are_neither_learnt_nor_part_of_a_sequence(world) -> None:
    for n in range(20):
        await world.walk("a", session=str(n))
        await world.walk("t", session=str(n), tools=True)
        await world.walk("b", session=str(n))
    assert world.asked == []
    assert world.successors.held()["transitions"] == 0


async def test_a_prefetch_teaches_nothing_and_leads_to_no_other(world) -> None:
    world.teach("abc")

    async def through_the_cache(wanted) -> Asked:
        held = world.successors.held()
        world.request(wanted.text, "another session")
        assert world.successors.held() == held
        return Asked(0.001)

    world.answer = through_the_cache
    await world.walk("a")
    assert [wanted.text for wanted in world.asked] == ["b"]
    assert (world.count("errors"), world.count("open")) == (0, 1)


async def test_where_the_likeliest_is_cached_the_next_one_is_asked(world) -> None:
    world.teach("ab", times=20)
    world.teach("ac", times=19)
    await world.walk("ba", session="one")
    assert [wanted.text for wanted in world.asked] == ["c"]


async def test_an_answer_that_was_there_already_is_no_prefetch(world) -> None:
    world.teach("ab")

    async def hit(wanted) -> Asked:
        return Asked(hit=True)

    world.answer = hit
    await world.walk("a")
    assert (world.count("issued"), world.count("spent_usd"), world.count("skipped:cached")) == (0, 0, 1)


async def test_an_answer_that_may_not_be_stored_is_wasted_and_paid(world) -> None:
    world.teach("ab")

    async def unstored(wanted) -> Asked:
        return Asked(0.002, stored=False)

    world.answer = unstored
    await world.walk("a")
    assert (world.count("wasted"), world.count("spent_usd")) == (1, 0.002)


# laws of any traffic

TRAFFIC = st.lists(
    st.tuples(
        st.sampled_from(["g1", "g2"]),
        st.sampled_from(["s1", "s2"]),
        st.sampled_from("abc"),
        st.floats(0, 900),
        st.sampled_from(["ok", "ok", "ok", "raises", "hangs", "unstored", "hit", "odd", "lost"]),
    ),
    max_size=100,
)


@settings(max_examples=60, deadline=None)
@given(TRAFFIC)
def test_of_any_traffic_the_budget_the_groups_and_the_sums_hold(traffic) -> None:
    clock, spent, hanging = Clock(), [], asyncio.Event()
    options = {"budget_usd_per_hour": 0.03, "min_probability": 0.01, "max_in_flight": 2, "max_next": 2}
    world = World(clock, **options, verdict=lambda: Verdict(trickle=100, pause_s=1.0))
    world.teach(["g1:a", "g1:b", "g1:c"], times=3, group="g1")
    fate = "ok"

    async def answer(wanted) -> Asked:
        assert wanted.text.startswith(wanted.after.group)
        if fate == "hangs":
            await hanging.wait()
        if fate == "raises":
            raise ValueError("no")
        if fate == "odd":
            return None
        if fate != "lost":
            world.cache[wanted.name] = clock() + world.ttl_s
        return Asked(0.0 if fate == "hit" else 0.001, stored=fate != "unstored", hit=fate == "hit")

    async def play() -> None:
        nonlocal fate
        world.answer = answer
        for group, session, text, gap_s, fate in traffic:
            clock.pass_s(gap_s)
            before = world.count("spent_usd")
            await world.walk([f"{group}:{text}"], session, group)
            stats = world.prefetcher.stats()
            spent.append((clock(), stats["spent_usd"] - before))
            assert stats["in_flight"] <= 2
            assert stats["issued"] == stats["used"] + stats["wasted"] + stats["open"] + stats["in_flight"]
            assert stats["saved_usd"] <= stats["spent_usd"] + 0.001 * stats["in_flight"] + 1e-9
        await world.prefetcher.aclose()
        assert world.count("in_flight") == 0

    asyncio.run(play())
    for start, _ in spent:
        assert sum(usd for at, usd in spent if start <= at <= start + HOUR) <= 0.03 + 1e-9


async def test_it_stops_when_it_does_not_pay_and_comes_back_when_it_does(clock) -> None:
    world = World(clock, ttl_s=30.0, min_probability=0.0, verdict=lambda: Verdict(pause_s=600.0))
    for n in range(600):
        clock.pass_s(60.0)
        world.teach("ab", times=60)  # so that the guess stays as wrong as it is
        await world.walk(["a", "other"], session=str(n))
    wasted = world.count("wasted")
    assert world.count("used") == 0
    assert world.count("stops") >= 3
    assert wasted < 60  # of 600 that could have been tried in ten hours
    assert world.prefetcher.stats()["stopped"] == 1
    for n in range(2_000):
        clock.pass_s(60.0)
        await world.walk("ab", session=f"back {n}")
    stats = world.prefetcher.stats()
    assert stats["stopped"] == 0
    assert stats["used"] > 1_000
    assert stats["wasted"] == wasted


async def test_one_group_that_does_not_pay_does_not_stop_another(clock) -> None:
    world = World(clock, ttl_s=30.0)
    for group in ("good", "bad"):
        world.teach("ab", times=60, group=group)
    for n in range(40):
        clock.pass_s(60.0)
        await world.walk("a" if n % 2 else "ab", session=str(n), group="good")
        world.teach("ab", times=60, group="bad")
        await world.walk("a", session=str(n), group="bad")
    assert world.prefetcher.stats()["stopped"] == 1
    asked = [wanted.after.group for wanted in world.asked[-10:]]
    assert asked == ["good"] * 10
