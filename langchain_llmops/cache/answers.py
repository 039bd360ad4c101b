"""Answers of models: looked for, waited for where somebody asks already, and kept where they may be."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from langchain_llmops.cache.codec import Entry, encode, rebuild
from langchain_llmops.cache.engine import FIRST, Found
from langchain_llmops.cache.flight import Flight, Flights, Landing, running_loop
from langchain_llmops.cache.meaning import SEMANTIC
from langchain_llmops.cache.refusals import Refusals
from langchain_llmops.cache.worth import worth_of
from langchain_llmops.core.errors import EnvelopeError
from langchain_llmops.core.events import CacheLooked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.outputs import Generation

    from langchain_llmops.cache.asked import Asked
    from langchain_llmops.cache.engine import Engine, Generations, Look
    from langchain_llmops.cache.flight import Leader
    from langchain_llmops.cache.lease import Leases
    from langchain_llmops.cache.meaning import Meaning
    from langchain_llmops.cache.policy import Policy
    from langchain_llmops.core.events import Bus
    from langchain_llmops.core.pricing import PriceBook
    from langchain_llmops.core.types import Identity

__all__ = ["Answers"]

FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_WAIT_S = 0.01, 0.1, 120.0
MOST_FAILURES = 2


class Answers:
    """One body for both colours: `blocking` callers are driven without a loop.

    `counts`: what became of looks and of answers, in this process.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        policy: Policy,
        leases: Leases | None,
        bus: Bus,
        prices: PriceBook,
        meaning: Meaning | None = None,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.refusals = Refusals(policy.refused_s, engine.clock)
        self._engine = engine
        self._policy = policy
        self._leases = leases
        self._bus = bus
        self._prices = prices
        self._meaning = meaning
        self._flights = Flights()

    def at_hand(self, asked: Asked) -> list[Generation] | None:
        """A fresh answer of memory."""
        found = self._engine.at_hand(asked.key, asked.tag_keys, asked.at_most_s)
        return None if found is None else self._served(found, asked)

    async def find(self, asked: Asked, caller: Leader, *, blocking: bool) -> list[Generation] | None:
        """The answer to what was `asked`; None when `caller` is to ask the provider."""
        key, failures = asked.key, 0
        while True:
            since = self._flights.count()
            look = await self._engine.find((key,), asked.tag_keys, blocking=blocking, at_most_s=asked.at_most_s)
            found = look.found.get(key)
            served = None if found is None else self._served(found, asked, tell=not found.due)
            if served is not None and found is not None and not found.due:
                return served
            asked.seen = look.generations
            flight = self._flights.join(key, caller, since, look.generations, failures)
            if flight is None:
                continue
            if flight.leader is caller:
                self._count_refused(look)
                other = await self._elsewhere(asked, flight, found, serves=served is not None, blocking=blocking)
                return self._missed(asked) if other is None else self._hit(other, asked)
            if served is not None and found is not None:
                self._tell_hit(found, asked)
                return served
            landing = await self._waited(flight, caller, blocking=blocking)
            if landing.entry is not None:
                self.counts["coalesced"] += 1
                return self._hit(self._landed(landing.entry, landing.score), asked)
            failures += landing.failed
            if landing.unkept or failures >= MOST_FAILURES:
                self._flights.alone(key, caller, look.generations)
                return self._missed(asked)

    async def past(self, asked: Asked, *, blocking: bool) -> list[Generation] | None:
        """An answer that may be past its time, for when nobody can be asked."""
        found = (await self._engine.find((asked.key,), asked.tag_keys, blocking=blocking)).found.get(asked.key)
        return None if found is None else self._hit(found, asked)

    def leave(self, asked: Asked, leader: Leader) -> None:
        """The leader is at its end; what it brought before is not lost."""
        flight = self._flights.led(asked.key, leader)
        if flight is not None:
            self._flights.leave(flight)

    async def keep(self, asked: Asked, answers: Sequence[Generation], leader: Leader, *, blocking: bool) -> bool:
        """Keep an answer, if it may be kept, and release those who wait for it; whether it is kept."""
        flight = self._flights.led(asked.key, leader)
        entry = self._entry(asked, answers, flight)
        if entry is None:
            self.counts["unkept"] += 1
            if flight is not None:
                self._flights.land(flight, Landing(unkept=True))
            return False
        generations = await self._seen(asked, flight, leader, blocking=blocking)
        if not generations:
            self.counts["unkept"] += 1
            return False
        if flight is not None:
            flight.answered = True
        kept = self._engine.hold(asked.key, entry, generations)
        self.counts["stored"] += 1
        if self._meaning is not None:
            self._meaning.learn(asked, entry, blocking=blocking)
        self._engine.later(partial(self._write, asked.key, kept, generations, flight), blocking=blocking)
        return True

    async def _seen(self, asked: Asked, flight: Flight | None, leader: Leader, *, blocking: bool) -> Generations:
        """Those of the look before the answer: read after it, they would hide what was invalidated in between."""
        if asked.seen:
            return asked.seen
        if flight is not None:
            return flight.generations
        seen = self._flights.seen(asked.key, leader)
        return await self._engine.generations(asked.tag_keys, blocking=blocking) if seen is None else seen

    def tell(self, outcome: str, level: str | None, who: Identity | None = None) -> None:
        """Count what happened, and let the bus know."""
        self.counts[f"{outcome}:{level}" if level else outcome] += 1
        self._bus.publish(CacheLooked(outcome, level, who))

    async def _write(
        self, key: str, entry: Entry, generations: Generations, flight: Flight | None, *, blocking: bool
    ) -> None:
        """The levels have the answer before those who wait are told of it."""
        try:
            await self._engine.write({key: entry}, generations, blocking=blocking)
        finally:
            if flight is not None:
                self._flights.land(flight, Landing(entry))
                if self._leases is not None:
                    await self._leases.give_back(flight, unkept=False, blocking=blocking)

    async def _waited(self, flight: Flight, caller: Leader, *, blocking: bool) -> Landing:
        """The end of a flight that another leads."""
        if not flight.answered and flight.leader.would_wait_for_itself(caller):
            return Landing(unkept=True)
        landing = flight.landed_blocking() if blocking else await flight.landed()
        if landing.failed:
            self._flights.sweep(flight.key)  # of all who wait, one looks whether the leader is there
        return landing

    async def _elsewhere(
        self, asked: Asked, flight: Flight, known: Found | None, *, serves: bool, blocking: bool
    ) -> Found | None:
        """What who leads here need not ask the provider for."""
        found = await self._wait_for_others(asked, flight, known, serves=serves, blocking=blocking)
        if found is None and known is None and self._meaning is not None:
            found = await self._by_meaning(self._meaning, asked, flight, blocking=blocking)
        return found

    async def _wait_for_others(
        self, asked: Asked, flight: Flight, known: Found | None, *, serves: bool, blocking: bool
    ) -> Found | None:
        """What another process that asks already has brought, newer than what is `known`; None when this is to ask.

        Where what is known `serves`, it is what is brought while the other asks.
        """
        if self._leases is None or flight.leader.alone:
            return None
        pause_s, waited_s = FIRST_PAUSE_S, 0.0
        while waited_s < LONGEST_WAIT_S:
            taken = await self._leases.take(flight, blocking=blocking)
            if taken and flight.lease is None:  # the level is away, and so is what it has
                return None
            # looked for after the lease was taken: who had it may have brought the answer in between
            look = await self._engine.find((flight.key,), asked.tag_keys, blocking=blocking)
            found = look.found.get(flight.key)
            if found is not None and not found.stale and not _same(found, known):
                self.counts["coalesced"] += 1
                self._flights.land(flight, Landing(found.entry))
                return found
            asked.seen = flight.generations = look.generations
            flight.failures += taken and waited_s > 0  # who had it brought nothing
            if taken or await self._leases.freed(flight.key, blocking=blocking):
                return None
            if serves:
                self._flights.land(flight, Landing())
            if serves or (blocking and running_loop() is not None):  # on which the other may be at work
                return known if serves else None
            if blocking:
                time.sleep(pause_s)  # noqa: ASYNC251 - driven without a loop
            else:
                await asyncio.sleep(pause_s)
            waited_s, pause_s = waited_s + pause_s, min(pause_s * 1.5, LONGEST_PAUSE_S)
        return None

    async def _by_meaning(self, meaning: Meaning, asked: Asked, flight: Flight, *, blocking: bool) -> Found | None:
        found = await meaning.find(asked, blocking=blocking)
        if found is not None:
            self._flights.land(flight, Landing(found.entry, score=found.score))
            if self._leases is not None:
                give_back = partial(self._leases.give_back, flight, unkept=True)
                self._engine.later(give_back, blocking=blocking)
        return found

    def _entry(self, asked: Asked, answers: Sequence[Generation], flight: Flight | None) -> Entry | None:
        """The answer to be kept; None when it may not be."""
        try:
            worth = partial(worth_of, self._prices, asked.caller.metadata)
            body = encode(answers, worth) if self._policy.allows(answers) and asked.in_form(answers) else b""
        except Exception:  # noqa: BLE001 - what JSON cannot hold, and whatever the policy's own predicate raises
            self.counts["unstorable"] += 1
            return None
        if not 0 < len(body) <= self._policy.max_bytes:
            return None
        took_s = 0.0 if flight is None else time.monotonic() - flight.began
        return Entry(self._engine.clock(), self._engine.fresh_s(asked.tags), took_s, {}, body)

    def _count_refused(self, look: Look) -> None:
        if look.refused is not None:
            self.counts[f"invalidated:{look.refused}"] += 1

    def _landed(self, entry: Entry, score: float | None) -> Found:
        level = FIRST if score is None else SEMANTIC
        return Found(entry, level, max(0.0, self._engine.clock() - entry.created), score=score)

    def _hit(self, found: Found, asked: Asked) -> list[Generation] | None:
        return self._served(found, asked) or self._missed(asked)

    def _served(self, found: Found, asked: Asked, *, tell: bool = True) -> list[Generation] | None:
        """The answer of an entry; None for one that is damaged, or no longer fits the class that is asked for."""
        hit: dict[str, Any] = {"level": found.level, "age_s": found.age_s, "key": asked.key}
        if found.stale:
            hit["stale"] = True
        if found.score is not None:
            hit["score"] = found.score
        try:
            answers = rebuild(found.entry, hit, asked.caller.run_id, chat=asked.chat)
        except EnvelopeError:
            self.tell("error", found.level)
            return None
        if asked.caller.classes and not asked.fit(answers):
            return None
        if tell:
            self._tell_hit(found, asked)
        return answers

    def _tell_hit(self, found: Found, asked: Asked) -> None:
        if found.stale:
            self.counts["stale"] += 1
        self.tell("hit", found.level, asked.who)

    def _missed(self, asked: Asked) -> list[Generation] | None:
        self.tell("miss", None, asked.who)
        return None


def _same(found: Found, known: Found | None) -> bool:
    return known is not None and found.entry.created == known.entry.created
