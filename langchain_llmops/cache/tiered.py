"""LLM answers in process memory over Redis and a database, as a LangChain `BaseCache`."""

from __future__ import annotations

import math
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from langchain_core.caches import BaseCache

from langchain_llmops.cache.answers import Answers
from langchain_llmops.cache.asked import Caller, Requests, call_in, caller_of
from langchain_llmops.cache.behind import Behind, at_exit
from langchain_llmops.cache.codec import Entry
from langchain_llmops.cache.engine import Engine
from langchain_llmops.cache.explain import explain
from langchain_llmops.cache.fingerprint import Fingerprints
from langchain_llmops.cache.flight import Leader
from langchain_llmops.cache.lease import Leases
from langchain_llmops.cache.levels import Level
from langchain_llmops.cache.meaning import Meaning
from langchain_llmops.cache.memory import Memory
from langchain_llmops.cache.policy import Policy, Ttl
from langchain_llmops.cache.push import Push
from langchain_llmops.cache.semantic import SemanticLevel
from langchain_llmops.cache.shelving import EngineShelves
from langchain_llmops.cache.tags import Tags
from langchain_llmops.core.concurrency import DOOR, drive, run_sync
from langchain_llmops.core.context import checked_tags, current_identity
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import Bus
from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.stores.base import open_store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from langchain_core.outputs import Generation

    from langchain_llmops.cache.asked import Asked
    from langchain_llmops.cache.explain import Standing
    from langchain_llmops.core.settings import CacheScope
    from langchain_llmops.stores.base import Store

__all__ = ["TieredCache"]

CLOSE_S: Final = 5.0
COMPRESS_FROM_BYTES: Final = 2048
DATABASES: Final = ("sqlite:", "postgresql:", "postgres:")
UNNAMED: Final = Caller(None)


