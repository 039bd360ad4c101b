"""Names as keys: of any length and any characters, and never those of another tenant."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

from langchain_llmops.core.errors import CheckpointError

__all__ = [
    "NAME_BYTES",
    "SHOWN_CHARACTERS",
    "Place",
    "digest",
    "id_bytes",
    "named",
    "place_of",
    "run_key",
    "shown",
    "stored_name",
    "text",
    "untext",
]

NAME_BYTES: Final = 16
RUN_BYTES: Final = 8
MAX_ID_BYTES: Final = 256  # part of a primary key that is ordered; PostgreSQL indexes no row above 2.7 KB
SHOWN_CHARACTERS: Final = 80


class Place(NamedTuple):
    """A thread and namespace: `thread` is the digest of tenant and thread id, `ns` of the namespace (root: empty)."""

    thread_id: str
    thread: bytes
    namespace: str
    ns: bytes


def text(value: str) -> bytes:
    """Text as stored: NUL and lone surrogates survive, and the order stays that of the characters."""
    return value.encode("utf-8", "surrogatepass")


def untext(stored: bytes) -> str:
    """The text of `text`."""
    return bytes(stored).decode("utf-8", "surrogatepass")


def stored_name(name: str) -> str | bytes:
    """A name as it can be packed: as bytes when it holds lone surrogates, which would come back as question marks."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return text(name)
    return name


def named(stored: str | bytes) -> str:
    """The name of `stored_name`."""
    return untext(stored) if isinstance(stored, bytes) else stored


def digest(*parts: str) -> bytes:
    """16 bytes that stand for names of any length."""
    hashed = hashlib.blake2b(digest_size=NAME_BYTES)
    for part in parts:
        stored = text(part)
        hashed.update(len(stored).to_bytes(8) + stored)
    return hashed.digest()


def run_key(run_id: str) -> bytes:
    """8 bytes that stand for a run."""
    return digest(run_id)[:RUN_BYTES]


def place_of(tenant: str, thread_id: object, namespace: str = "") -> Place:
    """Where the checkpoints of a tenant's thread and namespace live."""
    name = str(thread_id)
    return Place(name, digest(tenant, name), namespace, digest(namespace) if namespace else b"")


def id_bytes(checkpoint_id: object) -> bytes:
    """A checkpoint id as a key that sorts as it does; raises `CheckpointError` when it is too long for one."""
    stored = text(str(checkpoint_id))
    if len(stored) > MAX_ID_BYTES:
        raise CheckpointError(f"checkpoint_id {shown(str(checkpoint_id))} is longer than {MAX_ID_BYTES} bytes")
    return stored


def shown(name: str) -> str:
    """A name as errors tell it."""
    return repr(name[:SHOWN_CHARACTERS]) + ("…" if len(name) > SHOWN_CHARACTERS else "")
