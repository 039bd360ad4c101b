"""How likely two questions ask the same: boosted trees over what differs between their words, shipped as plain data.

`tests/benchmarks/cache_semantic_fit.py` fits `data/likeness.json`; it holds thresholds on counts and shares, no words.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from langchain_llmops.cache.gates import unmatched
from langchain_llmops.cache.words import Words, english

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Likeness", "features", "likeness", "shipped"]

KINDS: Final = (
    "question", "auxiliary", "article", "pronoun", "preposition", "conjunction", "negation", "adverb", "filler",
)  # fmt: skip
YOU: Final = frozenset({"you", "your", "yours", "yourself"})
ME: Final = frozenset({"i", "my", "me", "mine", "myself", "we", "our", "us"})
POINTING: Final = frozenset(
    {"this", "these", "that", "those", "following", "below", "above", "his", "her", "their", "it", "he", "she", "they"}
)
PRAISE: Final = frozenset({"best", "top", "good", "better"})
PAST: Final = frozenset({"did", "was", "were", "had"})
ASKING: Final = frozenset(
    {"is", "are", "do", "does", "did", "can", "could", "will", "would", "should", "has", "have", "was", "were"}
)
LONG_WORD: Final = 8


@dataclass(frozen=True, slots=True)
class Likeness:
    """Boosted trees; a node is `[feature, threshold, left, right]` or `[value]`. `threshold` is that of the score."""

    base: float
    trees: tuple[tuple[tuple[float, ...], ...], ...]
    threshold: float

    def score(self, values: Sequence[float]) -> float:
        """A probability, 0 to 1."""
        return 1 / (1 + math.exp(-self.base - sum(_leaf(tree, values) for tree in self.trees)))


def _leaf(tree: tuple[tuple[float, ...], ...], values: Sequence[float]) -> float:
    node = tree[0]
    while len(node) > 1:
        node = tree[int(node[2] if values[int(node[0])] <= node[1] else node[3])]
    return node[0]


@cache
def shipped() -> Likeness:
    """The model of `data/likeness.json`, read once."""
    table = json.loads((files("langchain_llmops.cache") / "data" / "likeness.json").read_text("utf-8"))
    trees = tuple(tuple(tuple(node) for node in tree) for tree in table["trees"])
    return Likeness(table["base"], trees, table["threshold"])


def likeness(one: Words, other: Words) -> float:
    """How likely the two ask the same, 0 to 1; symmetric. The same words in the same order are the same question."""
    if one.tokens == other.tokens:
        return 1.0
    return shipped().score(features(one, other))


def features(one: Words, other: Words) -> list[float]:
    """What differs between two texts, as numbers; symmetric."""
    first, second = sorted((one, other), key=lambda words: words.tokens)
    return [
        *_of_content(first, second),
        *_of_order(first, second),
        *_of_function_words(first, second),
        *_of_letters(first, second),
        *_of_shape(first, second),
    ]


def _of_content(one: Words, other: Words) -> list[float]:
    mine, theirs = unmatched(one, other)
    left, right, both = set(one.content), set(other.content), set(one.content) & set(other.content)
    light, heavy = sorted((_weight(mine), _weight(theirs)))
    shared = _weight(both)
    few, many = sorted((len(mine), len(theirs)))
    lengths = [len(word) for word in mine + theirs] or [0]
    joined = len(left ^ right) - few - many
    return [
        light, heavy, shared, shared / ((shared + light + heavy) or 1), few, many, len(both),
        max(lengths), min(lengths), joined, len(both) / (len(left | right) or 1),
    ]  # fmt: skip


def _of_order(one: Words, other: Words) -> list[float]:
    mine = [word for word in one.content if word in other.content]
    theirs = [word for word in other.content if word in one.content]
    return [
        _in_order(mine, theirs) / (max(len(mine), len(theirs)) or 1),
        _in_order(one.content, other.content) / (max(len(one.content), len(other.content)) or 1),
        2 * _in_order(one.tokens, other.tokens) / ((len(one.tokens) + len(other.tokens)) or 1),
        _jaccard(pairwise(one.tokens), pairwise(other.tokens)),
        _jaccard(pairwise(mine), pairwise(theirs)),
        one.tokens[:1] == other.tokens[:1],
        one.tokens[:2] == other.tokens[:2],
        one.tokens[-1:] == other.tokens[-1:],
        one.content[:1] == other.content[:1],
        one.content[-1:] == other.content[-1:],
    ]


def _of_function_words(one: Words, other: Words) -> list[float]:
    kinds = english().kinds
    mine = Counter(word for word in one.tokens if word in kinds)
    theirs = Counter(word for word in other.tokens if word in kinds)
    here, there = _by_kind(mine - theirs), _by_kind(theirs - mine)
    a, b = set(one.tokens), set(other.tokens)
    pairs = [(a & group, b & group) for group in (YOU, ME, PRAISE, PAST, POINTING)]
    return [
        *(here[kind] + there[kind] for kind in KINDS),
        *(min(here[kind], there[kind]) for kind in KINDS),
        *(bool(x) != bool(y) for x, y in pairs),
        *(bool(x) and bool(y) for x, y in pairs),
        *((word in a) != (word in b) for word in ("should", "will", "would", "happen", "why", "how", "when", "where")),
        _asks_yes_or_no(one) != _asks_yes_or_no(other),
        _kind_of_question(one) == _kind_of_question(other),
    ]


def _of_letters(one: Words, other: Words) -> list[float]:
    mine, theirs = _grams(one.content), _grams(other.content)
    return [
        _jaccard(_grams(one.tokens), _grams(other.tokens)),
        _jaccard(mine, theirs),
        len(mine & theirs) / (min(len(mine), len(theirs)) or 1),
    ]


def _of_shape(one: Words, other: Words) -> list[float]:
    short, long = sorted((len(one.tokens), len(other.tokens)))
    return [
        short,
        short / (long or 1),
        abs(one.sentences - other.sentences),
        len(set(one.names) & set(other.names)),
        len(set(one.names) ^ set(other.names)),
        len(one.numbers) + len(other.numbers),
    ]


def _weight(words: Iterable[str]) -> float:
    """Long words are rare ones."""
    return sum(min(len(word), LONG_WORD) for word in words) / LONG_WORD


def _in_order(one: Sequence[str], other: Sequence[str]) -> int:
    return sum(block.size for block in SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks())


def _jaccard(one: Iterable[object], other: Iterable[object]) -> float:
    left, right = set(one), set(other)
    return len(left & right) / (len(left | right) or 1)


def _grams(words: Iterable[str]) -> set[str]:
    return {f"^{word}$"[start : start + 3] for word in words for start in range(len(word))}


def _by_kind(words: Counter[str]) -> Counter[str]:
    kinds, counts = english().kinds, Counter[str]()
    for word, count in words.items():
        counts[kinds[word]] += count
    return counts


def _asks_yes_or_no(words: Words) -> bool:
    return not ASKING.isdisjoint(words.tokens[:1])


def _kind_of_question(words: Words) -> str:
    """How to do it, how many of it, or the word it opens with."""
    opening = words.tokens[:6]
    if opening[:1] == ("how",):
        second = opening[1:2]
        return "how many" if second and second[0] in {"many", "much", "long", "far", "old", "often"} else "how to"
    if opening[:1] in (("what",), ("which",)):
        return "how to" if {"way", "ways", "method", "steps", "tips"} & set(opening) else "what"
    return opening[0] if opening else ""
