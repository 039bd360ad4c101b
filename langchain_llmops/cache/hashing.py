"""Embeddings that need no model: for tests, and as a floor for what a real model must beat."""

from __future__ import annotations

import math
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from langchain_core.embeddings import Embeddings

from langchain_llmops.cache.words import read
from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["HashingEmbeddings"]

FUNCTION_WORD: Final = 0.25
LONG_WORD: Final = 8
GRAM: Final = 0.5
SIZES: Final = (3, 4)


class HashingEmbeddings(Embeddings):
    """Hashed words and letter n-grams as unit vectors: no download, no state, the same in every process and version.

    It sees spelling, not meaning: texts with other words for the same thing are far apart. Content words weigh by their
    length, function words little.
    """

    def __init__(self, dimensions: int = 384) -> None:
        if dimensions < 1:
            raise ConfigurationError(f"dimensions must be at least 1, not {dimensions}")
        self.dimensions = dimensions

    def embed_query(self, text: str) -> list[float]:
        """The unit vector of a text; one without words has a fixed direction."""
        vector = [0.0] * self.dimensions
        for name, weight in _weighted(text):
            draw = int.from_bytes(blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest())
            vector[(draw >> 1) % self.dimensions] += weight if draw & 1 else -weight
        length = math.sqrt(math.fsum(x * x for x in vector))
        return [x / length for x in vector] if length else [1.0] + [0.0] * (self.dimensions - 1)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The same for each."""
        return [self.embed_query(text) for text in texts]

    async def aembed_query(self, text: str) -> list[float]:
        """The same, without the thread that LangChain's default would take for 0.3 ms of work."""
        return self.embed_query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """The same for each."""
        return self.embed_documents(texts)


def _weighted(text: str) -> Iterator[tuple[str, float]]:
    words = read(text)
    content = frozenset(words.content)
    for word in words.tokens:
        if word not in content:
            yield f"w:{word}", FUNCTION_WORD
    for word in words.content:
        weight = min(len(word), LONG_WORD) / LONG_WORD
        yield f"c:{word}", weight
        edged = f"^{word}$"
        grams = [edged[at : at + size] for size in SIZES for at in range(len(edged) - size + 1)]
        for gram in grams:
            yield f"g:{gram}", GRAM * weight / math.sqrt(len(grams))
