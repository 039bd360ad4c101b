"""Embeddings that ask for no text twice, and for the texts of concurrent callers at once."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from langchain_core.embeddings import Embeddings

from langchain_llmops.cache import vectors
from langchain_llmops.cache.batches import LoopLine
from langchain_llmops.cache.fingerprint import Uncacheable, scope_of
from langchain_llmops.cache.sharing import asker, digest
from langchain_llmops.cache.shelves import epoch_or_none, read_or_miss, write_or_not
from langchain_llmops.cache.threads import ThreadLine
from langchain_llmops.cache.traits import is_symmetric, model_of, variant_of
from langchain_llmops.core.concurrency import PerLoop, drive
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import ConfigurationError, EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from langchain_llmops.cache.shelves import Found, Shelves
    from langchain_llmops.cache.vectors import Vector
    from langchain_llmops.core.settings import CacheScope
    from langchain_llmops.core.types import Identity

__all__ = ["CachedEmbeddings"]

_log = logging.getLogger(__name__)

VERSION: Final = "1"
WEEK_S: Final = 7 * 24 * 3600.0
Kind = Literal["text", "query", "document"]
_Group: TypeAlias = tuple[str, Kind]


class CachedEmbeddings(Embeddings):
    """Wraps any `Embeddings`: cache first, then one call for the texts of all concurrent callers, each text once.

    Async callers are gathered by event loop, sync ones over all threads; a caller who is alone never waits. A text is
    kept in float32 when that loses nothing, as with OpenAI, and else in float64: a hit is the vector that the provider
    gave, to the last bit. Every caller has lists of its own, and all vectors of one answer have one size: a provider
    that begins to answer another size is asked again for what was kept.

    A call of the provider is made in the context of the first of its callers, who is the one that pays for it in the
    ledger; callers of two tenants never share one. A bad text fails those who asked for it (see `batches`).
    Raises `MalformedAnswerError`, and keeps nothing, when the provider answers another number of vectors than asked.

    Args:
        shelves, blocking_shelves: where vectors are kept, for async and for sync callers.
        raw: the embeddings that `embeddings` wraps, if it wraps any: what follows is read off these when None.
        model: part of each key. variant: what else changes the vectors.
        symmetric: queries and documents have the same vectors, so queries can share a call as well, which LangChain
            offers for documents alone. False keeps the two apart, each query a call of its own. None: whether these
            are OpenAI's.
        scope, tenant, namespace: as for `TieredCache`. A vector tells nothing of who asked, so `shared` is safe.
        identity: who is asking, for code that runs in no chain.
        window_s: the longest that a text waits for others while a call is under way.
        max_batch: texts of different callers in one call; one caller's list is never divided.
        ttl_s: a vector does not age; this bounds what is kept for texts that nobody asks for.
        tags: of every entry, for invalidation.
        hit: told of the texts of a call that the cache had, of the level that had them, and of the seconds it took.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        shelves: Shelves,
        blocking_shelves: Shelves,
        *,
        raw: Embeddings | None = None,
        model: str | None = None,
        variant: str | None = None,
        symmetric: bool | None = None,
        scope: CacheScope = "shared",
        tenant: str = "default",
        namespace: str = "",
        identity: Identity | None = None,
        window_s: float = 0.003,
        max_batch: int = 256,
        ttl_s: float | None = WEEK_S,
        tags: Sequence[str] = (),
        envelope: Envelope | None = None,
        hit: Callable[[list[str], str, float], None] | None = None,
    ) -> None:
        if not isinstance(embeddings, Embeddings):
            raise ConfigurationError(f"embeddings must be a LangChain Embeddings object, not {type(embeddings)}")
        raw = raw or embeddings
        model = model_of(raw) if model is None else model
        if not model:
            raise ConfigurationError(f"{type(raw).__name__} names no model: say model=…, it is part of each key")
        if max_batch < 1 or window_s < 0 or scope not in ("shared", "user", "session"):
            raise ConfigurationError("max_batch is 1 or more, window_s 0 or more, and scope shared, user or session")
        self._embeddings = embeddings
        self._model = [model, variant_of(raw) if variant is None else variant]
        self._symmetric = is_symmetric(raw) if symmetric is None else symmetric
        self._identity = identity
        self._hit = hit
        self._scope: CacheScope = scope
        self._tenant = tenant
        self._namespace = namespace
        self._window_s = window_s
        self._max_batch = max_batch
        self._kept = _Kept(envelope or Envelope(level=1), ttl_s, tuple(tags))
        self._shelves = shelves, blocking_shelves
        self._lines: PerLoop[dict[_Group, LoopLine[_Known]]] = PerLoop(dict, _forget)
        self._threads: dict[_Group, ThreadLine[_Known]] = {}

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts to be searched."""
        return self._embed("document", texts)

    def embed_query(self, text: str) -> list[float]:
        """Embed a text to search with."""
        return self._embed("query", [text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """The same, awaited."""
        return await self._aembed("document", texts)

    async def aembed_query(self, text: str) -> list[float]:
        """The same, awaited."""
        return (await self._aembed("query", [text]))[0]

    def stats(self) -> dict[str, int]:
        """Counts of this process.

        Texts `asked` for by the callers, of which `hit` and `miss` were looked up, the rest shared with another caller;
        `calls` of the provider and the `texts` in them; `stored`, `unstored` and `damaged` entries; `bypass`ing calls.
        """
        return dict(self._kept.counts)

    async def _aembed(self, kind: Kind, texts: list[str]) -> list[list[float]]:
        if not texts:
            return []
        source, order = self._source(kind), self._keys(kind, texts)
        if order is None:
            return _lists(await source.answer(texts))
        (group, keys), began = order, perf_counter()
        line = await self._line(group, source)
        found = await line.get(dict(zip(keys, texts, strict=True)))
        if not vectors.one_size(known.vector for known in found.values()):
            found = await _again(source, dict(zip(keys, texts, strict=True)))
        self._tell(texts, [found[key].level for key in keys], began)
        return _lists(found[key].vector for key in keys)

    def _embed(self, kind: Kind, texts: list[str]) -> list[list[float]]:
        if not texts:
            return []
        source, order = self._source(kind, blocking=True), self._keys(kind, texts)
        if order is None:
            return _lists(drive(source.answer(texts)))
        (group, keys), began = order, perf_counter()
        found = self._thread_line(group, source).get(dict(zip(keys, texts, strict=True)))
        if not vectors.one_size(known.vector for known in found.values()):
            found = drive(_again(source, dict(zip(keys, texts, strict=True))))
        self._tell(texts, [found[key].level for key in keys], began)
        return _lists(found[key].vector for key in keys)

    def _tell(self, texts: list[str], levels: list[str | None], began: float) -> None:
        """Of what the cache had, as of one hit of the farthest level that was reached."""
        hits = [text for text, level in zip(texts, levels, strict=True) if level is not None]
        if not hits or self._hit is None:
            return
        try:
            self._hit(hits, max(filter(None, levels)), perf_counter() - began)
        except Exception as error:  # noqa: BLE001 - a stranger's function; the vectors are there all the same
            _log.warning("a hit could not be told of: %s", type(error).__name__)

    def _keys(self, kind: Kind, texts: list[str]) -> tuple[_Group, list[str]] | None:
        """The key of each text, and whose texts may leave together; None when nothing may be shared."""
        if not all(isinstance(text, str) for text in texts):  # some models embed what is no text
            self._kept.counts["bypass"] += 1
            return None
        try:
            owner = scope_of(self._scope, self._identity or asker(), self._tenant)
        except Uncacheable:
            self._kept.counts["bypass"] += 1
            return None
        self._kept.counts["asked"] += len(texts)
        kind = "text" if self._symmetric else kind
        fixed = (VERSION, owner, self._namespace, *self._model, kind)
        return (owner, kind), [digest("embedding", *fixed, text) for text in texts]

    def _source(self, kind: Kind, *, blocking: bool = False) -> _Source:
        inner = self._embeddings
        documents = kind == "document" or self._symmetric
        if blocking:
            ask = _awaitable(inner.embed_documents) if documents else _each(_awaitable(inner.embed_query))
        else:
            ask = inner.aembed_documents if documents else _each(inner.aembed_query)
        return _Source(self._shelves[blocking], ask, self._kept)

    async def _line(self, group: _Group, source: _Source) -> LoopLine[_Known]:
        lines = await self._lines.get()
        line = lines.get(group)
        if line is None:
            idle = partial(lines.pop, group, None)
            line = lines[group] = LoopLine(source, idle=idle, window_s=self._window_s, max_batch=self._most(group))
        return line

    def _thread_line(self, group: _Group, source: _Source) -> ThreadLine[_Known]:
        line = self._threads.get(group)
        if line is None:
            idle = partial(self._threads.pop, group, None)
            made = ThreadLine(source, idle=idle, window_s=self._window_s, max_batch=self._most(group))
            line = self._threads.setdefault(group, made)
        return line

    def _most(self, group: _Group) -> int:
        return 1 if group[1] == "query" else self._max_batch


@dataclass(frozen=True, slots=True)
class _Kept:
    """How vectors are kept, and what came of it; `size` is that of the provider's last answer, once there is one."""

    envelope: Envelope
    ttl_s: float | None
    tags: Sequence[str]
    counts: Counter[str] = field(default_factory=Counter)
    size: list[int] = field(default_factory=list)


