"""Erasing a user: tombstone, warm rows thread by thread, the user's key, then copies and objects; all of it proven.

The tombstone is committed first, and transactions that had begun before are waited for, so that no row of the user
appears behind the search. A thread's rows go in one transaction, which notes what is left to do elsewhere: whoever
continues, after a crash or an error, begins with those notes. The key goes after the warm rows, which others' listings
would trip over without it, and before Redis and the object store, which may refuse for long: what they still hold is
unreadable by then.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from langchain_llmops.checkpoint.receipt import ErasureReceipt, residues
from langchain_llmops.checkpoint.tombstones import DONE, OPEN, Begun, Tombstones
from langchain_llmops.checkpoint.user_keys import destroy, key_ids
from langchain_llmops.checkpoint.whole import TABLES, clear_rows
from langchain_llmops.core.errors import CheckpointError, ConfigurationError, ErasureIncomplete, StoreError
from langchain_llmops.stores.base import idempotent

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from langchain_llmops.checkpoint.hot import Hot
    from langchain_llmops.checkpoint.tiers import Tiers
    from langchain_llmops.checkpoint.user_keys import UserKeys
    from langchain_llmops.stores.base import Sql, Store, Transaction

__all__ = ["Eraser"]

T = TypeVar("T")

PAGE: Final = 200
BARRIER_S: Final = 10
DROPS: Final = 3  # of copies that another process makes again meanwhile
HOT: Final = "the hot tier"
COLD: Final = "the cold tier"
COUNTS: Final = (
    ("checkpoints", "llmops_ck_step", "LENGTH(metadata) + LENGTH(body)"),
    ("writes", "llmops_ck_write", "LENGTH(body)"),
    ("chunks", "llmops_ck_chunk", "LENGTH(body)"),
)


class Eraser:
    """For users of one tenant, as digests; coroutines over blocking stores.

    Args:
        grace_s: for how long after the end a user's writes are still refused.
    """

    def __init__(
        self, tiers: Tiers, tenant: bytes, cold: Store | None, keys: UserKeys | None, *, grace_s: float
    ) -> None:
        self._tiers = tiers
        self._warm = tiers.warm
        self._tenant = tenant
        self._cold = cold.objects if cold is not None else None
        self._keys = keys
        self._grace_s = grace_s
        self._tombstones = Tombstones(tiers.warm, tiers.codec, tenant)

    async def erase(self, owner: bytes) -> ErasureReceipt:
        """Erase all there is of a user; again, it returns the same receipt and what it found new.

        Raises `ErasureIncomplete` when a tier refuses; the next call continues.
        """
        if self._tiers.journaled is not None and self._tiers.journaled.stays:
            raise CheckpointError(
                "conversations with ack='cached' are found by their session ids only; delete those of the user with"
                " delete_thread, or wait until they expire"
            )
        begun = await idempotent(lambda: self._tombstones.begin(owner))
        await self._pass_barrier()
        problems = _Problems()
        if self._tiers.journaled is not None:
            await problems.tried(HOT, self._tiers.journaled.settle_all)
        while threads := await self._threads(owner):
            for thread in threads:
                await idempotent(partial(self._remove, owner, thread))
                self._tiers.recent.forget(thread)
        begun = await self._destroy_keys(begun)
        async for thread, _ in self._tombstones.threads(owner, [OPEN]):
            await self._finish_thread(owner, thread, problems)
        await self._prove(owner, problems)
        return await self._finish(begun, problems.told())

    async def resume(self) -> list[ErasureReceipt]:
        """Continue every erasure of the tenant that is open; those that stay so say what is left."""
        receipts: list[ErasureReceipt] = []
        for owner in await self._tombstones.open_ones():
            try:
                receipts.append(await self.erase(owner))
            except ErasureIncomplete as error:
                receipts.append(cast("ErasureReceipt", error.receipt))
        return receipts

    # warm rows

    async def _pass_barrier(self) -> None:
        """Wait for transactions that began before the tombstone; SQLite has one writer at a time anyway."""
        sql = await self._warm.sql()
        if sql.dialect == "postgresql":
            async with sql.transaction() as transaction:
                await transaction.execute(f"SET LOCAL lock_timeout = '{BARRIER_S}s'")
                await transaction.execute("LOCK TABLE llmops_ck_thread IN SHARE MODE")

    async def _threads(self, owner: bytes) -> list[bytes]:
        rows = await (await self._warm.sql()).fetch(
            "SELECT thread FROM llmops_ck_thread WHERE owner = ? ORDER BY thread LIMIT ?", (owner, PAGE)
        )
        return [bytes(thread) for (thread,) in rows]

    async def _remove(self, owner: bytes, thread: bytes) -> None:
        """A thread's rows in one transaction, with a note that something may be left of it elsewhere."""
        async with (await self._warm.sql()).transaction() as transaction:
            if not await transaction.execute(
                "DELETE FROM llmops_ck_thread WHERE thread = ? AND owner = ?", (thread, owner)
            ):
                return
            account = await self._tombstones.account(transaction, owner, thread)
            account["threads"] = 1
            await _count(transaction, thread, account)
            await clear_rows(transaction, thread)
            await transaction.execute(
                "UPDATE llmops_ck_object SET state = 'dead', since = ? WHERE thread = ?", (self._warm.clock(), thread)
            )
            await self._tombstones.note(transaction, owner, thread, OPEN, account)

    # keys

    async def _destroy_keys(self, begun: Begun) -> Begun:
        """Their ids are noted before, so that the receipt names them after a crash in between."""
        places = await self._key_places()
        ids = {one for place in places for one in await key_ids(place, begun.owner)}
        begun = begun._replace(keys=tuple(sorted({*begun.keys, *ids})))
        if ids:
            await self._tombstones.save(await self._tombstones.receipt(begun, ["it was interrupted"]))
        for place in places:
            await idempotent(partial(destroy, place, begun.owner))
        if self._keys is not None:
            self._keys.forget(begun.owner)
        return begun

    async def _key_places(self) -> list[Sql]:
        """The warm tier also where it is not used for keys now: it may have been."""
        warm = await self._warm.sql()
        own = await self._keys.sql() if self._keys is not None else warm
        return [warm] if own is warm else [warm, own]

    # copies and objects

    async def _finish_thread(self, owner: bytes, thread: bytes, problems: _Problems) -> None:
        hot = self._tiers.hot
        dropped = await problems.tried(HOT, lambda: self._drop_copies(hot, thread)) if hot is not None else False
        deleted = await problems.tried(COLD, lambda: self._delete_objects(thread))
        async with (await self._warm.sql()).transaction() as transaction:
            account = await self._tombstones.account(transaction, owner, thread)
            account["hot_keys"] = max(account["hot_keys"], int(bool(dropped)))
            account["objects"] |= deleted or {}
            is_over = dropped is not None and deleted is not None
            until = await self._written_until(transaction, thread)
            if until > self._warm.clock():
                problems.add(COLD, f"an archive may still be written, until {until:.0f}")
                is_over = False
            if is_over:
                await transaction.execute("DELETE FROM llmops_ck_object WHERE thread = ? AND state = 'dead'", (thread,))
            await self._tombstones.note(transaction, owner, thread, DONE if is_over else OPEN, account)

    async def _written_until(self, transaction: Transaction, thread: bytes) -> float:
        """When the last mover that began before the tombstone has written its objects, or never will."""
        rows = await transaction.fetch(
            "SELECT MAX(until) FROM llmops_ck_object WHERE thread = ? AND state = 'dead'", (thread,)
        )
        return float(rows[0][0] or 0)

    async def _drop_copies(self, hot: Hot, thread: bytes) -> bool:
        dropped = await hot.erase(thread)
        for _ in range(DROPS):
            if not await hot.holds(thread) or await self._warm.thread(thread) is not None:
                return dropped  # there are none, or they are another user's, who has a thread of that name now
            await hot.erase(thread)
        raise StoreError("a process makes copies again and again; end it")

    async def _delete_objects(self, thread: bytes) -> dict[str, int]:
        """Bytes by path of what was deleted."""
        if self._cold is None:
            rows = await self._paths(thread, "= 'dead'")
            if rows:
                raise ConfigurationError(f"{len(rows)} objects need it: give cold='s3://…' or 'file:///…'")
            return {}
        listed = await self._ours(thread)
        if listed:
            await self._cold.delete(*listed)
        if left := await self._ours(thread):
            raise StoreError(f"objects are still listed after they were deleted, as {min(left)}")
        return listed

    async def _ours(self, thread: bytes) -> dict[str, int]:
        """What is listed and in no use: another user may have a thread of that name now; rows come before objects."""
        if self._cold is None:
            return {}
        listed = {path: size async for path, size in self._cold.list(f"{self._tenant.hex()}/{thread.hex()}")}
        used = await self._paths(thread, "<> 'dead'")
        return {path: size for path, size in listed.items() if path not in used}

    async def _paths(self, thread: bytes, state: str) -> set[str]:
        rows = await (await self._warm.sql()).fetch(
            f"SELECT path FROM llmops_ck_object WHERE thread = ? AND state {state}", (thread,)
        )
        return {str(path) for (path,) in rows}

    # proof and receipt

    async def _prove(self, owner: bytes, problems: _Problems) -> None:
        """Search every table for what must be gone."""
        sql = await self._warm.sql()
        if await self._threads(owner):
            problems.add("the warm tier", "threads of the user appeared meanwhile")
        for table in (*TABLES, "llmops_ck_cold_run"):
            rows = await sql.fetch(
                f"SELECT COUNT(*) FROM {table} r JOIN llmops_ck_erased e ON e.thread = r.thread WHERE e.owner = ?"
                " AND NOT EXISTS (SELECT 1 FROM llmops_ck_thread t WHERE t.thread = r.thread)",
                (owner,),
            )
            if rows[0][0]:
                problems.add("the warm tier", f"{rows[0][0]} rows are left in {table}")
        for place in await self._key_places():
            if await key_ids(place, owner):
                problems.add("the key store", "a key of the user appeared meanwhile")

    async def _finish(self, begun: Begun, left: list[str]) -> ErasureReceipt:
        receipt = await self._tombstones.receipt(begun, left)
        if left:
            await self._tombstones.save(receipt)
            raise ErasureIncomplete(
                f"the erasure is not finished: {'; '.join(left)}. Put that right, then call delete_user again", receipt
            )
        has_hot, has_cold = self._tiers.hot is not None, self._cold is not None
        held = await residues(await self._warm.sql(), has_hot=has_hot, has_cold=has_cold)
        now = self._warm.clock()
        receipt = replace(receipt, state=DONE, finished_at=now, until=now + self._grace_s, residues=held)
        await self._tombstones.save(receipt)
        return receipt


