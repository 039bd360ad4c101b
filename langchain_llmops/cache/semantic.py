"""The semantic level: an answer that was given to another wording of the same question."""

from __future__ import annotations

import asyncio
import logging
import random as _random
import threading
import time
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, Protocol

from langchain_core.embeddings import Embeddings

from langchain_llmops.cache.gates import refused_by
from langchain_llmops.cache.likeness import likeness, shipped
from langchain_llmops.cache.nearest import Rows, new_rows, unit
from langchain_llmops.cache.words import Words, read
from langchain_llmops.core.concurrency import within
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.stats import wilson

if TYPE_CHECKING:
    from array import array
    from collections.abc import Callable


__all__ = ["Asked", "Mode", "Near", "SemanticLevel"]

_log = logging.getLogger(__name__)

Mode = Literal["shadow", "serve"]
MAX_CHARS: Final = 1000
CANDIDATES: Final = 4
PAUSE_AFTER_ERROR_S: Final = 5.0
REMEMBERED_VECTORS: Final = 1024
JUDGED_WINDOW: Final = 1000  # the rate is that of the latest judgements: a good past must not hide a bad present
MIN_JUDGED: Final = 30  # below it one wrong answer in twenty looks like a rate
PENDING: Final = 256
COUNTED: Final = ("lookups", "would_be", "served", "judged", "wrong", "errors")
MARGIN: Final = 0.02  # how far above a wrong score an entry's threshold moves
SLACK: Final = 0.15  # how far below the common threshold an entry's own may fall, and so what is worth exploring
PROOFS: Final = 3  # right judgements below an entry's threshold before it falls to the lowest of them


class Asked(Protocol):
    """`Question` of the fingerprint: the partition (everything but the text) and the user's last text."""

    @property
    def group(self) -> str:
        """A digest of tenant, model, system prompt, tools and history."""
        ...

    @property
    def text(self) -> str:
        """The last text of the user, alone."""
        ...


@dataclass(frozen=True, slots=True)
class Near:
    """An answer to `known` that may do for `text`; `hit` is False for one below the threshold, kept to be judged."""

    group: str
    key: str
    text: str
    known: str
    similarity: float
    score: float
    hit: bool


@dataclass(slots=True)
class _Entry:
    text: str
    words: Words
    expires_at: float
    threshold: float
    floor: float = 0.0  # never to fall below: a wrong answer was given there
    proofs: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Group:
    rows: Rows = field(default_factory=new_rows)
    entries: OrderedDict[str, _Entry] = field(default_factory=OrderedDict)


