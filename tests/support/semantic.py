"""Questions, embeddings that can be counted, held and broken, and a level over them."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from langchain_core.embeddings import Embeddings

from langchain_llmops.cache.hashing import HashingEmbeddings
from langchain_llmops.cache.semantic import Near, SemanticLevel

__all__ = ["ASKED", "FOREVER", "OTHER", "CountingEmbeddings", "Question", "a_near", "level_of"]

FOREVER = 9e9
ASKED = "How do I reset my account password?"
OTHER = "How can I reset my account password?"


@dataclass(frozen=True)
class Question:
    group: str
    text: str


class CountingEmbeddings(Embeddings):
    """Hashed n-grams that note every text and the colour of the call; `failing` is raised instead."""

    def __init__(self, failing: Exception | None = None) -> None:
        self.failing = failing
        self.asked: list[tuple[str, str]] = []
        self._lock = threading.Lock()
        self._hashing = HashingEmbeddings(64)

    def _embed(self, colour: str, text: str) -> list[float]:
        with self._lock:
            self.asked.append((colour, text))
        if self.failing is not None:
            raise self.failing
        return self._hashing.embed_query(text)

    def embed_query(self, text: str) -> list[float]:
        return self._embed("blocking", text)

    async def aembed_query(self, text: str) -> list[float]:
        return self._embed("async", text)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise NotImplementedError


def level_of(embeddings: Embeddings | None = None, **options) -> SemanticLevel:
    return SemanticLevel(
        embeddings or CountingEmbeddings(), **{"mode": "serve", "random": lambda: 0.0, "clock": lambda: 0.0, **options}
    )


def a_near(*, group: str = "g", key: str = "k", score: float = 0.9, hit: bool = True) -> Near:
    return Near(group, key, OTHER, ASKED, 0.95, score, hit)
