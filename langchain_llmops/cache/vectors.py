"""Embedding vectors: checked as they come from a provider, and as bytes.

An entry is a version (1 byte), `f` or `d` (float32, float64), the number of dimensions (4 bytes) and the numbers, all
little-endian, in an envelope that is bound to the key.
"""

from __future__ import annotations

import struct
import sys
from array import array
from math import isfinite
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from langchain_llmops.core.errors import EnvelopeError, MalformedAnswerError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_llmops.core.envelope import Envelope

__all__ = ["Vector", "checked", "decode", "encode", "one_size"]

Vector: TypeAlias = "array[float]"

VERSION: Final = 1
HEADER: Final = struct.Struct("<BcI")
MAX_DIMENSIONS: Final = 65_536  # sixteen times the longest that is sold


def checked(answer: Any, texts: int) -> list[Vector]:
    """The vectors of an answer for so many texts; raises `MalformedAnswerError` unless there is one of a size each."""
    try:
        vectors = [array("d", vector) for vector in answer]
    except (TypeError, ValueError, OverflowError) as error:
        raise MalformedAnswerError("the embedding model answered with something that is no list of vectors") from error
    if len(vectors) != texts:
        raise MalformedAnswerError(f"the embedding model answered {len(vectors)} vectors for {texts} texts")
    sizes = {len(vector) for vector in vectors}
    if len(sizes) != 1 or 0 in sizes:
        raise MalformedAnswerError(f"the embedding model answered vectors of {sorted(sizes)} dimensions")
    return vectors


def encode(vector: Vector, key: str, envelope: Envelope) -> bytes | None:
    """The vector as stored bytes, in float32 when that loses nothing; None for one that holds NaN or infinity."""
    if not isfinite(sum(vector)) and not all(map(isfinite, vector)):
        return None
    if len(vector) > MAX_DIMENSIONS:
        return None
    single = array("f", vector)
    packed, kind = (single, b"f") if array("d", single) == vector else (array("d", vector), b"d")
    _little_endian(packed)
    return envelope.seal(HEADER.pack(VERSION, kind, len(packed)) + packed.tobytes(), key.encode())


def decode(stored: bytes, key: str, envelope: Envelope) -> Vector:
    """The vector of stored bytes; raises `EnvelopeError` on anything foreign, damaged or of another version."""
    body = envelope.open(stored, key.encode())
    if len(body) < HEADER.size:
        raise EnvelopeError("cached vector is damaged")
    version, kind, size = HEADER.unpack_from(body)
    if version != VERSION or kind not in (b"f", b"d") or not 0 < size <= MAX_DIMENSIONS:
        raise EnvelopeError("cached vector is damaged or not readable by this library")
    packed = array(kind.decode())
    if len(body) != HEADER.size + size * packed.itemsize:
        raise EnvelopeError("cached vector is damaged")
    packed.frombytes(body[HEADER.size :])
    _little_endian(packed)
    if not all(map(isfinite, packed)):
        raise EnvelopeError("cached vector is damaged")
    return array("d", packed)


def one_size(vectors: Iterable[Vector]) -> bool:
    """Whether the vectors can be compared."""
    return len({len(vector) for vector in vectors}) <= 1


def _little_endian(numbers: array[float]) -> None:
    if sys.byteorder == "big":
        numbers.byteswap()
