"""Writes that are acknowledged by Redis: `replicated` ones go on to the warm tier, `cached` ones stay.

Every write is a record in its thread's journal, in one order for all processes. What a process knows of a thread holds
at the number of the thread's last record; another number sends its readers and writers to the rows, into which all
records are stored first ("settled"). A `replicated` thread's rows are the warm tier's, and settled records are trimmed.
A `cached` thread's rows are this process's own, in memory, made from records that all stay until the thread expires.
Errors of Redis raise: it holds writes that nobody else has.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from langchain_llmops.checkpoint.codec import readable
from langchain_llmops.checkpoint.schema import WARM, Applied, Group, Status, Step, Thread, Write
from langchain_llmops.checkpoint.warm import fresh
from langchain_llmops.checkpoint.whole import Whole, clear_rows
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError, EnvelopeError, LLMOpsError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence
    from typing import Any

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.recent import Recent
    from langchain_llmops.checkpoint.warm import Warm
    from langchain_llmops.stores.base import Store

__all__ = ["Journaled"]

_log = logging.getLogger(__name__)

FORMAT: Final = 1
PREFIX: Final = "llmops:ck:"
LEASE: Final = "llmops:ck:settle:"
LEASE_S: Final = 15.0
LEASE_PAUSE_S: Final = 0.01
READ_ROWS: Final = 500
MOST_AT_ONCE: Final = 64
SETTLE_AFTER_S: Final = 0.5
RETRY_AFTER_S: Final = 1.0
IDLE_S: Final = 5.0
MOST_THREADS: Final = 2_000  # whose rows are kept in memory


class _Record(NamedTuple):
    number: int
    group: Group | None
    whole: bool


class Journaled:
    """Records of one tenant's threads, and who stores them.

    Args:
        stays: whether records stay (`cached`), for `ttl_s` after the last one; else they are settled into `warm`.
        replicas: how many replicas must have a record before it is acknowledged.
        restore: makes a cold thread writable.
        replace: stores a checkpoint in place of another of its id.
        heard: is given groups that were stored in the warm tier, and what became of them.
    """

    def __init__(
        self,
        store: Store,
        warm: Warm,
        codec: Codec,
        recent: Recent,
        *,
        tenant: bytes,
        stays: bool,
        replicas: int,
        ttl_s: float,
        restore: Callable[[Group], Coroutine[Any, Any, object]],
        replace: Callable[[Group], Coroutine[Any, Any, object]],
        heard: Callable[[Sequence[Group], Sequence[Applied]], object] = lambda *_: None,
    ) -> None:
        self._journal = store.journal
        self._kv = store.kv
        self._warm = warm
        self._codec = codec
        self._recent = recent
        self._prefix = f"{PREFIX}{'cached' if stays else 'replicated'}:{tenant.hex()}:"
        self._tenant = tenant
        self.stays = stays
        self._replicas = replicas
        self._ttl_s = ttl_s if stays else None
        self._restore = restore
        self._replace = replace
        self._heard = heard
        self._lease = f"{LEASE}{tenant.hex()}"
        self._loaded: OrderedDict[bytes, int] = OrderedDict()
        self._lock = threading.RLock()
        self._proven = False
        self.refused = 0
        self._thread: threading.Thread | None = None
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._ready = threading.Condition()
        self._noted = False
        self._closed = False
        self._thread = None

    # writing

    async def apply(self, groups: Sequence[Group]) -> list[Applied]:
        """Append groups of different threads, for `Committer`."""
        await self._prove()
        entries = [(self._key(group.thread), self._packed(group)) for group in groups]
        appended = await self._journal.append(entries, self._replicas, ttl_s=self._ttl_s)
        if appended.replicas < self._replicas:
            raise StoreUnavailableError(
                f"{appended.replicas} of {self._replicas} replicas of the hot tier have acknowledged a write; it is not"
                " lost, and not safe: start them, or choose ack='durable'"
            )
        self._note()
        outcomes = zip(groups, appended.numbers, appended.previous, strict=True)
        return [self._applied(group, number, previous) for group, number, previous in outcomes]

    def _applied(self, group: Group, number: int, previous: int) -> Applied:
        """As its writer saw it: stale when another process wrote in between, and it counts on what was before."""
        known = self._recent.known(group.thread)
        stamp, epoch = (known.stamp, known.epoch) if known is not None else (0, 0)
        group.stamp = number
        if previous not in (0, stamp):
            if group.epoch is not None:
                return Applied(Status.STALE, previous, epoch)
            return Applied(Status.DONE, previous, epoch)
        return Applied(Status.DONE, stamp, epoch)

    async def _prove(self) -> None:
        """Refuse a server that would forget acknowledged writes."""
        if self._proven or self.stays:
            return
        found = await self._journal.durability()
        if not found.aof:
            raise ConfigurationError(
                "ack='replicated' needs a Redis that keeps an append-only file; set `appendonly yes` there, or choose"
                " ack='durable'"
            )
        if found.replicas < self._replicas:
            raise ConfigurationError(
                f"ack='replicated' with replicas={self._replicas} needs as many replicas of Redis, it has"
                f" {found.replicas}; add them, set replicas=0 to trust the append-only file alone, or ack='durable'"
            )
        self._proven = True

    # reading

    async def row(self, thread: bytes) -> Thread | None:
        """A thread's row as `Warm.thread` gives it, at the number of its last record."""
        last = await self._journal.last(self._key(thread))
        known = self._recent.known(thread)
        if last and known is not None and known.stamp == last:
            return Thread(last, known.epoch, known.owner, WARM, b"")
        await self.settle(thread)
        row = await self._warm.thread(thread)
        return row._replace(stamp=last) if row is not None and last else row

    async def settle(self, thread: bytes) -> None:
        """Store all records of a thread in its rows."""
        with self._lock:
            if self.stays:
                await self._load(thread)
            else:
                await self._drain([thread])

    async def settle_all(self) -> None:
        """Store all records of the tenant's threads; those that stay are only those this process has used."""
        if self.stays:
            return
        with self._lock:
            keys = [key for key in await self._journal.pending() if key.startswith(self._prefix)]
            for start in range(0, len(keys), MOST_AT_ONCE):
                await self._drain(
                    [bytes.fromhex(key[len(self._prefix) :]) for key in keys[start : start + MOST_AT_ONCE]]
                )

    async def changed(self, thread: bytes) -> None:
        """After a change of a whole thread: tell the other processes, by a record that changes nothing.

        Of a `cached` thread, one of all its rows takes the place of all its records.
        """
        key, last = self._key(thread), await self._journal.last(self._key(thread))
        if not last:
            return
        if self.stays:
            await self._journal.trim(key, last)
            rewritten = await self._rewritten(thread)
            packed = self._packed(rewritten, whole=True) if rewritten else self._codec.pack([FORMAT, True, None])
        else:
            packed = self._codec.pack([FORMAT, False, None])
        appended = await self._journal.append([(key, packed)], ttl_s=self._ttl_s)
        if self.stays:
            self._loaded[thread] = appended.numbers[0]
        self._recent.forget(thread)

    async def _rewritten(self, thread: bytes) -> Group | None:
        """All rows of a thread as one group."""
        row = await self._warm.thread(thread)
        if row is None:
            return None
        async with (await self._warm.sql()).transaction() as transaction:
            whole = await Whole.read(self._codec, transaction, thread)
            chunks = await transaction.fetch("SELECT name, body FROM llmops_ck_chunk WHERE thread = ?", (thread,))
        return Group(
            thread,
            row.label,
            self._tenant,
            row.owner,
            epoch=None,
            chunks={bytes(name): bytes(body) for name, body in chunks},
            steps=list(whole.steps.values()),
            keeps=whole.writes,
        )

    async def begin(self, thread: bytes) -> None:
        """Remember that there is no such thread."""
        self._recent.begin(thread, await self._journal.last(self._key(thread)))

    # settling

    async def _drain(self, threads: Sequence[bytes]) -> None:
        while waiting := {thread: found for thread in threads if (found := await self._records(self._key(thread), 0))}:
            if not await self._kv.add(self._lease, b"1", LEASE_S):
                time.sleep(LEASE_PAUSE_S)  # noqa: ASYNC251 - coroutines here run on no loop; another process stores the same
                continue
            try:
                await self._store([[one.group for one in found if one.group] for found in waiting.values()])
                for thread, found in waiting.items():
                    await self._journal.trim(self._key(thread), found[-1].number)
            finally:
                await self._kv.delete(self._lease)

    async def _load(self, thread: bytes) -> None:
        key = self._key(thread)
        after = self._loaded.get(thread, 0)
        if after and await self._journal.last(key) < after:
            await self._clear(thread)
            after = 0
        while records := await self._records(key, after):
            for record in records:
                if record.whole:
                    await self._clear(thread)
                if record.group is not None:
                    await self._store([[record.group]])
            after = records[-1].number
            self._loaded[thread] = after
            self._loaded.move_to_end(thread)
        while len(self._loaded) > MOST_THREADS:
            gone, _ = self._loaded.popitem(last=False)
            await self._clear(gone)

    async def _clear(self, thread: bytes) -> None:
        async with (await self._warm.sql()).transaction() as transaction:
            await transaction.execute("DELETE FROM llmops_ck_thread WHERE thread = ?", (thread,))
            await clear_rows(transaction, thread)

    async def _store(self, threads: Iterable[list[Group]]) -> None:
        """The groups of each thread in their order, as few as go together, and those of many threads at once."""
        lines = [merged for groups in threads if (merged := _merged(groups))]
        while lines:
            first = [line.pop(0) for line in lines]
            lines = [line for line in lines if line]
            applied = await self._warm.apply(first)
            self._heard(first, applied)
            for group, outcome in zip(first, applied, strict=True):
                if outcome.status is Status.COLD:
                    await self._restore(group)
                if outcome.status is not Status.DONE:
                    await self._store_parts(group)

    async def _store_parts(self, group: Group) -> None:
        for part in _parts(group):
            (applied,) = await self._warm.apply([part])
            replaces = applied.status is Status.REPLACES and part.steps[0].base
            if applied.status is not Status.DONE and not (replaces and await self._replace(part)):
                self._refuse(group, applied.status)

    def _refuse(self, group: Group, status: Status) -> None:
        """What its writer did not take for acknowledged, or wrote for another's or an erased user's thread."""
        self.refused += 1
        _log.error("a journaled write of thread %s was refused (%s)", group.thread.hex(), status.name)

    async def _records(self, key: str, after: int) -> list[_Record]:
        found = await self._journal.read(key, after, READ_ROWS)
        return [_Record(number, *self._opened(record)) for number, record in found]

    # records

    def _packed(self, group: Group, *, whole: bool = False) -> bytes:
        who = [group.thread, group.label, group.tenant, group.owner, None, group.strict]
        rows = [list(map(list, rows)) for rows in (group.chunks.items(), group.steps, group.keeps, group.puts)]
        return self._codec.pack([FORMAT, whole, [who, *rows]])

    def _opened(self, record: bytes) -> tuple[Group | None, bool]:
        kind, whole, content = self._codec.unpack(record)
        if kind != FORMAT:
            raise EnvelopeError(f"a journaled write is of format {kind}, this library reads {FORMAT}; upgrade it")
        if content is None:
            return None, whole
        who, chunks, steps, keeps, puts = content
        rows = (
            {bytes(name): bytes(body) for name, body in chunks},
            [Step(*values) for values in steps],
            [Write(*values) for values in keeps],
            [Write(*values) for values in puts],
        )
        thread, label, tenant, owner, epoch, strict = who
        return Group(thread, label, tenant, owner, epoch, strict, *rows), whole

    def _key(self, thread: bytes) -> str:
        return self._prefix + thread.hex()

    # behind the callers' backs

    def _note(self) -> None:
        if self.stays:
            return
        if self._pid != os.getpid():
            self._reset()
        with self._ready:
            self._noted = True
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._work, name="llmops-settle", daemon=True)
                thread.start()
                self._thread = thread

    def _work(self) -> None:
        pause = SETTLE_AFTER_S
        while True:
            with self._ready:
                self._ready.wait(pause if self._noted else IDLE_S)
                if self._closed or not self._noted:
                    self._thread = None
                    return
                self._noted = False
            try:
                with readable():
                    drive(self.settle_all())
                pause = SETTLE_AFTER_S
            except LLMOpsError as error:  # the records stay, and are stored when the store is back
                if pause != RETRY_AFTER_S:
                    _log.warning("journaled writes wait for the warm tier, and are tried again: %s", error)
                pause = RETRY_AFTER_S
                self._noted = True

    def close(self) -> None:
        """Settle no more behind the callers' backs; what waits is stored by the next process that opens the store."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def open(self) -> None:
        """Settle again."""
        self._closed = False


def _merged(groups: Iterable[Group]) -> list[Group]:
    """One thread's groups in their order, as few as go together."""
    merged: list[Group] = []
    for group in groups:
        if merged and merged[-1].fits(group):
            merged[-1].join(group)
        else:
            merged.append(group.alone(fresh(), fresh()))
    return merged


def _parts(group: Group) -> list[Group]:
    """A group's steps and writes apart, each with all chunks."""
    who = (group.thread, group.label, group.tenant, group.owner, group.epoch, group.strict, group.chunks)
    parts = [Group(*who, steps=[step]) for step in group.steps]
    if group.keeps or group.puts:
        parts.append(Group(*who, keeps=group.keeps, puts=group.puts))
    return [part.alone(fresh(), fresh()) for part in parts]
