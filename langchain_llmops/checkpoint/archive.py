"""Threads between the warm tier and the cold one. The warm tier's rows say where everything is; objects never do.

Into the cold: the intent is committed, the objects are written and read back, that is committed, and only a last
transaction, which finds the thread as it was copied and not pinned, removes the warm rows. Out of it: a reader of the
newest checkpoint brings the head back (the thread is then mixed), whoever wants history brings everything back. A
crash at any point leaves rows that say what to finish or to delete; a race is lost without harm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from langchain_llmops.checkpoint.archive_sql import NEXT_IDLE, READ, TO_COLD, TO_MIXED, TO_WARM
from langchain_llmops.checkpoint.codec import readable
from langchain_llmops.checkpoint.cold import HEAD, REST
from langchain_llmops.checkpoint.names import shown
from langchain_llmops.checkpoint.outbox import Outbox
from langchain_llmops.checkpoint.recent import Held
from langchain_llmops.checkpoint.rows import Key, Rows, counted, joined, merged, opened, parted, sealed, states
from langchain_llmops.checkpoint.schema import COLD, MIXED, WARM, Counted, Step, Thread, Write
from langchain_llmops.checkpoint.warm import fresh
from langchain_llmops.checkpoint.whole import TABLES, insert_rows, put_writes
from langchain_llmops.core.concurrency import SingleFlight, drive
from langchain_llmops.core.errors import CheckpointError, LLMOpsError, StoreError
from langchain_llmops.stores.base import idempotent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.cold import Cold
    from langchain_llmops.checkpoint.journaled import Journaled
    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.checkpoint.outbox import Attempt, Object
    from langchain_llmops.checkpoint.recent import Recent
    from langchain_llmops.checkpoint.warm import Warm
    from langchain_llmops.stores.base import Transaction

__all__ = ["Archive", "Idle"]

T = TypeVar("T")

TRIES: Final = 20  # of a move that others get in front of
PAGE: Final = 100


class Idle(NamedTuple):
    """What came of threads that were to become cold."""

    archived: int
    failures: list[Exception]


class _Facts(NamedTuple):
    """What a cold thread's row tells of its objects."""

    head_bytes: int | None
    rest_bytes: int | None
    steps: int | None
    newest: bytes | None
    runs: frozenset[bytes]


UNCHANGED: Final = _Facts(None, None, None, None, frozenset())


class _OvertakenError(Exception):
    """Another mover came first; the transaction is rolled back."""


