"""What is stored where: of all conversations, of one, and whether all of it can be read."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_llmops.checkpoint.names import shown, untext
from langchain_llmops.checkpoint.nodes import refs
from langchain_llmops.checkpoint.schema import COLD, MIXED, WARM
from langchain_llmops.checkpoint.state import pending_of
from langchain_llmops.checkpoint.whole import Whole
from langchain_llmops.core.errors import CheckpointError, EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.checkpoint.tiers import Tiers
    from langchain_llmops.stores.base import Sql

__all__ = ["CheckpointStats", "Explained", "Figures", "StoredCheckpoint", "Verified"]

PAGE: Final = 200
TRIES: Final = 20  # of reading what others change
TIERS: Final = (WARM, MIXED, COLD)


@dataclass(frozen=True, slots=True)
class CheckpointStats:
    """Of a tenant's conversations; bytes without what databases add (indexes, row headers).

    `threads_by_tier` counts those whose newest checkpoints are warm and history cold as "mixed". What is said of the
    hot tier is of this process: an estimate of its copies that have not expired, and its luck. `orphans` are objects
    that nothing needs and that are still to be deleted.
    """

    checkpoints: int
    threads_by_tier: dict[str, int]
    bytes_by_tier: dict[str, int]
    hot_hits: int
    hot_misses: int
    hot_errors: int
    orphans: int


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """One checkpoint of a conversation; `bytes` are those of its own row, without chunks it shares with others."""

    checkpoint_id: str
    namespace: str
    parent_id: str | None
    is_full: bool
    pending_writes: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Explained:
    """Where a conversation lives. Times are Unix seconds; `cold_checkpoints` are those whose rows are in objects."""

    thread_id: str
    tier: str
    is_owned: bool
    is_ended: bool
    created_at: float
    updated_at: float
    pinned_until: float | None
    bytes_by_tier: dict[str, int]
    chunks: int
    cold_checkpoints: int
    objects: list[str]
    checkpoints: list[StoredCheckpoint] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Verified:
    """What was read to its last byte, and what could not be."""

    threads: int
    checkpoints: int
    writes: int
    chunks: int
    faults: list[str]


class Figures:
    """Coroutines over blocking stores."""

    def __init__(self, tiers: Tiers, tenant: bytes) -> None:
        self._tiers = tiers
        self._tenant = tenant

    async def stats(self) -> CheckpointStats:
        """Counts and bytes of the tenant."""
        await self._tiers.settled_all()
        sql = await self._tiers.warm.sql()
        threads, sizes, cold, orphans = await self._by_tier(sql)
        warm = await sql.fetch(
            "SELECT COUNT(*) FROM llmops_ck_step s JOIN llmops_ck_thread t ON t.thread = s.thread WHERE t.tenant = ?",
            (self._tenant,),
        )
        hot = self._tiers.hot
        return CheckpointStats(
            checkpoints=int(warm[0][0]) + cold,
            threads_by_tier=threads,
            bytes_by_tier=sizes,
            hot_hits=hot.hits if hot else 0,
            hot_misses=hot.misses if hot else 0,
            hot_errors=hot.errors if hot else 0,
            orphans=orphans,
        )

    async def standing(self) -> dict[str, float]:
        """What `stats` says of what is stored, in the words of `watch_checkpointer`, without counting checkpoints."""
        threads, sizes, _, orphans = await self._by_tier(await self._tiers.warm.sql())
        told: dict[str, float] = {f"conversations:{tier}": number for tier, number in threads.items()}
        return told | {f"bytes:{tier}": size for tier, size in sizes.items()} | {"orphans": orphans}

    async def _by_tier(self, sql: Sql) -> tuple[dict[str, int], dict[str, int], int, int]:
        """Threads by tier, bytes by tier, cold checkpoints, dead objects."""
        rows = await sql.fetch(
            "SELECT tier, COUNT(*), SUM(COALESCE(cold_steps, 0)), SUM(stored_bytes),"
            " SUM(COALESCE(head_bytes, 0) + COALESCE(rest_bytes, 0))"
            " FROM llmops_ck_thread WHERE tenant = ? GROUP BY tier",
            (self._tenant,),
        )
        dead = await sql.fetch(
            "SELECT COUNT(*) FROM llmops_ck_object WHERE state = 'dead' AND path LIKE ?", (f"{self._tenant.hex()}/%",)
        )
        sizes = {
            "hot": self._tiers.hot.size() if self._tiers.hot else 0,
            "warm": sum(int(row[3] or 0) for row in rows),
            "cold": sum(int(row[4] or 0) for row in rows),
        }
        threads = dict.fromkeys(TIERS, 0) | {row[0]: int(row[1]) for row in rows}
        return threads, sizes, sum(int(row[2] or 0) for row in rows), int(dead[0][0])

    async def explain(self, place: Place) -> Explained | None:
        """Where one conversation lives; None for one there is not."""
        await self._tiers.settled(place.thread)
        sql, thread = await self._tiers.warm.sql(), place.thread
        rows = await sql.fetch(
            "SELECT tier, owner, is_ended, created_at, updated_at, pinned_until, stored_bytes, head_bytes, rest_bytes,"
            " cold_steps FROM llmops_ck_thread WHERE thread = ?",
            (thread,),
        )
        if not rows:
            return None
        tier, owner, is_ended, created, updated, pinned, stored, head, rest, cold = rows[0]
        chunks = await sql.fetch("SELECT COUNT(*) FROM llmops_ck_chunk WHERE thread = ?", (thread,))
        objects = await sql.fetch("SELECT path FROM llmops_ck_object WHERE thread = ? AND state = 'live'", (thread,))
        async with sql.transaction() as transaction:
            whole = await Whole.read(self._tiers.codec, transaction, thread)
        return Explained(
            thread_id=place.thread_id,
            tier=tier,
            is_owned=owner is not None,
            is_ended=bool(is_ended),
            created_at=created,
            updated_at=updated,
            pinned_until=pinned,
            bytes_by_tier={"warm": int(stored), "cold": int(head or 0) + int(rest or 0)},
            chunks=int(chunks[0][0]),
            cold_checkpoints=int(cold or 0),
            objects=sorted(path for (path,) in objects),
            checkpoints=_listed(whole),
        )

    async def verify(self, places: Iterable[Place] | None = None) -> Verified:
        """Read everything of some conversations, or of the tenant, to its last byte."""
        await self._tiers.settled_all()
        faults: list[str] = []
        threads, total = 0, Counter[str]()
        for place in [*places] if places is not None else await self._places(faults):
            try:
                held = await self._verified(place)
            except (CheckpointError, EnvelopeError, ValueError) as error:  # what cannot be read, in its own words
                faults.append(f"{shown(place.thread_id)}: {error}")
                continue
            if held is not None:
                threads += 1
                total.update({name: len(keys) for name, keys in held._asdict().items()})
        return Verified(threads, total["checkpoints"], total["writes"], total["chunks"], faults)

    async def _places(self, faults: list[str]) -> list[Place]:
        sql, found, last = await self._tiers.warm.sql(), [], b""
        while rows := await sql.fetch(
            "SELECT thread, label FROM llmops_ck_thread WHERE tenant = ? AND thread > ? ORDER BY thread LIMIT ?",
            (self._tenant, last, PAGE),
        ):
            last = bytes(rows[-1][0])
            for thread, label in rows:
                try:
                    found.append(self._tiers.place_of(bytes(thread), bytes(label)))
                except EnvelopeError as error:
                    faults.append(f"thread {bytes(thread).hex()}: {error}")
        return found

    async def _verified(self, place: Place) -> _Held | None:
        """What one conversation has; None when it is gone. What others change meanwhile is read again."""
        for _ in range(TRIES):
            before = await self._tiers.warm.thread(place.thread)
            if before is None:
                return None
            held, error = None, None
            try:
                held = await self._read(place, is_cold=before.tier != WARM)
            except (CheckpointError, EnvelopeError, ValueError) as caught:
                error = caught
            now = await self._tiers.warm.thread(place.thread)
            if now is not None and (now.epoch, now.tier) == (before.epoch, before.tier):
                if error is not None:
                    raise error
                return held
        raise CheckpointError("it is changed by others all the time; try again")

    async def _read(self, place: Place, *, is_cold: bool) -> _Held:
        sql, codec, thread = await self._tiers.warm.sql(), self._tiers.codec, place.thread
        async with sql.transaction() as transaction:
            whole = await Whole.read(codec, transaction, thread)
            rows = await transaction.fetch("SELECT name, body FROM llmops_ck_chunk WHERE thread = ?", (thread,))
        chunks = {bytes(name): codec.open_chunk(thread, bytes(name), bytes(body)) for name, body in rows}
        nodes = [pending_of(codec, thread, write).node for write in whole.writes]
        held = _held(whole, chunks.keys(), nodes)
        return held.joined(await self._cold(place)) if is_cold else held

    async def _cold(self, place: Place) -> _Held:
        """What a conversation's objects hold."""
        found = await self._tiers.cold(place).peek(place)
        if found is None:
            return _Held(set(), set(), set())
        whole = found.whole()
        nodes = [pending_of(whole.codec, whole.thread, write).node for write in found.writes]
        return _held(whole, found.chunks.keys(), nodes)