class _Problems:
    """What went wrong by tier; a tier that failed is not asked again, as each time it would take its timeout."""

    def __init__(self) -> None:
        self._failed: dict[str, str] = {}
        self._threads: dict[str, int] = {}
        self._others: dict[str, None] = {}

    async def tried(self, tier: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """What work on a thread, or on all of them, returns; None when the tier refuses."""
        if tier not in self._failed:
            try:
                return await work()
            except (StoreError, ConfigurationError) as error:
                self._failed[tier] = str(error)
        self._threads[tier] = self._threads.get(tier, 0) + 1
        return None

    def add(self, tier: str, what: str) -> None:
        self._others[f"{tier}: {what}"] = None

    def told(self) -> list[str]:
        failed = [f"{tier}, {self._threads[tier]} threads: {reason}" for tier, reason in self._failed.items()]
        return [*failed, *self._others]


async def _count(transaction: Transaction, thread: bytes, account: dict[str, Any]) -> None:
    for name, table, size in COUNTS:
        statement = f"SELECT COUNT(*), COALESCE(SUM({size}), 0) FROM {table} WHERE thread = ?"
        rows, size_of_all = (await transaction.fetch(statement, (thread,)))[0]
        account[name] += int(rows)
        account["warm_bytes"] += int(size_of_all)
