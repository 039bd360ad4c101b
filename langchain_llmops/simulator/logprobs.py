"""Made-up but lawful log probabilities: the same for the same text, each set summing to at most one."""

from __future__ import annotations

import math
from hashlib import blake2b
from itertools import islice
from typing import Any, Final

__all__ = ["token_logprobs"]

_LIKELY: Final = 0.6
_OTHERS: Final = (
    " the",
    " a",
    " to",
    " of",
    " and",
    " is",
    " in",
    " for",
    " it",
    " you",
    " that",
    " on",
    " with",
    " as",
    " be",
    " this",
    " are",
    " not",
    " or",
    " we",
    " can",
)


def token_logprobs(token: str, top: int) -> dict[str, Any]:
    """The entry of one token, with `top` alternatives, itself the first."""
    share = int.from_bytes(blake2b(_bytes(token), digest_size=4).digest(), "big") / 2**32
    chance = _LIKELY + (0.999 - _LIKELY) * share
    others = islice((other for other in _OTHERS if other != token), max(0, top - 1))
    ranked = [(token, chance), *((other, (1 - chance) / 2 ** (i + 1)) for i, other in enumerate(others))]
    entry = _entry(token, chance)
    entry["top_logprobs"] = [_entry(*one) for one in ranked[:top]]
    return entry


def _entry(token: str, chance: float) -> dict[str, Any]:
    return {"token": token, "logprob": math.log(chance), "bytes": list(_bytes(token))}


def _bytes(token: str) -> bytes:
    return token.encode("utf-8", "surrogatepass")