class Archive:
    """Coroutines over blocking stores, for the threads of one tenant."""

    def __init__(self, warm: Warm, codec: Codec, recent: Recent, cold: Cold, tenant: bytes) -> None:
        self._warm = warm
        self._codec = codec
        self._recent = recent
        self._cold = cold
        self._tenant = tenant
        self._flights = SingleFlight()
        self.outbox = Outbox(warm, tenant)
        self.journaled: Journaled | None = None
        self.moved: Callable[[int], None] = lambda _: None  # is told the bytes of each thread that became cold

    # into the cold

    async def archive(self, place: Place) -> bool:
        """Move a thread out of the warm tier; False if there is none, it is pinned, or was written meanwhile."""
        if self.journaled is not None:
            await self.journaled.settle(place.thread)
        moved = await self._archive(place)
        if moved and self.journaled is not None:
            await self.journaled.changed(place.thread)
        return moved

    async def _archive(self, place: Place) -> bool:
        thread = await self._warm.thread(place.thread)
        if thread is None or thread.tier == COLD or await self._is_pinned(place.thread):
            return False
        live = await self.outbox.live(place.thread)
        if thread.tier == MIXED and live and live[0].stamp == thread.stamp:
            return await self._finish(place.thread, thread.stamp, None, UNCHANGED)
        try:
            rows = await self._gathered(place, thread, live)
        except _OvertakenError:
            return False
        return rows is not None and await self._copied(place, thread, rows)

    async def _is_pinned(self, thread: bytes) -> bool:
        found = await (await self._warm.sql()).fetch(
            "SELECT 1 FROM llmops_ck_thread WHERE thread = ? AND pinned_until > ?", (thread, self._warm.clock())
        )
        return bool(found)

    async def _gathered(self, place: Place, thread: Thread, live: Sequence[Object]) -> Rows | None:
        """All rows of a thread, with those that are cold already; None if it has none, or was written meanwhile."""
        rows = await self._warm_rows(place)
        now = await self._warm.thread(place.thread)
        if now is None or now.stamp != thread.stamp or not rows.steps:
            return None
        return merged(await self._loaded(place, live, live[1:]), rows) if thread.tier == MIXED else rows

    async def _warm_rows(self, place: Place) -> Rows:
        sql = await self._warm.sql()
        steps, chunks, writes = [await sql.fetch(statement, (place.thread,)) for statement in READ]
        return opened(
            self._codec,
            place.thread,
            [Step(*values) for values in steps],
            {bytes(name): bytes(body) for name, body in chunks},
            [Write(*values) for values in writes],
        )

    async def _copied(self, place: Place, thread: Thread, rows: Rows) -> bool:
        attempt = fresh()
        parts = zip((HEAD, REST), parted(rows), strict=True)
        made = [self._cold.made(place, thread.owner, kind, part) for kind, part in parts if part != Rows([], {}, [])]
        async with (await self._warm.sql()).transaction() as transaction:
            # who deletes the thread, or erases its user, waits for this, and then knows of the objects to come
            if not await transaction.execute(
                "UPDATE llmops_ck_thread SET stamp = stamp WHERE thread = ? AND stamp = ?", (place.thread, thread.stamp)
            ):
                return False
            await self.outbox.intend(transaction, place.thread, attempt, thread.stamp, made)
        try:
            for one in made:
                await self._cold.store(place, one)
        except LLMOpsError:
            if await self.outbox.give_up(attempt):  # else the thread was deleted, and what was written with it
                raise
        if not await self.outbox.copied(attempt, len(made)):
            await self.outbox.disown(place.thread, attempt, made)
            await self.sweep_thread(place.thread)
            return False
        sizes = [len(one.data) for one in made]
        return await self._finish(place.thread, thread.stamp, attempt, _facts(rows, sizes))

    async def _finish(self, thread: bytes, stamp: int, attempt: int | None, facts: _Facts) -> bool:
        """Remove the warm rows that an attempt holds, if they are still those; else let its objects be deleted."""
        try:
            async with (await self._warm.sql()).transaction() as transaction:
                now = self._warm.clock()
                moved = await transaction.fetch(TO_COLD, (fresh(), fresh(), *facts[:4], thread, stamp, now))
                _unless_overtaken(bool(moved))
                await self._switch(transaction, thread, stamp, attempt, facts)
        except _OvertakenError:
            if attempt is not None:
                await self.outbox.give_up(attempt)
                await self.sweep_thread(thread)
            return False
        self._recent.forget(thread)
        self.moved((facts.head_bytes or 0) + (facts.rest_bytes or 0))
        if attempt is not None:
            await self.sweep_thread(thread)
        return True

    async def _switch(
        self, transaction: Transaction, thread: bytes, stamp: int, attempt: int | None, facts: _Facts
    ) -> None:
        if attempt is not None:
            live = await self.outbox.go_live(transaction, thread, attempt, stamp)
            _unless_overtaken([one.bytes for one in live] == [size for size in facts[:2] if size])
        for table in TABLES:
            await transaction.execute(f"DELETE FROM {table} WHERE thread = ?", (thread,))
        if facts.runs:
            await transaction.execute_many(
                "INSERT INTO llmops_ck_cold_run (run, thread) VALUES (?, ?) ON CONFLICT DO NOTHING",
                [(run, thread) for run in sorted(facts.runs)],
            )

    # out of the cold

    async def restore_head(self, place: Place) -> bool:
        """Bring the newest checkpoints of a cold thread back, once for all callers; False if it is not cold."""
        call = self._repeated(place, self._restore_head)
        return self._flights.run_blocking((HEAD, place.thread), lambda: drive(call()))

    async def restore(self, place: Place) -> bool:
        """Bring all of a thread back, once for all callers; False if nothing of it is cold."""
        call = self._repeated(place, self._restore)
        return self._flights.run_blocking((REST, place.thread), lambda: drive(call()))

    async def peek(self, place: Place) -> Rows | None:
        """What a thread's objects hold, without moving it; None if nothing of it is cold."""
        return await self._repeated(place, self._peek)()

    async def seen(self, place: Place, tier: str) -> tuple[Rows, set[Key]] | None:
        """The same with what was written of a mixed thread since, and which checkpoints are in the objects."""
        cold = await self.peek(place)
        if cold is None:
            return None
        rows = merged(cold, await self._warm_rows(place)) if tier == MIXED else cold
        return rows, {(step.ns, step.id) for step in cold.steps}

    def _repeated(self, place: Place, once: Callable[[Place], Awaitable[T]]) -> Callable[[], Coroutine[Any, Any, T]]:
        """As often as others move the thread meanwhile."""

        async def repeated() -> T:
            for _ in range(TRIES):
                try:
                    return await idempotent(lambda: once(place))
                except _OvertakenError:
                    continue
            raise CheckpointError(f"thread {shown(place.thread_id)} is moved by others all the time; try again")

        return repeated

    async def _restore_head(self, place: Place) -> bool:
        thread = await self._warm.thread(place.thread)
        if thread is None or thread.tier != COLD:
            return False
        live = await self.outbox.live(place.thread)
        if len(live) < 2:  # noqa: PLR2004 - head and rest; the head is all there is
            return await self._restore(place)
        head = await self._loaded(place, live, live[:1])
        steps, chunks, writes = sealed(self._codec.of(thread.owner), place, head)
        stamp = fresh()
        async with (await self._warm.sql()).transaction() as transaction:
            moved = await transaction.fetch(TO_MIXED, (stamp, self._warm.clock(), len(steps), place.thread))
            _unless_overtaken(bool(moved) and await self._is_there(transaction, place, live))
            await insert_rows(transaction, place.thread, steps, chunks, writes, into_empty=True)
            await self.outbox.restamp(transaction, place.thread, stamp)
        self._remember(place, Thread(*moved[0]), head)
        return True

    async def _restore(self, place: Place) -> bool:
        thread = await self._warm.thread(place.thread)
        if thread is None or thread.tier == WARM:
            return False
        live = await self.outbox.live(place.thread)
        rows = await self._loaded(place, live, live if thread.tier == COLD else live[1:])
        codec = self._codec.of(thread.owner)
        async with (await self._warm.sql()).transaction() as transaction:
            moved = await transaction.fetch(TO_WARM, (fresh(), self._warm.clock(), place.thread, thread.tier))
            _unless_overtaken(bool(moved) and await self._is_there(transaction, place, live))
            known = [Step(*values) for values in await transaction.fetch(READ[0], (place.thread,))]
            new = merged(rows, Rows(known, {}, []))
            keys = {(step.ns, step.id) for step in known}
            new = new._replace(steps=[step for step in new.steps if (step.ns, step.id) not in keys])
            steps, chunks, writes = sealed(codec, place, new)
            if known:
                specials = [write for write in writes if write.idx < 0]
                await insert_rows(transaction, place.thread, steps, chunks, specials)
                await put_writes(transaction, place.thread, [write for write in writes if write.idx >= 0])
            else:
                await insert_rows(transaction, place.thread, steps, chunks, writes, into_empty=True)
            await self.outbox.bury(transaction, place.thread)
            await transaction.execute("DELETE FROM llmops_ck_cold_run WHERE thread = ?", (place.thread,))
        await self.sweep_thread(place.thread)
        return True

    async def verify(self, place: Place) -> Counted:
        """Read a thread's objects to their last byte; what of it is only there."""
        rows = await self.peek(place)
        return Counted(0, 0, 0) if rows is None else counted(rows, await self._warm.ids(place.thread))

    async def _peek(self, place: Place) -> Rows | None:
        live = await self.outbox.live(place.thread)
        return await self._loaded(place, live, live) if live else None

    async def _loaded(self, place: Place, live: Sequence[Object], wanted: Sequence[Object]) -> Rows:
        """Rows of live objects; one that is gone because its thread was moved meanwhile is no damage."""
        try:
            found = [await self._cold.load(place, one.path) for one in wanted]
        except CheckpointError:
            _unless_overtaken(await self.outbox.live(place.thread) == list(live))
            raise
        if found:
            return joined(found)
        _unless_overtaken(await self.outbox.live(place.thread) == list(live))
        raise CheckpointError(
            f"the archive of thread {shown(place.thread_id)} has no object on record;"
            " restore a backup of the warm tier, or delete the thread"
        )

    async def _is_there(self, transaction: Transaction, place: Place, live: Sequence[Object]) -> bool:
        return await self.outbox.live(place.thread, transaction) == list(live)

    def _remember(self, place: Place, thread: Thread, head: Rows) -> None:
        """What was just brought back need not be read again."""
        for state, _ in states(head):
            held = Held(state, {name: head.chunks[name] for name in state.refs()})
            self._recent.adopt(place._replace(namespace=state.namespace, ns=state.ns), thread, held, newest=True)

    # what a sweep does

    async def archive_idle(self, before: float, stopped: Callable[[], bool] = lambda: False) -> Idle:
        """Archive the threads that nobody has written, nor brought back, since a moment; one that fails is skipped."""
        archived = 0
        failures: list[Exception] = []
        cursor: tuple[float, bytes] = (float("-inf"), b"")
        while page := await self._idle(before, cursor):
            for thread, label, updated_at in page:
                cursor = (float(updated_at), bytes(thread))
                if stopped():
                    return Idle(archived, failures)
                try:
                    with readable():
                        archived += await self.archive(self._codec.place_of(bytes(thread), bytes(label)))
                except LLMOpsError as error:
                    failures.append(error)
        return Idle(archived, failures)

    async def _idle(self, before: float, cursor: tuple[float, bytes]) -> list[tuple[bytes, bytes, float]]:
        values = (self._tenant, before, *cursor, before, self._warm.clock(), PAGE)
        return [(row[0], row[1], row[2]) for row in await (await self._warm.sql()).fetch(NEXT_IDLE, values)]

    async def finish_copied(self) -> Idle:
        """Finish what movers that are gone have copied."""
        archived = 0
        failures: list[Exception] = []
        for one in await self.outbox.attempts():
            try:
                with readable():
                    archived += await self._finished(one)
            except LLMOpsError as error:
                failures.append(error)
        return Idle(archived, failures)

    async def _finished(self, found: Attempt) -> bool:
        thread = await self._warm.thread(found.thread)
        if found.label is None or thread is None or thread.stamp != found.stamp or thread.tier == COLD:
            await self.outbox.give_up(found.attempt)
            return False
        objects = await self.outbox.paths(found.attempt)
        place = self._codec.place_of(found.thread, found.label)
        try:
            rows = joined([await self._cold.load(place, one.path) for one in objects])
        except CheckpointError:  # the warm rows are still there: what cannot be read is copied again
            await self.outbox.give_up(found.attempt)
            raise
        sizes = [one.bytes for one in objects]
        return await self._finish(found.thread, found.stamp, found.attempt, _facts(rows, sizes))

    async def sweep_dead(self, stopped: Callable[[], bool] = lambda: False) -> tuple[int, int]:
        """Delete the objects that nothing needs any more; how many were, and how many the store did not delete."""
        await self.outbox.expire()
        return await self._sweep(None, stopped)

    async def sweep_thread(self, thread: bytes) -> None:
        """The same for one thread, at once; what the store does not delete now is left to the next sweep."""
        await self._sweep(thread)

    async def _sweep(self, thread: bytes | None, stopped: Callable[[], bool] = lambda: False) -> tuple[int, int]:
        deleted = refused = 0
        after = ""
        while page := await self.outbox.dead(thread, after):
            for path in page:
                after = path
                if stopped():
                    return deleted, refused
                try:
                    await self._cold.remove(path)
                except StoreError:
                    await self.outbox.refused(path)
                    refused += 1
                else:
                    await self.outbox.deleted(path)
                    deleted += 1
        return deleted, refused


def _unless_overtaken(still: bool) -> None:  # noqa: FBT001 - what is still so
    if not still:
        raise _OvertakenError


def _facts(rows: Rows, sizes: Sequence[int]) -> _Facts:
    runs = frozenset(step.run for step in rows.steps if step.run is not None)
    return _Facts(sizes[0], sum(sizes[1:]), len(rows.steps), rows.newest(), runs)
