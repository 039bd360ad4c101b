"""Caches of several processes over one shelf, on a clock that only moves when told."""

from __future__ import annotations

import pytest
import redis

from langchain_llmops.cache import push
from langchain_llmops.cache.embeddings import CachedEmbeddings
from langchain_llmops.cache.policy import Policy, Ttl
from langchain_llmops.cache.retriever import CachedRetriever
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.events import Bus, CacheLooked
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.cache import Clock, Shelf, hearing
from tests.support.pages import Pages, page
from tests.support.shelves import MemoryShelves
from tests.support.words import Words


class Waited(TieredCache):
    """What is kept is in all levels when the caller goes on."""

    def __init__(self, *levels, **options) -> None:
        super().__init__(*levels, **options)
        keep = self.answers.keep

        async def kept(*args, blocking) -> bool:
            stored = await keep(*args, blocking=blocking)
            if blocking:
                assert self.flush()
            else:
                await self._behind.await_all(5)
            return stored

        self.answers.keep = kept


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
def heard() -> tuple[OpsCallbackHandler, list]:
    return hearing()


@pytest.fixture
def handler(heard) -> OpsCallbackHandler:
    return heard[0]


@pytest.fixture
def records(heard) -> list:
    """Of every call that `handler` has heard of."""
    return heard[1]


@pytest.fixture
def config(handler) -> dict:
    """A run's config that names ada."""
    return {"callbacks": [handler], "metadata": {"user_id": "ada"}}


@pytest.fixture
def make(shelf, clock, bus):
    """Builds caches of one process each, over the one shelf."""

    def make(*, l2: bool = True, **options) -> TieredCache:
        levels = [(shelf, shelf)] if l2 else []
        ttl = {name: options.pop(name) for name in ("l1_s", "l2_s", "l3_s", "stale_s") if name in options}
        policy = {name: options.pop(name) for name in ("tool_calls", "warm") if name in options}
        own = {"clock": clock, "bus": bus, "lease_s": 0, "ttl": Ttl(**ttl), "policy": Policy(**policy)}
        return Waited(*levels, **{**own, **options})

    return make


@pytest.fixture
def cache(make) -> TieredCache:
    return make()


@pytest.fixture
def admin(clean_redis_url):
    with redis.Redis.from_url(clean_redis_url) as admin:
        yield admin


@pytest.fixture
def process(clean_redis_url):
    """Makes caches that know nothing of each other, as those of several processes, on clocks that stand still."""
    made = []

    def process(url=clean_redis_url, **options) -> TieredCache:
        own = {"timeout_s": 5.0, "clock": Clock(), "tags_of": lambda prompt, _: [prompt], "lease_s": 0}
        made.append(TieredCache.from_urls(url, **{**own, **options}))
        return made[-1]

    yield process
    for cache in made:
        cache.close()


@pytest.fixture
def no_beat(monkeypatch):
    """But the first of every connection."""
    monkeypatch.setattr(push, "BEAT_S", 3600.0)


@pytest.fixture
def shelves(clock) -> MemoryShelves:
    return MemoryShelves(clock)


@pytest.fixture
def pages() -> Pages:
    return Pages(found=[page("one", 0.9, doc="a"), page("two", 0.4, doc="b")])


@pytest.fixture
def make_retriever(pages, shelves):
    def make(retriever=None, **options) -> CachedRetriever:
        return CachedRetriever(retriever or pages, shelves, shelves, **{"index": "pages", "ttl_s": 60, **options})

    return make


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def make_embeddings(words, shelves):
    def make(embeddings=None, **options) -> CachedEmbeddings:
        return CachedEmbeddings(embeddings or words, shelves, shelves, **{"model": "words-1", **options})

    return make
