"""A retriever that searches for no query twice while what it found is fresh."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable

from langchain_llmops.cache import documents
from langchain_llmops.cache.fingerprint import Uncacheable, scope_of
from langchain_llmops.cache.sharing import asker, canonical, digest
from langchain_llmops.cache.shelves import epoch_or_none, read_or_miss, write_or_not
from langchain_llmops.core.concurrency import SingleFlight, drive
from langchain_llmops.core.context import checked_tags
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import ConfigurationError, EnvelopeError
from langchain_llmops.core.redaction import redact
from langchain_llmops.core.settings import CacheScope  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from langchain_llmops.cache.shelves import Found, Shelves

__all__ = ["CachedRetriever", "score_of"]

_log = logging.getLogger(__name__)

VERSION: Final = "1"
SCORES: Final = ("score", "relevance_score", "similarity_score", "similarity")
SEARCH: Final = (
    "search_type",
    "search_kwargs",
    "k",
    "top_k",
    "filter",
)  # fields of retrievers that change what is found
Search = Callable[[], Awaitable[list[Document]]]


def score_of(document: Document) -> float | None:
    """How near a document is to its query, if its metadata says so in one of the usual words; more is nearer."""
    named = (document.metadata.get(name) for name in SCORES)
    return next((float(score) for score in named if isinstance(score, Real)), None)


@dataclass(frozen=True, slots=True)
class _Result:
    """What a search came to: documents, also as bytes where they can be kept, or an error; and when it began."""

    found: list[Document]
    data: bytes | None = None
    error: Exception | None = None
    since: int | None = None


class _Lookup(NamedTuple):
    key: str
    max_age_s: float | None


class CachedRetriever(BaseRetriever):
    """Wraps any retriever; `CachedRetriever(retriever, shelves, blocking_shelves, index="handbook", ttl_s=300)`.

    Every caller gets documents of its own, and a hit has what the search had found. What an entry could not give back
    as it was (documents of a class of their own, metadata beyond plain data, dates, decimals and UUIDs) is not kept.
    Concurrent callers of one query search once. Errors are the retriever's own and are not kept.

    Freshness is the age of the search, not a date that a document carries: an old page that the index still has is
    fresh. A caller who needs more than `ttl_s` says so with `invoke(query, max_age_s=5)`. Other arguments of `invoke`
    go to the retriever and are part of the key.

    Args:
        retriever: a retriever, or any runnable from a query to documents, with no configurable fields.
        shelves, blocking_shelves: where results are kept, for async and for sync callers.
        index: what is searched, and with which embeddings: part of each key. The usual fields of a retriever
            (`search_kwargs`, `k`, …) are, too, as they are at the call.
        ttl_s, empty_ttl_s: how long a result is kept, and one without a document, which the next added may change, and
            which no document's tag can invalidate.
        max_age_s: older results are not used, here or in any call.
        min_score: documents whose `score_of` is below are left out, of a hit and of a miss alike, so that the cache
            never changes what an answer is made of; and a result with nothing left counts as empty. What has no score
            cannot be judged and stays; it is said once and counted as `unscored`.
        tags_of: the tags of a document: `invalidate(tags=[…])` of any forgets each result that it is in. A result whose
            tags fail is not kept.
        cache_tags: of every result, for example that of the index.
        scope, tenant, namespace: as for `TieredCache`; say `user` when the retriever filters by who asks.
        stale_if_error: what is past its time, but not past `max_age_s`, is given while the retriever fails.
        max_bytes: of one result, sealed; more is not kept.
    """

    retriever: Runnable[str, list[Document]]
    index: str
    ttl_s: float
    empty_ttl_s: float = 5.0
    max_age_s: float | None = None
    min_score: float | None = None
    score_of: Callable[[Document], float | None] = score_of
    tags_of: Callable[[Document], Sequence[str]] | None = None
    cache_tags: Sequence[str] = ()
    scope: CacheScope = "shared"
    tenant: str = "default"
    namespace: str = ""
    stale_if_error: bool = False
    max_bytes: int = 1024 * 1024
    shelves: Any
    blocking_shelves: Any
    envelope: Any = None

    _flights: SingleFlight
    _counts: Counter[str]

    def __init__(
        self, retriever: Runnable[str, list[Document]], shelves: Shelves, blocking_shelves: Shelves, **options: Any
    ) -> None:
        if not isinstance(retriever, Runnable):
            raise ConfigurationError(f"retriever must be a LangChain retriever or runnable, not {type(retriever)}")
        if retriever.config_specs:
            raise ConfigurationError("wrap the retriever as configured: the cache does not see what a config chooses")
        if unknown := sorted(options.keys() - type(self).model_fields.keys()):
            raise ConfigurationError(f"a cached retriever has no option {', '.join(unknown)}")
        fields = {"retriever": retriever, "shelves": shelves, "blocking_shelves": blocking_shelves}
        try:
            super().__init__(**{"envelope": Envelope(level=1), **options, **fields})
        except ValueError as error:  # pydantic's, of several lines
            raise ConfigurationError(f"a cached retriever: {redact(' '.join(str(error).split()))}") from None
        if self.ttl_s <= 0 or self.empty_ttl_s < 0 or not self.index:
            raise ConfigurationError("a cached retriever needs an index, ttl_s above 0 and empty_ttl_s of 0 or more")
        self._flights = SingleFlight()
        self._counts = Counter()

    def stats(self) -> dict[str, int]:
        """Counts of this process: searches `hit`, `miss`, `stale`, `stored`, `unstored`, `damaged`, and `bypass`."""
        return dict(self._counts)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        max_age_s: float | None = None,
        **options: Any,
    ) -> list[Document]:
        async def search() -> list[Document]:
            return self.retriever.invoke(query, {"callbacks": run_manager.get_child()}, **options)

        lookup = self._lookup(query, run_manager, max_age_s, options)
        if lookup is None:
            return self._near(drive(search()))
        led: list[bool] = []

        def look() -> _Result:
            led.append(True)
            return drive(self._look(self.blocking_shelves, lookup, search))

        result = self._flights.run_blocking(lookup, look)
        return self._near(drive(self._own(self.blocking_shelves, result, lookup, search, led=bool(led))))

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        max_age_s: float | None = None,
        **options: Any,
    ) -> list[Document]:
        async def search() -> list[Document]:
            return await self.retriever.ainvoke(query, {"callbacks": run_manager.get_child()}, **options)

        lookup = self._lookup(query, run_manager, max_age_s, options)
        if lookup is None:
            return self._near(await search())
        led: list[bool] = []

        async def look() -> _Result:
            led.append(True)
            return await self._look(self.shelves, lookup, search)

        result = await self._flights.run(lookup, look)
        return self._near(await self._own(self.shelves, result, lookup, search, led=bool(led)))

    def _lookup(self, query: str, run_manager: Any, max_age_s: float | None, options: dict[str, Any]) -> _Lookup | None:
        search = {name: getattr(self.retriever, name, None) for name in SEARCH}
        try:
            owner = scope_of(self.scope, asker(run_manager.metadata), self.tenant)
            asked = canonical([search, options])
        except Uncacheable:
            self._counts["bypass"] += 1
            return None
        ages = [age for age in (self.max_age_s, max_age_s) if age is not None]
        return _Lookup(
            digest("retrieval", VERSION, owner, self.namespace, self.index, asked, query), min(ages, default=None)
        )

    async def _look(self, shelves: Shelves, lookup: _Lookup, search: Search) -> _Result:
        """What is kept, else what a search finds, which is then kept; never raises."""
        kept, stale = self._opened(lookup, (await read_or_miss(shelves, [lookup.key]))[0])
        if kept is not None and not stale:
            self._counts["hit"] += 1
            return kept
        since = await epoch_or_none(shelves)
        try:
            found = await search()
        except Exception as error:  # noqa: BLE001 - raised by whoever it belongs to
            if kept is None or not self.stale_if_error:
                return _Result([], error=error)
            self._counts["stale"] += 1
            return kept
        self._counts["miss"] += 1
        return await self._keep(shelves, lookup.key, found, since)

    def _opened(self, lookup: _Lookup, entry: Found | None) -> tuple[_Result | None, bool]:
        if entry is None or (lookup.max_age_s is not None and entry.age_s > lookup.max_age_s):
            return None, False
        try:
            found = documents.decode(entry.data, lookup.key, self.envelope)
        except EnvelopeError:
            self._counts["damaged"] += 1
            return None, False
        return _Result(found, entry.data), entry.stale

    async def _keep(self, shelves: Shelves, key: str, found: list[Document], since: int | None) -> _Result:
        ttl_s = self.ttl_s if any(map(self._is_near, found)) else self.empty_ttl_s
        try:
            data = documents.encode(found, key, self.envelope)
            own = documents.decode(data, key, self.envelope)
            tags = sorted(
                {*self.cache_tags, *(tag for one in found for tag in checked_tags((self.tags_of or _untagged)(one)))}
            )
        except Exception:  # noqa: BLE001 - `tags_of` is a stranger's; the documents are there all the same
            self._counts["unstored"] += 1
            return _Result(found)
        stored = len(data) <= self.max_bytes and bool(ttl_s)
        stored = stored and await write_or_not(shelves, {key: data}, ttl_s=ttl_s, tags=tags, since=since)
        self._counts["stored" if stored else "unstored"] += 1
        return _Result(own, data, since=since)

    async def _own(
        self, shelves: Shelves, result: _Result, lookup: _Lookup, search: Search, *, led: bool
    ) -> list[Document]:
        """Documents of this caller's own; one who waited for a search that failed, or cannot be copied, searches.

        So does one who waited for a search that began before an invalidation, and may have asked after it.
        """
        if led:
            if result.error is not None:
                raise result.error
            return result.found
        outdated = result.since is not None and await epoch_or_none(shelves) not in (None, result.since)
        if result.data is None or outdated:
            return await search()
        return documents.decode(result.data, lookup.key, self.envelope)

    def _near(self, found: list[Document]) -> list[Document]:
        return found if self.min_score is None else [document for document in found if self._is_near(document)]

    def _is_near(self, document: Document) -> bool:
        if self.min_score is None:
            return True
        try:
            score = self.score_of(document)
        except Exception:  # noqa: BLE001 - a stranger's
            score = None
        if score is None:
            if not self._counts["unscored"]:
                _log.warning("min_score judges no document of %r whose metadata has no score", self.index)
            self._counts["unscored"] += 1
            return True
        return score >= self.min_score


def _untagged(_: Document) -> Sequence[str]:
    return ()
