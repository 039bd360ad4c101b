"""Embeddings of words by their length."""

from __future__ import annotations

import asyncio
import math

from langchain_core.embeddings import Embeddings

__all__ = ["Words"]


class Words(Embeddings):
    """Counts its calls; queries differ from documents; refuses a batch with a bad text as providers do."""

    model = "words-1"

    def __init__(self, size: int = 3) -> None:
        self.size = size
        self.calls: list[list[str]] = []
        self.bad: set[str] = set()
        self.error: Exception = ValueError("no such text")
        self.wait_s = 0.0

    def vector(self, text, first=0.0):
        return [first, *(math.sin(len(text) + n) for n in range(self.size - 1))]

    def embed_documents(self, texts):
        self.calls.append(list(texts))
        if self.bad & set(texts):
            raise self.error
        return [self.vector(text) for text in texts]

    def embed_query(self, text):
        self.calls.append([text])
        return self.vector(text, 1.0)

    async def aembed_documents(self, texts):
        await asyncio.sleep(self.wait_s)
        return self.embed_documents(texts)

    async def aembed_query(self, text):
        return self.embed_query(text)
