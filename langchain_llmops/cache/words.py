"""A question as the words that carry its meaning: read once, compared often."""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

__all__ = ["English", "Words", "english", "read"]

_WORD: Final = re.compile(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:'[^\W\d_]+)?[+#]*|[^\W_]+")
_NAME: Final = re.compile(rf"[.?!]\s+|{_WORD.pattern}")
_GROUPED: Final = re.compile(r"\d{1,3}(?:,\d{3})+")
_ENDINGS: Final = (
    ("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("es", ""), ("s", ""), ("er", ""), ("ly", ""), ("ment", ""),
    ("ation", ""), ("e", ""),
)  # fmt: skip
SHORTEST_STEM: Final = 3
DIRECTIONS: Final = frozenset({"from", "to", "than"})


@dataclass(frozen=True, slots=True)
class English:
    """The closed tables of `data/english.json`; content words are stems, `synonyms` leads to one of its class."""

    kinds: dict[str, str]
    contractions: dict[str, str]
    numbers: dict[str, str]
    synonyms: dict[str, str]
    opposites: frozenset[frozenset[str]]
    negations: frozenset[str]


@dataclass(frozen=True, slots=True)
class Words:
    """One text. `content` and `names` are stems or words in order of appearance, repeats included."""

    tokens: tuple[str, ...]
    content: tuple[str, ...]
    numbers: tuple[str, ...]
    negated: tuple[str, ...]  # the word that follows each negation
    directed: tuple[tuple[str, str], ...]  # "from", "to" or "than" and the word that follows
    names: tuple[str, ...]
    symbols: tuple[str, ...]
    sentences: int


@cache
def english() -> English:
    """The tables, read once."""
    table = json.loads((files("langchain_llmops.cache") / "data" / "english.json").read_text("utf-8"))
    kinds = {word: kind for kind, words in table["function_words"].items() for word in words.split()}
    synonyms: dict[str, str] = {}
    for row in table["synonyms"]:
        for word in row.split():
            synonyms.setdefault(stem(word), stem(row.split()[0]))
    opposites = {frozenset(synonyms.get(stem(word), stem(word)) for word in row.split()) for row in table["opposites"]}
    negations = frozenset(table["function_words"]["negation"].split())
    return English(kinds, table["contractions"], table["numbers"], synonyms, frozenset(opposites), negations)


def read(text: str) -> Words:
    """The words of a text."""
    text = unicodedata.normalize("NFKC", text).replace("’", "'")  # noqa: RUF001 - the typographic apostrophe
    tables = english()
    tokens = tuple(_tokens(text, tables))
    content = tuple(_content(word, tables) for word in tokens if word not in tables.kinds)
    return Words(
        tokens=tokens,
        content=content,
        numbers=tuple(_number(word, tables) for word in tokens if _is_number(word, tables)),
        negated=tuple(sorted(word for _, word in _following(tokens, tables, tables.negations))),
        directed=tuple(_following(tokens, tables, DIRECTIONS)),
        names=tuple(_names(text, tokens, tables)),
        symbols=tuple(sorted(c for c in text if c in "@*/\\^&" or unicodedata.category(c) in {"Sm", "So", "Sc"})),
        sentences=max(1, len(re.findall(r"[.?!](?:\s|$)", text))),
    )


def stem(word: str) -> str:
    """A word without its commonest English endings; rough, and the same for both sides of a comparison."""
    for ending, instead in _ENDINGS:
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= SHORTEST_STEM:
            word = word[: -len(ending)] + instead
            break
    if len(word) > SHORTEST_STEM and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] if len(word) > SHORTEST_STEM and word.endswith("e") else word


def _tokens(text: str, tables: English) -> list[str]:
    tokens: list[str] = []
    for word in _WORD.findall(text.casefold()):
        if word in tables.contractions:
            tokens += tables.contractions[word].split()
        elif word.endswith("n't"):
            tokens += [word[:-3], "not"]
        else:
            tokens.append(word.removesuffix("'s"))
    return [token for token in tokens if token]


def _content(word: str, tables: English) -> str:
    stemmed = _number(word, tables) if _is_number(word, tables) else stem(word)
    return tables.synonyms.get(stemmed, stemmed)


def _is_number(word: str, tables: English) -> bool:
    return word[0].isdigit() or word in tables.numbers


def _number(word: str, tables: English) -> str:
    if _GROUPED.fullmatch(word):
        return word.replace(",", "")
    return tables.numbers.get(word, word)


def _following(tokens: tuple[str, ...], tables: English, leading: frozenset[str]) -> list[tuple[str, str]]:
    """Each of the leading words with the first word after it that tells something."""
    found = []
    for place, word in enumerate(tokens):
        if word in leading:
            following = (_content(later, tables) for later in tokens[place + 1 :] if _tells(later, tables))
            found.append((word, next(following, "")))
    return found


def _tells(word: str, tables: English) -> bool:
    return tables.kinds.get(word, "filler") == "filler"


def _names(text: str, tokens: tuple[str, ...], tables: English) -> list[str]:
    """Words with a capital in mid-sentence, or with one inside anywhere, in lower case."""
    names, opens = [], True
    for word in _NAME.findall(text):
        if not word[0].isalnum():
            opens = True
            continue
        folded = word.casefold().removesuffix("'s")
        if (
            folded in tokens
            and folded not in tables.kinds
            and (any(c.isupper() for c in word[1:]) or (word[0].isupper() and not opens))
        ):
            names.append(folded)
        opens = False
    return names
