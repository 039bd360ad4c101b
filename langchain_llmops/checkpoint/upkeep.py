"""Which checkpoints may go: prune, delete by run, copy.

The state of a `DeltaChannel` is the nearest stored value among a checkpoint's ancestors plus their pending writes, so a
checkpoint that is kept keeps that chain too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_llmops.checkpoint.codec import SHOWN_CHARACTERS, blob_key, body_place, metadata_place
from langchain_llmops.core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.schema import Place, Row
    from langchain_llmops.checkpoint.warm import Warm

__all__ = ["copy", "delete_runs", "keep_newest"]


async def keep_newest(warm: Warm, codec: Codec, place: Place) -> set[bytes]:
    """Keep each namespace's newest checkpoint and what its delta channels need; the namespaces of the thread."""
    async with warm.locked(place.thread) as (transaction, found):
        if found is None:
            return set()
        rows, stored = await warm.outline(transaction, place.thread)
        history = _History(codec, place.thread, rows, stored)
        kept = set().union(*(history.needed(row) for row in _newest(rows)))
        await warm.remove(transaction, place.thread, [row for row in rows if row not in kept], history.unused(kept))
    return {row.ns for row in rows}


async def delete_runs(warm: Warm, codec: Codec, place: Place, runs: set[bytes]) -> set[bytes]:
    """Delete every checkpoint of some runs; the namespaces of the thread.

    Raises `CheckpointError` when a checkpoint that stays needs one that would go.
    """
    async with warm.locked(place.thread) as (transaction, found):
        if found is None:
            return set()
        rows, stored = await warm.outline(transaction, place.thread)
        history = _History(codec, place.thread, rows, stored)
        gone = {row for row in rows if row.run in runs}
        kept = set(rows) - gone
        if any(history.needed(row) & gone for row in kept):
            raise CheckpointError(
                f"thread {place.thread_id[:SHOWN_CHARACTERS]!r} has delta channels whose later state is built on these"
                " runs; delete the thread, or prune it first"
            )
        await warm.remove(transaction, place.thread, list(gone), history.unused(kept))
    return {row.ns for row in rows}


async def copy(warm: Warm, codec: Codec, source: Place, target: Place) -> set[bytes]:
    """Copy everything of a thread, its owner too; the namespaces copied. An unknown source copies nothing."""
    async with warm.locked(source.thread, removes=False) as (transaction, found):
        if found is None:
            return set()
        content = await warm.content(source.thread, transaction)
        await warm.create(transaction, target, found.owner)
        sealed = codec.sealed(target.thread, codec.opened(source.thread, content))
        await warm.insert(transaction, target.thread, sealed)
    return {row.ns for row in content.rows}


def _newest(rows: Iterable[Row]) -> list[Row]:
    newest: dict[bytes, Row] = {}
    for row in rows:
        if row.ns not in newest or row.id > newest[row.ns].id:
            newest[row.ns] = row
    return list(newest.values())


class _History:
    """A thread's checkpoints, and what each needs of the others."""

    def __init__(self, codec: Codec, thread: bytes, rows: Iterable[Row], stored: set[bytes]) -> None:
        self._codec = codec
        self._thread = thread
        self._rows = {(row.ns, row.id): row for row in rows}
        self._stored = stored

    def needed(self, row: Row) -> set[Row]:
        """The checkpoint and the ancestors its delta channels are built from."""
        needed = {row}
        metadata = self._codec.open(row.metadata, *metadata_place(self._thread, row.ns, row.id))
        missing = self._without_value(row, metadata.get("counters_since_delta_snapshot") or {})
        current = row
        while missing and current.parent is not None:
            parent = self._rows.get((current.ns, current.parent))
            if parent is None or parent in needed:
                break
            needed.add(parent)
            missing = self._without_value(parent, missing)
            current = parent
        return needed

    def unused(self, kept: Iterable[Row]) -> set[bytes]:
        """Stored channel values that no kept checkpoint names."""
        used = {row.ns + key for row in kept for key in self._codec.keys(self._body(row))}
        return self._stored - used

    def _without_value(self, row: Row, channels: Iterable[str]) -> set[str]:
        versions = self._body(row)["channel_versions"]
        return {
            channel
            for channel in channels
            if channel not in versions or row.ns + blob_key(channel, versions[channel]) not in self._stored
        }

    def _body(self, row: Row) -> dict[str, Any]:
        body: dict[str, Any] = self._codec.open(row.body, *body_place(self._thread, row.ns, row.id))
        return body
