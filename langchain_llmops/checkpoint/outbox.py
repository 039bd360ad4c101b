"""The life of every archive object as rows of the warm tier, so that no object is ever unknown.

`copying`: it may be written from now until its lease ends. `copied`: it was read back whole. `live`: it holds history
that is nowhere else. `dead`: it is to be deleted; its row goes when it is, and no writer can bring it back any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_llmops.checkpoint.cold import Made
    from langchain_llmops.checkpoint.warm import Warm
    from langchain_llmops.stores.base import Transaction

__all__ = ["LEASE_S", "Attempt", "Object", "Outbox"]

LEASE_S: Final = 900.0  # longer than any request lasts with its retries
MOST_AT_ONCE: Final = 200
INSERT: Final = (
    "INSERT INTO llmops_ck_object (path, thread, state, bytes, attempt, stamp, since, until, errors)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0)"
)


class Object(NamedTuple):
    """A live object; `stamp` is the thread's while the warm tier holds nothing newer."""

    path: str
    bytes: int
    stamp: int


class Attempt(NamedTuple):
    """One archive of a thread that was copied, made when the thread had that stamp."""

    attempt: int
    thread: bytes
    label: bytes | None
    stamp: int


class Outbox:
    """Statements on `llmops_ck_object`, for the objects of one tenant."""

    def __init__(self, warm: Warm, tenant: bytes) -> None:
        self._warm = warm
        self._below = f"{tenant.hex()}/%"

    async def intend(
        self, transaction: Transaction, thread: bytes, attempt: int, stamp: int, made: Sequence[Made]
    ) -> None:
        """Say which objects are about to be written."""
        now = self._warm.clock()
        rows = [(one.path, thread, "copying", len(one.data), attempt, stamp, now, now + LEASE_S) for one in made]
        await transaction.execute_many(INSERT, rows)

    async def copied(self, attempt: int, many: int) -> bool:
        """Say that an attempt's objects were read back; False if they were given up meanwhile."""
        async with (await self._warm.sql()).transaction() as transaction:
            changed = await transaction.execute(
                "UPDATE llmops_ck_object SET state = 'copied', since = ?, until = 0"
                " WHERE attempt = ? AND state = 'copying'",
                (self._warm.clock(), attempt),
            )
        return changed == many

    async def give_up(self, attempt: int) -> int:
        """Let an attempt's objects be deleted, unless they are live; how many were not given up before."""
        return await (await self._warm.sql()).execute(
            "UPDATE llmops_ck_object SET state = 'dead', since = ?"
            " WHERE attempt = ? AND state IN ('copying', 'copied')",
            (self._warm.clock(), attempt),
        )

    async def disown(self, thread: bytes, attempt: int, made: Sequence[Made]) -> None:
        """Let objects be deleted, at once, whose rows may be gone already; nobody writes them any more."""
        await self.give_up(attempt)
        now = self._warm.clock()
        await (await self._warm.sql()).execute(
            "UPDATE llmops_ck_object SET until = 0 WHERE attempt = ? AND state = 'dead'", (attempt,)
        )
        rows = [(one.path, thread, "dead", len(one.data), attempt, 0, now, 0.0) for one in made]
        await (await self._warm.sql()).execute_many(f"{INSERT} ON CONFLICT (path) DO NOTHING", rows)

    async def live(self, thread: bytes, transaction: Transaction | None = None) -> list[Object]:
        """A thread's live objects, the head's first."""
        found = await (transaction or await self._warm.sql()).fetch(
            "SELECT path, bytes, stamp FROM llmops_ck_object WHERE thread = ? AND state = 'live'", (thread,)
        )
        return sorted((Object(*values) for values in found), key=lambda one: one.path.rpartition(".")[2])

    async def go_live(self, transaction: Transaction, thread: bytes, attempt: int, stamp: int) -> list[Object]:
        """Let an attempt's copied objects take the place of the thread's live ones; which they are now."""
        await self.bury(transaction, thread)
        await transaction.execute(
            "UPDATE llmops_ck_object SET state = 'live', since = ?, stamp = ? WHERE attempt = ? AND state = 'copied'",
            (self._warm.clock(), stamp, attempt),
        )
        return await self.live(thread, transaction)

    async def restamp(self, transaction: Transaction, thread: bytes, stamp: int) -> None:
        """Say that the thread's live objects hold all there is at a stamp."""
        await transaction.execute(
            "UPDATE llmops_ck_object SET stamp = ? WHERE thread = ? AND state = 'live'", (stamp, thread)
        )

    async def bury(self, transaction: Transaction, thread: bytes) -> None:
        """Let a thread's live objects be deleted."""
        await transaction.execute(
            "UPDATE llmops_ck_object SET state = 'dead', since = ? WHERE thread = ? AND state = 'live'",
            (self._warm.clock(), thread),
        )

    # what a sweep finds

    async def expire(self) -> int:
        """Give up attempts whose lease has ended; how many objects they had said."""
        now = self._warm.clock()
        return await (await self._warm.sql()).execute(
            "UPDATE llmops_ck_object SET state = 'dead', since = ?"
            " WHERE state = 'copying' AND until < ? AND path LIKE ?",
            (now, now, self._below),
        )

    async def attempts(self) -> list[Attempt]:
        """Attempts that were copied and not finished."""
        rows = await (await self._warm.sql()).fetch(
            "SELECT DISTINCT o.attempt, o.thread, t.label, o.stamp FROM llmops_ck_object o"
            " LEFT JOIN llmops_ck_thread t ON t.thread = o.thread WHERE o.state = 'copied' AND o.path LIKE ?",
            (self._below,),
        )
        return [Attempt(int(a), bytes(t), None if label is None else bytes(label), int(s)) for a, t, label, s in rows]

    async def paths(self, attempt: int) -> list[Object]:
        """An attempt's copied objects, the head's first."""
        rows = await (await self._warm.sql()).fetch(
            "SELECT path, bytes, stamp FROM llmops_ck_object WHERE attempt = ? AND state = 'copied'", (attempt,)
        )
        return sorted((Object(*values) for values in rows), key=lambda one: one.path.rpartition(".")[2])

    async def dead(self, thread: bytes | None = None, after: str = "") -> list[str]:
        """Paths of dead objects, of a thread or all of them, page by page."""
        of_thread, values = ("", ()) if thread is None else (" AND thread = ?", (thread,))
        rows = await (await self._warm.sql()).fetch(
            f"SELECT path FROM llmops_ck_object WHERE state = 'dead' AND path LIKE ? AND path > ?{of_thread}"
            " ORDER BY path LIMIT ?",
            (self._below, after, *values, MOST_AT_ONCE),
        )
        return [path for (path,) in rows]

    async def deleted(self, path: str) -> None:
        """Forget an object that was deleted, unless its writer may still be at it."""
        await (await self._warm.sql()).execute(
            "DELETE FROM llmops_ck_object WHERE path = ? AND state = 'dead' AND until <= ?", (path, self._warm.clock())
        )

    async def refused(self, path: str) -> None:
        """Count that the store did not delete an object."""
        await (await self._warm.sql()).execute(
            "UPDATE llmops_ck_object SET errors = errors + 1 WHERE path = ?", (path,)
        )
