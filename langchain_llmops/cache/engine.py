"""Entries over memory and the levels below it: found, kept and invalidated, for callers of both colours."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from langchain_llmops.cache.codec import unpacked
from langchain_llmops.cache.tags import GENERATION_TTL_S, TRUSTED_S, new_generation, read_generation
from langchain_llmops.core.errors import EnvelopeError, LLMOpsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from langchain_llmops.cache.codec import Entry
    from langchain_llmops.cache.levels import Level
    from langchain_llmops.cache.memory import Memory
    from langchain_llmops.cache.policy import Ttl
    from langchain_llmops.cache.push import Push
    from langchain_llmops.cache.tags import Tags
    from langchain_llmops.core.envelope import Envelope

__all__ = ["Engine", "Found", "Generations", "Look"]

PREFIX: Final = "llmops:cache:2:"
FIRST: Final = "L1"
INFINITY: Final = math.inf
MOST_READS: Final = 3
MARK: Final = 16  # characters of its key in an entry, so that one that was copied to another key does not open there
AHEAD_S: Final = 60.0  # by which the clocks of hosts may differ
Generations = Mapping[str, Mapping[str, int]]
"""Of tags, by level."""


@dataclass(slots=True)
class Found:
    """An entry, the level it was in, its age in seconds, whether it is past its time, and whether that is near.

    `score`: of the semantic level, how likely it answers the same question, 0 to 1.
    """

    entry: Entry
    level: str
    age_s: float
    stale: bool = False
    early: bool = False
    score: float | None = None

    @property
    def due(self) -> bool:
        """Whether it is to be asked for again."""
        return self.stale or self.early


@dataclass(slots=True)
class Look:
    """What a look brought: entries by key, and by level the generations of the tags that were asked for.

    `tag_keys`: where these are kept; `at_most_s`: how long an entry is fresh for who looks; `refused`: the first level
    that had an entry of which a tag had been invalidated; `answered`: whether a level did.
    """

    tag_keys: Sequence[str]
    at_most_s: float
    found: dict[str, Found] = field(default_factory=dict)
    generations: dict[str, dict[str, int]] = field(default_factory=dict)
    refused: str | None = None
    answered: bool = False

    def lacks(self, key: str) -> bool:
        """Whether a key is to be looked for on."""
        found = self.found.get(key)
        return found is None or found.due


class Engine:
    """Memory over any number of levels, each with generations of its own for the tags of its entries.

    `bad(level)` is told of an entry or a generation that is not ours.
    """

    def __init__(
        self,
        memory: Memory[Entry],
        levels: Sequence[Level],
        tags: Tags,
        push: Push,
        *,
        ttl: Ttl,
        envelope: Envelope,
        clock: Callable[[], float],
        bad: Callable[[str], None],
        later: Callable[..., None],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.memory = memory
        self.levels = levels
        self.tags = tags
        self.clock = clock
        self.later = later
        self._push = push
        self._ttl = ttl
        self._fresh_s = ttl.of(levels[-1].name if levels else FIRST)
        self._envelope = envelope
        self._bad = bad
        self._chance = chance

    def fresh_s(self, tags: Sequence[str]) -> float:
        """How long an answer with these tags is fresh."""
        return min(self._fresh_s, self._ttl.at_most(tags)) if tags else self._fresh_s

    def at_hand(self, key: str, tag_keys: Sequence[str], at_most_s: float = INFINITY) -> Found | None:
        """A fresh entry of memory, where nothing need be asked to know that it holds."""
        if self.levels and not self.tags.trusted():
            return None
        held = self._held(key, Look(tag_keys, at_most_s))
        return None if held is None or held.stale or held.early else held

    async def find(
        self, keys: Sequence[str], tag_keys: Sequence[str], *, blocking: bool, at_most_s: float = INFINITY
    ) -> Look:
        """The entries of the first levels that have them, in one round trip for each level; one that is away has none.

        An entry that lacks a tag of who asks is none for them, and it is fresh for them for `at_most_s`.

        One to be asked for again is looked for on, as what is brought needs the generations of its tags. For no keys,
        these generations are all that is looked for.
        """
        look = Look(tag_keys, at_most_s)
        for key in keys:
            held = self._held(key, look)
            if held is not None and self.levels and not self.tags.trusted():
                self._push.wake()
                await self.epoch(blocking=blocking)
                held = self._held(key, look)
            if held is not None:
                look.found[key] = held
        for level in self.levels:
            lacking = [key for key in keys if look.lacks(key)]
            if keys and not lacking:
                return look
            await self._look_in(level, lacking, look, blocking=blocking)
        if not look.generations:
            look.generations[FIRST] = self.tags.local(tag_keys)
        return look

    async def generations(self, tag_keys: Sequence[str], *, blocking: bool) -> Generations:
        """By level, those that an entry has which is asked for from now on; nothing is asked that is known."""
        if len(self.levels) == 1 and self.tags.trusted() and (known := self.tags.known(tag_keys)) is not None:
            return {self.levels[0].name: known}
        return (await self.find((), tag_keys, blocking=blocking)).generations

    async def epoch(self, *, blocking: bool) -> int:
        """A number that changes with every invalidation; the last one known where nothing can be asked."""
        if self.levels:
            first, asked_at, changes = self.levels[0], self.clock(), self.tags.changes
            values = await first.read([self.tags.epoch], blocking=blocking)
            if changes == self.tags.changes:
                epoch = self._number(values[0], first.name) if values else self.tags.last_epoch
                self.tags.saw_epoch(epoch, asked_at + TRUSTED_S)
        return self.tags.last_epoch or 0

    def unsealed(self, key: str, sealed: bytes) -> Entry:
        """An entry as a level has it; raises `EnvelopeError`."""
        return unpacked(_unmarked(self._envelope.open(sealed, key.encode()), key))

    def stats(self) -> dict[str, int]:
        """Bytes written by level, and what memory holds."""
        written = {f"written_bytes:{level.name}": level.written_bytes for level in self.levels}
        return {**written, "l1_entries": len(self.memory), "l1_bytes": self.memory.bytes}

    def hold(self, key: str, entry: Entry, look: Generations) -> Entry:
        """Put an entry into memory; as it is there."""
        first = next((look[level.name] for level in self.levels if level.name in look), look.get(FIRST)) or {}
        kept = entry if entry.generations == first else replace(entry, generations=first)
        self._put(key, kept)
        return kept

    async def write(self, entries: Mapping[str, Entry], generations: Generations, *, blocking: bool) -> None:
        """Keep entries in all levels whose generations are known."""
        for level in self.levels:
            if level.name in generations:
                await self._write(level, entries, generations[level.name], blocking=blocking)

    async def invalidate(self, tag_keys: Iterable[str], *, blocking: bool, tenant: str | None = None) -> None:
        """New generations in every level; raises the `LLMOpsError` of a level that could not be written, after all."""
        changed = {key: new_generation() for key in (*tag_keys, *self.tags.epochs(tenant))}
        self.tags.changed(changed)
        failed = None
        for level in self.levels:
            try:
                items = {key: b"%d" % generation for key, generation in changed.items()}
                await level.must_write(items, GENERATION_TTL_S, blocking=blocking)
                if level is self.levels[0]:
                    await self._push.tell(changed, blocking=blocking)
            except LLMOpsError as error:
                failed = error
        if failed is not None:
            raise failed

    def _put(self, key: str, entry: Entry) -> None:
        left_s = min(self._ttl.l1_s + (0.0 if self.levels else self._ttl.stale_s), self._left_s(entry))
        self.memory.put(key, entry, left_s, size=entry.size)

    def _held(self, key: str, look: Look) -> Found | None:
        entry = self.memory.get(key)
        if entry is None or not _covers(entry, look.tag_keys):
            return None
        if self.tags.hold(entry.generations):
            return self._judged(entry, FIRST, look.at_most_s)
        if self.tags.changed_since(entry.generations):
            look.refused = FIRST
        return None

    async def _look_in(self, level: Level, keys: Sequence[str], look: Look, *, blocking: bool) -> None:
        tag_keys, asked_at = look.tag_keys, self.clock()
        wanted = [*(PREFIX + key for key in keys), self.tags.epoch, *tag_keys]
        values = await self._read(level, wanted, blocking=blocking)
        if values is None:
            return
        first, look.answered = not look.answered, True  # no level above it answers
        if first:
            self.tags.saw_epoch(self._number(values[len(keys)], level.name), asked_at + TRUSTED_S)
        entries = self._entries(keys, values, level)
        seen = self._numbers(tag_keys, values[len(keys) + 1 :], level)
        # an entry may carry tags that whoever asks now does not know of
        others = {name for entry in entries.values() for name in entry.generations if name not in seen}
        if others:
            seen |= self._numbers([*others], await level.read([*others], blocking=blocking) or (), level)
        if first:
            self.tags.saw(seen)
        for key, entry in entries.items():
            self._take(level, key, entry, seen, look, blocking=blocking)
        lacking = not keys or any(map(look.lacks, keys))
        if lacking and await self._begin(level, tag_keys, seen, blocking=blocking):
            look.generations[level.name] = {name: seen[name] for name in tag_keys}
            if first:
                self.tags.saw(look.generations[level.name])

    async def _read(self, level: Level, keys: Sequence[str], *, blocking: bool) -> Sequence[bytes | None] | None:
        """Again, where what was read may be from before what this process has invalidated meanwhile."""
        for _ in range(MOST_READS):
            changes = self.tags.changes
            values = await level.read(keys, blocking=blocking)
            if changes == self.tags.changes:
                return values
        return None

    def _take(
        self, level: Level, key: str, entry: Entry, seen: Mapping[str, int], look: Look, *, blocking: bool
    ) -> None:
        """An entry that a level has, if it holds and none that is newer was found before."""
        if not _covers(entry, look.tag_keys):
            return
        if not entry.generations.items() <= seen.items():
            look.refused = look.refused or level.name
            return
        found, known = self._judged(entry, level.name, look.at_most_s), look.found.get(key)
        if found is not None and (known is None or entry.created > known.entry.created):
            look.found[key] = found
            if not found.stale:
                self._lift(level, key, entry, look, blocking=blocking)

    async def _begin(self, level: Level, tag_keys: Sequence[str], seen: dict[str, int], *, blocking: bool) -> bool:
        """Give tags that have no generation one; whether all have one now."""
        for name in tag_keys:
            if name not in seen:
                generation = new_generation()
                made = await level.claim(name, b"%d" % generation, GENERATION_TTL_S, blocking=blocking)
                if made is None:
                    return False
                if not made:
                    values = await level.read([name], blocking=blocking)
                    known = self._number(values[0], level.name) if values else None
                    if known is None:
                        return False
                    generation = known
                seen[name] = generation
        return True

    def _lift(self, level: Level, key: str, entry: Entry, look: Look, *, blocking: bool) -> None:
        """Keep an entry that was found in the levels above it too."""
        if level is self.levels[0]:
            self._put(key, entry)
            return
        higher = self.levels[: self.levels.index(level)]
        above = {
            one.name: {name: known[name] for name in entry.generations}
            for one in higher
            if entry.generations.keys() <= (known := look.generations.get(one.name, {})).keys()
        }
        if above:
            self.later(partial(self.write, {key: entry}, above), blocking=blocking)
        if above or not any(one.name in look.generations for one in higher):
            self.hold(key, entry, above or {level.name: entry.generations})

    async def _write(
        self, level: Level, entries: Mapping[str, Entry], generations: Mapping[str, int], *, blocking: bool
    ) -> None:
        most_s = float("inf") if level is self.levels[-1] else self._ttl.of(level.name) + self._ttl.stale_s
        longest_s, items = 0.0, {}
        for key, entry in entries.items():
            left_s = self._left_s(entry)
            if left_s > 0:
                packed = replace(entry, generations=generations).packed()
                items[PREFIX + key] = self._envelope.seal(_marked(packed, key), key.encode())
                longest_s = max(longest_s, min(most_s, left_s))
        if items:
            await level.write(items, longest_s, blocking=blocking)

    def _judged(self, entry: Entry, level: str, at_most_s: float) -> Found | None:
        fresh_s = min(entry.ttl_s, at_most_s)
        age_s = self.clock() - entry.created
        if not age_s >= -AHEAD_S:  # a clock was set back: how old it is nobody knows
            return None
        age_s = max(0.0, age_s)
        if age_s < fresh_s:
            # XFetch (Vattani et al., VLDB 2015): the nearer the end and the longer asking takes, the likelier
            early = entry.took_s > 0 and age_s - entry.took_s * math.log(1.0 - self._chance()) >= fresh_s
            return Found(entry, level, age_s, early=early)
        if age_s < fresh_s + self._ttl.stale_s:
            return Found(entry, level, age_s, stale=True)
        return None

    def _left_s(self, entry: Entry) -> float:
        return entry.created + entry.ttl_s + self._ttl.stale_s - self.clock()

    def _opened(self, key: str, sealed: bytes, level: Level) -> Entry | None:
        try:
            return self.unsealed(key, sealed)
        except EnvelopeError:
            self._bad(level.name)
            return None

    def _entries(self, keys: Sequence[str], values: Sequence[bytes | None], level: Level) -> dict[str, Entry]:
        entries = {}
        for key, value in zip(keys, values, strict=False):
            entry = None if value is None else self._opened(key, value, level)
            if entry is not None:
                entries[key] = entry
        return entries

    def _numbers(self, names: Sequence[str], values: Sequence[bytes | None], level: Level) -> dict[str, int]:
        numbers = {}
        for name, value in zip(names, values, strict=False):
            number = self._number(value, level.name)
            if number is not None:
                numbers[name] = number
        return numbers

    def _number(self, value: bytes | None, level: str) -> int | None:
        number = None if value is None else read_generation(value)
        if number is None and value is not None:
            self._bad(level)
        return number


def _covers(entry: Entry, tag_keys: Sequence[str]) -> bool:
    """Whether it would go with every tag of who asks."""
    return all(map(entry.generations.__contains__, tag_keys))


def _marked(packed: bytes, key: str) -> bytes:
    return key[-MARK:].encode() + packed


def _unmarked(opened: bytes, key: str) -> bytes:
    mark = key[-MARK:].encode()
    if not opened.startswith(mark):
        raise EnvelopeError("cache entry is of another key")
    return opened[len(mark) :]
