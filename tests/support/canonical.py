"""One digest for one content: of a value, and of a checkpoint with its metadata and its parent."""

from __future__ import annotations

import hashlib
from typing import Any

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

__all__ = ["digest_of", "digest_of_checkpoint"]

_serde = JsonPlusSerializer(allowed_msgpack_modules=None)


def digest_of(value: Any) -> str:
    """Of the bytes a value serializes to; the order of a dict's keys does not count."""
    kind, data = _serde.dumps_typed(_ordered(value))
    return hashlib.blake2b(kind.encode() + b"\0" + data, digest_size=12).hexdigest()


def digest_of_checkpoint(checkpoint: Any, metadata: Any, parent: str | None) -> str:
    """Of everything a put stores; of the metadata only what the clients of these tests give."""
    return digest_of([dict(checkpoint), {name: metadata.get(name) for name in ("source", "step")}, parent])


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        return [
            "dict",
            *([str(key), _ordered(part)] for key, part in sorted(value.items(), key=lambda one: str(one[0]))),
        ]
    if isinstance(value, list | tuple):
        return ["list", *map(_ordered, value)]  # LangGraph's serializer makes lists of tuples
    return value
