"""Reads back what a ledger says is stored, through a fresh saver, and counts what is not as it was told."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import writes_sort_key

from tests.support.acknowledged import expected
from tests.support.canonical import digest_of, digest_of_checkpoint
from tests.support.checkpoints import config

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path
    from typing import Self

    from tests.support.acknowledged import Expected, Item

__all__ = ["Checked", "check"]

Place = tuple[str, str, str]


@dataclass
class Checked:
    """`lost` was acknowledged and is not there as it was; `wrong` is anything else that must not be."""

    acknowledged: int = 0
    checked: int = 0
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)

    def __iadd__(self, other: Checked) -> Self:
        self.acknowledged += other.acknowledged
        self.checked += other.checked
        self.lost += other.lost
        self.wrong += other.wrong
        for name, count in other.failures.items():
            self.failures[name] = self.failures.get(name, 0) + count
        return self

    @property
    def bad(self) -> list[str]:
        return self.lost + self.wrong


async def check(
    saver: Any, ledger: Path | str, *, but: Collection[str] = (), by_id: bool = True, last: int | None = None
) -> Checked:
    """Read every thread of a ledger `but` some; `by_id` asks for each checkpoint alone too, or for the `last` few."""
    known = expected(ledger)
    done = Checked(known.acknowledged, 0, [], list(known.wrong), known.failures)
    places: dict[str, list[Place]] = defaultdict(list)
    for place in {**known.checkpoints, **known.writes}:
        places[place[0]].append(place)
    for thread in sorted(set(known.threads) - set(but)):
        reader = _Thread(saver, known, done, thread, places[thread])
        await reader.heads()
        await reader.listing()
        if by_id:
            await reader.each(last)
    _whole(known, done)
    return done


class _Thread:
    """One thread: its heads first, as a user's next turn would, then its history, then each checkpoint."""

    def __init__(self, saver: Any, known: Expected, done: Checked, thread: str, places: list[Place]) -> None:
        self._saver = saver
        self._known = known
        self._done = done
        self._thread = thread
        self._places = places
        self._heads: dict[str, str | None] = {}

    async def heads(self) -> None:
        """The newest acknowledged checkpoint of each namespace, or a newer one that was not acknowledged."""
        for ns in sorted({ns for _, ns, _ in self._places}):
            found = await self._saver.aget_tuple(config(self._thread, ns))
            self._heads[ns] = None if found is None else found.config["configurable"]["checkpoint_id"]
            must = max((place[2] for place in self._of(ns) if self._verdict(place) == "must"), default=None)
            if must is not None and (found is None or self._heads[ns] < must):
                self._done.lost.append(f"{self._thread}/{ns}: the head is {self._heads[ns]}, acknowledged was {must}")
            if found is not None:
                self._one(found)

    async def listing(self) -> None:
        """Every acknowledged checkpoint once, newest first."""
        ids: dict[str, list[str]] = defaultdict(list)
        async for found in self._saver.alist(config(self._thread, None)):
            ids[found.config["configurable"]["checkpoint_ns"]].append(found.config["configurable"]["checkpoint_id"])
            self._one(found)
        for ns, listed in ids.items():
            if listed != sorted(set(listed), reverse=True):
                self._done.wrong.append(f"{self._thread}/{ns}: the list is not newest first, each once")
        for ns, head in self._heads.items():
            if head != max(ids[ns], default=None):
                self._done.wrong.append(
                    f"{self._thread}/{ns}: the head is {head}, listed is {max(ids[ns], default=None)}"
                )
        for place in self._places:
            self._listed(place, place[2] in ids[place[1]])

    async def each(self, last: int | None) -> None:
        """Each checkpoint by its id."""
        musts = sorted((place for place in self._places if self._verdict(place) == "must"), key=lambda place: place[2])
        for place in musts if last is None else musts[-last:]:
            found = await self._saver.aget_tuple(config(*place))
            if found is None:
                self._done.lost.append(f"{place}: not found by its id")
            else:
                self._one(found)

    def _of(self, ns: str) -> Iterable[Place]:
        return (place for place in self._places if place[1] == ns and place in self._known.checkpoints)

    def _verdict(self, place: Place) -> str:
        return _best(self._known.checkpoints.get(place, []))

    def _listed(self, place: Place, there: bool) -> None:
        verdict = self._verdict(place)
        self._done.checked += verdict == "must"
        for item in self._known.checkpoints.get(place, []):
            item.there = there
        if verdict == "must" and not there:
            self._done.lost.append(f"{place}: acknowledged and not listed")
        if verdict == "gone" and there:
            self._done.wrong.append(f"{place}: came back after it was removed")

    def _one(self, found: Any) -> None:
        at = found.config["configurable"]
        place = (at["thread_id"], at["checkpoint_ns"], at["checkpoint_id"])
        items = self._known.checkpoints.get(place, [])
        if not items:
            self._done.wrong.append(f"{place}: nobody put this")
            return
        parent = found.parent_config and found.parent_config["configurable"]["checkpoint_id"]
        if digest_of_checkpoint(found.checkpoint, found.metadata, parent) not in {item.digest for item in items}:
            bad = self._done.lost if _best(items) == "must" else self._done.wrong
            bad.append(f"{place}: not what was put")
        self._writes(place, list(found.pending_writes or []))

    def _writes(self, place: Place, found: list[tuple[str, str, Any]]) -> None:
        """Every acknowledged write, in the order of `writes_sort_key`, and none that nobody made."""
        slots: dict[tuple[str, int], list[Item]] = defaultdict(list)
        for item in self._known.writes.get(place, []):
            slots[(str(item.task), item.idx)].append(item)
        order, taken = [], set()
        for task, channel, value in found:
            slot = _slot(slots, taken, task, channel, digest_of(value))
            if slot is None:
                self._done.wrong.append(f"{place}: a write of {task} to {channel} that nobody made, or twice")
                continue
            taken.add(slot)
            order.append(writes_sort_key(slots[slot][0].path, *slot))
        if order != sorted(order):
            self._done.lost.append(f"{place}: the writes are out of order")
        for slot, items in slots.items():
            self._done.checked += _best(items) == "must"
            for item in items:
                item.there = slot in taken
            if _best(items) == "must" and slot not in taken:
                self._done.lost.append(f"{place}: the acknowledged write {slot} is not there")


