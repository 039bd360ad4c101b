"""LLM answers in process memory over Redis or SQLite, as a LangChain `BaseCache`."""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any, Final

from langchain_core.caches import BaseCache
from langchain_core.outputs import ChatGeneration, Generation

from langchain_llmops.cache.codec import decode, encode, rebuild
from langchain_llmops.cache.fingerprint import Uncacheable, fingerprint, scope_of
from langchain_llmops.core.concurrency import drive, run_sync
from langchain_llmops.core.context import current_identity
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import ConfigurationError, EnvelopeError, LLMOpsError
from langchain_llmops.core.events import Bus, CacheLooked
from langchain_llmops.stores.base import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from langchain_core.messages import BaseMessage

    from langchain_llmops.core.settings import CacheScope
    from langchain_llmops.stores.base import KeyValue, Store

__all__ = ["TieredCache"]

_log = logging.getLogger(__name__)

PREFIX: Final = "llmops:cache:1:"
PAUSE_AFTER_ERROR_S: Final = 5.0
SCOPES: Final = ("shared", "user", "session")
# what providers say of an answer that is whole: OpenAI, Anthropic, Gemini, Bedrock, OpenAI Responses
GOOD_ENDS: Final = frozenset(
    {"stop", "tool_calls", "function_call", "end_turn", "stop_sequence", "tool_use", "pause_turn", "completed"}
)
END_KEYS: Final = ("finish_reason", "stop_reason", "stopReason", "status")


