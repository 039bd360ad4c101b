"""Rows that say which users are erased or being erased, and what was found of each of their threads.

A tombstone outlives its erasure: writes of the user are refused until `until`, and the receipt can be asked for again.
What was found is noted thread by thread, in the transaction that removes it; digests and counts only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_llmops.checkpoint.receipt import ErasureReceipt

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.warm import Warm
    from langchain_llmops.stores.base import Transaction

__all__ = ["DONE", "OPEN", "Begun", "Tombstones"]

PAGE: Final = 200
UNFINISHED: Final = 1e12  # `until` of an erasure that is not: beyond any clock
OPEN: Final = "open"
DONE: Final = "done"
COUNTED: Final = ("threads", "checkpoints", "writes", "chunks", "warm_bytes", "hot_keys")


class Begun(NamedTuple):
    """An erasure: of whom, when it was first asked for, and the ids of keys destroyed since."""

    owner: bytes
    asked_at: float
    keys: tuple[str, ...]


class Tombstones:
    """Statements on `llmops_ck_erasure` and `llmops_ck_erased`; what they hold is sealed by the tenant's key."""

    def __init__(self, warm: Warm, codec: Codec, tenant: bytes) -> None:
        self._warm = warm
        self._codec = codec
        self._tenant = tenant

    async def begin(self, owner: bytes) -> Begun:
        """Refuse the user's writes from now on; an erasure whose time is over is followed by another."""
        now = self._warm.clock()
        async with (await self._warm.sql()).transaction() as transaction:
            await transaction.execute(
                "INSERT INTO llmops_ck_erasure AS e (owner, tenant, asked_at, until, state, receipt)"
                " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (owner) DO UPDATE SET state = excluded.state,"
                " until = CASE WHEN e.until > excluded.asked_at THEN excluded.until ELSE 0 END",
                (owner, self._tenant, now, UNFINISHED, OPEN, b""),
            )
            asked_at, until, stored = (
                await transaction.fetch(
                    "SELECT asked_at, until, receipt FROM llmops_ck_erasure WHERE owner = ?", (owner,)
                )
            )[0]
            if not until:
                asked_at, stored = now, b""
                await transaction.execute("DELETE FROM llmops_ck_erased WHERE owner = ?", (owner,))
                await transaction.execute(
                    "UPDATE llmops_ck_erasure SET asked_at = ?, until = ?, receipt = ? WHERE owner = ?",
                    (now, UNFINISHED, stored, owner),
                )
        keys = self._opened(owner, bytes(stored))["keys"] if stored else ()
        return Begun(owner, float(asked_at), tuple(keys))

    async def open_ones(self) -> list[bytes]:
        """Users of this tenant whose erasure has not ended."""
        rows = await (await self._warm.sql()).fetch(
            "SELECT owner FROM llmops_ck_erasure WHERE tenant = ? AND state = ?", (self._tenant, OPEN)
        )
        return [bytes(owner) for (owner,) in rows]

    async def save(self, receipt: ErasureReceipt) -> None:
        """Keep a receipt; it is refused to write for the user until its `until`."""
        owner = bytes.fromhex(receipt.owner)
        await (await self._warm.sql()).execute(
            "UPDATE llmops_ck_erasure SET state = ?, until = ?, receipt = ? WHERE owner = ?",
            (receipt.state, receipt.until or UNFINISHED, self._sealed(owner, receipt.as_dict()), owner),
        )

    # threads

    async def account(self, transaction: Transaction, owner: bytes, thread: bytes) -> dict[str, Any]:
        """What was found of a thread so far."""
        rows = await transaction.fetch(
            "SELECT body FROM llmops_ck_erased WHERE owner = ? AND thread = ?", (owner, thread)
        )
        if rows:
            return self._opened(owner + thread, bytes(rows[0][0]))
        return {**dict.fromkeys(COUNTED, 0), "objects": {}}

    async def note(
        self, transaction: Transaction, owner: bytes, thread: bytes, state: str, account: dict[str, Any]
    ) -> None:
        """Say what was found of a thread, and whether anything may be left of it."""
        await transaction.execute(
            "INSERT INTO llmops_ck_erased (owner, thread, state, body) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (owner, thread) DO UPDATE SET state = excluded.state, body = excluded.body",
            (owner, thread, state, self._sealed(owner + thread, account)),
        )

    async def threads(self, owner: bytes, states: Sequence[str] = (OPEN, DONE)) -> AsyncIterator[tuple[bytes, bytes]]:
        """Digest and sealed account of every thread that was noted."""
        sql, after = await self._warm.sql(), b""
        while rows := await sql.fetch(
            "SELECT thread, body FROM llmops_ck_erased WHERE owner = ? AND state IN (?, ?) AND thread > ?"
            " ORDER BY thread LIMIT ?",
            (owner, states[0], states[-1], after, PAGE),
        ):
            for thread, body in rows:
                after = bytes(thread)
                yield after, bytes(body)

    async def receipt(self, begun: Begun, left: Sequence[str] = ()) -> ErasureReceipt:
        """All that was noted so far, as an erasure that has not ended."""
        sums = dict.fromkeys(COUNTED, 0)
        objects: dict[str, int] = {}
        async for thread, body in self.threads(begun.owner):
            account = self._opened(begun.owner + thread, body)
            sums = {name: sums[name] + account[name] for name in COUNTED}
            objects |= account["objects"]
        return ErasureReceipt(
            owner=begun.owner.hex(),
            state="open",
            asked_at=begun.asked_at,
            finished_at=None,
            until=None,
            objects=objects,
            keys=begun.keys,
            left=tuple(left),
            residues=(),
            **sums,
        )

    def _sealed(self, place: bytes, content: dict[str, Any]) -> bytes:
        return self._codec.seal_object(b"erasure" + place, self._codec.pack(content))

    def _opened(self, place: bytes, stored: bytes) -> dict[str, Any]:
        found: dict[str, Any] = self._codec.unpack(self._codec.open_object(b"erasure" + place, stored))
        return found
