"""What must agree before two questions may share an answer: pure functions from two texts to yes or no."""

from __future__ import annotations

from collections import Counter
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Final

from langchain_llmops.cache.words import Words, english, stem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "GATES",
    "content_words",
    "direction",
    "entities",
    "length",
    "negation",
    "numbers",
    "refused_by",
    "symbols",
    "unmatched",
]

MAX_TOKENS: Final = 80  # a longer text is a document, in which one word may decide and similarity says nothing
MIN_RATIO: Final = 0.5
TYPO: Final = 0.8
SHORTEST_TYPO: Final = 4
_PREFIXES: Final = ("un", "in", "im", "ir", "il", "dis", "non", "de", "mis", "anti", "re")


def numbers(one: Words, other: Words) -> bool:
    """The same numbers in the same order, in figures or in words."""
    return one.numbers == other.numbers


def negation(one: Words, other: Words) -> bool:
    """As many negations, each before the same content word."""
    return one.negated == other.negated


def symbols(one: Words, other: Words) -> bool:
    """The same signs: currencies, operators, emoji."""
    return one.symbols == other.symbols


def entities(one: Words, other: Words) -> bool:
    """Names of one side are words of the other, and those that both hold come in the same order."""
    if not (_known(one.names, other) and _known(other.names, one)):
        return False
    either = set(one.names) | set(other.names)
    return _order(one, either) == _order(other, either)


def direction(one: Words, other: Words) -> bool:
    """What one side puts after "from" only, the other does not put after "to" or "than" only, and so on."""
    mine, theirs = _leads(one), _leads(other)
    return not any(mine[word].isdisjoint(theirs[word]) for word in mine.keys() & theirs.keys())


def _leads(words: Words) -> dict[str, set[str]]:
    leads: dict[str, set[str]] = {}
    for lead, word in words.directed:
        leads.setdefault(word, set()).add(lead)
    return leads


def length(one: Words, other: Words) -> bool:
    """Neither is empty or a document, and neither is twice as long as the other."""
    shorter, longer = sorted((len(one.tokens), len(other.tokens)))
    return 0 < longer <= MAX_TOKENS and shorter >= MIN_RATIO * longer and bool(one.content) and bool(other.content)


def content_words(one: Words, other: Words) -> bool:
    """No word of one side has its opposite on the other, and no word is exchanged for another.

    A word that only one side holds passes here: whether it matters is for the similarity to say.
    """
    mine, theirs = unmatched(one, other)
    if mine and theirs:
        return False
    opposites = english().opposites
    ours, yours = set(map(stem, one.tokens)), set(map(stem, other.tokens))
    return not any(frozenset((x, y)) in opposites or _prefixed(x, y) for x in ours - yours for y in yours - ours)


GATES: Final[Mapping[str, Callable[[Words, Words], bool]]] = {
    "length": length,
    "numbers": numbers,
    "negation": negation,
    "symbols": symbols,
    "entities": entities,
    "direction": direction,
    "content_words": content_words,
}


def refused_by(one: Words, other: Words) -> str | None:
    """The name of the first gate that keeps the two apart; None when all let them pass."""
    return next((name for name, passes in GATES.items() if not passes(one, other)), None)


def unmatched(one: Words, other: Words) -> tuple[list[str], list[str]]:
    """Content words of each side that the other lacks; what looks like a typing error of another is no difference."""
    mine, theirs = Counter(one.content), Counter(other.content)
    left, right = sorted(mine.keys() - theirs.keys()), sorted(theirs.keys() - mine.keys())
    for word in list(left):
        twin = next((found for found in right if _typo(word, found)), None)
        if twin is not None:
            left.remove(word)
            right.remove(twin)
    return left, right


def _typo(one: str, other: str) -> bool:
    if min(len(one), len(other)) < SHORTEST_TYPO or not (one.isalpha() and other.isalpha()) or _prefixed(one, other):
        return False
    if one[0] != other[0] or frozenset((one, other)) in english().opposites:
        return False
    return SequenceMatcher(None, one, other, autojunk=False).ratio() >= TYPO


def _prefixed(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return len(shorter) >= SHORTEST_TYPO - 1 and any(longer == prefix + shorter for prefix in _PREFIXES)


def _known(names: tuple[str, ...], other: Words) -> bool:
    words = {*other.tokens, *other.content}
    return all(name in words or stem(name) in words for name in names)


def _order(words: Words, names: set[str]) -> list[str]:
    return list(dict.fromkeys(token for token in words.tokens if token in names))
