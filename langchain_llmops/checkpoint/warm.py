"""The warm tier: the authority, in SQLite or PostgreSQL.

Every write first takes the thread's row, so writers of one thread follow each other, and leaves a fresh `stamp` in it.
"""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_llmops.checkpoint.codec import KEY_BYTES, SHOWN_CHARACTERS, text, untext
from langchain_llmops.checkpoint.schema import COLD, STEPS, WARM, Blob, Row, Thread, ThreadRows, Write
from langchain_llmops.checkpoint.statements import (
    ADD_WRITE,
    COPY_ROW,
    FIND_NEWEST,
    FIND_ONE,
    GO_COLD,
    GO_WARM,
    LOCK,
    PUT_BLOB,
    PUT_ROW,
    PUT_WRITE,
    ROW,
    TABLES,
    THREAD,
    TOUCH,
)
from langchain_llmops.core.errors import CheckpointError, ThreadOwnerMismatch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence

    from langchain_llmops.checkpoint.schema import Place
    from langchain_llmops.stores.base import Sql, Store, Transaction

__all__ = ["ColdThread", "Found", "Listed", "Parts", "Warm", "WarmSizes", "Written", "check_owner"]

STAMP_BITS: Final = 62
MAX_PARAMETERS: Final = 512


class ColdThread(Exception):  # noqa: N818 - a signal inside this room, never seen outside
    """The thread must be restored before it can be written."""


class Written(NamedTuple):
    """What a put left: `newest` is whether it is the head and has no pending writes."""

    stamp: int
    epoch: int
    newest: bool


class Found(NamedTuple):
    """A thread, and the checkpoint asked for if it has it."""

    thread: Thread
    row: Row | None


class Parts(NamedTuple):
    """Channel values by key and writes by checkpoint id, as of one `epoch`."""

    stamp: int
    epoch: int
    blobs: dict[bytes, bytes]
    writes: dict[bytes, list[Write]]


class Listed(NamedTuple):
    """A checkpoint on a page of a listing."""

    thread_id: bytes
    thread: bytes
    epoch: int
    row: Row


class WarmSizes(NamedTuple):
    """Counts and bytes; `cold_bytes` is the size of the objects."""

    checkpoints: int
    threads: dict[str, int]
    warm_bytes: int
    cold_bytes: int


def check_owner(thread_id: str, owner: bytes | None, user: str | None) -> None:
    """Raise `ThreadOwnerMismatch` when a thread has an owner and another user asks."""
    if user is not None and owner is not None and bytes(owner) != text(user):
        raise ThreadOwnerMismatch(
            f"session {thread_id[:SHOWN_CHARACTERS]!r} belongs to another user; use a session id of this user's own"
        )


