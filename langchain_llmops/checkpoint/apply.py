"""Storing a batch of groups in one transaction: one statement in PostgreSQL, a few for each group in SQLite."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING, Final, NamedTuple

from langchain_llmops.checkpoint.schema import COLD, Applied, Status, Step, Write
from langchain_llmops.stores.base import Array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_llmops.checkpoint.schema import Group
    from langchain_llmops.stores.base import Sql, Transaction

__all__ = ["ERASED", "apply_batch", "prepare"]

TOUCHED_S: Final = 15.0  # an indexed time is not written at every write
LOCK: Final = 0x6C6C6D6F70636B
_SOURCE: Final = files("langchain_llmops.checkpoint").joinpath("apply.sql").read_text("utf-8")
FUNCTION: Final = "llmops_ck_apply_" + hashlib.blake2b(_SOURCE.encode(), digest_size=4).hexdigest()
CALL: Final = (
    f"SELECT statuses, priors, epochs, sizes, early FROM {FUNCTION}"
    "(?::float8, ?::float8, ?::float8, ?::bigint[], ?::bytea[])"
)

TOUCH: Final = """
    INSERT INTO llmops_ck_thread AS t (
        thread, label, tenant, owner, tier, stamp, prior, epoch, created_at, updated_at, stored_bytes)
    VALUES (?, ?, ?, ?, 'warm', ?, 0, ?, ?, ?, ?)
    ON CONFLICT (thread) DO UPDATE SET
        prior = t.stamp, stamp = excluded.stamp, owner = COALESCE(t.owner, excluded.owner),
        is_ended = CASE WHEN t.updated_at < ? THEN 1 ELSE t.is_ended END,
        updated_at = CASE WHEN t.updated_at < ? THEN excluded.updated_at ELSE t.updated_at END,
        stored_bytes = t.stored_bytes + excluded.stored_bytes
    RETURNING owner, tier, prior, epoch, is_ended, stored_bytes
"""
ERASED: Final = "SELECT 1 FROM llmops_ck_erasure WHERE owner = ? AND until > ?"
# a run that names no user must not bring an erased user's thread back
ERASED_THREAD: Final = """
    SELECT 1 FROM llmops_ck_erased d JOIN llmops_ck_erasure e ON e.owner = d.owner
    WHERE d.thread = ? AND e.until > ? AND NOT EXISTS (SELECT 1 FROM llmops_ck_thread t WHERE t.thread = d.thread)
