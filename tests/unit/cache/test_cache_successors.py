"""What follows what: it is learnt from sessions, kept apart by group, and bounded in memory."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from langchain_llmops.cache.successors import HeavyHitters, Successors, name_of

COST = {"cost_usd": 0.001, "latency_s": 2.0}
STEPS = st.lists(
    st.tuples(st.sampled_from(["g1", "g2", "g3"]), st.sampled_from(["s1", "s2", None]), st.sampled_from("abcd")),
    max_size=120,
)


def walked(successors: Successors, group: str, texts: str | list[str], session: str = "s", now: float = 0.0) -> None:
    for text in texts:
        successors.observe(group, session, text, now=now, **COST)


def told(successors: Successors, group: str, text: str) -> dict[str, float]:
    return {one.text: one.probability for one in successors.likely(group, text)}


def test_what_followed_is_likely_to_follow() -> None:
    successors = Successors()
    for n in range(20):
        walked(successors, "g", ["a", "b" if n % 4 else "c"], session=str(n))
    likely = told(successors, "g", "a")
    assert list(likely) == ["b", "c"]
    assert likely == pytest.approx({"b": 15 / 21, "c": 5 / 21})
    assert told(successors, "g", "b") == told(successors, "g", "never asked") == {}


def test_what_followed_once_is_not_kept() -> None:
    successors = Successors()
    walked(successors, "g", ["a", "secret"])
    assert told(successors, "g", "a") == {}
    assert successors.held()["text_bytes"] == 0


def test_requests_of_different_sessions_do_not_follow_each_other() -> None:
    successors = Successors()
    for n in range(10):
        walked(successors, "g", "a", session=f"one{n}")
        walked(successors, "g", "b", session=f"other{n}")
        successors.observe("g", None, "c", now=0.0, **COST)
    assert successors.held()["transitions"] == 0


@pytest.mark.parametrize("broken", ["a long silence", "an interruption", "a long request"])
def test_a_sequence_ends_with(broken) -> None:
    successors = Successors(gap_s=60, longest_text=10)
    for n in range(10):
        walked(successors, "g", "a", session=str(n), now=0.0)
        if broken == "an interruption":
            successors.interrupt("g", str(n))
        if broken == "a long request":
            walked(successors, "g", ["x" * 11], session=str(n))
        walked(successors, "g", "b", session=str(n), now=61.0 if broken == "a long silence" else 0.0)
    assert told(successors, "g", "a") == {}


def test_a_repeated_request_does_not_follow_itself() -> None:
    successors = Successors()
    for n in range(5):
        walked(successors, "g", "aaab", session=str(n))
    assert list(told(successors, "g", "a")) == ["b"]


@given(STEPS)
def test_a_group_learns_from_itself_alone(steps) -> None:
    together, apart = Successors(), {group: Successors() for group in ("g1", "g2", "g3")}
    for group, session, text in steps:
        together.observe(group, session, text, now=0.0, **COST)
        apart[group].observe(group, session, text, now=0.0, **COST)
    for group, alone in apart.items():
        for text in "abcd":
            assert together.likely(group, text) == alone.likely(group, text)


@given(STEPS, st.integers(1, 3), st.integers(1, 4), st.integers(1, 3), st.integers(1, 400))
def test_under_every_bound_a_group_is_told_its_own_texts_only(steps, groups, requests, following, text_bytes) -> None:
    bounds = {"max_groups": groups, "max_requests": requests, "max_next": following, "max_sessions": 2}
    successors = Successors(**bounds, max_text_bytes=text_bytes, window=4)
    for group, session, text in steps:
        successors.observe(group, session, f"{group}:{text}", now=0.0, **COST)
        held = successors.held()
        assert held["groups"] <= groups
        assert held["requests"] <= groups * requests
        assert held["transitions"] <= groups * requests * following
        assert held["sessions"] <= 2
        assert 0 <= held["text_bytes"] <= text_bytes
    for group in ("g1", "g2", "g3"):
        for text in "abcd":
            for one in successors.likely(group, f"{group}:{text}"):
                assert one.text.startswith(group)
                assert 0 <= one.probability <= 1


@pytest.mark.parametrize("groups", [1, 2, 9])
def test_texts_take_no_more_bytes_than_they_may(groups) -> None:
    successors = Successors(max_text_bytes=2_000)
    for n in range(300):
        walked(successors, f"g{n % groups}", [f"{n} first", f"{n} then"] * 3, session=str(n))
        assert successors.held()["text_bytes"] <= 2_000
        assert told(successors, f"g{n % groups}", f"{n} first")
    assert successors.held()["text_bytes"] > 1_000


def test_the_bytes_of_texts_are_those_of_the_texts_that_are_kept() -> None:
    successors, dice = Successors(max_requests=8, max_next=2, window=8), random.Random(1)
    for _ in range(5_000):
        walked(successors, "g", str(int(dice.paretovariate(0.8))), session=str(dice.randrange(5)))
    group = successors._groups["g"]
    kept = [one.text for after in group.after.values() for one in after.next.values() if one.text is not None]
    assert kept
    assert successors.held()["text_bytes"] == sum(text.__sizeof__() for text in kept)


def test_memory_does_not_grow_with_traffic() -> None:
    import tracemalloc

    successors = Successors(max_groups=4, max_requests=64, max_sessions=100)

    def traffic(start: int) -> int:
        for n in range(start, start + 6_000):
            walked(successors, f"g{n % 9}", [f"{n}", f"text {n % 500}"], session=f"s{n % 700}")
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        first = traffic(0)
        assert traffic(6_000) < 1.1 * first
    finally:
        tracemalloc.stop()


def test_a_sequence_is_found_in_ten_times_as_much_noise() -> None:
    successors, dice = Successors(max_requests=64), random.Random(2)
    for n in range(3_000):
        walked(successors, "g", [f"noise {dice.random()}" for _ in range(20)], session="n")
        walked(successors, "g", ["a", "b"], session=str(n))
    assert told(successors, "g", "a")["b"] > 0.9
    assert successors.held()["requests"] == 64


def test_a_new_habit_replaces_the_old_one() -> None:
    successors = Successors(window=32)
    for n in range(1_000):
        walked(successors, "g", "ab", session=str(n))
    for n in range(1_000, 1_064):
        walked(successors, "g", "ac", session=str(n))
    likely = told(successors, "g", "a")
    assert next(iter(likely)) == "c"
    assert likely["c"] > 0.6


def test_shuffled_successors_never_look_likely() -> None:
    """An estimate that errs on the low side: chance transitions out of many stay improbable."""
    successors, dice = Successors(max_next=4), random.Random(3)
    highest = 0.0
    for n in range(20_000):
        text = str(dice.randrange(77))
        walked(successors, "g", [text], session=str(n % 50))
        if n > 4_000:
            highest = max([highest, *told(successors, "g", text).values()])
    assert highest < 0.25


def test_what_a_request_takes_is_learnt_and_never_underestimated() -> None:
    successors = Successors()
    for n, cost_usd in enumerate([0.001, 0.005, 0.001, None, 0.001]):
        walked(successors, "g", "a", session=str(n))
        successors.observe("g", str(n), "b", now=0.0, cost_usd=cost_usd, latency_s=None if n else 3.0)
    (one,) = successors.likely("g", "a")
    assert 0.001 < one.cost_usd < one.most_usd < 0.005
    assert one.latency_s == 3.0


def test_a_request_without_a_known_price_is_not_told() -> None:
    successors = Successors()
    for n in range(5):
        walked(successors, "g", "a", session=str(n))
        successors.observe("g", str(n), "b", now=0.0, latency_s=1.0)
    assert told(successors, "g", "a") == {}


@given(st.lists(st.text(), max_size=4), st.lists(st.text(), max_size=4))
def test_two_lists_share_a_name_only_if_they_are_equal(one, other) -> None:
    assert (name_of(*one) == name_of(*other)) == (one == other)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=300), st.integers(1, 8))
@example([1, 1, 2, 2, *[3, 4] * 8], 3)  # two that take turns must not push each other out for ever
def test_heavy_hitters_hold_every_name_above_its_share(names, capacity) -> None:
    hot, held = HeavyHitters(capacity), set()
    recent = names[: 8 * capacity - 1]  # before the first halving the guarantee is exact
    for name in map(str, recent):
        gone = hot.add(name)
        held = (held | {name}) - {gone}
        assert len(hot) == len(held) <= capacity
    heavy = {str(name) for name in recent if recent.count(name) > len(recent) / capacity}
    assert heavy <= held