def _best(items: list[Item]) -> str:
    verdicts = {item.verdict for item in items}
    return next((verdict for verdict in ("must", "may", "gone") if verdict in verdicts), "none")


def _slot(slots: dict, taken: set, task: str, channel: str, digest: str) -> tuple[str, int] | None:
    for slot, items in sorted(slots.items()):
        if slot[0] == task and slot not in taken and any(_fits(item, items, channel, digest) for item in items):
            return slot
    return None


def _fits(item: Item, items: list[Item], channel: str, digest: str) -> bool:
    """Whether this version of a write may be the one that is read: no acknowledged one came after it."""
    later = any(other.begun > item.acked and other.verdict == "must" for other in items)
    return item.channel == channel and item.digest == digest and not later


def _whole(known: Expected, done: Checked) -> None:
    """What one unacknowledged operation may have done it did to all or to none; per thread for a user's threads."""
    groups: dict[tuple[int, str], list[Item]] = defaultdict(list)
    for items in (*known.checkpoints.values(), *known.writes.values()):
        for item in items:
            for group in item.groups if len(item.groups) == 1 and len(items) == 1 else ():
                groups[(group, item.thread)].append(item)
    for (_, thread), items in groups.items():
        seen = {item.there for item in items if item.there is not None}
        if len(seen) > 1:
            half = [(item.id, item.task, item.there) for item in items]
            done.wrong.append(f"{thread}: an operation that was not acknowledged is half done: {half}")
