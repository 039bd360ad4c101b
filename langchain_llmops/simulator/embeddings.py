"""Deterministic unit vectors in which texts that share words are near each other."""

from __future__ import annotations

import base64
import math
import re
import struct
from hashlib import shake_128
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.simulator.wire import to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_llmops.simulator.types import EmbeddingRequest

__all__ = ["embeddings_body", "vector_of"]

_WORD: Final = re.compile(r"\w+")
_HITS: Final = 32
"""Each word touches so many dimensions, so that two different words hardly overlap."""


def vector_of(words: tuple[str, ...], dimensions: int) -> list[float]:
    """The unit vector of a bag of words: each adds plus or minus one at places drawn from its hash."""
    vector = [0.0] * dimensions
    for word in words:
        draw = struct.unpack(f"<{_HITS}I", shake_128(word.encode("utf-8", "surrogatepass")).digest(4 * _HITS))
        for number in draw:
            vector[(number >> 1) % dimensions] += 1.0 if number & 1 else -1.0
    length = math.sqrt(math.fsum(x * x for x in vector))
    if not length:  # the words cancel out: any fixed direction will do
        return [1.0] + [0.0] * (dimensions - 1)
    return [x / length for x in vector]


def embeddings_body(request: EmbeddingRequest, count: Callable[[str], int]) -> bytes:
    """The answer: one vector per input, as numbers or as base64 of little-endian float32."""
    data = [
        {"object": "embedding", "index": index, "embedding": _spelled(_words(text), request)}
        for index, text in enumerate(request.inputs)
    ]
    tokens = sum(count(text) if isinstance(text, str) else len(text) for text in request.inputs)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return to_json({"object": "list", "data": data, "model": request.model, "usage": usage})


def _words(text: str | tuple[int, ...]) -> tuple[str, ...]:
    if isinstance(text, tuple):
        return tuple(str(token) for token in text)
    return tuple(_WORD.findall(text.casefold())) or (text,)


def _spelled(words: tuple[str, ...], request: EmbeddingRequest) -> Any:
    vector = vector_of(words, request.dimensions)
    if not request.as_base64:
        return vector
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