class _Known(NamedTuple):
    """A vector: of which level, or asked for since which epoch."""

    vector: Vector
    level: str | None = None
    since: int | None = None


@dataclass(frozen=True, slots=True)
class _Source:
    """Vectors by key from the shelves, by text from the provider."""

    shelves: Shelves
    call: Callable[[list[str]], Awaitable[Any]]
    kept: _Kept

    async def look(self, keys: Sequence[str]) -> list[_Known | None]:
        """What is cached, readable, and of the size that the provider answers now."""
        found = await read_or_miss(self.shelves, keys)
        looked = [self._opened(key, entry) for key, entry in zip(keys, found, strict=True)]
        hits = sum(known is not None for known in looked)
        self.kept.counts.update(hit=hits, miss=len(looked) - hits)
        return looked

    async def ask(self, texts: Sequence[str]) -> list[_Known]:
        """The provider's vectors, and when they were asked for."""
        since = await epoch_or_none(self.shelves)
        return [_Known(vector, since=since) for vector in await self.answer(texts)]

    async def answer(self, texts: Sequence[str]) -> list[Vector]:
        """The provider's vectors, checked."""
        self.kept.counts.update(calls=1, texts=len(texts))
        answer = vectors.checked(await self.call(list(texts)), len(texts))
        self.kept.size[:] = [len(answer[0])]
        return answer

    async def keep(self, answers: Mapping[str, _Known]) -> None:
        """Into the shelves, all that were asked for together in one write."""
        for since, together in groupby(answers.items(), lambda answer: answer[1].since):
            await self._keep({key: known.vector for key, known in together}, since)

    async def _keep(self, answers: Mapping[str, Vector], since: int | None) -> None:
        kept = self.kept
        sealed = {key: vectors.encode(vector, key, kept.envelope) for key, vector in answers.items()}
        items = {key: data for key, data in sealed.items() if data is not None}
        stored = bool(items) and await write_or_not(self.shelves, items, ttl_s=kept.ttl_s, tags=kept.tags, since=since)
        kept.counts.update(stored=len(items) if stored else 0, unstored=len(answers) - len(items) * stored)

    def _opened(self, key: str, entry: Found | None) -> _Known | None:
        if entry is None or entry.stale:
            return None
        try:
            vector = vectors.decode(entry.data, key, self.kept.envelope)
        except EnvelopeError:
            self.kept.counts["damaged"] += 1
            return None
        return _Known(vector, entry.level) if self.kept.size in ([], [len(vector)]) else None


async def _again(source: _Source, texts: Mapping[str, str]) -> dict[str, _Known]:
    answers = dict(zip(texts, await source.ask([*texts.values()]), strict=True))
    await source.keep(answers)
    return answers


async def _forget(lines: dict[_Group, LoopLine[_Known]]) -> None:
    lines.clear()


def _lists(found: Iterable[Vector]) -> list[list[float]]:
    return [vector.tolist() for vector in found]


def _awaitable(call: Callable[[Any], Any]) -> Callable[[Any], Awaitable[Any]]:
    async def called(argument: Any) -> Any:
        return call(argument)

    return called


def _each(call: Callable[[str], Awaitable[Any]]) -> Callable[[list[str]], Awaitable[Any]]:
    async def called(texts: list[str]) -> Any:
        return [await call(text) for text in texts]

    return called
