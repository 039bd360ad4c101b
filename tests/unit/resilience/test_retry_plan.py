"""Retry policy and the walk over the rungs, as pure values: a table each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core import exceptions as core

from langchain_llmops.core.classify import Verdict
from langchain_llmops.core.errors import (
    ConfigurationError,
    FallbackExhaustedError,
    MalformedAnswerError,
    RefusalError,
    StoreUnavailableError,
    TruncatedAnswerError,
)
from langchain_llmops.core.types import ErrorKind as Kind
from langchain_llmops.resilience.plan import Plan, Step
from langchain_llmops.resilience.retry import RetryPolicy


def policy(draw: float = 1.0, **options) -> RetryPolicy:
    return RetryPolicy(**{"max_attempts": 4, "base_s": 1.0, "max_s": 5.0, "draw": lambda: draw, **options})


def verdict(*, retryable: bool = True, after: float | None = None) -> Verdict:
    return Verdict(Kind.RATE_LIMIT, retryable, retry_after_s=after)


# attempt, the verdict, the draw, and the pause
PAUSES = {
    "the first pause": (1, verdict(), 1.0, 1.0),
    "it doubles": (2, verdict(), 1.0, 2.0),
    "and again": (3, verdict(), 1.0, 4.0),
    "the last attempt": (4, verdict(), 1.0, None),
    "past the last": (9, verdict(), 1.0, None),
    "full jitter": (3, verdict(), 0.5, 2.0),
    "no pause at all": (3, verdict(), 0.0, 0.0),
    "not to be repeated": (1, verdict(retryable=False), 1.0, None),
    "the provider's wish is the least": (1, verdict(after=3.0), 0.0, 3.0),
    "a longer jitter holds": (3, verdict(after=3.0), 1.0, 4.0),
    "a wish of nothing": (1, verdict(after=0.0), 1.0, 1.0),
    "a wish about what is not repeated": (1, verdict(retryable=False, after=3.0), 1.0, None),
}


@pytest.mark.parametrize(("attempt", "seen", "draw", "pause"), PAUSES.values(), ids=PAUSES)
def test_a_pause_is_jitter_over_the_providers_wish(attempt, seen, draw, pause) -> None:
    assert policy(draw).pause_s(attempt, seen) == pause


def test_a_pause_is_capped() -> None:
    assert policy(max_attempts=30).pause_s(20, verdict()) == 5.0


@given(st.integers(1, 10**5), st.floats(0, 1), st.none() | st.floats(0, 60))
def test_no_pause_is_below_the_wish_or_above_both_bounds(attempt, draw, wish) -> None:
    pause = policy(draw, max_attempts=10**6).pause_s(attempt, verdict(after=wish))
    assert pause is not None
    assert (wish or 0.0) <= pause <= max(5.0, wish or 0.0)


def test_a_provider_that_wants_to_be_left_for_a_day_is_left_for_the_next_rung() -> None:
    assert policy().pause_s(1, verdict(after=86_400.0)) is None


@pytest.mark.parametrize("options", [{"max_attempts": 0}, {"base_s": -1.0}, {"base_s": 6.0}, {"max_s": 0.5}])
def test_a_policy_that_makes_no_sense_is_refused(options) -> None:
    with pytest.raises(ConfigurationError, match="max_attempts >= 1 and 0 <= base_s <= max_s"):
        policy(**options)


def test_draws_differ_by_default() -> None:
    assert len({RetryPolicy().pause_s(1, verdict()) for _ in range(20)}) > 1


# the walk


LIMITED, TIMEOUT = core.ModelRateLimitError("x"), core.ModelTimeoutError("x")
AWAY, BROKEN = core.ModelConnectionError("x"), MalformedAnswerError("x")


def walk(*errors: Exception, rungs: int = 3, attempts: int = 2) -> list[tuple[int, int]]:
    plan = Plan([f"m{n}" for n in range(rungs)], policy(0.0, max_attempts=attempts))
    steps = [plan.step]
    for error in errors:
        plan.after(error)
        steps.append(plan.step)
    return [(step.rung, step.attempt) for step in steps]


# the errors met one after another, and the (rung, attempt) asked each time
WALKS = {
    "all is well": ([], [(0, 1)]),
    "a second attempt": ([LIMITED], [(0, 1), (0, 2)]),
    "the next rung": ([LIMITED, LIMITED], [(0, 1), (0, 2), (1, 1)]),
    "down to the last": ([LIMITED] * 5, [(0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)]),
    "a mixture": ([TIMEOUT, AWAY, BROKEN], [(0, 1), (0, 2), (1, 1), (1, 2)]),
    "no second attempt after a refusal": ([RefusalError("x")] * 2, [(0, 1), (1, 1), (2, 1)]),
    "nor after a context overflow": ([core.ContextOverflowError("x")], [(0, 1), (1, 1)]),
    "nor with the wrong key": ([core.ModelAuthenticationError("x")], [(0, 1), (1, 1)]),
    "nor without permission": ([core.ModelPermissionDeniedError("x")], [(0, 1), (1, 1)]),
    "nor for a model that is not there": ([core.ModelNotFoundError("x")], [(0, 1), (1, 1)]),
    "a cut stream is tried again": ([TruncatedAnswerError("x")], [(0, 1), (0, 2)]),
    "attempts begin anew on every rung": ([LIMITED, RefusalError("x"), LIMITED], [(0, 1), (0, 2), (1, 1), (1, 2)]),
}


@pytest.mark.parametrize(("errors", "steps"), WALKS.values(), ids=WALKS)
def test_the_walk_goes_rung_by_rung(errors, steps) -> None:
    assert walk(*errors) == steps


HOPELESS = {
    "a wrong request": core.ModelInvalidRequestError("x"),
    "a bug": ValueError("x"),
    "another bug": AttributeError("x"),
    "a store of ours": StoreUnavailableError("x"),
    "a setting of ours": ConfigurationError("x"),
}


@pytest.mark.parametrize("error", HOPELESS.values(), ids=HOPELESS)
def test_what_no_other_model_can_help_is_raised_at_once(error) -> None:
    plan = Plan(["a", "b"], policy())
    with pytest.raises(type(error)) as caught:
        plan.after(error)
    assert caught.value is error
    assert plan.step == Step(0, 1)


def test_when_nothing_is_left_the_names_and_kinds_are_told_and_the_cause_is_chained() -> None:
    plan = Plan(["gpt-4o", "claude"], policy(max_attempts=1))
    plan.after(core.ModelRateLimitError("secret text of the provider"))
    last = core.ModelTimeoutError("more secret text")
    with pytest.raises(FallbackExhaustedError) as caught:
        plan.after(last)
    assert str(caught.value) == "no model answered: gpt-4o (rate_limit), claude (timeout)"
    assert caught.value.__cause__ is last


def test_a_chain_of_chains_goes_on_when_the_inner_one_has_nothing_left() -> None:
    inner = FallbackExhaustedError("no model answered")
    inner.__cause__ = LIMITED
    assert walk(inner) == [(0, 1), (1, 1)]


def test_the_pause_is_part_of_the_step_and_the_next_rung_is_asked_at_once() -> None:
    plan = Plan(["a", "b"], policy(1.0, max_attempts=2))
    assert plan.after(LIMITED)[0] == Step(0, 2, 1.0)
    assert plan.after(LIMITED)[0] == Step(1, 1, 0.0)


@given(st.lists(st.sampled_from([LIMITED, AWAY, BROKEN, RefusalError("x")]), max_size=30), st.integers(1, 4))
def test_no_walk_is_longer_than_rungs_times_attempts(errors, attempts) -> None:
    plan, asked = Plan(["a", "b", "c"], policy(0.0, max_attempts=attempts)), 1
    for error in errors:
        try:
            plan.after(error)
        except FallbackExhaustedError:
            break
        asked += 1
    assert asked <= 3 * attempts
    assert 0 <= plan.step.rung < 3
    assert 1 <= plan.step.attempt <= attempts
