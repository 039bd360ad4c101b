"""Pages, and a retriever that finds them."""

from __future__ import annotations

import asyncio

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import Field

__all__ = ["Pages", "page"]


class Pages(BaseRetriever):
    """Finds what it was given, and remembers what it was asked."""

    found: list = Field(default_factory=list)
    asked: list = Field(default_factory=list)
    error: list = Field(default_factory=list)
    k: int = 4

    def _get_relevant_documents(self, query, *, run_manager, **options):
        self.asked.append((query, options) if options else query)
        if self.error:
            raise self.error[0]
        return self.found

    async def _aget_relevant_documents(self, query, *, run_manager, **options):
        await asyncio.sleep(0)
        return self._get_relevant_documents(query, run_manager=run_manager, **options)


def page(text="p", score=None, **metadata) -> Document:
    return Document(text, metadata=metadata if score is None else {**metadata, "score": score}, id=f"id-{text}")
