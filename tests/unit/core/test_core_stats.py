"""Nearest-rank quantiles, exact and by sketch."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core.stats import Sketch, quantile, wilson

TABLE = [
    ([], 0.5, None),
    ([3.0], 0.0, 3.0),
    ([3.0], 0.5, 3.0),
    ([3.0], 1.0, 3.0),
    ([1.0, 2.0], 0.5, 1.0),
    ([1.0, 2.0], 0.51, 2.0),
    ([1.0, 2.0, 3.0, 4.0], 0.25, 1.0),
    ([1.0, 2.0, 3.0, 4.0], 0.75, 3.0),
    ([float(n) for n in range(1, 101)], 0.95, 95.0),
    ([float(n) for n in range(1, 101)], 0.99, 99.0),
    ([15.0, 20.0, 35.0, 40.0, 50.0], 0.3, 20.0),  # the worked example of the nearest-rank method
    ([15.0, 20.0, 35.0, 40.0, 50.0], 0.4, 20.0),
]


@pytest.mark.parametrize(("values", "q", "expected"), TABLE)
def test_a_quantile_is_the_nearest_rank(values, q, expected) -> None:
    assert quantile(values, q) == expected


@given(st.lists(st.floats(allow_nan=False), min_size=1).map(sorted), st.floats(0, 1))
def test_a_quantile_is_one_of_the_values_with_enough_at_or_below_it(values, q) -> None:
    found = quantile(values, q)
    assert found in values
    assert sum(value <= found for value in values) >= q * len(values) - 1e-9


@given(st.lists(st.floats(allow_nan=False), min_size=1).map(sorted), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_rise_with_q(values, one, other) -> None:
    low, high = sorted((one, other))
    assert quantile(values, low) <= quantile(values, high)


ACCURACY = 0.01
magnitudes = st.floats(1e-6, 1e6) | st.floats(1e-300, 1e300) | st.just(0.0)
numbers = magnitudes | magnitudes.map(lambda x: -x)
samples = st.lists(numbers, min_size=1, max_size=200)


def sketch_of(values, accuracy: float = ACCURACY) -> Sketch:
    sketch = Sketch(accuracy)
    for value in values:
        sketch.add(value)
    return sketch


def counts(sketch: Sketch) -> tuple:
    """How many values, and how many in each bucket."""
    return sketch.count, sketch._zeros, dict(sketch._positive), dict(sketch._negative)


def close(found: float, exact: float, accuracy: float = ACCURACY) -> bool:
    return abs(found - exact) <= accuracy * abs(exact) * (1 + 1e-6) + 1e-9


@given(samples, st.floats(0, 1), st.sampled_from([0.01, 0.02]))
def test_a_sketch_is_within_its_accuracy_of_the_exact_quantile(values, q, accuracy) -> None:
    assert close(sketch_of(values, accuracy).quantile(q), quantile(sorted(values), q), accuracy)


@given(samples, samples)
def test_merging_is_the_same_as_adding_all(some, others) -> None:
    merged, whole = sketch_of(some), sketch_of(some + others)
    merged.merge(sketch_of(others))
    assert counts(merged) == counts(whole)
    assert merged.sum == pytest.approx(whole.sum, rel=1e-9, abs=1e290)


@given(samples)
def test_a_copy_does_not_follow(values) -> None:
    sketch = sketch_of(values)
    before, copy = (counts(sketch), sketch.sum), sketch.copy()
    assert (counts(copy), copy.sum) == before
    copy.add(1.0)
    assert (counts(sketch), sketch.sum) == before
    assert copy.count == sketch.count + 1


def test_a_sketch_knows_count_and_sum() -> None:
    sketch = sketch_of([1.0, 2.0, -4.0, 0.0])
    assert (sketch.count, sketch.sum) == (4, -1.0)
    assert Sketch().quantile(0.5) is None


@pytest.mark.parametrize(("value", "told"), [(math.inf, sys.float_info.max), (-math.inf, -sys.float_info.max)])
def test_what_has_no_end_counts_as_the_largest_float(value, told) -> None:
    assert sketch_of([value]).quantile(0.5) == pytest.approx(told, rel=1.001 * ACCURACY)


@pytest.mark.parametrize("value", [5e-324, -5e-324, 1e-12, -0.0])
def test_what_is_next_to_nothing_counts_as_zero(value) -> None:
    assert sketch_of([value]).quantile(0.5) == 0.0


def test_the_buckets_of_latencies_from_a_millisecond_to_an_hour_are_few() -> None:
    sketch = sketch_of([0.001 * 1.001**n for n in range(15_000)])
    assert len(sketch._positive) < 800


def test_a_sketch_refuses_what_it_cannot_rank() -> None:
    with pytest.raises(ValueError, match="not a number"):
        Sketch().add(math.nan)
    with pytest.raises(ValueError, match=r"accuracy 0.01 and 0.02 cannot be merged"):
        Sketch(0.01).merge(Sketch(0.02))
    with pytest.raises(ValueError, match="between 0 and 1"):
        Sketch(1.0)


# of a share


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 0, 0.0, 1.0), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (1, 29, 0.0061, 0.1718)],
)  # the last two: Newcombe, Statistics in Medicine 1998, table I
def test_an_interval_of_a_share_is_the_published_one(hits, trials, low, high) -> None:
    assert wilson(hits, trials) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(0, 500), st.integers(0, 500))
def test_an_interval_holds_its_share(one, other) -> None:
    hits, trials = sorted((one, other))
    low, high = wilson(hits, trials)
    assert 0 <= low <= (hits / trials if trials else 0.5) <= high <= 1


@pytest.mark.parametrize(("hits", "trials"), [(-1, 3), (4, 3), (0, -1)])
def test_a_share_that_is_none_is_refused(hits, trials) -> None:
    with pytest.raises(ValueError, match="no share"):
        wilson(hits, trials)
