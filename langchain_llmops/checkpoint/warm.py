"""The warm tier: the authority, in SQLite or PostgreSQL. Its coroutines run over blocking stores."""

from __future__ import annotations

import secrets
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_llmops.checkpoint.apply import Times, apply_batch, prepare
from langchain_llmops.checkpoint.names import shown
from langchain_llmops.checkpoint.schema import STEPS, Step, Thread, Write
from langchain_llmops.core.errors import CheckpointError, ThreadOwnerMismatch
from langchain_llmops.stores.base import idempotent

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence

    from langchain_llmops.checkpoint.schema import Applied, Group
    from langchain_llmops.stores.base import Sql, Store, Transaction

__all__ = ["ColdThread", "Listed", "Warm", "check_owner", "fresh", "marks", "padded", "portions"]

STAMP_BITS: Final = 62
MAX_PARAMETERS: Final = 512
THREAD: Final = ", ".join(f"t.{name}" for name in Thread._fields)
STEP: Final = ", ".join(f"s.{name}" for name in Step._fields)
# a delta's parent is older than it, and the walk ends at a full manifest
CHAIN: Final = f"""
    WITH RECURSIVE chain ({", ".join(Step._fields)}) AS (
        SELECT {STEP} FROM llmops_ck_step s WHERE s.thread = ? AND s.ns = ? AND s.id = {{id}}
        UNION ALL
        SELECT {STEP} FROM llmops_ck_step s JOIN chain c ON s.id = c.parent AND c.base = 0
        WHERE s.thread = ? AND s.ns = ?
    ) SELECT {", ".join(Step._fields)} FROM chain
"""
CHAIN_OF_ONE: Final = CHAIN.format(id="?")
CHAIN_OF_NEWEST: Final = CHAIN.format(
    id="(SELECT n.id FROM llmops_ck_step n WHERE n.thread = ? AND n.ns = ? ORDER BY n.id DESC LIMIT 1)"
)
WRITES: Final = f"SELECT {', '.join(Write._fields)} FROM llmops_ck_write WHERE thread = ? AND ns = ?"


class ColdThread(Exception):  # noqa: N818 - a signal inside this room, never seen outside
    """The thread must be restored before it can be changed."""


class Listed(NamedTuple):
    """A checkpoint on a page of a listing."""

    thread: bytes
    label: bytes
    epoch: int
    step: Step


def check_owner(thread_id: str, owner: bytes | None, user: bytes | None) -> None:
    """Raise `ThreadOwnerMismatch` when a thread has an owner and another user asks (both as digests)."""
    if user is not None and owner is not None and bytes(owner) != user:
        raise ThreadOwnerMismatch(
            f"session {shown(thread_id)} belongs to another user; use a session id of this user's own"
        )


