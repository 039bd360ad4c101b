"""Prefetches on their way and waiting for their use, and what became of those that were."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_llmops.cache.successors import name_of
from langchain_llmops.core.stats import wilson

if TYPE_CHECKING:
    from concurrent.futures import Future

    from langchain_llmops.cache.payoff import Verdict
    from langchain_llmops.cache.successors import Likely

__all__ = ["Answered", "Asked", "Outcomes", "Prefetch", "Wanted"]


@dataclass(frozen=True, slots=True)
class Answered:
    """A request that has its answer, from the model or from the cache (`hit`, also when it joined another's call).

    `group` is what `Successors` keeps apart, `key` the cache's key. `cost_usd` is what the model takes for it, on a hit
    as well; None when that is not known (an unpriced model is never prefetched). `took_s` is how long the caller
    waited. `tools`: tools are bound, so asking ahead might have side effects. `context` is handed to `ask` as it is.
    """

    group: str
    text: str
    key: str
    session: str | None = None
    hit: bool = False
    took_s: float = 0.0
    cost_usd: float | None = None
    tools: bool = False
    context: Any = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that may come next, after the one that has just been answered."""

    text: str
    after: Answered
    likely: Likely

    @property
    def name(self) -> str:
        """A stable name of the request within its group."""
        return name_of(self.after.group, self.text)


@dataclass(frozen=True, slots=True)
class Asked:
    """What `ask` did: dollars paid (None: not known), whether it was stored, whether the answer was there before."""

    cost_usd: float | None = None
    stored: bool = True
    hit: bool = False


class Prefetch:
    """One prefetch: what it may be worth, what it costs, and whether its answer was there when it was asked for."""

    def __init__(self, wanted: Wanted, key: str, verdict: Verdict, worth_usd: float) -> None:
        self.wanted, self.key, self.verdict, self.worth_usd = wanted, key, verdict, worth_usd
        self.epoch = verdict.issue()
        self.reserved_usd = wanted.likely.most_usd
        self.cost_usd = 0.0
        self.gain_usd = 0.0
        self.used: bool | None = None  # known once the request came, which may be before the answer
        self.expires = float("inf")
        self.loop: asyncio.AbstractEventLoop | None = None
        self.task: asyncio.Task[Asked] | Future[Asked] | None = None

    def cancel(self) -> None:
        """Ask what runs to stop, from any thread."""
        if isinstance(self.task, asyncio.Task) and self.loop is not None:
            with contextlib.suppress(RuntimeError):  # a loop that has closed runs nothing any more
                self.loop.call_soon_threadsafe(self.task.cancel)
        elif self.task is not None:
            self.task.cancel()


class Outcomes:
    """Every prefetch is in flight, then open for `ttl_s`, then used or wasted. Under its owner's lock."""

    def __init__(self, ttl_s: float, usd_per_second: float) -> None:
        self.ttl_s, self._usd_per_second = ttl_s, usd_per_second
        self.flying: dict[str, Prefetch] = {}
        self.open: OrderedDict[str, Prefetch] = OrderedDict()
        self.counts: Counter[str] = Counter(issued=0, used=0, wasted=0, errors=0, stops=0)
        self.spent_usd = self.saved_usd = self.saved_s = 0.0

    def took_off(self, prefetch: Prefetch) -> None:
        """It is being asked."""
        self.flying[prefetch.key] = prefetch
        self.counts["issued"] += 1

    def landed(self, prefetch: Prefetch, asked: Asked | None, now: float) -> float:
        """It was asked, or (None) that failed; the dollars that it has cost.

        A cost that is not known, as of one that failed, is the one that was reserved: the provider may have taken it.
        """
        del self.flying[prefetch.key]
        prefetch.cost_usd = 0.0 if asked is not None and asked.hit else prefetch.reserved_usd
        if asked is not None and asked.cost_usd is not None and asked.cost_usd >= 0:
            prefetch.cost_usd = asked.cost_usd
        self.spent_usd += prefetch.cost_usd
        if asked is not None and asked.hit:
            self.counts["skipped:cached"] += 1
            self.counts["issued"] -= 1
            prefetch.verdict.withdraw(prefetch.epoch)
        elif asked is None or not asked.stored or prefetch.used is not None:
            self._resolve(prefetch, now)
        else:
            prefetch.expires = now + self.ttl_s
            self.open[prefetch.key] = prefetch
        return prefetch.cost_usd

    def credit(self, request: Answered, now: float) -> None:
        """A request came; if it was prefetched, this is what the prefetch was for.

        What it gained is less the older it is: the answer that the model would give now would be of use for a whole
        time to live, this one only for the rest of its own. Without that, guessing what is popular seems to pay.
        """
        opened = self.open.pop(request.key, None)
        found = opened or self.flying.get(request.key)
        if found is None or found.used is not None:
            return
        found.used = request.hit  # a miss: the cache has lost the answer, or the request did not wait for it
        if request.hit:
            likely = found.wanted.likely
            fresh = max(0.0, min(1.0, (found.expires - now) / self.ttl_s))
            saved_usd, saved_s = fresh * likely.cost_usd, fresh * max(0.0, likely.latency_s - request.took_s)
            found.gain_usd = saved_usd + saved_s * self._usd_per_second
            self.saved_usd += saved_usd
            self.saved_s += saved_s
        if opened is not None:
            self._resolve(opened, now)

    def expire(self, now: float) -> None:
        """What nobody asked for in time is wasted."""
        while self.open:
            first = next(iter(self.open.values()))
            if first.expires > now:
                return
            del self.open[first.key]
            self._resolve(first, now)

    def forget(self) -> None:
        """Those on their way and those open are another process's."""
        self.counts["issued"] -= len(self.flying) + len(self.open)
        self.flying, self.open = {}, OrderedDict()

    def stats(self) -> dict[str, float | None]:
        """Counts and sums; `precision` is used of resolved, None before there is one, with its 95 % interval."""
        used, resolved = self.counts["used"], self.counts["used"] + self.counts["wasted"]
        low, high = wilson(used, resolved)
        return {
            **self.counts,
            "open": len(self.open),
            "in_flight": len(self.flying),
            "precision": used / resolved if resolved else None,
            "precision_low": low,
            "precision_high": high,
            "spent_usd": self.spent_usd,
            "saved_usd": self.saved_usd,
            "saved_s": self.saved_s,
        }

    def _resolve(self, prefetch: Prefetch, now: float) -> None:
        verdict = prefetch.verdict
        before = verdict.stops
        verdict.resolve(
            prefetch.epoch,
            worth_usd=prefetch.worth_usd,
            gain_usd=prefetch.gain_usd,
            cost_usd=prefetch.cost_usd,
            now=now,
        )
        self.counts["stops"] += verdict.stops - before
        self.counts["used" if prefetch.used else "wasted"] += 1