class SemanticLevel:
    """Finds the key of an answer to the same question in other words; nothing here raises into a call.

    A candidate is near by cosine, passes every gate, and its likeness reaches the entry's own threshold. Entries are
    compared within their `group` alone. In `shadow` mode nothing is ever offered: would-be hits are counted and kept
    for `take` and `judge`. From 30 judgements on, when even the lower end of the interval of wrong ones lies over
    `max_false_hit_rate`, the level switches itself off until `switch_on`.

    Args:
        embeddings: any LangChain `Embeddings`; both colours of it are used.
        threshold: of the likeness, 0 to 1; the shipped one gives 1 % false hits among hard pairs of questions.
        min_similarity: of the cosine. Raise it to what the embeddings deserve; hashed ones need a low one.
        explore: the share of candidates just below their threshold that are kept to be judged.
        timeout_s: how long a caller waits for the embeddings; they are then left alone for some seconds.
        max_entries, max_entries_per_group: bounds; the least recently used go first.
        clock: Unix seconds. `random`: draws from 0 to 1.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        *,
        mode: Mode = "shadow",
        max_false_hit_rate: float = 0.01,
        threshold: float | None = None,
        min_similarity: float = 0.5,
        explore: float = 0.1,
        timeout_s: float = 1.0,
        max_entries: int = 10_000,
        max_entries_per_group: int = 1_000,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = _random.random,
    ) -> None:
        if not isinstance(embeddings, Embeddings):
            raise ConfigurationError(f"embeddings must be a LangChain Embeddings object, not {embeddings!r:.60}")
        if mode not in ("shadow", "serve"):
            raise ConfigurationError(f"mode must be shadow or serve, not {mode!r}")
        if not 0 < max_false_hit_rate < 1:
            raise ConfigurationError(f"max_false_hit_rate must lie between 0 and 1, not {max_false_hit_rate}")
        if min(max_entries, max_entries_per_group) < 1:
            raise ConfigurationError("max_entries and max_entries_per_group must be at least 1")
        self._embeddings = embeddings
        self._serves = mode == "serve"
        self._budget = max_false_hit_rate
        self._threshold = shipped().threshold if threshold is None else threshold
        self._min_similarity = min_similarity
        self._explore = explore
        self._timeout_s = timeout_s
        self._max_entries = max_entries
        self._max_per_group = max_entries_per_group
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._groups: dict[str, _Group] = {}
        self._order: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._homes: dict[str, set[str]] = {}
        self._vectors: OrderedDict[str, array[float]] = OrderedDict()
        self._dimensions: int | None = None
        self._pending: deque[Near] = deque(maxlen=PENDING)
        self._judged: deque[bool] = deque(maxlen=JUDGED_WINDOW)
        self._counts: Counter[str] = Counter()
        self._paused_until = 0.0
        self._failing = False
        self._off = False

    # looking and learning

    @property
    def serves(self) -> bool:
        """Whether anything may be offered at all."""
        return self._serves

    async def near(self, question: Asked, *, blocking: bool = False) -> Near | None:
        """The answer to serve, if one is near enough; always None in shadow mode. `blocking` is for `drive`."""
        if not self._takes(question.text):
            return None
        with self._lock:
            self._counts["lookups"] += 1
            if question.group not in self._groups:
                return None
        vector = await self._vector(question.text, blocking=blocking)
        if vector is None:
            return None
        try:
            return self._find(question, vector)
        except Exception as error:  # noqa: BLE001 - whatever a text does to us, the call goes on
            self._failed(error)
            return None

    async def learn(self, question: Asked, key: str, expires_at: float, *, blocking: bool = False) -> None:
        """The answer at `key` is one to this question, until then (Unix seconds)."""
        if not self._takes(question.text) or expires_at <= self._clock():
            return
        vector = await self._vector(question.text, blocking=blocking)
        if vector is None:
            return
        try:
            words = read(question.text)
        except Exception as error:  # noqa: BLE001 - an answer whose question cannot be read is kept all the same
            self._failed(error)
            return
        with self._lock:
            self._put(question, key, _Entry(question.text, words, expires_at, self._threshold), vector)

    def forget(self, key: str) -> None:
        """The answer at `key` is gone."""
        with self._lock:
            for group in list(self._homes.get(key, ())):
                self._remove(group, key)

    # judging

    def take(self, limit: int = PENDING) -> list[Near]:
        """Up to so many hits and candidates that nobody judged yet, oldest first; they are handed out once."""
        with self._lock:
            return [self._pending.popleft() for _ in range(min(limit, len(self._pending)))]

    def judge(self, near: Near, right: bool) -> None:  # noqa: FBT001 - the one thing a judge says
        """Whether that answer did for that text: moves the entry's threshold, and may switch the level off."""
        with self._lock:
            self._counts["judged" if near.hit else "judged:explored"] += 1
            if near.hit:
                self._judged.append(not right)
                self._counts["wrong"] += not right
            group = self._groups.get(near.group)
            entry = group.entries.get(near.key) if group else None
            if entry is not None:
                self._move(entry, near.score, right=right)
            low, _ = self._interval()
            tips = not self._off and len(self._judged) >= MIN_JUDGED and low > self._budget
            self._off = self._off or tips
        if tips:
            _log.warning(
                "the semantic cache switched itself off: at least %.1f %% of its hits are wrong, over its %.1f %%",
                low * 100,
                self._budget * 100,
            )

    def switch_on(self) -> None:
        """Begin anew after the level has switched itself off; what was judged so far no longer counts."""
        with self._lock:
            self._judged.clear()
            self._off = False

    def stats(self) -> dict[str, float | bool | str]:
        """Counts of this process, and the share of wrong hits among the latest judged, with its 95 % interval."""
        with self._lock:
            low, high = self._interval()
            return {
                **dict.fromkeys(COUNTED, 0),
                **self._counts,
                "mode": "serve" if self._serves else "shadow",
                "off": self._off,
                "entries": len(self._order),
                "groups": len(self._groups),
                "false_hit_rate": sum(self._judged) / len(self._judged) if self._judged else 0.0,
                "false_hit_low": low,
                "false_hit_high": high,
            }

    # the vector of a text, once

    def _takes(self, text: str) -> bool:
        return not self._off and 0 < len(text) <= MAX_CHARS

    async def _vector(self, text: str, *, blocking: bool) -> array[float] | None:
        with self._lock:
            known = self._vectors.get(text)
            if known is not None:
                self._vectors.move_to_end(text)
                return known
            if self._clock() < self._paused_until:
                return None
        try:
            vector = unit(await self._embed(text, blocking=blocking))
            with self._lock:
                self._remember(text, vector)
        except Exception as error:  # noqa: BLE001 - any embeddings may raise anything
            with self._lock:
                self._paused_until = self._clock() + PAUSE_AFTER_ERROR_S
            self._failed(error)
            return None
        self._failing = False
        return vector

    async def _embed(self, text: str, *, blocking: bool) -> list[float]:
        if blocking:
            return within(partial(self._embeddings.embed_query, text), self._timeout_s)
        async with asyncio.timeout(self._timeout_s):
            return await self._embeddings.aembed_query(text)

    def _remember(self, text: str, vector: array[float]) -> None:
        if self._dimensions is None:
            self._dimensions = len(vector)
        if len(vector) != self._dimensions:
            raise ValueError(f"an embedding of {len(vector)} dimensions among those of {self._dimensions}")
        self._vectors[text] = vector
        while len(self._vectors) > REMEMBERED_VECTORS:
            self._vectors.popitem(last=False)

    def _failed(self, error: Exception) -> None:
        with self._lock:
            self._counts["errors"] += 1
            first, self._failing = not self._failing, True
        if first:
            _log.warning("the semantic cache is skipped: %s", type(error).__name__)

    # comparing; the shared state is only touched under the lock, the words are compared outside it

    def _find(self, question: Asked, vector: array[float]) -> Near | None:
        with self._lock:
            candidates = self._candidates(question.group, vector)
        words = read(question.text)
        best: tuple[float, Near] | None = None
        for similarity, key, entry in candidates:
            if not self._serves and entry.text == question.text:
                continue  # it was compared behind its own answer, and is learned by now
            refusal = refused_by(words, entry.words)
            if refusal is not None:
                self._count(f"refused:{refusal}")
                continue
            score = likeness(words, entry.words)
            over = score - entry.threshold
            if best is None or over > best[0]:
                hit = over >= 0
                best = over, Near(question.group, key, question.text, entry.text, similarity, score, hit)
        return self._decide(*best) if best else None

    def _candidates(self, name: str, vector: array[float]) -> list[tuple[float, str, _Entry]]:
        group = self._groups.get(name)
        if group is None:
            return []
        now, found = self._clock(), []
        for similarity, key in group.rows.nearest(vector, CANDIDATES):
            entry = group.entries[key]
            if entry.expires_at <= now:
                self._remove(name, key)
            elif similarity >= self._min_similarity:
                found.append((similarity, key, entry))
        return found

    def _decide(self, over: float, near: Near) -> Near | None:
        with self._lock:
            if not near.hit:
                if over >= -SLACK and self._random() < self._explore:
                    self._pending.append(near)
                return None
            self._pending.append(near)
            self._counts["served" if self._serves else "would_be"] += 1
            if (near.group, near.key) in self._order:
                self._touch(near.group, near.key)
            return near if self._serves and not self._off else None

    def _count(self, name: str) -> None:
        with self._lock:
            self._counts[name] += 1

    # the entries, under the lock

    def _put(self, question: Asked, key: str, entry: _Entry, vector: array[float]) -> None:
        group = self._groups.setdefault(question.group, _Group())
        known = group.entries.get(key)
        if known is not None and known.text == entry.text:
            known.expires_at = entry.expires_at  # what was learnt about it stays
        else:
            group.entries[key] = entry
            group.rows.put(key, vector)
            self._homes.setdefault(key, set()).add(question.group)
        self._touch(question.group, key)
        if len(group.entries) > self._max_per_group:
            self._remove(question.group, next(iter(group.entries)))
        if len(self._order) > self._max_entries:
            self._remove(*next(iter(self._order)))

    def _touch(self, name: str, key: str) -> None:
        self._order[name, key] = None
        self._order.move_to_end((name, key))
        self._groups[name].entries.move_to_end(key)

    def _remove(self, name: str, key: str) -> None:
        group = self._groups[name]
        del group.entries[key], self._order[name, key]
        group.rows.drop(key)
        if not group.entries:
            del self._groups[name]
        homes = self._homes[key]
        homes.discard(name)
        if not homes:
            del self._homes[key]

    def _move(self, entry: _Entry, score: float, *, right: bool) -> None:
        """An entry's own threshold (after vCache, arXiv 2502.03771): no one threshold is right for all questions."""
        if not right:
            entry.floor = max(entry.floor, score + MARGIN)
            entry.threshold = max(entry.threshold, entry.floor)
            entry.proofs.clear()
        elif score < entry.threshold:
            entry.proofs.append(score)
            if len(entry.proofs) >= PROOFS:
                entry.threshold = max(entry.floor, self._threshold - SLACK, min(entry.proofs))
                entry.proofs.clear()

    def _interval(self) -> tuple[float, float]:
        return wilson(sum(self._judged), len(self._judged))
