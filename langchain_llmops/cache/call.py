"""One model call on its way through the cache, by one who knows its run, its classes and its failure."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from langchain_core.caches import BaseCache

from langchain_llmops.cache.asked import Caller
from langchain_llmops.cache.flight import Leader
from langchain_llmops.core.classify import classify
from langchain_llmops.core.concurrency import drive

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    from langchain_core.outputs import Generation

    from langchain_llmops.cache.ahead import Begun
    from langchain_llmops.cache.asked import Asked
    from langchain_llmops.cache.flight import Streaming
    from langchain_llmops.cache.tiered import TieredCache

__all__ = ["Call", "MissedError"]


class MissedError(Exception):
    """Nobody has the answer; ends a lookup that must not become a call."""


class Call(BaseCache):
    """What langchain-core takes for the cache of one call; it remembers what was asked until the call's end.

    Args:
        run_id: of the call's run, for the ids of what it is given; None for a stream, whose ids LangChain makes.
        metadata: of that run, which names whose it is.
        asked_with: keyword arguments of the call; the classes among them are known by their schemas.
        place: where its requests go; None where that cannot be read, and nothing is cached.
        streaming: who streams the answer; then a miss raises `MissedError`.
    """

    def __init__(
        self,
        cache: TieredCache,
        run_id: UUID | None,
        metadata: Mapping[str, Any],
        asked_with: Mapping[str, Any],
        *,
        tags: Sequence[str] = (),
        place: str | None = "",
        streaming: Streaming | None = None,
    ) -> None:
        self.hit = self.kept = False
        self.answers: Sequence[Generation] = ()
        self.asked: Asked | None = None
        self.begun: Begun | None = None
        self._cache = cache
        classes = [value for value in asked_with.values() if isinstance(value, type)]
        self._caller = None if place is None else Caller(metadata, run_id, classes, tags, place)
        self._streaming = streaming
        self._leader: Leader | None = streaming

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """The cached answer, or None; raises the error of a request that was refused a moment ago."""
        leader = self._leader or Leader(sys._getframe(1))  # noqa: SLF001 - the frame of who asks: it ends when the call does
        return drive(self._lookup(prompt, llm_string, leader, blocking=True))

    async def alookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        """The same for async callers."""
        return await self._lookup(prompt, llm_string, self._leader or Leader(), blocking=False)

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:  # noqa: ARG002 - `BaseCache` names them; the lookup was told
        """Keep the answer."""
        drive(self.keep(return_val, blocking=True))

    async def aupdate(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:  # noqa: ARG002 - `BaseCache` names them; the lookup was told
        """Keep the answer."""
        await self.keep(return_val, blocking=False)

    def clear(self, **_: Any) -> None:
        """It holds nothing."""

    async def keep(self, answers: Sequence[Generation], *, blocking: bool) -> None:
        """Keep the answer to what was asked."""
        self.answers = answers
        if self.asked is not None and self._leader is not None:
            self.kept = await self._cache.answers.keep(self.asked, answers, self._leader, blocking=blocking)

    async def rescue(self, error: Exception, *, blocking: bool) -> list[Generation] | None:
        """An answer past its time in place of a failure that may pass; one that would come again is remembered."""
        if self.asked is None or self._cache.answers.refusals.remember(self.asked.key, error):
            return None
        if not classify(error).is_retryable:
            return None
        found = await self._cache.answers.past(self.asked, blocking=blocking)
        self.hit = found is not None
        self.answers = found or ()
        return found

    def leave(self) -> None:
        """The call is over; whoever waits for it need not look."""
        if self._streaming is not None:
            self._streaming.end()
        if self.asked is not None and self._leader is not None:
            self._cache.answers.leave(self.asked, self._leader)
        if self.begun is not None:
            self.begun.end()

    async def _lookup(self, prompt: str, llm_string: str, leader: Leader, *, blocking: bool) -> list[Generation] | None:
        self._leader = leader
        asked = self.asked = self._cache.asked(prompt, llm_string, self._caller)
        found = None
        if asked is not None:
            answers = self._cache.answers
            found = answers.at_hand(asked) or await answers.find(asked, leader, blocking=blocking)
            if found is None:
                answers.refusals.check(asked.key)
        self.hit = found is not None
        self.answers = found or ()
        if found is None and self._streaming is not None:
            raise MissedError
        return found