class TieredCache(BaseCache):
    """Answers in process memory (L1), a key-value store (L2) and a database (L3). `set_llm_cache(TieredCache…)`.

    A level that fails is a miss and is left alone for some seconds; the cache never raises into a call. What is not
    stored is said by `policy`. Equal requests that are on their way at once make one provider call, in one process and,
    below a shared level, in all; but those of async text models, which each ask for themselves. A hit has new ids, zero
    usage, and `response_metadata["llmops_cache"]` with `level`, `age_s`, `key` (for `llmops cache explain`), `saved`
    (the tokens that asking had cost), `saved_usd` where `prices` know what those cost, and `stale` where it is past its
    time.

    Args:
        levels: a `(store, blocking_store)` for each level below memory, over one database each.
        scope: who may share an answer. Under `user` and `session` a call that names nobody bypasses the cache.
        tenant, namespace, prompt_version: parts of every key; a run that names its tenant has that one instead.
        ttl: seconds by level; see `Ttl`.
        policy: what is kept; see `Policy`.
        prices: dollars of `saved_usd`; those that ship with the library when None.
        tags_of: tags of a request, beside those of `ops.config(cache_tags=[…])`; it is given LangChain's two strings.
        semantic: a level that knows questions by their meaning; see `SemanticLevel`.
        lease_s: how long other processes wait for one that asks and is not heard of; 0 for no waiting.
    """

    def __init__(
        self,
        *levels: tuple[Store | None, Store | None] | None,
        scope: CacheScope = "shared",
        tenant: str = "default",
        namespace: str = "",
        prompt_version: str = "",
        l1_max_bytes: int = 64 * 1024 * 1024,
        ttl: Ttl | None = None,
        policy: Policy | None = None,
        prices: PriceBook | None = None,
        tags_of: Callable[[str, str], Iterable[str]] | None = None,
        lease_s: float = 3.0,
        semantic: SemanticLevel | None = None,
        envelope: Envelope | None = None,
        bus: Bus | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        policy, ttl = policy or Policy(), ttl or Ttl()
        _check(policy=(policy, Policy), ttl=(ttl, Ttl), semantic=(semantic, SemanticLevel), prices=(prices, PriceBook))
        if not 0 <= lease_s < math.inf:
            raise ConfigurationError(f"lease_s must be 0 or a number of seconds, not {lease_s!r}")
        opened = [
            Level(f"L{number}", *stores, clock=clock, failed=self._failed, skipped=self._skipped)
            for number, stores in enumerate(levels, 2)
            if stores is not None
        ]
        self._stores = [store for level in opened for store in level.stores]
        self._behind = Behind(everywhere=all(stores is None or None not in stores for stores in levels))
        at_exit(self._behind.finish)
        self._tags = Tags(tenant, namespace, clock)
        first = next((stores for stores in levels if stores is not None), (None, None))
        self._push = Push(self._tags, first, clock=clock, bad=lambda: self._failed(opened[0].name))
        self._engine = Engine(
            Memory[Entry](l1_max_bytes, clock=clock),
            opened,
            self._tags,
            self._push,
            ttl=ttl,
            envelope=envelope or Envelope(level=1, compress_from=COMPRESS_FROM_BYTES),
            clock=clock,
            bad=self._failed,
            later=self._behind.do,
        )
        leases = Leases(opened[0], self._behind, lease_s) if opened and lease_s else None
        fingerprints = Fingerprints(namespace=namespace, prompt_version=prompt_version)
        self.requests = Requests(
            fingerprints, self._tags, scope=scope, tenant=tenant, policy=policy, tags_of=tags_of, at_most=ttl.at_most
        )
        self.semantic = semantic
        self._meaning = None if semantic is None else Meaning(semantic, self._engine, self.requests.question)
        self.answers = Answers(
            self._engine,
            policy=policy,
            leases=leases,
            bus=bus or Bus(),
            prices=prices or PriceBook(),
            meaning=self._meaning,
        )
        self._parts: dict[str, tuple[Callable[[], Mapping[str, float | None]], Callable[[], Awaitable[None]]]] = {}
        self.shelves = EngineShelves(self._engine, blocking=False)
        self.blocking_shelves = EngineShelves(self._engine, blocking=True)

    @classmethod
    def from_urls(
        cls,
        l2: str | None = None,
        l3: str | None = None,
        *,
        setting: str = "l2",
        timeout_s: float = 0.05,
        **options: Any,
    ) -> TieredCache:
        """A cache over `redis://…`, `sqlite:///…`, `postgresql://…` or `memory://`; see the class for options.

        A level that does not answer within `timeout_s` is skipped. A database alone is L3, in whichever place.
        """
        if l2 is not None and l3 is None and l2.startswith(DATABASES):
            l2, l3 = None, l2
        if not 0 < timeout_s < math.inf:
            raise ConfigurationError(f"timeout_s must be a number of seconds above 0, not {timeout_s!r}")
        named = ((l2, setting), (l3, setting if l2 is None else "l3"))
        return cls(*(None if url is None else _opened(url, name, timeout_s) for url, name in named), **options)

    # BaseCache

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """The cached answer, or None."""
        frame = sys._getframe(1)  # noqa: SLF001 - who asks
        asked = self.asked(prompt, llm_string, caller_of(frame, prompt))
        if asked is None:
            return None
        found = self.answers.at_hand(asked)
        return found or drive(self.answers.find(asked, Leader(call_in(frame)), blocking=True))

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """The cached answer, or None."""
        frame = sys._getframe(1)  # noqa: SLF001 - who asks
        asked = self.asked(prompt, llm_string, caller_of(frame, prompt))
        if asked is None:
            return None
        leader = Leader(alone=frame.f_code.co_name == "aget_prompts")  # of a text model
        return self.answers.at_hand(asked) or await self.answers.find(asked, leader, blocking=False)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep an answer, if it may be kept; the levels below memory are written behind the caller's back."""
        frame = sys._getframe(1)  # noqa: SLF001 - who asked
        asked = self.requests.asked(prompt, llm_string, caller_of(frame, prompt))
        if asked is not None:
            drive(self.answers.keep(asked, return_val, Leader(call_in(frame)), blocking=True))

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        """Keep an answer, if it may be kept; the levels below memory are written behind the caller's back."""
        asked = self.requests.asked(prompt, llm_string, caller_of(sys._getframe(1), prompt))  # noqa: SLF001 - who asked
        if asked is not None:
            await self.answers.keep(asked, return_val, Leader(), blocking=False)

    def clear(self, *, tenant: str | None = None, **_: Any) -> None:
        """Forget every answer of this tenant and namespace, in all processes within 250 ms; raises `StoreError`.

        `tenant`: only what runs that name this one have brought.
        """
        if tenant is None:
            self._engine.memory.clear()
        drive(self._engine.invalidate([self._tags.all_of(tenant)], tenant=tenant, blocking=True))

    async def aclear(self, *, tenant: str | None = None, **_: Any) -> None:
        """The same for async callers."""
        if tenant is None:
            self._engine.memory.clear()
        await self._engine.invalidate([self._tags.all_of(tenant)], tenant=tenant, blocking=False)

    # the rest of the face

    def invalidate(self, tags: Iterable[str], *, tenant: str | None = None) -> None:
        """Forget every answer that carries one of these tags, or one that depends on them; raises `StoreError`.

        It costs the same however many answers that is, and other processes know within 250 ms. `tenant`: only what
        runs that name this one have brought.
        """
        drive(self._invalidate(self.checked(tags), tenant, blocking=True))

    async def ainvalidate(self, tags: Iterable[str], *, tenant: str | None = None) -> None:
        """The same for async callers."""
        await self._invalidate(self.checked(tags), tenant, blocking=False)

    def forget_user(self, user_id: str, *, tenant: str | None = None) -> None:
        """Forget what is a user's own, under scope `user` or `session`; raises `StoreError`."""
        drive(self._engine.invalidate([self._tags.user(user_id, tenant)], tenant=tenant, blocking=True))

    async def aforget_user(self, user_id: str, *, tenant: str | None = None) -> None:
        """The same for async callers."""
        await self._engine.invalidate([self._tags.user(user_id, tenant)], tenant=tenant, blocking=False)

    async def _invalidate(self, tags: Sequence[str], tenant: str | None, *, blocking: bool) -> None:
        keys = [self._tags.key(tag, tenant) for tag in tags]
        await self._engine.invalidate(keys, tenant=tenant, blocking=blocking)
        self.answers.counts["invalidated_tags"] += len(tags)

    def depend(self, tag: str, on: Iterable[str]) -> None:
        """Whatever carries `tag` is forgotten too when one of `on` is invalidated; to be said in every process."""
        self._tags.depend(self.checked([tag])[0], self.checked(on))

    @property
    def fresh_s(self) -> float:
        """How long an answer without tags is fresh."""
        return self._engine.fresh_s(())

    def holds(self, key: str) -> bool:
        """Whether memory has an entry of a key."""
        return self._engine.memory.get(key) is not None

    def report(
        self, name: str, stats: Callable[[], Mapping[str, float | None]], aclose: Callable[[], Awaitable[None]]
    ) -> None:
        """Show a part's figures in `stats()` as `name:figure`, and close it first; raises `ConfigurationError`."""
        if name in self._parts:
            raise ConfigurationError(f"this cache has a {name!r} already: use that one, or say another name=")
        self._parts[name] = stats, aclose

    def stats(self) -> dict[str, Any]:
        """Counts of this process; those of what never happened are left out.

        `hit:L1`, `hit:L2`, `hit:L3`, `hit:semantic`, `miss`, `bypass`, `coalesced`, `stale`, `stored`, `unkept`,
        `unstorable`; `error:L2`, and `skipped:L2` while it is left alone; `invalidated:L1` … for looks that found an
        entry whose tags were invalidated, and `invalidated_tags`; `written_bytes:L2` …; `l1_entries`, `l1_bytes`; and
        those of parts, as `semantic:served` (see `SemanticLevel.stats`) and `prefetch:issued`.
        """
        told: dict[str, Mapping[str, Any]] = {name: stats() for name, (stats, _) in self._parts.items()}
        if self.semantic is not None:
            told["semantic"] = self.semantic.stats()
        said = ((f"{name}:{one}", value) for name, figures in told.items() for one, value in figures.items())
        parts = {name: value for name, value in said if value is not None}
        return {**self.answers.counts, **self._engine.stats(), **parts}

    def explain(self, key: str, tags: Iterable[str] = ()) -> list[Standing]:
        """How an answer stands in each level, by the `key` of its hits; raises the `StoreError` of one that is away.

        What was invalidated is named where it is one of `tags`, or was named in this process before.
        """
        for tag in self.checked(tags):
            self._tags.key(tag)
        return drive(explain(self._engine, key, self._engine.clock()))

    def judge(self, run_id: str, *, right: bool) -> bool:
        """What somebody thought of an answer: of use where the semantic level served the run (or message) of that id.

        It moves the threshold of the answer that was served, and counts in the level's rate of false hits; for any
        other run it is False and does nothing.
        """
        return self._meaning is not None and self._meaning.judge(run_id, right=right)

    def flush(self, timeout_s: float | None = 5.0) -> bool:
        """Wait until what was kept is in all levels; whether it is."""
        return self._behind.wait(timeout_s)

    async def aping(self) -> float:
        """Reach the second level; seconds."""
        return await self._stores[0].ping() if self._stores else 0.0

    def close(self) -> None:
        """Write what waits and close the stores."""
        run_sync(self.aclose())

    async def aclose(self) -> None:
        """Write what waits and close the stores."""
        for _, aclose in self._parts.values():
            await aclose()
        await self._behind.await_all(CLOSE_S)
        await self._push.aclose()
        await self._close_stores()
        if not DOOR.inside():
            await DOOR.cross(self._close_stores())

    async def _close_stores(self) -> None:
        """Clients of the running loop: callers have theirs, and so has what is done behind them."""
        for store in self._stores:
            await store.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def asked(self, prompt: str, llm_string: str, caller: Caller | None = UNNAMED) -> Asked | None:
        """What is asked for; None, counted, when it must not be cached."""
        asked = self.requests.asked(prompt, llm_string, caller)
        if asked is None:
            self.answers.tell("bypass", None, None if caller is None else current_identity(caller.metadata))
        return asked

    def _skipped(self, level: str) -> None:
        self.answers.counts[f"skipped:{level}"] += 1

    def _failed(self, level: str) -> None:
        self.answers.tell("error", level)

    def checked(self, tags: Iterable[str]) -> tuple[str, ...]:
        """Tags as they are kept; raises `ConfigurationError` for what is none."""
        return checked_tags(tags)


def _check(**given: tuple[object, type]) -> None:
    for name, (value, kind) in given.items():
        if value is not None and not isinstance(value, kind):
            raise ConfigurationError(f"{name}= must be a {kind.__name__}, not {value!r:.60}")


def _opened(url: str, setting: str, timeout_s: float) -> tuple[Store, Store]:
    def opened(*, blocking: bool) -> Store:
        return open_store(url, setting=setting, blocking=blocking, timeout_s=timeout_s)

    return opened(blocking=False), opened(blocking=True)
