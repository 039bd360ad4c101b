"""How big: tables and Redis beside the peers', growth with length, and cold objects. "Live" is the newest state's text.

Bytes are of tables with their TOAST and indexes, of MEMORY USAGE, and of objects as the store lists them: what a
conversation added, as a mean over several that were written at once.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.benchmarks.checkpoint_machine import (
    LAZY_S,
    NotMeasuredError,
    memory_bytes,
    object_sizes,
    row_bytes,
    settled,
    shown,
    table_bytes,
)
from tests.benchmarks.checkpoint_savers import OURS, POSTGRES, UNLOCKED, VALKEY, opened, ours, talks
from tests.benchmarks.checkpoint_turns import TURN_BYTES, Conversation

if TYPE_CHECKING:
    from tests.benchmarks.checkpoint_rounds import Bench
    from tests.benchmarks.checkpoint_savers import Subject

EARLY = (5, 15)


@dataclass(frozen=True)
class Weights:
    """Bytes of one conversation: `rows` are what the warm tier keeps of a cold one."""

    turns: int
    hot: float
    warm: float
    cold: float
    rows: float
    peers: dict[str, float]

    @property
    def live(self) -> int:
        return self.turns * TURN_BYTES


async def sizes(bench: Bench) -> None:
    """After 50 turns, with full history."""
    weights = await weighed(bench, bench.scale.long_turns)
    at = f"after {weights.turns} turns"
    full = f"warm bytes {at}, full history, KB"
    hot = f"Redis memory {at}, KB"
    for name, title, mine, most in ((POSTGRES, full, weights.warm, 1 / 12), (VALKEY, hot, weights.hot, 1 / 100)):
        if name in weights.peers:
            bench.add(f"{title}: {OURS} / {name}", mine / 1e3, weights.peers[name] / 1e3, most=most)
        else:
            bench.notes[f"{title}: {name} did not run"] = None
    bench.add(f"{full}: {OURS} / live state", weights.warm / 1e3, weights.live / 1e3, most=3)
    bench.add(f"{hot}: {OURS} / live state", weights.hot / 1e3, weights.live / 1e3, most=1)
    title = f"cold bytes {at}, all history, KB: ours / live state"
    if not math.isnan(weights.cold):
        bench.add(title, weights.cold / 1e3, weights.live / 1e3, most=0.35)


async def weighed(bench: Bench, turns: int) -> Weights:
    """Ours in every tier, and the peers that keep their one copy."""
    number, peers = bench.scale.talks, {}
    async with opened(bench.at, (OURS, UNLOCKED, VALKEY), bench.notes) as subjects:
        for name in [name for name in subjects if name != OURS]:
            try:
                peers[POSTGRES if name == UNLOCKED else name] = await _added(bench, subjects[name], turns)
            except Exception as error:
                bench.notes[f"{name} failed at {number} x {turns} turns: {shown(error)}"] = None
        mine = subjects[OURS]
        await settled(bench.at, mine.hot)
        warm, hot, rows = table_bytes(mine.warm), memory_bytes(mine.hot), row_bytes(mine.warm)
        made = await talks(mine.saver, number, turns)
        await settled(bench.at, mine.hot, quiet_s=LAZY_S)
        warm, hot = table_bytes(mine.warm) - warm, memory_bytes(mine.hot) - hot
        try:
            cold, rows = await _archived(bench, mine, made, rows)
        except Exception as error:
            bench.missing(f"cold bytes after {turns} turns", shown(error))
            cold = rows = math.nan
    return Weights(turns, hot / number, warm / number, cold / number, rows / number, peers)


async def _added(bench: Bench, subject: Subject, turns: int) -> float:
    await settled(bench.at, *([subject.hot] if subject.hot else []))
    before = subject.bytes()
    await talks(subject.saver, bench.scale.talks, turns)
    await settled(bench.at, *([subject.hot] if subject.hot else []))
    return (subject.bytes() - before) / bench.scale.talks


async def _archived(bench: Bench, subject: Subject, made: list[Conversation], before: int) -> tuple[int, int]:
    """Bytes of all objects of these conversations, and of the rows that the warm tier keeps of them."""
    url = bench.at.cold()
    async with ours(subject.warm, subject.hot, url) as saver:
        await archived(saver, made)
        await settled(bench.at, subject.hot)
        return sum((await object_sizes(url)).values()), row_bytes(subject.warm) - before


async def archived(saver: Any, made: list[Conversation]) -> None:
    """Move conversations to the cold tier."""
    for talk in made:
        if not await saver.aarchive(talk.thread):
            raise NotMeasuredError(f"{talk.thread} was not archived")


async def growth(bench: Bench) -> None:
    """Bytes of a turn late in a conversation over those of an early one, each a mean over a window of turns."""
    late, number = bench.scale.growth_turn, bench.scale.growth_talks
    marks = (*EARLY, late - late // 25, late + late // 25)
    async with opened(bench.at, (OURS,), bench.notes) as subjects:
        mine = subjects[OURS]
        made = [Conversation(mine.saver, 300 + index) for index in range(number)]
        sizes = []
        for mark in marks:
            await asyncio.gather(*(talk.run(mark - talk.turns) for talk in made))
            await settled(bench.at, mine.hot)
            sizes.append(table_bytes(mine.warm))
    early = (sizes[1] - sizes[0]) / (marks[1] - marks[0]) / number
    then = (sizes[3] - sizes[2]) / (marks[3] - marks[2]) / number
    title = f"warm bytes/turn: turns {marks[2] + 1} to {marks[3]} / turns {marks[0] + 1} to {marks[1]}"
    bench.add(title, then, early, most=1.2)
