"""Sessions that walk through a menu of a cached model that asks ahead."""

from __future__ import annotations

import asyncio
import time

from langchain_core.messages import AIMessage, SystemMessage

from langchain_llmops.cache.ahead import Prefetching
from langchain_llmops.cache.model import cached
from tests.support.models import DEADLINE_S, ScriptedModel
from tests.support.ways import invoke

__all__ = ["LATENCY_S", "Desk", "landed"]

LATENCY_S = 3.0


async def landed(prefetching) -> None:
    """Nothing is asked ahead any more."""
    deadline = time.monotonic() + DEADLINE_S
    while prefetching.stats()["in_flight"]:
        assert time.monotonic() < deadline, "a prefetch did not land in time"
        await asyncio.sleep(0.001)


class Desk:
    """A model that takes three seconds on the clock, its cache, and sessions that talk to it.

    `chat`: each request holds all that was said before; else it stands alone, behind a system message.
    """

    def __init__(self, cache, clock, *, ask=invoke, chat=False, model=None, form=None, **options) -> None:
        self.cache, self.clock, self.ask, self.chat = cache, clock, ask, chat
        self.raw = model or ScriptedModel(self.say)
        self.prefetching = Prefetching(**{"budget_usd_per_hour": 1.0, "clock": clock, **options})
        self.model = cached(self.raw, cache=cache, prefetch=self.prefetching)
        self.form = form or self.whole

    def say(self, messages) -> str:
        self.clock.pass_s(LATENCY_S)
        return f"about {messages[-1].text}"

    def whole(self, before, text):
        """The messages of a request."""
        return [SystemMessage("Be kind."), *(before if self.chat else ()), ("user", text)]

    async def walk(self, session, texts, *, user="ada", config=None, model=None) -> list[bool]:
        """One session, each request after what was asked ahead has landed; whether each was a hit."""
        before, hits = [], []
        metadata = {"user_id": user, "session_id": session}
        for text in texts:
            said = await self.ask(
                model or self.model, self.form(before, text), {**(config or {}), "metadata": metadata}
            )
            hits.append("llmops_cache" in said.response_metadata)
            before += [("user", text), AIMessage(said.content)]
            await landed(self.prefetching)
        return hits

    async def teach(self, texts="ab", times=3, **who) -> None:
        """Sessions so long ago that the cache has forgotten them."""
        for n in range(times):
            await self.walk(f"taught {n}", texts, **who)
            self.clock.pass_s(1_000.0)

    def count(self, name: str) -> float:
        """A figure, as the cache tells it."""
        return self.cache.stats().get(f"prefetch:{name}", 0)
