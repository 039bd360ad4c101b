"""The built-in prices."""

from __future__ import annotations

import pytest

from langchain_llmops.core.pricing import PriceBook


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook()