class Warm:
    """Statements on the tables of `schema`, which are made on first use.

    Args:
        timeout_s: how long a conversation may be left alone before it has ended.
    """

    def __init__(self, store: Store, *, clock: Callable[[], float], timeout_s: float | None = None) -> None:
        self._sql = store.sql
        self.clock = clock
        self._timeout_s = timeout_s
        self._ready = False
        self._closed = False
        self._lock = threading.Lock()
        self.before_change: Callable[[bytes], Awaitable[None]] | None = None  # is told the owner of what will be locked

    def open(self) -> None:
        """Serve, again if it was closed."""
        self._closed = False

    def close(self) -> None:
        """Refuse everything from now on; the store is the caller's to close."""
        self._closed, self._ready = True, False

    @property
    def is_closed(self) -> bool:
        """Whether everything is refused."""
        return self._closed

    def admit(self) -> None:
        """Raise `CheckpointError` when closed."""
        if self._closed:
            raise CheckpointError("this checkpointer is closed; make a new one or enter it again with `with`")

    async def sql(self) -> Sql:
        """The database with its tables in place."""
        self.admit()
        if not self._ready:
            with self._lock:
                if not self._ready:
                    await self._sql.migrate("conversations", STEPS)
                    await prepare(self._sql)
                    self._ready = True
        return self._sql

    async def apply(self, groups: Sequence[Group]) -> list[Applied]:
        """Store groups of different threads in one transaction."""
        return await apply_batch(await self.sql(), groups, Times.at(self.clock(), self._timeout_s))

    # reading

    async def threads(self, threads: Sequence[bytes]) -> dict[bytes, Thread]:
        """Rows of threads by digest; unknown ones are absent."""
        sql = await self.sql()
        found: dict[bytes, Thread] = {}
        for portion in portions(threads):
            rows = await _fetched(
                sql, f"SELECT t.thread, {THREAD} FROM llmops_ck_thread t WHERE t.thread IN ({marks(portion)})", portion
            )
            found.update((bytes(thread), Thread(*values)) for thread, *values in rows)
        return found

    async def thread(self, thread: bytes) -> Thread | None:
        """A thread's row."""
        return (await self.threads([thread])).get(thread)

    async def chain(self, thread: bytes, ns: bytes, checkpoint_id: bytes | None) -> list[Step]:
        """A checkpoint (the newest without an id), then the steps its delta is built on; empty when there is none."""
        sql = await self.sql()
        if checkpoint_id is None:
            rows = await _fetched(sql, CHAIN_OF_NEWEST, (thread, ns, thread, ns, thread, ns))
        else:
            rows = await _fetched(sql, CHAIN_OF_ONE, (thread, ns, checkpoint_id, thread, ns))
        return [Step(*values) for values in rows]

    async def writes(self, thread: bytes, ns: bytes, ids: Sequence[bytes]) -> list[Write]:
        """Pending writes of checkpoints."""
        sql = await self.sql()
        found: list[Write] = []
        for portion in portions(ids):
            rows = await _fetched(sql, f"{WRITES} AND id IN ({marks(portion)})", (thread, ns, *portion))
            found += [Write(*values) for values in rows]
        return found

    async def chunks(self, thread: bytes, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """Sealed chunks by name; those that are not there are absent."""
        sql = await self.sql()
        found: dict[bytes, bytes] = {}
        for portion in portions(names):
            rows = await _fetched(
                sql,
                f"SELECT name, body FROM llmops_ck_chunk WHERE thread = ? AND name IN ({marks(portion)})",
                (thread, *portion),
            )
            found.update((bytes(name), bytes(body)) for name, body in rows)
        return found

    async def steps(self, thread: bytes, ns: bytes, after: bytes | None, before: bytes | None) -> list[Step]:
        """The steps of a namespace between two ids, both included, newest first."""
        sql = await self.sql()
        rows = await _fetched(
            sql,
            f"SELECT {STEP} FROM llmops_ck_step s WHERE s.thread = ? AND s.ns = ?"
            " AND s.id >= COALESCE(?, s.id) AND s.id <= COALESCE(?, s.id) ORDER BY s.id DESC",
            (thread, ns, after, before),
        )
        return [Step(*values) for values in rows]

    async def page(self, conditions: Sequence[tuple[str, Sequence[Any]]], rows: int) -> list[Listed]:
        """One page of checkpoints that meet all conditions (SQL text of ours, values), newest first."""
        where = " AND ".join(condition for condition, _ in conditions) or "1 = 1"
        values = [value for _, condition_values in conditions for value in condition_values]
        found = await _fetched(
            await self.sql(),
            f"SELECT t.thread, t.label, t.epoch, {STEP}"
            " FROM llmops_ck_step s JOIN llmops_ck_thread t ON t.thread = s.thread"
            f" WHERE {where} ORDER BY s.id DESC, s.ns DESC, s.thread DESC LIMIT ?",
            (*values, rows),
        )
        return [Listed(bytes(v[0]), bytes(v[1]), int(v[2]), Step(*v[3:])) for v in found]

    # whole threads

    @asynccontextmanager
    async def locked(
        self, thread: bytes, *, removes: bool = True, also: Sequence[bytes] = ()
    ) -> AsyncIterator[tuple[Transaction, Thread | None]]:
        """A transaction that holds the thread's row, with a new stamp (and epoch); None when there is no thread.

        Raises `ColdThread` unless all of it is warm. `also` are threads whose rows it will take: all are taken in one
        order, so that no two transactions wait for each other.
        """
        sql = await self.sql()
        if self.before_change is not None:
            known = await self.thread(thread)
            if known is not None and known.owner is not None:
                await self.before_change(bytes(known.owner))
        async with sql.transaction() as transaction:
            for earlier in sorted(one for one in also if one < thread):
                await transaction.execute("UPDATE llmops_ck_thread SET stamp = stamp WHERE thread = ?", (earlier,))
            rows = await transaction.fetch(
                "UPDATE llmops_ck_thread SET prior = stamp, stamp = ?, epoch = CASE WHEN ? = 1 THEN ? ELSE epoch END"
                f" WHERE thread = ? RETURNING {', '.join(Thread._fields)}",
                (fresh(), int(removes), fresh(), thread),
            )
            found = Thread(*rows[0]) if rows else None
            if found is not None and found.tier != "warm":
                raise ColdThread
            yield transaction, found

    async def next_cold(
        self, tenant: bytes, below: tuple[bytes, bytes] | None
    ) -> tuple[bytes, bytes, bytes, str] | None:
        """Newest archived id, digest, label and tier of the first thread below (id, digest) that has cold history."""
        condition = "" if below is None else " AND (cold_head, thread) < (?, ?)"
        rows = await _fetched(
            await self.sql(),
            "SELECT cold_head, thread, label, tier FROM llmops_ck_thread"
            f" WHERE tenant = ? AND cold_head IS NOT NULL{condition} ORDER BY cold_head DESC, thread DESC LIMIT 1",
            (tenant, *(below or ())),
        )
        return (bytes(rows[0][0]), bytes(rows[0][1]), bytes(rows[0][2]), rows[0][3]) if rows else None

    async def ids(self, thread: bytes) -> set[tuple[bytes, bytes]]:
        """Namespace and id of every checkpoint of a thread that is warm."""
        rows = await _fetched(await self.sql(), "SELECT ns, id FROM llmops_ck_step WHERE thread = ?", (thread,))
        return {(bytes(ns), bytes(checkpoint_id)) for ns, checkpoint_id in rows}

    async def threads_of_runs(self, tenant: bytes, runs: Sequence[bytes]) -> list[tuple[bytes, bytes]]:
        """Digest and label of every thread of a tenant, warm or cold, with a checkpoint of one of the runs."""
        sql = await self.sql()
        found: dict[bytes, bytes] = {}
        for portion in portions(runs):
            for table in ("llmops_ck_step", "llmops_ck_cold_run"):
                rows = await _fetched(
                    sql,
                    f"SELECT DISTINCT t.thread, t.label FROM {table} r JOIN llmops_ck_thread t ON t.thread = r.thread"
                    f" WHERE t.tenant = ? AND r.run IN ({marks(portion)})",
                    (tenant, *portion),
                )
                found.update((bytes(thread), bytes(label)) for thread, label in rows)
        return list(found.items())


async def _fetched(sql: Sql, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
    """What a statement finds, asked again where the connection was lost."""
    return await idempotent(lambda: sql.fetch(statement, values))


def fresh() -> int:
    """A number that was never used before."""
    return secrets.randbits(STAMP_BITS) + 1


def portions(values: Sequence[bytes]) -> Iterator[list[bytes]]:
    """For an IN list, filled up to few different lengths so that statements repeat."""
    for start in range(0, len(values), MAX_PARAMETERS):
        yield padded(values[start : start + MAX_PARAMETERS])


def padded(values: Sequence[bytes]) -> list[bytes]:
    """Filled up to a power of two with its last value."""
    size = 1 << (len(values) - 1).bit_length()
    return [*values, *[values[-1]] * (size - len(values))]


def marks(values: Iterable[object]) -> str:
    """Placeholders for an IN list."""
    return ", ".join("?" for _ in values)
