"""What is given wrongly is refused where it is given, in one line that names it."""

from __future__ import annotations

import pytest

from langchain_llmops.cache.model import cached
from langchain_llmops.cache.semantic import SemanticLevel
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.middleware.caching import CacheMiddleware
from tests.support.models import ScriptedModel

MISTAKES = {
    "a time for a Ttl": (lambda: TieredCache(ttl=60), "ttl= must be a Ttl, not 60"),
    "a mapping for a policy": (lambda: TieredCache(policy={"warm": True}), "policy= must be a Policy"),
    "a mode for a level": (lambda: TieredCache(semantic="serve"), "semantic= must be a SemanticLevel, not 'serve'"),
    "a number for prices": (lambda: TieredCache(prices=5), "prices= must be a PriceBook"),
    "a lease below 0": (lambda: TieredCache(lease_s=-1), "lease_s must be 0 or a number of seconds, not -1"),
    "no time": (
        lambda: TieredCache.from_urls("memory://", timeout_s=0),
        "timeout_s must be a number of seconds",
    ),
    "a URL for a cache": (lambda: cached(ScriptedModel(), cache="redis://x"), "cache= must be a TieredCache"),
    "a truth for prefetching": (
        lambda: cached(ScriptedModel(), cache=TieredCache(), prefetch=True),
        "prefetch= must be a Prefetching, not True",
    ),
    "a URL in an agent": (lambda: CacheMiddleware("redis://x"), "CacheMiddleware takes a TieredCache"),
    "a number for embeddings": (lambda: SemanticLevel(5), "must be a LangChain Embeddings object, not 5"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_before_anything_is_asked(mistake) -> None:
    make, told = MISTAKES[mistake]
    with pytest.raises(ConfigurationError, match=told) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_a_database_alone_is_the_third_level(tmp_path) -> None:
    with TieredCache.from_urls(f"sqlite:///{tmp_path / 'cache.db'}") as cache:
        assert [level.name for level in cache._engine.levels] == ["L3"]
