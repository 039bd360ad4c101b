"""An answer as the pieces of a stream, and pieces as the answer they were."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

from langchain_core.language_models.chat_models import generate_from_stream
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk

from langchain_llmops.cache.policy import END_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Heard", "pieces_of"]

MOST_PIECES: Final = 50
WORDS: Final = re.compile(r"\s*\S+\s*|\s+")


class Heard:
    """What a provider has streamed so far; no consumer can change it."""

    def __init__(self) -> None:
        self._pieces: list[ChatGenerationChunk] = []

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def hear(self, piece: ChatGenerationChunk) -> ChatGenerationChunk:
        """Remember a piece."""
        self._pieces.append(piece.model_copy(deep=True))
        return piece

    def answers(self, output_version: str | None) -> list[ChatGeneration]:
        """The whole answer, as `invoke` would have given it; nothing when the stream was cut."""
        if not self._pieces:
            return []
        (answer,) = generate_from_stream(iter(self._pieces)).generations
        message = answer.message
        told = {**(answer.generation_info or {}), **message.response_metadata}
        # langchain-openai accepts a stream that stops without a word on how it ended
        if told.get("model_provider") == "openai" and not any(told.get(key) for key in END_KEYS):
            return []
        changes: dict[str, Any] = {"response_metadata": told}
        if output_version == "v1":
            changes = {"content": message.content_blocks, "response_metadata": {**told, "output_version": "v1"}}
        return [ChatGeneration(message=message.model_copy(update=changes))]


def pieces_of(message: AIMessage) -> Iterator[ChatGenerationChunk]:
    """Pieces that add up to a message: text in some words each, every tool call, and what is told of them at the end.

    They have no id: LangChain gives them that of their run.
    """
    content = message.content
    for part in _parts(content) if isinstance(content, str) else [content] * bool(content):
        yield _piece(content=part, name=message.name)
    for index, call in enumerate(message.tool_calls):
        said = tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
        yield _piece(content="" if isinstance(content, str) else [], tool_call_chunks=[said])
    yield _piece(
        content="" if isinstance(content, str) else [],
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        chunk_position="last",
    )


def _piece(**fields: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(**fields))


def _parts(text: str) -> Iterator[str]:
    words = WORDS.findall(text)
    many = max(1, -(-len(words) // MOST_PIECES))
    for start in range(0, len(words), many):
        yield "".join(words[start : start + many])
