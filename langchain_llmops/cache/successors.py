"""Which request follows which: counts of transitions in bounded memory, apart for every group."""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

__all__ = ["HeavyHitters", "Likely", "Successors", "name_of"]

KEEP_TEXT_FROM: Final = 2  # a text is kept once it has followed twice: what came once is mostly never asked again
FRESH: Final = 0.2  # weight of the newest cost or latency


@dataclass(frozen=True, slots=True)
class Likely:
    """A text that may come next. `probability` errs on the low side, `most_usd` on the high one."""

    text: str
    probability: float
    cost_usd: float
    most_usd: float
    latency_s: float


def name_of(*parts: str) -> str:
    """BLAKE2b-128 of texts, in hex; each part counts with its length, so that no two lists share a name."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


class HeavyHitters:
    """The names seen most often, in constant time and memory (Space-Saving: Metwally, Agrawal, El Abbadi, ICDT 2005).

    Names with more than 1/`capacity` of the recent sightings are always among them. All counts are halved after every
    8 x `capacity` sightings, so that what has gone out of use makes room.
    """

    __slots__ = ("_buckets", "_capacity", "_counts", "_floor", "_since_halving")

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._counts: dict[str, int] = {}
        self._buckets: dict[int, dict[str, None]] = {}
        self._floor = 0
        self._since_halving = 0

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, name: str) -> str | None:
        """Count a sighting; the name that had to go for it, if any."""
        gone = None
        count = self._counts.get(name)
        if count is not None:
            self._take(name, count)
        else:
            if len(self._counts) >= self._capacity:
                gone = self.drop_coldest()
            count = self._floor
        self._put(name, count + 1)
        self._since_halving += 1
        if self._since_halving >= 8 * self._capacity:
            self._halve()
        return gone

    def drop_coldest(self) -> str:
        """Take out the name with the lowest count, the oldest of several; newcomers inherit its count."""
        count = min(self._buckets)  # few: as many as there are different counts
        name = next(iter(self._buckets[count]))
        self._take(name, count)
        self._floor = max(self._floor, count)
        return name

    def _put(self, name: str, count: int) -> None:
        self._counts[name] = count
        self._buckets.setdefault(count, {})[name] = None

    def _take(self, name: str, count: int) -> None:
        del self._counts[name]
        bucket = self._buckets[count]
        del bucket[name]
        if not bucket:
            del self._buckets[count]

    def _halve(self) -> None:
        counts, self._counts, self._buckets, self._since_halving = self._counts, {}, {}, 0
        self._floor //= 2
        for name, count in counts.items():
            self._put(name, count // 2)


@dataclass(slots=True)
class _Next:
    """One successor: Space-Saving count and error, its text from the second time on, and what asking it takes."""

    count: int
    error: int
    text: str | None = None
    cost_usd: float | None = None
    most_usd: float = 0.0
    latency_s: float = 0.0

    def learn(self, cost_usd: float | None, latency_s: float | None) -> None:
        if cost_usd is not None:
            self.cost_usd = cost_usd if self.cost_usd is None else self.cost_usd + FRESH * (cost_usd - self.cost_usd)
            self.most_usd = max(cost_usd, self.most_usd + FRESH * (cost_usd - self.most_usd))
        if latency_s is not None:
            self.latency_s += (FRESH if self.latency_s else 1.0) * (latency_s - self.latency_s)


class _After:
    """What came after one request, out of the `seen` times it was asked."""

    __slots__ = ("next", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self.next: dict[str, _Next] = {}


class _Group:
    def __init__(self, capacity: int) -> None:
        self.hot = HeavyHitters(capacity)
        self.after: dict[str, _After] = {}
        self.text_bytes = 0

    def forget(self, name: str) -> None:
        self.text_bytes -= sum(_size(one) for one in self.after.pop(name).next.values())


def _size(one: _Next) -> int:
    return 0 if one.text is None else sys.getsizeof(one.text)


class Successors:
    """A first-order Markov chain of requests for every group, learnt from the order within sessions.

    Nothing learnt in one group is ever told in another, so a group must name all that an answer may depend on and
    everybody who may share it: tenant, model, system prompt, and the user or the session where the cache's scope says
    so. Texts are kept in memory as they are. Not for several threads at once: `Prefetcher` holds a lock.

    Args:
        max_groups: the least recently used one is forgotten beyond that; the same for `max_sessions`.
        max_requests: per group; the heavy hitters stay.
        max_next: successors that are counted per request.
        window: sightings of a request after which its counts are halved: how fast a new habit replaces an old one.
        gap_s: a longer silence in a session ends its sequence.
        max_text_bytes: of all texts; beyond it the least recently used groups are forgotten.
        longest_text: characters; longer requests are not learnt.
    """

    def __init__(
        self,
        *,
        max_groups: int = 64,
        max_requests: int = 512,
        max_next: int = 6,
        max_sessions: int = 10_000,
        max_text_bytes: int = 8 * 1024 * 1024,
        longest_text: int = 2_000,
        window: int = 64,
        gap_s: float = 1_800.0,
    ) -> None:
        self._max_groups, self._max_requests, self._max_next = max_groups, max_requests, max_next
        self._max_sessions, self._max_text_bytes, self._longest_text = max_sessions, max_text_bytes, longest_text
        self._window = window
        self._gap_s = gap_s
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        self._last: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()

    def observe(
        self,
        group: str,
        session: str | None,
        text: str,
        *,
        now: float,
        cost_usd: float | None = None,
        latency_s: float | None = None,
    ) -> None:
        """Learn that `text` was asked; `cost_usd` and `latency_s` are what the model took for it, None if unknown."""
        if len(text) > self._longest_text:
            self.interrupt(group, session)
            return
        name = name_of(text)
        known = self._group(group)
        if session is not None:
            before, at = self._last.pop((group, session), ("", now))
            if before != name and now - at <= self._gap_s and before in known.after:
                one = self._count(known, known.after[before], name)
                one.learn(cost_usd, latency_s)
                if one.text is None and one.count - one.error >= KEEP_TEXT_FROM:
                    one.text = text
                    known.text_bytes += _size(one)
            self._last[group, session] = (name, now)
            if len(self._last) > self._max_sessions:
                self._last.popitem(last=False)
        self._see(known, name)
        self._bound(known)

    def interrupt(self, group: str, session: str | None) -> None:
        """What comes next in this session does not follow from what came before."""
        if session is not None:
            self._last.pop((group, session), None)

    def likely(self, group: str, text: str) -> list[Likely]:
        """What may come after `text`, likeliest first; only what can be asked and whose cost is known."""
        known = self._groups.get(group)
        after = known.after.get(name_of(text)) if known is not None else None
        if after is None:
            return []
        found = [
            Likely(
                one.text,
                min(1.0, (one.count - one.error) / (after.seen + 1)),  # one more: what was seen little is not certain
                one.cost_usd,
                one.most_usd,
                one.latency_s,
            )
            for one in after.next.values()
            if one.text is not None and one.cost_usd is not None
        ]
        return sorted(found, key=lambda one: -one.probability)

    def held(self) -> dict[str, int]:
        """How much is kept: `groups`, `requests`, `transitions`, `sessions`, `text_bytes`."""
        groups = self._groups.values()
        return {
            "groups": len(groups),
            "requests": sum(len(group.after) for group in groups),
            "transitions": sum(len(after.next) for group in groups for after in group.after.values()),
            "sessions": len(self._last),
            "text_bytes": sum(group.text_bytes for group in groups),
        }

    def _group(self, group: str) -> _Group:
        known = self._groups.get(group)
        if known is None:
            known = self._groups[group] = _Group(self._max_requests)
            if len(self._groups) > self._max_groups:
                self._groups.popitem(last=False)
        self._groups.move_to_end(group)
        return known

    def _count(self, known: _Group, after: _After, name: str) -> _Next:
        one = after.next.get(name)
        if one is None:
            error = 0
            if len(after.next) >= self._max_next:
                coldest = min(after.next, key=lambda other: after.next[other].count)
                gone = after.next.pop(coldest)
                known.text_bytes -= _size(gone)
                error = gone.count
            one = after.next[name] = _Next(error, error)
        one.count += 1
        return one

    def _see(self, known: _Group, name: str) -> None:
        gone = known.hot.add(name)
        if gone is not None:
            known.forget(gone)
        after = known.after.setdefault(name, _After())
        after.seen += 1
        if after.seen >= self._window:
            after.seen //= 2
            for one in after.next.values():
                one.count //= 2
                one.error = min(one.count, (one.error + 1) // 2)

    def _bound(self, current: _Group) -> None:
        while sum(group.text_bytes for group in self._groups.values()) > self._max_text_bytes:
            if len(self._groups) > 1:
                self._groups.popitem(last=False)
            else:
                current.forget(current.hot.drop_coldest())
