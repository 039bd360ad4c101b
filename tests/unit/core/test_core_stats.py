"""Nearest-rank quantiles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core.stats import quantile

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
