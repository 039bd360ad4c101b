"""Who asks, and under which key what is kept for them lies: for embeddings and retrieval."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any

from langchain_llmops.cache.fingerprint import Uncacheable
from langchain_llmops.core.context import ambient_metadata, current_identity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_llmops.core.types import Identity

__all__ = ["asker", "canonical", "digest"]


def asker(metadata: Mapping[str, Any] | None = None) -> Identity | None:
    """Who the run's metadata names, else that of the chain or node around us, else `acting_for`."""
    return current_identity(ambient_metadata() if metadata is None else metadata)


def digest(prefix: str, *parts: str) -> str:
    """`prefix:` and the BLAKE2b-256 of the parts in hex; no two lists of parts run into each other."""
    hashed = hashlib.blake2b(digest_size=32)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        hashed.update(len(data).to_bytes(8, "big"))
        hashed.update(data)
    return f"{prefix}:{hashed.hexdigest()}"


def canonical(value: Any) -> str:
    """One spelling of plain data, whatever the order of its keys; raises `Uncacheable` on anything else."""
    try:
        return json.dumps(_plain(value), sort_keys=True, ensure_ascii=False)
    except RecursionError as error:
        raise Uncacheable("an argument that holds itself has no key") from error


def _plain(value: Any) -> Any:
    """The value, without what JSON would take for something else: `{1: …}` for `{"1": …}`, for one."""
    if value is None or isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: _plain(item) for key, item in value.items()}
    raise Uncacheable(f"an argument that is a {type(value).__name__} has no key")
