"""Caches of several processes over one shelf, on a clock that only moves when told."""

from __future__ import annotations

import pytest

from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.events import Bus, CacheLooked
from tests.support.cache import Clock, Shelf


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def shelf(clock) -> Shelf:
    return Shelf(clock)


@pytest.fixture
def looks() -> list[CacheLooked]:
    return []


@pytest.fixture
def bus(looks) -> Bus:
    bus = Bus()
    bus.subscribe(looks.append)
    return bus


@pytest.fixture
def make(shelf, clock, bus):
    """Builds caches of one process each, over the one shelf."""

    def make(*, l2: bool = True, **options) -> TieredCache:
        stores = (shelf, shelf) if l2 else (None, None)
        return TieredCache(*stores, **{"clock": clock, "bus": bus, **options})

    return make


@pytest.fixture
def cache(make) -> TieredCache:
    return make()
