"""Changes of whole threads: prune, delete, delete by run, copy, and a checkpoint put again with other content."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final

from langchain_llmops.checkpoint.apply import ERASED
from langchain_llmops.checkpoint.names import shown
from langchain_llmops.checkpoint.warm import ColdThread, check_owner, fresh
from langchain_llmops.checkpoint.whole import Whole, clear_rows, insert_rows
from langchain_llmops.core.errors import CheckpointError, UserErased
from langchain_llmops.stores.base import idempotent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.checkpoint.schema import Group, Step, Thread
    from langchain_llmops.checkpoint.tiers import Tiers
    from langchain_llmops.stores.base import Transaction

__all__ = ["Keep", "Upkeep", "several"]

STRATEGIES: Final = ("keep_latest", "keep_last", "max_age", "delete")
DELETE: Final = "DELETE FROM llmops_ck_thread WHERE thread = ? AND stamp = COALESCE(?, stamp)"
EXPIRED: Final = """
    SELECT thread, label, stamp FROM llmops_ck_thread WHERE tenant = ? AND updated_at < ?
    ORDER BY updated_at, thread LIMIT 100
"""


def several(thread_ids: Sequence[str]) -> Sequence[str]:
    """Thread ids; raises `CheckpointError` for one alone, whose letters would be taken for threads."""
    if isinstance(thread_ids, str):
        raise CheckpointError(f"prune takes a list of thread ids, as in [{thread_ids!r}]")
    return thread_ids


def _is_at_least(value: object, least: int) -> bool:
    return isinstance(value, int | float) and value >= least


class Keep:
    """What `prune` keeps of each namespace, beside what that needs; raises `CheckpointError` for another choice.

    Args:
        last: with `keep_last`, how many checkpoints.
        max_age_s: with `max_age`, seconds; the newest stays whatever its age.
    """

    def __init__(self, strategy: str, last: int | None = None, max_age_s: float | None = None) -> None:
        if strategy not in STRATEGIES:
            raise CheckpointError(f"unknown prune strategy {strategy!r}; use {', '.join(map(repr, STRATEGIES))}")
        if last is not None and max_age_s is not None:
            raise CheckpointError("keep_last and max_age_s are two strategies; give one of them")
        if (strategy == "keep_last") != (last is not None) or (last is not None and not _is_at_least(last, 1)):
            raise CheckpointError("strategy 'keep_last' takes keep_last=N, one or more; the others take none")
        if (strategy == "max_age") != (max_age_s is not None) or (
            max_age_s is not None and not _is_at_least(max_age_s, 0)
        ):
            raise CheckpointError("strategy 'max_age' takes max_age_s=seconds; the others take none")
        self.deletes = strategy == "delete"
        self._last = last or 1
        self._max_age_s = max_age_s

    def of(self, whole: Whole, now: float) -> set[tuple[bytes, bytes]]:
        """The checkpoints that stay."""
        kept = whole.newest(self._last)
        if self._max_age_s is not None:
            kept |= {key for key in whole.steps if now - _written(whole, key) <= self._max_age_s}
        return {needed for key in kept for needed in whole.needed(key)}


class Upkeep:
    """Coroutines over blocking stores; each takes the thread's row first, so that no writer comes between."""

    def __init__(self, tiers: Tiers, tenant: bytes) -> None:
        self._tiers = tiers
        self._tenant = tenant

    async def prune(self, place: Place, keep: Keep) -> None:
        """Keep the newest checkpoints of each namespace and what they need, or delete the thread."""
        if keep.deletes:
            await self.delete(place)
        else:
            await self._tiers.restored([place], lambda: self._prune(place, keep))

    async def _prune(self, place: Place, keep: Keep) -> None:
        warm = self._tiers.warm
        async with warm.locked(place.thread) as (transaction, found):
            if found is not None:
                whole = await Whole.read(self._tiers.codec.of(found.owner), transaction, place.thread)
                await whole.remove(transaction, whole.steps.keys() - keep.of(whole, warm.clock()))
        self._tiers.recent.forget(place.thread)

    async def delete_runs(self, runs: set[bytes]) -> None:
        """Remove every checkpoint of some runs."""
        await self._tiers.settled_all()
        for thread, label in await self._tiers.warm.threads_of_runs(self._tenant, sorted(runs)):
            place = self._tiers.place_of(thread, label)
            await self._tiers.restored([place], lambda: self._delete_runs(place, runs))  # noqa: B023 - awaited here

    async def _delete_runs(self, place: Place, runs: set[bytes]) -> None:
        async with self._tiers.warm.locked(place.thread) as (transaction, found):
            if found is None:
                return
            whole = await Whole.read(self._tiers.codec.of(found.owner), transaction, place.thread)
            gone = {key for key, step in whole.steps.items() if step.run in runs}
            if any(whole.needed(key) & gone for key in whole.steps.keys() - gone):
                raise CheckpointError(
                    f"thread {shown(place.thread_id)} has delta channels whose later state is built on these runs;"
                    " delete the thread, or prune it first"
                )
            await whole.remove(transaction, gone)
        self._tiers.recent.forget(place.thread)

    async def delete(self, place: Place, stamp: int | None = None) -> bool:
        """Remove a thread, unless its stamp is another than the one given: its rows now, its objects soon after."""
        await self._tiers.settled(place.thread)
        deleted = await idempotent(lambda: self._delete(place, stamp))
        if deleted:
            if self._tiers.journaled is not None:
                await self._tiers.journaled.changed(place.thread)
            self._tiers.recent.forget(place.thread)
            if self._tiers.hot is not None:
                await self._tiers.hot.drop(place.thread)
            if self._tiers.archive is not None:
                await self._tiers.archive.sweep_thread(place.thread)
        return deleted

    async def _delete(self, place: Place, stamp: int | None) -> bool:
        async with (await self._tiers.warm.sql()).transaction() as transaction:
            # the thread's row first, as everybody takes it, so that no two wait for each other
            if not await transaction.execute(DELETE, (place.thread, stamp)) and stamp is not None:
                return False
            await transaction.execute(
                "UPDATE llmops_ck_object SET state = 'dead', since = ? WHERE thread = ?",
                (self._tiers.warm.clock(), place.thread),
            )
            await clear_rows(transaction, place.thread)
        return True

    async def pin(self, place: Place, for_s: float) -> bool:
        """Keep a thread out of the archive for so long; False if there is no such thread."""
        warm = self._tiers.warm
        pinned = "UPDATE llmops_ck_thread SET pinned_until = ? WHERE thread = ?"
        return bool(await (await warm.sql()).execute(pinned, (warm.clock() + for_s, place.thread)))

    async def expired(self, before: float) -> list[tuple[bytes, bytes, int]]:
        """Digest, label and stamp of threads that nobody has written since a moment, one page of them."""
        rows = await (await self._tiers.warm.sql()).fetch(EXPIRED, (self._tenant, before))
        return [(bytes(thread), bytes(label), int(stamp)) for thread, label, stamp in rows]

    async def copy(self, source: Place, target: Place) -> None:
        """Copy everything of a thread into another, its owner too, deeply; an unknown source copies nothing."""
        if source.thread != target.thread:
            await self._tiers.restored([source, target], lambda: self._copy(source, target))

    async def _copy(self, source: Place, target: Place) -> None:
        held = self._tiers.warm.locked(source.thread, removes=False, also=[target.thread])
        async with held as (transaction, found):
            if found is None:
                return
            whole = await Whole.read(self._tiers.codec.of(found.owner), transaction, source.thread)
            rows = await transaction.fetch("SELECT name, body FROM llmops_ck_chunk WHERE thread = ?", (source.thread,))
            await self._take(transaction, target, found)
            codec, thread = self._tiers.codec.of(found.owner), target.thread
            chunks = [
                (bytes(name), codec.seal_chunk(thread, name, codec.open_chunk(source.thread, name, body)))
                for name, body in rows
            ]
            steps = [self._moved_step(step, source, target, found) for step in whole.steps.values()]
            writes = [
                write._replace(
                    body=codec.seal_write(
                        target._replace(ns=write.ns), write.id, write.task, write.idx,
                        codec.open_write(source.thread, write.ns, write.id, write.task, write.idx, write.body),
                    )
                )
                for write in whole.writes
            ]  # fmt: skip
            there = await Whole.read(codec, transaction, thread)
            await there.make_way(transaction, whole.steps, writes)
            await insert_rows(transaction, thread, steps, chunks, writes)
        self._tiers.recent.forget(target.thread)

    def _moved_step(self, step: Step, source: Place, target: Place, found: Thread) -> Step:
        codec = self._tiers.codec.of(found.owner)
        return codec.seal_step(target.thread, codec.open_step(source.thread, step))

    async def _take(self, transaction: Transaction, target: Place, source: Thread) -> None:
        """Make or take the target's row for the source's owner."""
        codec, now = self._tiers.codec.of(source.owner), self._tiers.warm.clock()
        if source.owner is not None and await transaction.fetch(ERASED, (source.owner, now)):
            raise UserErased(f"the user of session {shown(target.thread_id)} is being erased; nothing is copied")
        label = codec.seal_label(target.thread, [self._tenant, target.thread_id])
        values = (target.thread, label, self._tenant, source.owner, fresh(), fresh(), now, now)
        rows = await transaction.fetch(
            "INSERT INTO llmops_ck_thread AS t (thread, label, tenant, owner, tier, stamp, prior, epoch, created_at,"
            " updated_at, stored_bytes) VALUES (?, ?, ?, ?, 'warm', ?, 0, ?, ?, ?, 0)"
            " ON CONFLICT (thread) DO UPDATE SET prior = t.stamp, stamp = excluded.stamp, epoch = excluded.epoch,"
            " owner = COALESCE(t.owner, excluded.owner) RETURNING owner, tier",
            values,
        )
        owner, tier = rows[0]
        check_owner(target.thread_id, owner, source.owner)
        if tier != "warm":
            raise ColdThread

    async def replace(self, place: Place, group: Group) -> bool:
        """Store a checkpoint in place of another of its id, which newer ones may be built on.

        False when a value that it takes from its parent, or the thread, is gone by now.
        """
        return await self._tiers.restored([place], lambda: self._replace(place, group))

    async def _replace(self, place: Place, group: Group) -> bool:
        (step,) = group.steps
        if step.base == 0:
            raise CheckpointError("only a whole checkpoint can take the place of another")
        async with self._tiers.warm.locked(place.thread) as (transaction, found):
            if found is None:
                return False
            check_owner(place.thread_id, found.owner, group.owner)
            codec = self._tiers.codec.of(found.owner)
            needed = Whole(codec, place.thread, [step], []).refs([(step.ns, step.id)], set())
            rows = await transaction.fetch("SELECT name FROM llmops_ck_chunk WHERE thread = ?", (place.thread,))
            if needed - group.chunks.keys() - {bytes(name) for (name,) in rows}:
                return False
            whole = await Whole.read(codec, transaction, place.thread)
            await whole.make_way(transaction, [(step.ns, step.id)], [])
            await insert_rows(transaction, place.thread, [step], list(group.chunks.items()), [])
        self._tiers.recent.forget(place.thread)
        return True


def _written(whole: Whole, key: tuple[bytes, bytes]) -> float:
    """When a checkpoint was made, as it says itself; one that says nothing is old."""
    told = whole.manifest(key).fields.get("ts")
    try:
        return datetime.fromisoformat(str(told)).timestamp()
    except ValueError:
        return 0.0