class _Held(NamedTuple):
    """What of a conversation was read whole: checkpoints, writes and chunks by their keys."""

    checkpoints: set[tuple[bytes, ...]]
    writes: set[tuple[Any, ...]]
    chunks: set[bytes]

    def joined(self, other: _Held) -> _Held:
        """With what another tier holds, of which some may be the same."""
        return _Held(self.checkpoints | other.checkpoints, self.writes | other.writes, self.chunks | other.chunks)


def _held(whole: Whole, chunks: Iterable[bytes], nodes: Iterable[Any]) -> _Held:
    """Raises `CheckpointError` where a chunk is missing, and the codec's errors where a row cannot be opened."""
    held = _Held({*whole.steps}, {write[:4] for write in whole.writes}, {*chunks})
    needed = {name for key in whole.steps for name in whole.manifest(key).refs()}
    needed.update(name for node in nodes for name in refs(node))
    for key in whole.steps:
        whole.metadata(key)
    if needed - held.chunks:
        raise CheckpointError(f"{len(needed - held.chunks)} of the chunks it needs are missing")
    return held


def _listed(whole: Whole) -> list[StoredCheckpoint]:
    writes: dict[tuple[bytes, bytes], int] = {}
    for write in whole.writes:
        key = (bytes(write.ns), bytes(write.id))
        writes[key] = writes.get(key, 0) + 1
    return [
        StoredCheckpoint(
            checkpoint_id=untext(step.id),
            namespace=whole.namespace(key),
            parent_id=None if step.parent is None else untext(step.parent),
            is_full=bool(step.base),
            pending_writes=writes.get(key, 0),
            bytes=len(step.metadata) + len(step.body),
        )
        for key, step in sorted(whole.steps.items(), reverse=True)
    ]
