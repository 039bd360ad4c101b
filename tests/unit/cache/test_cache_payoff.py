"""The dollars of prefetching are never exceeded, and what does not pay is stopped, for a while."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_llmops.cache.payoff import Allowance, Verdict

HOUR = 3_600.0


def busy_traffic(seed: int) -> list[tuple[float, float, float, int]]:
    """Some hours of calls: seconds since the one before, dollars reserved, share paid, calls before it settles."""
    dice = random.Random(seed)
    gap_s, most_usd, stays = dice.choice([5, 60]), dice.choice([0.01, 0.1]), dice.choice([0, 4, 20])
    return [
        (
            dice.expovariate(1 / gap_s) + (HOUR if dice.random() < 0.01 else 0.0),
            dice.random() * most_usd,
            dice.choice([1.0, 1.0, 1.0, dice.random()]),
            dice.randint(0, stays),
        )
        for _ in range(400)
    ]


CALLS = st.integers(0, 10**9).map(busy_traffic)


def spent_by(calls, *, dearer: float = 1.0) -> tuple[list[tuple[float, float]], float]:
    """When how much was spent under an allowance of a dollar an hour, and the greatest overrun of those in flight."""
    allowance, now, flying, spent, overrun = Allowance(1.0, 0.0), 0.0, [], [], 0.0
    for gap_s, usd, share, stays in calls:
        now += gap_s
        if allowance.reserve(usd, now):
            flying.append([stays, usd, usd * share * dearer])
        overrun = max(overrun, sum(max(0.0, cost - reserved) for _, reserved, cost in flying))
        for call in [call for call in flying if call[0] <= 0]:
            flying.remove(call)
            allowance.settle(call[1], call[2])
            spent.append((now, call[2]))
        for call in flying:
            call[0] -= 1
    return spent, overrun


def dearest_hour(spent: list[tuple[float, float]]) -> float:
    return max((sum(usd for at, usd in spent if start <= at <= start + HOUR) for start, _ in spent), default=0.0)


@settings(max_examples=30, deadline=None)
@given(CALLS)
def test_no_hour_costs_more_than_its_allowance(calls) -> None:
    spent, _ = spent_by(calls)
    assert dearest_hour(spent) <= 1.0 + 1e-9


@settings(max_examples=30, deadline=None)
@given(CALLS)
def test_calls_that_cost_more_than_reserved_exceed_it_by_no_more_than_those_in_flight(calls) -> None:
    spent, overrun = spent_by(calls, dearer=3.0)
    assert dearest_hour(spent) <= 1.0 + overrun + 1e-9


def test_an_hour_of_steady_calls_spends_its_allowance() -> None:
    spent, _ = spent_by([(6.0, 0.005, 1.0, 0)] * 2_000)
    assert 0.85 < dearest_hour(spent) <= 1.0


@given(st.lists(st.floats(-1e6, 1e6), max_size=30))
def test_a_clock_that_steps_back_and_forth_brings_no_dollars(steps) -> None:
    allowance, latest, got = Allowance(1.0, 0.0), 0.0, 0.0
    for now in steps:
        latest = max(latest, now)
        if allowance.reserve(0.05, now):
            allowance.settle(0.05, 0.05)
            got += 0.05
    assert got <= 0.1 + 0.9 * latest / HOUR + 1e-9


def test_what_is_not_an_amount_is_not_granted() -> None:
    allowance = Allowance(1.0, 0.0)
    assert not any(allowance.reserve(usd, 0.0) for usd in (math.nan, math.inf, -1.0, 0.11))
    assert allowance.reserve(0.1, 0.0)
    allowance.settle(0.1, math.nan)
    assert not allowance.reserve(0.01, 0.0)


def test_an_emptied_allowance_fills_again() -> None:
    allowance = Allowance(1.0, 0.0)
    allowance.empty(0.0)
    assert not allowance.reserve(0.01, 0.0)
    assert allowance.reserve(0.01, 41.0)


def told(verdict: Verdict, pattern: str, *, cost_usd: float = 1.0, worth_usd: float = 4.0, now: float = 0.0) -> None:
    """Prefetches one after the other, used (+) or wasted (-)."""
    for sign in pattern:
        gain_usd = worth_usd if sign == "+" else 0.0
        verdict.resolve(verdict.issue(), worth_usd=worth_usd, gain_usd=gain_usd, cost_usd=cost_usd, now=now)


@pytest.mark.parametrize(
    ("pattern", "standing"),
    [("", "trial"), ("--", "trial"), ("-" * 9, "off"), ("+---------" * 4, "off"), ("+--" * 20, "on"), ("+" * 5, "on")],
)
def test_it_goes_on_where_more_than_cost_over_worth_is_used(pattern, standing) -> None:
    verdict = Verdict(window=10_000)
    told(verdict, pattern)
    assert verdict.standing(0.0) == standing


@given(st.lists(st.tuples(st.floats(0.01, 1), st.floats(0.01, 1), st.booleans()), min_size=5, max_size=60))
def test_precision_above_break_even_says_that_the_gains_cover_the_cost(outcomes) -> None:
    verdict = Verdict(window=10**9)
    gained = cost = 0.0
    for cost_usd, more_usd, used in outcomes:
        gain_usd = cost_usd + more_usd if used else 0.0
        told_before = verdict.stops
        verdict.resolve(verdict.issue(), worth_usd=cost_usd + more_usd, gain_usd=gain_usd, cost_usd=cost_usd, now=0.0)
        if verdict.stops != told_before:
            return  # it starts anew
        gained, cost = gained + gain_usd, cost + cost_usd
        if abs(gained - cost) > 1e-6:
            assert (verdict.precision >= verdict.break_even) == (gained >= cost)


def test_prefetches_of_equal_price_never_pay_where_waiting_is_worth_nothing() -> None:
    verdict = Verdict()
    told(verdict, "+++++++++-" * 30, cost_usd=1.0, worth_usd=1.0)
    assert verdict.stops > 0


def test_until_it_is_proven_few_are_open_at_a_time() -> None:
    verdict = Verdict(trickle=5)
    issued = 0
    while verdict.may_issue(0.0):
        verdict.issue()
        issued += 1
    assert issued == 5


def test_it_comes_back_after_a_pause_with_a_trickle_and_the_pause_doubles_until_it_pays() -> None:
    verdict, now, pauses = Verdict(trickle=5, pause_s=10.0, longest_pause_s=60.0), 0.0, []
    for _ in range(5):
        told(verdict, "-" * 9, now=now)
        assert not verdict.may_issue(now)
        stopped = now
        while not verdict.may_issue(now):
            now += 1.0
        pauses.append(now - stopped)
    assert pauses == [10.0, 20.0, 40.0, 60.0, 60.0]
    told(verdict, "+" * 30, now=now)
    assert verdict.standing(now) == "on"
    while verdict.may_issue(now):
        told(verdict, "-", now=now)
    assert not verdict.may_issue(now + 9.0)
    assert verdict.may_issue(now + 10.0)


def test_what_was_open_when_it_stopped_is_not_held_against_the_next_trial() -> None:
    verdict = Verdict(pause_s=10.0)
    old = [verdict.issue() for _ in range(5)]
    told(verdict, "-" * 9)
    for epoch in old:
        verdict.resolve(epoch, worth_usd=4.0, gain_usd=0.0, cost_usd=1.0, now=1.0)
        verdict.withdraw(epoch)
    assert (verdict.trials, verdict.open, verdict.stops) == (0, 0, 1)


def test_one_that_cost_nothing_tells_nothing() -> None:
    verdict = Verdict()
    for _ in range(50):
        verdict.withdraw(verdict.issue())
    assert verdict.may_issue(0.0)
    assert verdict.trials == 0
