"""The cold tier: a closed thread as one object, content-addressed below the thread's own prefix.

An object is a sealed list: format, a random mark, thread id, and the thread's rows with their bodies opened (so that
they compress together). The mark makes every attempt's path its own, so a mover that lost a race may delete its object.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.checkpoint.codec import SHOWN_CHARACTERS, text
from langchain_llmops.checkpoint.schema import Blob, Row, ThreadRows, Write
from langchain_llmops.core.errors import CheckpointError, EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.stores.base import Objects

__all__ = ["Cold", "damaged"]

FORMAT: Final = 1
MARK_BYTES: Final = 8


class Cold:
    """Threads in an object store; `threads/<digest of the thread id>/<sha256 of the object>.llmops`."""

    def __init__(self, objects: Objects, codec: Codec) -> None:
        self._objects = objects
        self._codec = codec

    async def store(self, thread_id: str, thread: bytes, content: ThreadRows) -> tuple[str, int]:
        """Write a thread's rows as an object and verify it by reading it back; its path and bytes.

        Raises `CheckpointError` when what is read back is not what was written.
        """
        opened = self._codec.opened(thread, content)
        values = [[list(item) for item in items] for items in opened]
        stored = self._codec.seal([FORMAT, secrets.token_bytes(MARK_BYTES), text(thread_id), *values], *_place(thread))
        path = f"{_folder(thread)}/{hashlib.sha256(stored).hexdigest()}.llmops"
        await self._objects.put(path, stored)
        try:
            if self._read(path, thread_id, thread, await self._objects.get(path)) != opened:
                raise damaged(path, thread_id, "does not hold what was written")
        except CheckpointError:
            await self._objects.delete(path)
            raise
        return path, len(stored)

    async def load(self, path: str, thread_id: str, thread: bytes) -> ThreadRows | None:
        """A thread's rows, sealed for the warm tier; None without an object, `CheckpointError` if it is damaged."""
        stored = await self._objects.get(path)
        if stored is None:
            return None
        return self._codec.sealed(thread, self._read(path, thread_id, thread, stored))

    async def paths(self, thread: bytes) -> list[str]:
        """Every object of a thread."""
        return [path async for path, _ in self._objects.list(_folder(thread))]

    async def remove(self, paths: Iterable[str]) -> None:
        """Delete objects."""
        await self._objects.delete(*paths)

    def _read(self, path: str, thread_id: str, thread: bytes, stored: bytes | None) -> ThreadRows:
        if stored is None:
            raise damaged(path, thread_id, "is missing")
        if f"/{hashlib.sha256(stored).hexdigest()}." not in path:
            raise damaged(path, thread_id, "is damaged (its checksum differs)")
        try:
            found = self._codec.open(stored, *_place(thread))
            return _rows(*found)
        except (EnvelopeError, ValueError, TypeError) as error:  # sealed well, and of another shape within
            raise damaged(path, thread_id, f"cannot be read ({error})") from error


def damaged(path: str, thread_id: str, what: str) -> CheckpointError:
    """The error for an object that does not hold its thread."""
    return CheckpointError(f"the archive of thread {thread_id[:SHOWN_CHARACTERS]!r} at {path} {what}")


def _rows(version: int, _: bytes, __: bytes, rows: Any, blobs: Any, writes: Any) -> ThreadRows:
    if version != FORMAT:
        raise ValueError(f"format {version}, this library reads {FORMAT}")
    return ThreadRows([Row(*v) for v in rows], [Blob(*v) for v in blobs], [Write(*v) for v in writes])


def _folder(thread: bytes) -> str:
    return f"threads/{thread.hex()}"


def _place(thread: bytes) -> tuple[bytes, bytes]:
    return (b"archive", thread)
