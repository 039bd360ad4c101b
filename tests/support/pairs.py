"""Labelled pairs of questions, in two halves that share no question."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAIRS", "Pair", "halves", "threshold_within"]

PAIRS = Path(__file__).resolve().parents[3] / "shared" / "data" / "support" / "question_pairs_dev.jsonl.gz"


@dataclass(frozen=True)
class Pair:
    one: str
    other: str
    same: bool


def halves(path: Path = PAIRS) -> tuple[list[Pair], list[Pair]]:
    """Pairs that share a question, also through others, stay together; a hash says in which half."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    pairs = [Pair(row["text_a"], row["text_b"], bool(row["label"])) for row in rows]
    above: dict[str, str] = {}

    def top(text: str) -> str:
        while above.setdefault(text, text) != text:
            above[text] = above[above[text]]
            text = above[text]
        return text

    for pair in pairs:
        above[top(pair.one)] = top(pair.other)
    groups: dict[str, list[Pair]] = {}
    for pair in pairs:
        groups.setdefault(top(pair.one), []).append(pair)
    sides: tuple[list[Pair], list[Pair]] = ([], [])
    for group in groups.values():
        name = min(min(pair.one, pair.other) for pair in group)
        sides[hashlib.blake2b(name.encode(), digest_size=8).digest()[0] & 1].extend(group)
    return sides


def threshold_within(scored: list[tuple[float, bool]], budget: float) -> float:
    """The lowest score from which at most `budget` of the pairs that are not the same would be hits."""
    others = sum(not same for _, same in scored)
    wrong, lowest = 0, 1.0
    ordered = sorted(scored, reverse=True)
    for place, (score, same) in enumerate(ordered):
        wrong += not same
        if place + 1 < len(ordered) and ordered[place + 1][0] == score:
            continue  # what scores the same stands or falls together
        if wrong / others > budget or score <= 0:
            break
        lowest = score
    return lowest
