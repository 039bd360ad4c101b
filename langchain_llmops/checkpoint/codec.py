"""Names as keys, values as sealed bytes."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_llmops.checkpoint.schema import ThreadRows
from langchain_llmops.core.errors import CheckpointError, EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from langgraph.checkpoint.serde.base import SerializerProtocol

    from langchain_llmops.core.envelope import Envelope

__all__ = [
    "Codec",
    "blob_key",
    "blob_place",
    "body_place",
    "digest",
    "metadata_place",
    "name_bytes",
    "text",
    "untext",
    "write_place",
]

KEY_BYTES: Final = 16
SHOWN_CHARACTERS: Final = 80
# PostgreSQL indexes no row above 2.7 KB; these names are parts of primary keys
MAX_NAME_BYTES: Final = {"checkpoint_ns": 1600, "checkpoint_id": 256, "task_id": 256}


def text(value: str) -> bytes:
    """Text as stored: NUL and lone surrogates survive, and the order stays that of the characters."""
    return value.encode("utf-8", "surrogatepass")


def untext(stored: bytes) -> str:
    """The text of `text`."""
    return bytes(stored).decode("utf-8", "surrogatepass")


def name_bytes(kind: str, value: object) -> bytes:
    """A name that is part of a key; raises `CheckpointError` when it is too long for one."""
    stored = text(str(value))
    if len(stored) > MAX_NAME_BYTES[kind]:
        raise CheckpointError(f"{kind} {str(value)[:SHOWN_CHARACTERS]!r}… is longer than {MAX_NAME_BYTES[kind]} bytes")
    return stored


def digest(value: str) -> bytes:
    """16 bytes that stand for text of any length."""
    return hashlib.blake2b(text(value), digest_size=KEY_BYTES).digest()


def blob_key(channel: str, version: object) -> bytes:
    """16 bytes that stand for one version of one channel."""
    try:
        name = channel.encode()
    except UnicodeEncodeError as error:
        raise CheckpointError(f"channel name {channel!r} holds a lone surrogate; use valid Unicode") from error
    return hashlib.blake2b(len(name).to_bytes(4) + name + str(version).encode(), digest_size=KEY_BYTES).digest()


class Codec:
    """Seals values into an envelope that, when encrypted, opens only at the place it was sealed for.

    Checkpoints, metadata and archives use LangGraph's strict serializer, whatever the user's own one is for values.
    """

    def __init__(self, envelope: Envelope) -> None:
        self._envelope = envelope
        self._strict = JsonPlusSerializer(allowed_msgpack_modules=None)

    def seal(self, value: Any, *place: bytes, serde: SerializerProtocol | None = None) -> bytes:
        """A value as stored at `place`."""
        kind, data = (serde or self._strict).dumps_typed(value)
        return self._envelope.seal(kind.encode() + b"\0" + data, _context(place))

    def open(self, stored: bytes, *place: bytes, serde: SerializerProtocol | None = None) -> Any:
        """The value sealed at `place`; raises `EnvelopeError` on damaged, foreign or moved bytes."""
        kind, _, data = self._envelope.open(stored, _context(place)).partition(b"\0")
        try:
            return (serde or self._strict).loads_typed((kind.decode(), data))
        except (ValueError, NotImplementedError) as error:  # what msgpack and LangGraph raise for foreign bytes
            raise EnvelopeError(f"a stored value cannot be read back ({type(error).__name__})") from error

    def plain(self, value: Any) -> Any:
        """The value as it would come back, with lists for tuples."""
        return self._strict.loads_typed(self._strict.dumps_typed(value))

    def keys(self, checkpoint: Mapping[str, Any]) -> list[bytes]:
        """The keys of all channel values a checkpoint may have."""
        return [blob_key(channel, version) for channel, version in checkpoint["channel_versions"].items()]

    def opened(self, thread: bytes, content: ThreadRows) -> ThreadRows:
        """A thread's rows with every body opened."""
        return _each(content, thread, lambda body, place: self._envelope.open(body, _context(place)))

    def sealed(self, thread: bytes, content: ThreadRows) -> ThreadRows:
        """Opened rows sealed for a thread."""
        return _each(content, thread, lambda body, place: self._envelope.seal(body, _context(place)))


def body_place(thread: bytes, ns: bytes, checkpoint_id: bytes) -> tuple[bytes, ...]:
    """Where a checkpoint's body belongs."""
    return (b"checkpoint", thread, ns, checkpoint_id)


def metadata_place(thread: bytes, ns: bytes, checkpoint_id: bytes) -> tuple[bytes, ...]:
    """Where a checkpoint's metadata belongs."""
    return (b"metadata", thread, ns, checkpoint_id)


def blob_place(thread: bytes, ns: bytes, key: bytes) -> tuple[bytes, ...]:
    """Where a channel value belongs."""
    return (b"blob", thread, ns, key)


def write_place(thread: bytes, ns: bytes, checkpoint_id: bytes, task_id: bytes, idx: int) -> tuple[bytes, ...]:
    """Where a pending write belongs."""
    return (b"write", thread, ns, checkpoint_id, task_id, str(idx).encode())


def _each(content: ThreadRows, thread: bytes, change: Callable[[bytes, tuple[bytes, ...]], bytes]) -> ThreadRows:
    return ThreadRows(
        [
            row._replace(
                metadata=change(row.metadata, metadata_place(thread, row.ns, row.id)),
                body=change(row.body, body_place(thread, row.ns, row.id)),
            )
            for row in content.rows
        ],
        [blob._replace(body=change(blob.body, blob_place(thread, blob.ns, blob.key))) for blob in content.blobs],
        [
            write._replace(body=change(write.body, write_place(thread, write.ns, write.id, write.task_id, write.idx)))
            for write in content.writes
        ],
    )


def _context(place: tuple[bytes, ...]) -> bytes:
    return b"".join(len(part).to_bytes(4) + part for part in place)
