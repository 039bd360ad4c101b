"""The cache of the suite, and the embeddings and retrievers that use it."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.cache.embeddings import CachedEmbeddings
from langchain_llmops.cache.retriever import CachedRetriever
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.parts import build_cache
from langchain_llmops.telemetry.embeddings import ObservedEmbeddings

if TYPE_CHECKING:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import Runnable

    from langchain_llmops.core.events import Bus
    from langchain_llmops.core.pricing import PriceBook
    from langchain_llmops.core.settings import Settings
    from langchain_llmops.core.tokens import TokenCounter
    from langchain_llmops.observing import Observers
    from langchain_llmops.telemetry.handler import OpsCallbackHandler

__all__ = ["Caching"]

OBSERVED: Final = ("provider", "clock", "timer")  # options of `ObservedEmbeddings` that `CachedEmbeddings` has not


class Caching:
    """The part of `LLMOps` that remembers what was asked for; its models find the cache here, too."""

    settings: Settings
    bus: Bus
    prices: PriceBook
    token_counter: TokenCounter
    handler: OpsCallbackHandler
    _observers: Observers
    _embeddings: Embeddings | None

    @cached_property
    def cache(self) -> TieredCache:
        """The LLM cache: process memory over Redis and PostgreSQL, or over SQLite when embedded."""
        cache = build_cache(self.settings, self.bus, self.prices, embeddings=self._embeddings)
        self._observers.cache_stats = cache.stats
        return cache

    def embeddings(
        self, embeddings: Embeddings, *, cache: TieredCache | bool = False, **options: Any
    ) -> CachedEmbeddings | ObservedEmbeddings:
        """Embeddings whose calls are priced and recorded; with a cache, that ask for no text twice.

        A hit is a call of its own in the ledger, as those of models are: free, with its level and what it saved.

        Args:
            cache: True for `ops.cache`, or another. Off unless asked for: texts that are embedded once, to fill an
                index, would only take up room.
            options: as for `ObservedEmbeddings`, and with a cache for `CachedEmbeddings`.
        """
        chosen = self._chosen(cache)
        own: dict[str, Any] = {name: options.pop(name) for name in OBSERVED if name in options}
        both: dict[str, Any] = {name: options.pop(name) for name in ("model", "identity") if name in options}
        if chosen is None and options:
            raise ConfigurationError(f"embeddings without a cache have no {', '.join(sorted(options))}: say cache=True")
        observed = ObservedEmbeddings(
            embeddings,
            self.bus,
            prices=self.prices,
            counter=self.token_counter,
            tenant=self.settings.tenant,
            place_of=self.handler.place_of,
            **own,
            **both,
        )
        if chosen is None:
            return observed
        given: dict[str, Any] = {
            "tenant": self.settings.tenant,
            "namespace": self.settings.cache_namespace,
            **both,
            **options,
        }
        return CachedEmbeddings(
            observed,
            chosen.shelves,
            chosen.blocking_shelves,
            raw=embeddings,
            hit=observed.answered_from,
            **given,
        )

    def retriever(
        self,
        retriever: Runnable[str, list[Document]],
        *,
        index: str = "",
        ttl_s: float = 300.0,
        cache: TieredCache | bool = True,
        **options: Any,
    ) -> CachedRetriever:
        """A retriever that searches for no query twice within `ttl_s`; its runs are recorded as those of any other.

        Args:
            index: what is searched, and with which embeddings; part of each key.
            cache: `ops.cache`, or another.
            options: as for `CachedRetriever` (`tags_of`, `min_score`, …); the scope is `LLMOPS_CACHE_SCOPE` by default.
        """
        if not index:
            raise ConfigurationError(
                "ops.retriever: say what is searched, as in index='handbook, text-embedding-3-small'"
            )
        chosen, s = self._chosen(cache), self.settings
        if chosen is None:
            raise ConfigurationError("ops.retriever without a cache is the retriever itself: leave out cache=False")
        given = {"scope": s.cache_scope, "tenant": s.tenant, "namespace": s.cache_namespace, **options}
        return CachedRetriever(retriever, chosen.shelves, chosen.blocking_shelves, index=index, ttl_s=ttl_s, **given)

    def _chosen(self, cache: TieredCache | bool) -> TieredCache | None:  # noqa: FBT001 - one of both, as users give it
        if isinstance(cache, bool):
            return self.cache if cache else None
        if not isinstance(cache, TieredCache):
            raise ConfigurationError(f"cache must be True, False or a TieredCache, not a {type(cache).__name__}")
        return cache
