"""Asks the likely next request before it comes."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
import weakref
from collections import OrderedDict
from contextvars import Context, ContextVar
from typing import TYPE_CHECKING, Final

from langchain_llmops.cache.outcomes import Answered, Asked, Outcomes, Prefetch, Wanted
from langchain_llmops.cache.payoff import Allowance, Verdict
from langchain_llmops.core.concurrency import DOOR

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from concurrent.futures import Future

    from langchain_llmops.cache.successors import Likely, Successors

__all__ = ["Answered", "Asked", "Prefetcher", "Wanted"]

_log = logging.getLogger(__name__)

MOST_GROUPS: Final = 1_000
MOST_OPEN: Final = 10_000
CLOSE_WITHIN_S: Final = 5.0

_WARMING: ContextVar[bool] = ContextVar("llmops_prefetching", default=False)


class Prefetcher:
    """Tell it every request that was answered; it asks the likely next ones through `ask` and watches what they bring.

    It pays for sequences that many sessions repeat word for word (menus, guided help, onboarding, an agent's fixed
    steps), and only for who values waiting: a prefetch that is used costs what the request would have cost. It does not
    pay for free text, which hardly ever repeats, nor for chats whose key holds a history of which no two are alike.
    There it finds nothing to ask, or stops itself (`Verdict`) and tries again with a trickle after a pause.

    All state is of this process: so is the budget, and a use that only another worker sees counts as waste here, which
    errs towards stopping. A forked child keeps what was learnt, starts with an empty allowance, and knows of none of
    its parent's prefetches. One that runs when its event loop ends is cancelled with it and counts as paid.

    Args:
        ask: runs the request through the cache, so that the answer is stored, with the rights of `wanted.after`, on
            the caller's event loop, or on the library's own for sync callers. It runs in an empty context: what a
            program keeps in context variables, a graph its callbacks, is for the answer that somebody waits for. What
            it raises is counted.
        budget_usd_per_hour: see `Allowance`; a call is expected to cost as much as the dearest of late.
        min_probability: None takes each request's own break-even, see `Verdict`.
        max_next, max_in_flight, timeout_s: bounds of one answered request, of all, and of one `ask`.
        usd_per_second: what a second of waiting is worth.
        ttl_s: how long a prefetch may wait for its use; the cache's own time to live, or less.
        key: the cache key of a request, None when it cannot be asked; `cached` tells whether its answer is there.
        idle: whether there is room for work that nobody waits for.
        verdict: makes the judge of one group.
    """

    def __init__(
        self,
        successors: Successors,
        ask: Callable[[Wanted], Awaitable[Asked]],
        *,
        budget_usd_per_hour: float,
        min_probability: float | None = None,
        max_in_flight: int = 2,
        max_next: int = 1,
        usd_per_second: float = 0.001,
        ttl_s: float = 300.0,
        timeout_s: float = 60.0,
        key: Callable[[Wanted], str | None] = lambda wanted: wanted.name,
        cached: Callable[[str], bool] = lambda _: False,
        idle: Callable[[], bool] = lambda: True,
        verdict: Callable[[], Verdict] = Verdict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._successors, self._ask = successors, ask
        self._key, self._cached, self._idle = key, cached, idle
        self._min_probability, self._usd_per_second = min_probability, usd_per_second
        self._max_in_flight, self._max_next, self._timeout_s = max_in_flight, max_next, timeout_s
        self._verdict, self._clock = verdict, clock
        self._allowance = Allowance(budget_usd_per_hour, clock())
        self._verdicts: OrderedDict[str, Verdict] = OrderedDict()
        self._outcomes = Outcomes(ttl_s, usd_per_second)
        self._lock = threading.Lock()
        self._closed = False
        ref = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (reset := ref()) and reset())

    def answered(self, request: Answered) -> None:
        """Learn from a request and perhaps start the next one; never raises, never waits."""
        if self._closed or _WARMING.get():  # a prefetch teaches nothing and leads to no other
            return
        try:
            likely = self._learn(request)
            if likely:
                self._warm_some(request, likely)
        except Exception as error:  # noqa: BLE001 - a caller's function failed, and the call it belongs to must not
            self.failed(error)

    def failed(self, error: BaseException) -> None:
        """Count a failure, and tell of the first."""
        with self._lock:
            self._outcomes.counts["errors"] += 1
            first = self._outcomes.counts["errors"] == 1
        if first:
            _log.warning("prefetching failed and is only counted from now on: %s", type(error).__name__)

    def live_at_most(self, ttl_s: float) -> None:
        """The cache keeps nothing for longer."""
        self._outcomes.ttl_s = min(self._outcomes.ttl_s, ttl_s)

    def stats(self) -> dict[str, float | None]:
        """Counts and sums of this process.

        `issued` = `used` + `wasted` + `open` + `in_flight`; `errors`, `cancelled`, `skipped:<reason>`; `precision`
        (used of resolved) with its 95 % interval `precision_low` to `precision_high`; `spent_usd`, `saved_usd` (for
        calls that were not needed) and `saved_s`, both less the older the answer was when it was used; `stopped` groups
        now and `stops` so far.
        """
        with self._lock:
            now = self._clock()
            self._outcomes.expire(now)
            stopped = sum(verdict.standing(now) == "off" for verdict in self._verdicts.values())
            return {**self._outcomes.stats(), "stopped": stopped}

    def close(self) -> None:
        """Start nothing more and cancel what runs."""
        self._closed = True
        for prefetch in self._running():
            prefetch.cancel()

    async def aclose(self) -> None:
        """The same, and wait for what runs on this event loop."""
        here = asyncio.get_running_loop()
        tasks = [one.task for one in self._running() if one.loop is here and isinstance(one.task, asyncio.Task)]
        self.close()
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_WITHIN_S)

    # deciding

    def _learn(self, request: Answered) -> list[Likely]:
        with self._lock:
            now = self._clock()
            self._outcomes.expire(now)
            self._outcomes.credit(request, now)
            if request.tools:
                self._successors.interrupt(request.group, request.session)
                return []
            self._successors.observe(
                request.group,
                request.session,
                request.text,
                now=now,
                cost_usd=request.cost_usd,
                latency_s=None if request.hit else request.took_s,
            )
            return [one for one in self._successors.likely(request.group, request.text) if self._worth_trying(one)]

    def _worth_usd(self, one: Likely) -> float:
        return one.cost_usd + one.latency_s * self._usd_per_second

    def _worth_trying(self, one: Likely) -> bool:
        worth_usd = self._worth_usd(one)
        if worth_usd <= 0 or one.probability <= 0:
            return False
        least = one.cost_usd / worth_usd if self._min_probability is None else self._min_probability
        return one.probability >= least

    def _warm_some(self, request: Answered, likely: list[Likely]) -> None:
        if not self._idle():
            self._skip("busy")
            return
        issued = 0
        for one in likely:
            wanted = Wanted(one.text, request, one)
            held_back = self._held_back(wanted)  # before the key, which is the dearest of all that is asked here
            if held_back is not None:
                self._skip(held_back)
                continue
            key = self._key(wanted)
            if key is None or self._cached(key):
                self._skip("unaskable" if key is None else "cached")
                continue
            prefetch = self._admit(wanted, key)
            if prefetch is not None:
                self._start(prefetch)
                issued += 1
                if issued >= self._max_next:
                    return

    def _held_back(self, wanted: Wanted) -> str | None:
        """Why nothing may be asked now, whatever it is."""
        with self._lock:
            now = self._clock()
            self._sweep()
            return self._refused(wanted, self._judge(wanted.after.group), now)

    def _refused(self, wanted: Wanted, verdict: Verdict, now: float) -> str | None:
        if len(self._outcomes.flying) >= self._max_in_flight or len(self._outcomes.open) >= MOST_OPEN:
            return "full"
        if not verdict.may_issue(now):
            return verdict.standing(now)
        return None if self._allowance.has(wanted.likely.most_usd, now) else "budget"

    def _sweep(self) -> None:
        """Give those up whose event loop has ended."""
        for lost in [one for one in self._outcomes.flying.values() if one.loop is not None and one.loop.is_closed()]:
            self._land(lost, None)

    def _admit(self, wanted: Wanted, key: str) -> Prefetch | None:
        with self._lock:
            now = self._clock()
            outcomes = self._outcomes
            self._sweep()
            verdict = self._judge(wanted.after.group)
            reason = None
            if key in outcomes.flying or key in outcomes.open:
                reason = "under way"
            else:
                reason = self._refused(wanted, verdict, now)
            if reason is None and not self._allowance.reserve(wanted.likely.most_usd, now):
                reason = "budget"
            if reason is not None:
                outcomes.counts[f"skipped:{reason}"] += 1
                return None
            prefetch = Prefetch(wanted, key, verdict, self._worth_usd(wanted.likely))
            outcomes.took_off(prefetch)
            return prefetch

    def _judge(self, group: str) -> Verdict:
        verdict = self._verdicts.get(group)
        if verdict is None:
            verdict = self._verdicts[group] = self._verdict()
            if len(self._verdicts) > MOST_GROUPS:
                self._verdicts.popitem(last=False)
        self._verdicts.move_to_end(group)
        return verdict

    def _skip(self, reason: str) -> None:
        with self._lock:
            self._outcomes.counts[f"skipped:{reason}"] += 1

    # asking

    def _start(self, prefetch: Prefetch) -> None:
        work = self._warm(prefetch.wanted)
        try:
            prefetch.loop = _running_loop()
            if prefetch.loop is not None:
                prefetch.task = Context().run(prefetch.loop.create_task, work, name="llmops-prefetch")
            else:
                prefetch.task = Context().run(DOOR.submit, work)
        except BaseException:
            work.close()
            with self._lock:
                self._land(prefetch, None)
            raise
        prefetch.task.add_done_callback(lambda task: self._done(prefetch, task))
        if self._closed:
            prefetch.cancel()

    async def _warm(self, wanted: Wanted) -> Asked:
        _WARMING.set(True)
        async with asyncio.timeout(self._timeout_s):
            asked = await self._ask(wanted)
        if not isinstance(asked, Asked):
            raise TypeError(f"ask gave a {type(asked).__name__} back")
        return asked

    def _done(self, prefetch: Prefetch, task: asyncio.Task[Asked] | Future[Asked]) -> None:
        error = None if task.cancelled() else task.exception()
        asked = None if task.cancelled() or error is not None else task.result()
        if error is not None:
            self.failed(error)
        with self._lock:
            if task.cancelled():
                self._outcomes.counts["cancelled"] += 1
            self._land(prefetch, asked)

    def _land(self, prefetch: Prefetch, asked: Asked | None) -> None:
        if self._outcomes.flying.get(prefetch.key) is prefetch:  # else it was given up before
            spent_usd = self._outcomes.landed(prefetch, asked, self._clock())
            self._allowance.settle(prefetch.reserved_usd, spent_usd)

    def _running(self) -> list[Prefetch]:
        with self._lock:
            return list(self._outcomes.flying.values())

    def _after_fork(self) -> None:
        """A forked child runs none of its parent's tasks and does not get its dollars twice."""
        if self._lock.locked():  # another thread was in the middle of learning
            self._successors.clear()
        self._lock = threading.Lock()
        self._outcomes.forget()
        self._allowance.empty(self._clock())
        for verdict in self._verdicts.values():
            verdict.abandon()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
