"""Seeded draws that depend on what is asked and how often, never on who came first."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from hashlib import blake2b

from langchain_llmops.simulator.canonical import DIGEST_BYTES, digest_of
from langchain_llmops.simulator.types import EmbeddingRequest, Request

__all__ = ["Occasion", "Occasions", "key_of"]


@dataclass(frozen=True, slots=True)
class Occasion:
    """The `nth` time (from 1) that this server is asked the same thing; `ordinal` counts all model requests."""

    key: bytes
    nth: int = 1
    ordinal: int = 1

    def seed(self, seed: int, purpose: str) -> int:
        """64 bits from the seed, the purpose, the key and `nth`: a concurrent run draws what a serial one does."""
        text = f"{seed} {purpose} {self.nth} ".encode() + self.key
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "big")

    def uniform(self, seed: int, purpose: str) -> float:
        """A number in [0, 1)."""
        return (self.seed(seed, purpose) >> 11) / 2**53


class Occasions:
    """Counts how often each thing was asked. Not for several threads."""

    def __init__(self) -> None:
        self._seen: Counter[bytes] = Counter()
        self._total = 0

    def next(self, key: bytes) -> Occasion:
        """The occasion of one more request for `key`."""
        self._seen[key] += 1
        self._total += 1
        return Occasion(key, self._seen[key], self._total)


def key_of(request: Request | EmbeddingRequest) -> bytes:
    """What is asked: the canonical messages, with the conversation where the caller names it, or the texts to embed.

    Two conversations that begin alike draw apart when they are named, so each one's faults are its own.
    """
    if isinstance(request, EmbeddingRequest):
        return blake2b(json.dumps(request.inputs).encode(), digest_size=DIGEST_BYTES).digest()
    return digest_of(request.messages) + (request.conversation_id or "").encode()
