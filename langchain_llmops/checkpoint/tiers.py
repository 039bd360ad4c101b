"""Three tiers as one store of checkpoints: the warm one decides, the hot one is a copy, the cold one is restored."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from langchain_llmops.checkpoint.codec import SHOWN_CHARACTERS, body_place
from langchain_llmops.checkpoint.cold import damaged
from langchain_llmops.checkpoint.hot import Entry
from langchain_llmops.checkpoint.schema import COLD, Blob, Place, Snapshot, ThreadRows
from langchain_llmops.checkpoint.upkeep import copy, delete_runs, keep_newest
from langchain_llmops.checkpoint.warm import ColdThread, check_owner
from langchain_llmops.core.concurrency import SingleFlight
from langchain_llmops.core.errors import CheckpointError, ConfigurationError, StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.cold import Cold
    from langchain_llmops.checkpoint.hot import Hot, Recent
    from langchain_llmops.checkpoint.schema import Row, Thread, Write
    from langchain_llmops.checkpoint.warm import Found, Warm

__all__ = ["CheckpointStats", "Loaded", "Tiers"]

T = TypeVar("T")
_log = logging.getLogger(__name__)

SENDS: Final = b"__pregel_tasks"
SENDS_IN_CHANNEL_SINCE: Final = 4
IDLE_ROWS: Final = 100


@dataclass(frozen=True, slots=True)
class CheckpointStats:
    """Sizes of the whole store, and the hot tier's luck in this process.

    `bytes_by_tier["hot"]` is an estimate: the entries this process filled and that have not expired.
    `orphans` counts objects this process could not delete after their thread had moved on.
    """

    checkpoints: int
    threads_by_tier: dict[str, int]
    bytes_by_tier: dict[str, int]
    hot_hits: int
    hot_misses: int
    hot_errors: int
    orphans: int


class Loaded(NamedTuple):
    """Checkpoints with their values, and the stamp their thread had after they were read."""

    stamp: int
    snapshots: list[Snapshot]


class Tiers:
    """Coroutines for the private loop. Checkpoints go in and out as rows; values stay sealed here."""

    def __init__(self, warm: Warm, hot: Hot | None, cold: Cold | None, codec: Codec, recent: Recent) -> None:
        self.warm = warm
        self.codec = codec
        self._hot = hot
        self._cold = cold
        self._recent = recent
        self._flights = SingleFlight()
        self._orphans = 0

    # one checkpoint

    async def put(
        self, place: Place, user: str | None, row: Row, keys: Sequence[bytes], new: Mapping[bytes, bytes | None]
    ) -> None:
        """Store a checkpoint; `keys` are those of all its channels, `new` maps changed ones to their sealed value."""
        blobs = [Blob(place.ns, key, body) for key, body in new.items() if body is not None]
        written = await self._restoring(lambda: self.warm.put(place, user, row, blobs), place)
        if self._hot is None:
            return
        known = self._recent.complete(place, written.epoch, keys, new)
        if known is None:
            return
        self._recent.keep(place, written.epoch, known)
        if written.newest:
            values = {key: body for key, body in known.items() if body is not None}
            await self._hot.put(place, Entry(written.stamp, row.id, values, []))

    async def put_writes(
        self, place: Place, user: str | None, first_wins: Sequence[Write], last_wins: Sequence[Write]
    ) -> None:
        """Store pending writes."""
        await self._restoring(lambda: self.warm.put_writes(place, user, first_wins, last_wins), place)

    async def get(self, place: Place, checkpoint_id: bytes | None, user: str | None) -> Snapshot | None:
        """A checkpoint, the newest unless an id is given."""
        while True:
            found = await self.warm.find(place, checkpoint_id)
            if found is None:
                return None
            check_owner(place.thread_id, found.thread.owner, user)
            if found.thread.tier == COLD:
                await self.restore(place)
                continue
            if found.row is None:
                return None
            snapshot = await self._snapshot(place, found, found.row, newest=checkpoint_id is None)
            if snapshot is not None:
                return snapshot

    async def _snapshot(self, place: Place, found: Found, row: Row, *, newest: bool) -> Snapshot | None:
        """From the hot tier if it holds this very state, else from the warm one; None if rows went away meanwhile."""
        checkpoint = self._body(place, row)
        keys = self.codec.keys(checkpoint)
        hot = self._hot if newest and not _has_sends(checkpoint, row) else None
        if hot is not None:
            entry = await hot.get(place)
            if entry is not None and entry.stamp == found.thread.stamp and entry.id == row.id:
                hot.hits += 1
                self._recent.keep(place, found.thread.epoch, {key: entry.blobs.get(key) for key in keys})
                return Snapshot(place, row, checkpoint, entry.blobs, entry.writes, [])
            hot.misses += 1
        loaded = await self.snapshots(place, found.thread.epoch, [row])
        if loaded is None:
            return None
        (snapshot,) = loaded.snapshots
        if hot is not None:
            self._recent.keep(place, found.thread.epoch, {key: snapshot.blobs.get(key) for key in keys})
            if loaded.stamp == found.thread.stamp:
                await hot.put(place, Entry(loaded.stamp, row.id, snapshot.blobs, snapshot.writes))
        return snapshot

    async def snapshots(self, place: Place, epoch: int, rows: Sequence[Row]) -> Loaded | None:
        """Checkpoints of one place with their values; None when rows of the thread were removed since `epoch`."""
        bodies = [self._body(place, row) for row in rows]
        keys = {key for checkpoint in bodies for key in self.codec.keys(checkpoint)}
        ids = {row.id for row in rows} | {
            row.parent
            for row, checkpoint in zip(rows, bodies, strict=True)
            if row.parent is not None and _has_sends(checkpoint, row)
        }
        parts = await self.warm.parts(place.thread, place.ns, list(keys), list(ids))
        if parts is None or parts.epoch != epoch:
            return None
        pairs = zip(rows, bodies, strict=True)
        return Loaded(parts.stamp, [self._assembled(place, *pair, parts.blobs, parts.writes) for pair in pairs])

    def archived(self, place: Place, content: ThreadRows) -> list[Snapshot]:
        """Every checkpoint of a thread whose rows are at hand."""
        blobs: dict[bytes, dict[bytes, bytes]] = {}
        writes: dict[bytes, dict[bytes, list[Write]]] = {}
        for blob in content.blobs:
            blobs.setdefault(blob.ns, {})[blob.key] = blob.body
        for write in content.writes:
            writes.setdefault(write.ns, {}).setdefault(write.id, []).append(write)
        return [
            self._assembled(
                place._replace(ns=row.ns), row, self._body(place, row), blobs.get(row.ns, {}), writes.get(row.ns, {})
            )
            for row in content.rows
        ]

    def _assembled(
        self,
        place: Place,
        row: Row,
        checkpoint: dict[str, Any],
        blobs: Mapping[bytes, bytes],
        writes: Mapping[bytes, list[Write]],
    ) -> Snapshot:
        values = {key: blobs[key] for key in self.codec.keys(checkpoint) if key in blobs}
        sends: list[Write] = []
        if _has_sends(checkpoint, row) and row.parent is not None:
            sends = [write for write in writes.get(row.parent, []) if write.channel == SENDS]
        return Snapshot(place, row, checkpoint, values, writes.get(row.id, []), sends)

    def _body(self, place: Place, row: Row) -> dict[str, Any]:
        body: dict[str, Any] = self.codec.open(row.body, *body_place(place.thread, row.ns, row.id))
        return body

    # whole threads

    async def admitted(self, place: Place, user: str | None) -> Thread | None:
        """The thread, restored if it was cold; None when there is no such thread."""
        while True:
            found = await self.warm.thread(place.thread)
            if found is None:
                return None
            check_owner(place.thread_id, found.owner, user)
            if found.tier != COLD:
                return found
            await self.restore(place)

    async def delete(self, place: Place) -> None:
        """Remove a thread from every tier: its row first, then its objects."""
        found = await self.warm.thread(place.thread)
        if found is not None and found.tier == COLD:
            self._archive(place.thread_id)
        # objects that appear after this listing belong to a mover that will find the thread gone and delete them itself
        paths = set(await self._cold.paths(place.thread)) if self._cold is not None else set()
        deleted = await self.warm.delete(place.thread)
        if deleted is not None:
            path, namespaces = deleted
            await self._drop(place.thread, namespaces)
            paths |= {path} if path is not None else set()
        if self._cold is not None:
            await self._cold.remove(paths)

    async def delete_runs(self, runs: set[bytes]) -> None:
        """Remove every checkpoint of some runs."""
        for thread_id, thread in await self.warm.threads_of_runs(sorted(runs)):
            place = Place(thread_id, thread, b"")
            namespaces = await self._restoring(lambda: delete_runs(self.warm, self.codec, place, runs), place)  # noqa: B023 - awaited here
            await self._drop(thread, namespaces)

    async def prune(self, places: Iterable[Place], strategy: str) -> None:
        """`keep_latest` per namespace, or `delete`."""
        if strategy not in ("keep_latest", "delete"):
            raise CheckpointError(f"unknown prune strategy {strategy!r}; use 'keep_latest' or 'delete'")
        for place in places:
            if strategy == "delete":
                await self.delete(place)
                continue
            namespaces = await self._restoring(lambda: keep_newest(self.warm, self.codec, place), place)  # noqa: B023 - awaited here
            await self._drop(place.thread, namespaces)

    async def copy(self, source: Place, target: Place) -> None:
        """Copy everything of a thread into another."""
        if source.thread != target.thread:
            namespaces = await self._restoring(lambda: copy(self.warm, self.codec, source, target), source, target)
            await self._drop(target.thread, namespaces)

    # between tiers

    async def archive(self, place: Place) -> bool:
        """Move a warm thread into an object; False if there is none, or it was written meanwhile."""
        cold = self._archive(place.thread_id)
        found = await self.warm.thread(place.thread)
        if found is None or found.tier == COLD:
            return False
        content = await self.warm.content(place.thread)
        if not any(content):
            return False
        try:
            path, size = await cold.store(place.thread_id, place.thread, content)
        except CheckpointError:
            now = await self.warm.thread(place.thread)
            if now is None or now.stamp != found.stamp:
                return False  # deleted with its objects, or written, while it was moved
            raise
        if not await self.warm.go_cold(place.thread, found.stamp, path, size, content):
            await self._discard(cold, path)
            return False
        await self._drop(place.thread, {row.ns for row in content.rows})
        return True

    async def archive_idle(self, before: float) -> int:
        """Archive every thread not written since `before` (Unix seconds); how many."""
        moved, last = 0, b""
        while rows := await self.warm.idle(before, last, IDLE_ROWS):
            for thread, thread_id in rows:
                moved += await self.archive(Place(thread_id, thread, b""))
                last = thread
        return moved

    async def restore(self, place: Place) -> bool:
        """Bring a cold thread back; False if it is not cold. Callers of one process share the work."""
        return await self._flights.run(place.thread, lambda: self._restore(place))

    async def _restore(self, place: Place) -> bool:
        held = await self.peek(place)
        if held is None:
            return False
        path, content = held
        if not await self.warm.go_warm(place.thread, path, content):
            return False
        await self._discard(self._archive(place.thread_id), path)
        return True

    async def peek(self, place: Place) -> tuple[str, ThreadRows] | None:
        """Path and rows of a cold thread that stays cold, or None if it is not cold.

        Raises `CheckpointError` when its object is missing or damaged.
        """
        missing = None
        while True:
            found = await self.warm.thread(place.thread)
            if found is None or found.tier != COLD:
                return None
            path = found.object or "(no path)"
            if path == missing:
                raise damaged(path, place.thread_id, "is missing")
            content = await self._archive(place.thread_id).load(path, place.thread_id, place.thread)
            if content is not None:
                return path, content
            missing = path  # unless another process has just restored it: look again

    # the store

    async def stats(self) -> CheckpointStats:
        """Counts and bytes."""
        sizes, hot = await self.warm.sizes(), self._hot
        return CheckpointStats(
            checkpoints=sizes.checkpoints,
            threads_by_tier=sizes.threads,
            bytes_by_tier={"hot": hot.size() if hot else 0, "warm": sizes.warm_bytes, "cold": sizes.cold_bytes},
            hot_hits=hot.hits if hot else 0,
            hot_misses=hot.misses if hot else 0,
            hot_errors=hot.errors if hot else 0,
            orphans=self._orphans,
        )

    def _archive(self, thread_id: str) -> Cold:
        if self._cold is None:
            raise ConfigurationError(
                f"thread {thread_id[:SHOWN_CHARACTERS]!r} needs the cold tier; give the checkpointer cold='s3://…' or 'file:///…'"
            )
        return self._cold

    async def _restoring(self, call: Callable[[], Awaitable[T]], *places: Place) -> T:
        while True:
            try:
                return await call()
            except ColdThread:
                for place in places:
                    await self.restore(place)

    async def _drop(self, thread: bytes, namespaces: Iterable[bytes]) -> None:
        if self._hot is not None:
            await self._hot.drop(thread, namespaces)

    async def _discard(self, cold: Cold, path: str) -> None:
        try:
            await cold.remove([path])
        except StoreError as error:
            self._orphans += 1
            _log.warning("object %s is no longer needed and could not be deleted: %s", path, error)


def _has_sends(checkpoint: Mapping[str, Any], row: Row) -> bool:
    """Before format 4, packets sent to the next step were pending writes of the parent."""
    return row.parent is not None and checkpoint.get("v", 1) < SENDS_IN_CHANNEL_SINCE