class TieredCache(BaseCache):
    """Two levels: L1 in process memory, L2 in a key-value store. `set_llm_cache(TieredCache.from_urls(...))`.

    A level that fails is a miss and is left alone for some seconds; the cache never raises into a call. Not stored:
    answers at temperature above 0, truncated, refused or empty ones, and, unless `tool_calls=True`, answers that call
    tools. A hit has new ids, zero usage, and `response_metadata["llmops_cache"]` with `level`, `age_s` and `saved`.

    Args:
        store, blocking_store: L2 for async and for sync callers, over one database; L1 alone when None.
        scope: who may share an answer. Under `user` and `session` a call that names nobody bypasses the cache.
        tenant, namespace: parts of every key; a run that names its tenant has that one instead.
        l1_max_bytes, l1_ttl_s, l2_ttl_s: bounds; bytes are those of the encoded answers.
    """

    def __init__(
        self,
        store: Store | None = None,
        blocking_store: Store | None = None,
        *,
        scope: CacheScope = "shared",
        tenant: str = "default",
        namespace: str = "",
        l1_max_bytes: int = 64 * 1024 * 1024,
        l1_ttl_s: float = 60.0,
        l2_ttl_s: float = 3600.0,
        tool_calls: bool = False,
        envelope: Envelope | None = None,
        bus: Bus | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if scope not in SCOPES:
            raise ConfigurationError(f"scope must be one of {', '.join(SCOPES)}, not {scope!r}")
        self._stores = [opened for opened in (store, blocking_store) if opened is not None]
        self._l2 = store.kv if store is not None else None
        self._blocking_l2 = blocking_store.kv if blocking_store is not None else None
        self._scope = scope
        self._tenant = tenant
        self._namespace = namespace
        self._l1 = _Memory(l1_max_bytes, l1_ttl_s, clock)
        self._l2_ttl_s = l2_ttl_s
        self._tool_calls = tool_calls
        self._envelope = envelope or Envelope(level=1)
        self._bus = bus or Bus()
        self._clock = clock
        self._paused_until = 0.0
        self._failing = False
        self._generation = 0
        owner = hashlib.blake2b(f"{tenant}\x00{namespace}".encode(), digest_size=16).hexdigest()
        self._generation_key = f"llmops:cache-generation:1:{owner}"
        self._counts: Counter[str] = Counter()

    @classmethod
    def from_urls(
        cls, l2: str | None = None, *, setting: str = "l2", timeout_s: float = 1.0, **options: Any
    ) -> TieredCache:
        """A cache whose second level is `redis://…`, `sqlite:///…` or `postgresql://…`; see the class for options."""
        if l2 is None:
            return cls(**options)
        store = open_store(l2, setting=setting, timeout_s=timeout_s)
        return cls(store, open_store(l2, setting=setting, blocking=True, timeout_s=timeout_s), **options)

    # BaseCache

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """The cached answer, or None."""
        return drive(self._lookup(self._blocking_l2, prompt, llm_string))

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """The cached answer, or None."""
        return await self._lookup(self._l2, prompt, llm_string)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep an answer, if it may be kept."""
        drive(self._update(self._blocking_l2, prompt, llm_string, return_val))

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep an answer, if it may be kept."""
        await self._update(self._l2, prompt, llm_string, return_val)

    def clear(self, **_: Any) -> None:
        """Forget every answer of this tenant and namespace; other processes' L1 follows within its time to live."""
        drive(self._clear(self._blocking_l2))

    async def aclear(self, **_: Any) -> None:
        """Forget every answer of this tenant and namespace."""
        await self._clear(self._l2)

    # the rest of the face

    def stats(self) -> dict[str, int]:
        """Counts of this process: `hit:L1`, `hit:L2`, `miss`, `bypass`, `error:L2`, `stored`, `l1_entries` and more."""
        return {**self._counts, "l1_entries": len(self._l1), "l1_bytes": self._l1.bytes}

    async def aping(self) -> float:
        """Reach the second level; seconds."""
        return await self._stores[0].ping() if self._stores else 0.0

    def close(self) -> None:
        """Close the stores."""
        run_sync(self.aclose())

    async def aclose(self) -> None:
        """Close the stores."""
        for store in self._stores:
            await store.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # one body for both colours

    async def _lookup(self, l2: KeyValue | None, prompt: str, llm_string: str) -> list[Generation] | None:
        key = self._key(prompt, llm_string)
        if key is None:
            self._looked("bypass", None)
            return None
        found = self._open(key, self._l1.get(key), "L1") or self._open(key, await self._read(l2, key), "L2")
        if found is None:
            self._looked("miss", None)
        return found

    def _open(self, key: str, stored: bytes | None, level: str) -> list[Generation] | None:
        if stored is None:
            return None
        try:
            entry = decode(stored, self._envelope)
            if entry.generation != self._generation:
                return None
            answers = rebuild(entry, level=level, age_s=max(0.0, self._clock() - entry.created))
        except EnvelopeError:
            self._looked("error", level)
            return None
        if level == "L2":
            self._l1.put(key, stored, entry.created + self._l2_ttl_s - self._clock())
        self._looked("hit", level)
        return answers

    async def _read(self, l2: KeyValue | None, key: str) -> bytes | None:
        if l2 is None or self._clock() < self._paused_until:
            return None
        try:
            stored, generation = await l2.get_many((PREFIX + key, self._generation_key))
        except LLMOpsError as error:
            self._pause(error)
            return None
        self._failing = False
        if generation is not None and not generation.isdigit():  # not ours: nothing here can be trusted
            self._looked("error", "L2")
            return None
        self._generation = int(generation or 0)
        return stored

    async def _update(self, l2: KeyValue | None, prompt: str, llm_string: str, answers: Sequence[Generation]) -> None:
        key = self._key(prompt, llm_string)
        if key is None or not all(self._may_keep(answer) for answer in answers):
            return
        try:
            data = encode(answers, created=self._clock(), generation=self._generation, envelope=self._envelope)
        except (TypeError, ValueError, RecursionError):  # what JSON cannot hold; it is counted
            self._counts["unstorable"] += 1
            return
        self._l1.put(key, data, self._l2_ttl_s)
        self._counts["stored"] += 1
        if l2 is not None and self._clock() >= self._paused_until:
            try:
                await l2.set(PREFIX + key, data, self._l2_ttl_s)
            except LLMOpsError as error:
                self._pause(error)

    async def _clear(self, l2: KeyValue | None) -> None:
        self._l1.clear()
        self._generation = await l2.increment(self._generation_key) if l2 is not None else self._generation + 1

    def _key(self, prompt: str, llm_string: str) -> str | None:
        try:
            owner = scope_of(self._scope, current_identity(), self._tenant)
            return fingerprint(prompt, llm_string, owner=owner, namespace=self._namespace)
        except Uncacheable:
            return None

    def _may_keep(self, answer: Generation) -> bool:
        if not isinstance(answer, ChatGeneration):
            return bool(answer.text) and _ended_well(answer.generation_info or {})
        message = answer.message
        calls = getattr(message, "tool_calls", None)
        if not _ended_well(message.response_metadata) or _refuses(message):
            return False
        return bool(message.content or calls) and (self._tool_calls or not calls)

    def _pause(self, error: LLMOpsError) -> None:
        if not self._failing:
            _log.warning("the cache goes on without its second level until that answers again: %s", error)
        self._failing = True
        self._paused_until = self._clock() + PAUSE_AFTER_ERROR_S
        self._looked("error", "L2")

    def _looked(self, outcome: str, level: str | None) -> None:
        self._counts[f"{outcome}:{level}" if level else outcome] += 1
        self._bus.publish(CacheLooked(outcome, level, current_identity()))


def _ended_well(told: Mapping[str, Any]) -> bool:
    """Whether no provider says that the answer was cut, filtered or refused; one that says nothing is believed."""
    ends = [str(told[key]).lower() for key in END_KEYS if told.get(key) is not None]
    return all(end in GOOD_ENDS for end in ends)


def _refuses(message: BaseMessage) -> bool:
    blocks = message.content if isinstance(message.content, list) else []
    in_block = any(isinstance(block, dict) and block.get("type") == "refusal" for block in blocks)
    return in_block or bool(message.additional_kwargs.get("refusal") or getattr(message, "invalid_tool_calls", None))


class _Memory:
    """Encoded answers, least recently used out first, bounded in bytes."""

    def __init__(self, max_bytes: int, ttl_s: float, clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: str) -> bytes | None:
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            if found[1] <= self._clock():
                self._remove(key)
                return None
            self._entries.move_to_end(key)
            return found[0]

    def put(self, key: str, data: bytes, left_s: float) -> None:
        """Keep for the level's own time to live, and never longer than what is left of the entry's."""
        with self._lock:
            self._remove(key)
            if len(data) > self._max_bytes:
                return
            self._entries[key] = (data, self._clock() + min(self._ttl_s, left_s))
            self.bytes += len(data)
            while self.bytes > self._max_bytes:
                self._remove(next(iter(self._entries)))

    def clear(self) -> None:
        with self._lock:
            self._entries.clear()
            self.bytes = 0

    def _remove(self, key: str) -> None:
        found = self._entries.pop(key, None)
        if found is not None:
            self.bytes -= len(found[0])