"""
HEAD: Final = "SELECT id FROM llmops_ck_step WHERE thread = ? AND ns = ? ORDER BY id DESC LIMIT 1"
STORED: Final = "SELECT parent, metadata, body FROM llmops_ck_step WHERE thread = ? AND ns = ? AND id = ?"
EARLY: Final = "SELECT 1 FROM llmops_ck_write WHERE thread = ? AND ns = ? AND id = ? LIMIT 1"
CHUNK: Final = "INSERT INTO llmops_ck_chunk (thread, name, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
STEP: Final = f"""
    INSERT INTO llmops_ck_step (thread, {", ".join(Step._fields)}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (thread, ns, id) DO UPDATE SET
        parent = excluded.parent, run = excluded.run, base = excluded.base,
        metadata = excluded.metadata, body = excluded.body
"""
KEEP: Final = f"""
    INSERT INTO llmops_ck_write (thread, {", ".join(Write._fields)}) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING
"""
PUT: Final = KEEP.replace("DO NOTHING", "(thread, ns, id, task, idx) DO UPDATE SET body = excluded.body")


class Times(NamedTuple):
    """Unix seconds: now, the last writes of conversations that have ended, and those old enough to be written anew."""

    moment: float
    ended_before: float
    touched_before: float

    @classmethod
    def at(cls, moment: float, timeout_s: float | None) -> Times:
        """For a conversation timeout, if there is one."""
        if timeout_s is None:
            return cls(moment, 0.0, moment - TOUCHED_S)
        return cls(moment, moment - timeout_s, moment - min(TOUCHED_S, timeout_s / 4))


async def prepare(sql: Sql) -> None:
    """Make what `apply_batch` needs beside the tables."""
    if sql.dialect == "sqlite" or await _is_there(sql):
        return
    async with sql.transaction() as transaction:
        await transaction.fetch("SELECT pg_advisory_xact_lock(?)", (LOCK,))
        if not await _is_there(transaction):
            await transaction.execute(_SOURCE.replace("{name}", FUNCTION))


async def apply_batch(sql: Sql, groups: Sequence[Group], times: Times) -> list[Applied]:
    """Store groups of different threads, each whole or not at all; safe to do again when its outcome is unknown."""
    if sql.dialect == "postgresql":
        return await _call(sql, groups, times)
    async with sql.transaction() as transaction:
        return [await _apply(transaction, group, times) for group in groups]


def size_of(group: Group) -> int:
    """Bytes that a group brings, without what rows cost."""
    rows = sum(len(step.body) + len(step.metadata) for step in group.steps)
    writes = sum(len(write.body) for write in (*group.keeps, *group.puts))
    return rows + writes + sum(map(len, group.chunks.values()))


async def _is_there(source: Transaction) -> bool:
    return (await source.fetch("SELECT to_regproc(?::text) IS NOT NULL", (FUNCTION,)))[0][0] is True


# PostgreSQL


async def _call(sql: Sql, groups: Sequence[Group], times: Times) -> list[Applied]:
    numbered = list(enumerate(groups, 1))
    chunks = [(at, name, body) for at, g in numbered for name, body in g.chunks.items()]
    steps = [(at, g, step) for at, g in numbered for step in g.steps]
    writes = [(at, 1, one) for at, g in numbered for one in g.keeps] + [
        (at, 0, one) for at, g in numbered for one in g.puts
    ]
    numbers: list[int | None] = [len(groups), len(chunks), len(steps), len(writes)]
    numbers += [*(g.epoch for g in groups), *(g.stamp for g in groups), *(g.fresh_epoch for g in groups)]
    numbers += [*map(size_of, groups), *(at for at, _, _ in chunks)]
    numbers += [*(at for at, _, _ in steps), *(s.base for _, _, s in steps), *(int(g.strict) for _, g, _ in steps)]
    numbers += [*(at for at, _, _ in writes), *(w.idx for _, _, w in writes), *(keep for _, keep, _ in writes)]
    texts: list[bytes | None] = [*(g.thread for g in groups), *(g.label for g in groups), *(g.tenant for g in groups)]
    texts += [*(g.owner for g in groups), *(name for _, name, _ in chunks), *(body for _, _, body in chunks)]
    texts += [*(s.ns for _, _, s in steps), *(s.id for _, _, s in steps), *(s.parent for _, _, s in steps)]
    texts += [*(s.run for _, _, s in steps), *(s.metadata for _, _, s in steps), *(s.body for _, _, s in steps)]
    texts += [*(w.ns for _, _, w in writes), *(w.id for _, _, w in writes)]
    texts += [*(w.task for _, _, w in writes), *(w.body for _, _, w in writes)]
    statuses, priors, epochs, sizes, early = (
        await sql.fetch(CALL, (*times, Array("bigint", numbers), Array("bytea", texts)))
    )[0]
    seen: dict[int, set[tuple[bytes, bytes]]] = {}
    for number in early or ():
        at, _, step = steps[number - 1]
        seen.setdefault(at, set()).add((step.ns, step.id))
    outcomes = enumerate(zip(statuses, priors, epochs, sizes, strict=True), 1)
    return [
        Applied(Status(status), prior, epoch, size, frozenset(seen.get(at, ())))
        for at, (status, prior, epoch, size) in outcomes
    ]


# SQLite


async def _apply(transaction: Transaction, group: Group, times: Times) -> Applied:
    moment, *limits = times
    tombstone = (ERASED_THREAD, group.thread) if group.owner is None else (ERASED, group.owner)
    if await transaction.fetch(tombstone[0], (tombstone[1], moment)):
        return Applied(Status.ERASED, 0, 0)
    row = (group.thread, group.label, group.tenant, group.owner, group.stamp, group.fresh_epoch, moment, moment)
    owner, tier, prior, epoch, is_ended, size = (await transaction.fetch(TOUCH, (*row, size_of(group), *limits)))[0]
    status = Status.ENDED if is_ended and not _is_foreign(group, owner) else _admission(group, owner, tier, epoch)
    if status is Status.DONE and owner is not None and await transaction.fetch(ERASED, (owner, moment)):
        status = Status.ERASED
    replaces = False
    for step in group.steps:
        if status is Status.DONE:
            status, differs = await _step_admission(transaction, group, step)
            replaces = replaces or differs
    if status is not Status.DONE:
        return Applied(status, prior, epoch)
    if replaces:
        epoch = group.fresh_epoch
        await transaction.execute("UPDATE llmops_ck_thread SET epoch = ? WHERE thread = ?", (epoch, group.thread))
    return Applied(status, prior, epoch, size, await _store(transaction, group))


def _admission(group: Group, owner: bytes | None, tier: str, epoch: int) -> Status:
    if _is_foreign(group, owner):
        return Status.OWNER
    if tier == COLD:
        return Status.COLD
    return Status.STALE if group.epoch is not None and group.epoch != epoch else Status.DONE


def _is_foreign(group: Group, owner: bytes | None) -> bool:
    return owner is not None and group.owner is not None and bytes(owner) != group.owner


async def _step_admission(transaction: Transaction, group: Group, step: Step) -> tuple[Status, bool]:
    """Whether a step may be stored, and whether it differs from one that is there."""
    heads = await transaction.fetch(HEAD, (group.thread, step.ns))
    if not heads:
        return Status.DONE, False
    head = bytes(heads[0][0])
    stored = await transaction.fetch(STORED, (group.thread, step.ns, step.id)) if head >= step.id else []
    differs = bool(stored) and stored[0] != (step.parent, step.metadata, step.body)
    if head > step.id and stored:  # put again, when its answer was lost: that overtakes nobody
        return (Status.REPLACES if differs else Status.DONE), differs
    if group.strict and head not in (step.id, step.parent):
        return Status.CONFLICT, differs
    return Status.DONE, differs


async def _store(transaction: Transaction, group: Group) -> frozenset[tuple[bytes, bytes]]:
    thread = group.thread
    early = frozenset([(s.ns, s.id) for s in group.steps if await transaction.fetch(EARLY, (thread, s.ns, s.id))])
    rows = (
        (CHUNK, list(group.chunks.items())),
        (STEP, group.steps),
        (KEEP, group.keeps),
        (PUT, group.puts),
    )
    for statement, items in rows:
        if items:
            await transaction.execute_many(statement, [(thread, *item) for item in items])
    return early