class Warm:
    """Statements on the tables of `schema`, which are made on first use."""

    def __init__(self, store: Store, *, clock: Callable[[], float]) -> None:
        self._sql = store.sql
        self._clock = clock
        self._ready = False
        self._closed = False

    def open(self) -> None:
        """Serve, again if it was closed."""
        self._closed = False

    def close(self) -> None:
        """Refuse everything from now on; the store is the caller's to close."""
        self._closed, self._ready = True, False

    async def sql(self) -> Sql:
        """The database with its tables in place."""
        if self._closed:
            raise CheckpointError("this checkpointer is closed; make a new one or enter it again with `with`")
        if not self._ready:
            await self._sql.migrate("checkpoint", STEPS)
            self._ready = True
        return self._sql

    # writing

    async def put(self, place: Place, user: str | None, row: Row, blobs: Iterable[Blob]) -> Written:
        """Store a checkpoint and the channel values that are new in it."""
        async with self._writing(place, user) as (transaction, stamp, epoch):
            flags = await transaction.fetch(PUT_ROW, (place.thread, *row))
            values = [(place.thread, *blob) for blob in blobs]
            if values:
                await transaction.execute_many(PUT_BLOB, values)
        has_writes, has_newer = flags[0]
        return Written(stamp, epoch, not has_writes and not has_newer)

    async def put_writes(
        self, place: Place, user: str | None, first_wins: Sequence[Write], last_wins: Sequence[Write]
    ) -> None:
        """Store pending writes; the checkpoint they belong to may come later."""
        async with self._writing(place, user) as (transaction, _, _):
            for statement, writes in ((ADD_WRITE, first_wins), (PUT_WRITE, last_wins)):
                if writes:
                    await transaction.execute_many(statement, [(place.thread, *write) for write in writes])

    @asynccontextmanager
    async def _writing(self, place: Place, user: str | None) -> AsyncIterator[tuple[Transaction, int, int]]:
        stamp = _fresh()
        owner = None if user is None else text(user)
        values = (place.thread, text(place.thread_id), owner, stamp, _fresh(), self._clock())
        async with (await self.sql()).transaction() as transaction:
            found_owner, tier, epoch = (await transaction.fetch(TOUCH, values))[0]
            check_owner(place.thread_id, found_owner, user)
            if tier == COLD:
                raise ColdThread
            yield transaction, stamp, int(epoch)

    @asynccontextmanager
    async def locked(self, thread: bytes, *, removes: bool = True) -> AsyncIterator[tuple[Transaction, Thread | None]]:
        """A transaction that holds the thread's row, with a new stamp (and epoch); None when there is no thread."""
        async with (await self.sql()).transaction() as transaction:
            rows = await transaction.fetch(LOCK, (_fresh(), int(removes), _fresh(), thread))
            found = Thread(*rows[0]) if rows else None
            if found is not None and found.tier == COLD:
                raise ColdThread
            yield transaction, found

    async def create(self, transaction: Transaction, place: Place, owner: bytes | None) -> None:
        """Make or touch a thread inside a transaction; another owner's thread raises."""
        user = None if owner is None else untext(owner)
        values = (place.thread, text(place.thread_id), owner, _fresh(), _fresh(), self._clock())
        found_owner, tier, _ = (await transaction.fetch(TOUCH, values))[0]
        check_owner(place.thread_id, found_owner, user)
        if tier == COLD:
            raise ColdThread
        await transaction.fetch(LOCK, (_fresh(), 1, _fresh(), place.thread))

    # reading

    async def find(self, place: Place, checkpoint_id: bytes | None) -> Found | None:
        """The thread and one of its checkpoints, the newest unless an id is given; None for an unknown thread."""
        _, thread, ns = place
        sql = await self.sql()
        if checkpoint_id is None:
            rows = await sql.fetch(FIND_NEWEST, (ns, thread, ns, thread))
        else:
            rows = await sql.fetch(FIND_ONE, (ns, checkpoint_id, thread))
        if not rows:
            return None
        values = rows[0]
        split = len(Thread._fields)
        return Found(Thread(*values[:split]), Row(*values[split:]) if values[split] is not None else None)

    async def thread(self, thread: bytes) -> Thread | None:
        """A thread's row."""
        sql = await self.sql()
        rows = await sql.fetch(f"SELECT {THREAD} FROM llmops_thread t WHERE t.thread = ?", (thread,))
        return Thread(*rows[0]) if rows else None

    async def parts(self, thread: bytes, ns: bytes, keys: Sequence[bytes], ids: Sequence[bytes]) -> Parts | None:
        """Channel values by key and writes by checkpoint id; None when the thread is gone."""
        sql = await self.sql()
        blobs: dict[bytes, bytes] = {}
        for chunk in _chunks(keys):
            found = await sql.fetch(
                f"SELECT key, body FROM llmops_blob WHERE thread = ? AND ns = ? AND key IN ({_marks(chunk)})",
                (thread, ns, *chunk),
            )
            blobs.update((bytes(key), bytes(body)) for key, body in found)
        ids = _padded(ids)
        rows = await sql.fetch(
            "SELECT t.stamp, t.epoch, w.ns, w.id, w.task_id, w.idx, w.task_path, w.channel, w.body"
            " FROM llmops_thread t LEFT JOIN llmops_write w ON w.thread = t.thread AND w.ns = ?"
            f" AND w.id IN ({_marks(ids)}) WHERE t.thread = ?",
            (ns, *ids, thread),
        )
        if not rows:
            return None
        writes: dict[bytes, list[Write]] = {}
        for _, _, *values in rows:
            if values[0] is not None:
                writes.setdefault(bytes(values[1]), []).append(Write(*values))
        return Parts(int(rows[0][0]), int(rows[0][1]), blobs, writes)

    async def page(self, conditions: Sequence[tuple[str, Sequence[Any]]], rows: int) -> list[Listed]:
        """One page of checkpoints that meet all conditions (SQL text of ours, values), newest first."""
        where = " AND ".join(condition for condition, _ in conditions) or "1 = 1"
        values = [value for _, condition_values in conditions for value in condition_values]
        found = await (await self.sql()).fetch(
            f"SELECT t.thread_id, t.thread, t.epoch, {ROW}"
            " FROM llmops_checkpoint c JOIN llmops_thread t ON t.thread = c.thread"
            f" WHERE {where} ORDER BY c.id DESC, c.ns DESC, c.thread DESC LIMIT ?",
            (*values, rows),
        )
        return [Listed(bytes(v[0]), bytes(v[1]), int(v[2]), Row(*v[3:])) for v in found]

    async def content(self, thread: bytes, transaction: Transaction | None = None) -> ThreadRows:
        """Everything of a thread; consistent inside `locked`, or if the thread's stamp is still the same afterwards."""
        source = transaction or await self.sql()
        tables = (("checkpoint", Row), ("blob", Blob), ("write", Write))
        rows, blobs, writes = [
            [kind(*values) for values in await source.fetch(_select(table, kind._fields), (thread,))]
            for table, kind in tables
        ]
        return ThreadRows(rows, blobs, writes)  # type: ignore[arg-type] # in the order of `tables`

    # moving and removing

    async def insert(self, transaction: Transaction, thread: bytes, content: ThreadRows) -> None:
        """Put rows into a thread."""
        for statement, items in ((COPY_ROW, content.rows), (PUT_BLOB, content.blobs), (PUT_WRITE, content.writes)):
            if items:
                await transaction.execute_many(statement, [(thread, *item) for item in items])

    async def outline(self, transaction: Transaction, thread: bytes) -> tuple[list[Row], set[bytes]]:
        """A thread's checkpoints, and every stored channel value as ns + key."""
        rows = await transaction.fetch(_select("checkpoint", Row._fields), (thread,))
        stored = await transaction.fetch("SELECT ns, key FROM llmops_blob WHERE thread = ?", (thread,))
        return [Row(*values) for values in rows], {bytes(ns) + bytes(key) for ns, key in stored}

    async def remove(
        self, transaction: Transaction, thread: bytes, gone: Sequence[Row], unused: Iterable[bytes]
    ) -> None:
        """Delete checkpoints with their writes, and channel values (ns + key) that no checkpoint uses."""
        ids = [(thread, row.ns, row.id) for row in gone]
        keys = [(thread, name[:-KEY_BYTES], name[-KEY_BYTES:]) for name in unused]
        deletes = (("checkpoint", "id", ids), ("write", "id", ids), ("blob", "key", keys))
        for table, column, values in deletes:
            if values:
                await transaction.execute_many(
                    f"DELETE FROM llmops_{table} WHERE thread = ? AND ns = ? AND {column} = ?",
                    values,
                )

    async def clear(self, transaction: Transaction, thread: bytes) -> None:
        """Delete everything of a thread but its own row."""
        for table in TABLES:
            await transaction.execute(f"DELETE FROM {table} WHERE thread = ?", (thread,))

    async def delete(self, thread: bytes) -> tuple[str | None, list[bytes]] | None:
        """Delete a thread; its object if it was cold and its namespaces, or None when there is no such thread."""
        async with (await self.sql()).transaction() as transaction:
            rows = await transaction.fetch("DELETE FROM llmops_thread WHERE thread = ? RETURNING object", (thread,))
            if not rows:
                return None
            found = await transaction.fetch("SELECT DISTINCT ns FROM llmops_checkpoint WHERE thread = ?", (thread,))
            await self.clear(transaction, thread)
        return rows[0][0], [bytes(ns) for (ns,) in found]

    async def go_cold(self, thread: bytes, stamp: int, path: str, size: int, content: ThreadRows) -> bool:
        """Replace a thread's rows by an object, unless anything was written since `stamp`."""
        head = max((row.id for row in content.rows), default=b"")
        values = (path, size, len(content.rows), head, _fresh(), _fresh(), thread, stamp)
        async with (await self.sql()).transaction() as transaction:
            if not await transaction.execute(GO_COLD, values):
                return False
            await self.clear(transaction, thread)
            runs = {row.run for row in content.rows if row.run is not None}
            if runs:
                await transaction.execute_many(
                    "INSERT INTO llmops_cold_run (run, thread) VALUES (?, ?)", [(run, thread) for run in runs]
                )
        return True

    async def go_warm(self, thread: bytes, path: str, content: ThreadRows) -> bool:
        """Put a thread's rows back, unless somebody else has done it."""
        async with (await self.sql()).transaction() as transaction:
            if not await transaction.execute(GO_WARM, (_fresh(), _fresh(), thread, path)):
                return False
            await transaction.execute("DELETE FROM llmops_cold_run WHERE thread = ?", (thread,))
            await self.insert(transaction, thread, content)
        return True

    # questions about many threads

    async def threads_of_runs(self, runs: Sequence[bytes]) -> list[tuple[str, bytes]]:
        """Id and digest of every thread, warm or cold, with a checkpoint of one of the runs."""
        found: dict[bytes, str] = {}
        sql = await self.sql()
        for chunk in _chunks(runs):
            for table in ("llmops_checkpoint", "llmops_cold_run"):
                rows = await sql.fetch(
                    f"SELECT DISTINCT t.thread, t.thread_id FROM {table} r JOIN llmops_thread t ON t.thread = r.thread"
                    f" WHERE r.run IN ({_marks(chunk)})",
                    chunk,
                )
                found.update((bytes(thread), untext(thread_id)) for thread, thread_id in rows)
        return [(thread_id, thread) for thread, thread_id in found.items()]

    async def idle(self, before: float, after: bytes, rows: int) -> list[tuple[bytes, str]]:
        """Digest and id of warm threads not written since `before`, in the order of digests."""
        found = await (await self.sql()).fetch(
            "SELECT thread, thread_id FROM llmops_thread WHERE tier = 'warm' AND updated_at < ? AND thread > ?"
            " ORDER BY thread LIMIT ?",
            (before, after, rows),
        )
        return [(bytes(thread), untext(thread_id)) for thread, thread_id in found]

    async def cold_heads(self, floor: bytes) -> list[tuple[bytes, bytes]]:
        """Newest checkpoint id and digest of every cold thread that has one at or above `floor`, newest first."""
        found = await (await self.sql()).fetch(
            "SELECT head, thread FROM llmops_thread WHERE tier = 'cold' AND head >= ? ORDER BY head DESC", (floor,)
        )
        return [(bytes(head), bytes(thread)) for head, thread in found]

    async def sizes(self) -> WarmSizes:
        """Counts and bytes of the whole store."""
        sql = await self.sql()
        checkpoints, total = (
            await sql.fetch("SELECT COUNT(*), SUM(LENGTH(metadata) + LENGTH(body)) FROM llmops_checkpoint")
        )[0]
        warm_bytes = int(total or 0)
        for table in ("llmops_blob", "llmops_write"):
            warm_bytes += int((await sql.fetch(f"SELECT SUM(LENGTH(body)) FROM {table}"))[0][0] or 0)
        tiers = await sql.fetch(
            "SELECT tier, COUNT(*), SUM(checkpoints), SUM(object_bytes) FROM llmops_thread GROUP BY tier"
        )
        archived = sum(int(count or 0) for _, _, count, _ in tiers)
        cold_bytes = sum(int(size or 0) for _, _, _, size in tiers)
        threads = {WARM: 0, COLD: 0} | {tier: int(count) for tier, count, _, _ in tiers}
        return WarmSizes(int(checkpoints) + archived, threads, warm_bytes, cold_bytes)


def _fresh() -> int:
    return secrets.randbits(STAMP_BITS)


def _select(table: str, fields: Sequence[str]) -> str:
    return f"SELECT {', '.join(fields)} FROM llmops_{table} WHERE thread = ?"


def _chunks(values: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Portions for an IN list, filled up to few different lengths so that statements repeat."""
    for start in range(0, len(values), MAX_PARAMETERS):
        yield _padded(values[start : start + MAX_PARAMETERS])


def _padded(values: Sequence[bytes]) -> list[bytes]:
    size = 1 << (len(values) - 1).bit_length()
    return [*values, *[values[-1]] * (size - len(values))]


def _marks(values: Sequence[bytes]) -> str:
    return ", ".join(["?"] * len(values))
