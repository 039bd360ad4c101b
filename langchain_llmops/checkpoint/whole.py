"""All rows of a thread, opened inside the transaction that holds it, and what each checkpoint needs of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.checkpoint.apply import PUT
from langchain_llmops.checkpoint.manifest import applied, full
from langchain_llmops.checkpoint.nodes import refs
from langchain_llmops.checkpoint.schema import Step, Write
from langchain_llmops.checkpoint.state import pending_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from collections.abc import Set as AbstractSet

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.manifest import Manifest
    from langchain_llmops.stores.base import Transaction

__all__ = ["TABLES", "Whole", "insert_rows", "put_writes"]

DELTA_COUNTERS: Final = "counters_since_delta_snapshot"
TABLES: Final = ("llmops_ck_step", "llmops_ck_write", "llmops_ck_chunk")
Key = tuple[bytes, bytes]


class Whole:
    """A thread's checkpoints by (namespace, id), their manifests and writes."""

    def __init__(self, codec: Codec, thread: bytes, steps: Iterable[Step], writes: Iterable[Write]) -> None:
        self.codec = codec
        self.thread = thread
        self.steps: dict[Key, Step] = {(step.ns, step.id): step for step in steps}
        self.writes = list(writes)
        self._manifests: dict[Key, Manifest] = {}

    @classmethod
    async def read(cls, codec: Codec, transaction: Transaction, thread: bytes) -> Whole:
        """From the rows as the transaction sees them."""
        steps = await transaction.fetch(
            f"SELECT {', '.join(Step._fields)} FROM llmops_ck_step WHERE thread = ?", (thread,)
        )
        writes = await transaction.fetch(
            f"SELECT {', '.join(Write._fields)} FROM llmops_ck_write WHERE thread = ?", (thread,)
        )
        return cls(codec, thread, [Step(*values) for values in steps], [Write(*values) for values in writes])

    def manifest(self, key: Key) -> Manifest:
        """Of one checkpoint."""
        chain = [key]
        while (step := self.steps[chain[-1]]).base == 0 and step.parent is not None:
            parent = (step.ns, step.parent)
            if parent in self._manifests or parent not in self.steps:
                break
            chain.append(parent)
        for one in reversed(chain):
            step = self.steps[one]
            body = self.codec.open_body(self.thread, step)
            below = self._manifests.get((step.ns, step.parent)) if step.base == 0 and step.parent else None
            self._manifests[one] = applied(self.codec.unpack(body), len(body), below)
        return self._manifests[key]

    def metadata(self, key: Key) -> dict[str, Any]:
        """Of one checkpoint."""
        found: dict[str, Any] = self._told(key)[1]
        return found

    def namespace(self, key: Key) -> str:
        """Of one checkpoint, as users call it."""
        return str(self._told(key)[0])

    def _told(self, key: Key) -> Any:
        return self.codec.told(self.thread, self.steps[key])

    def newest(self, many: int = 1) -> set[Key]:
        """The newest checkpoints of each namespace."""
        by_namespace: dict[bytes, list[Key]] = {}
        for key in sorted(self.steps, reverse=True):
            by_namespace.setdefault(key[0], []).append(key)
        return {key for keys in by_namespace.values() for key in keys[:many]}

    def needed(self, key: Key) -> set[Key]:
        """A checkpoint and the ancestors its delta channels are built from."""
        needed = {key}
        counters = self.metadata(key).get(DELTA_COUNTERS) or {}
        missing = {channel for channel in counters if channel not in self.manifest(key).values}
        current = self.steps[key]
        while missing and current.parent is not None:
            parent = (current.ns, current.parent)
            if parent not in self.steps or parent in needed:
                break
            needed.add(parent)
            missing -= self.manifest(parent).values.keys()
            current = self.steps[parent]
        return needed

    def in_full(self, key: Key) -> Step:
        """A checkpoint's step with a full manifest, for when those it is built on go."""
        step = self.steps[key]
        made = full(self.manifest(key), self.codec.pack)
        return step._replace(base=1, body=self.codec.seal_body(self.thread, step._replace(body=made.body)))

    def refs(self, kept: Iterable[Key], gone: set[Key]) -> set[bytes]:
        """The chunks that some checkpoints need, and pending writes of all but those that go."""
        needed = {name for key in kept for name in self.manifest(key).refs()}
        for write in self.writes:
            if (write.ns, write.id) not in gone:
                needed.update(refs(pending_of(self.codec, self.thread, write).node))
        return needed

    async def detach(self, transaction: Transaction, changing: AbstractSet[Key]) -> None:
        """Give full manifests to the checkpoints that are built on others that change, or go."""
        for key, step in self.steps.items():
            if step.base == 0 and key not in changing and (key[0], step.parent) in changing:
                await transaction.execute(
                    "UPDATE llmops_ck_step SET base = 1, body = ? WHERE thread = ? AND ns = ? AND id = ?",
                    (self.in_full(key).body, self.thread, step.ns, step.id),
                )

    async def make_way(self, transaction: Transaction, steps: Iterable[Key], writes: Iterable[Write]) -> None:
        """Delete checkpoints and writes that others take the place of; what is built on them stays as it is."""
        replaced = self.steps.keys() & set(steps)
        await self.detach(transaction, replaced)
        deletes = (
            ("step", "id = ?", [(self.thread, *key) for key in replaced]),
            ("write", "id = ? AND task = ? AND idx = ?", [(self.thread, *write[:4]) for write in writes]),
        )
        for table, condition, values in deletes:
            if values:
                await transaction.execute_many(
                    f"DELETE FROM llmops_ck_{table} WHERE thread = ? AND ns = ? AND {condition}", values
                )

    async def remove(self, transaction: Transaction, gone: set[Key]) -> None:
        """Delete checkpoints with their writes, and chunks that nothing needs any more; the others stay whole."""
        kept = self.steps.keys() - gone
        await self.detach(transaction, gone)
        needed = self.refs(kept, gone)
        rows = await transaction.fetch("SELECT name FROM llmops_ck_chunk WHERE thread = ?", (self.thread,))
        unused = [(self.thread, bytes(name)) for (name,) in rows if bytes(name) not in needed]
        ids = [(self.thread, ns, checkpoint_id) for ns, checkpoint_id in gone]
        deletes = (
            ("DELETE FROM llmops_ck_step WHERE thread = ? AND ns = ? AND id = ?", ids),
            ("DELETE FROM llmops_ck_write WHERE thread = ? AND ns = ? AND id = ?", ids),
            ("DELETE FROM llmops_ck_chunk WHERE thread = ? AND name = ?", unused),
        )
        for statement, values in deletes:
            if values:
                await transaction.execute_many(statement, values)
        await recount(transaction, self.thread)


async def insert_rows(
    transaction: Transaction,
    thread: bytes,
    steps: Sequence[Step],
    chunks: Sequence[tuple[bytes, bytes]],
    writes: Sequence[Write],
    *,
    into_empty: bool = False,
) -> None:
    """Put rows into a thread; those that are there already stay, as they are the same.

    `into_empty` says that there are none, which is faster.
    """
    rows = (
        ("llmops_ck_chunk", ("name", "body"), chunks),
        ("llmops_ck_step", Step._fields, steps),
        ("llmops_ck_write", Write._fields, writes),
    )
    for table, fields, items in rows:
        if items and into_empty:
            await transaction.insert_rows(table, ("thread", *fields), [(thread, *item) for item in items])
        elif items:
            marks = ", ".join("?" for _ in ("thread", *fields))
            await transaction.execute_many(
                f"INSERT INTO {table} (thread, {', '.join(fields)}) VALUES ({marks}) ON CONFLICT DO NOTHING",
                [(thread, *item) for item in items],
            )
    await recount(transaction, thread)


async def put_writes(transaction: Transaction, thread: bytes, writes: Sequence[Write]) -> None:
    """Put writes into a thread, in place of those that are there."""
    if writes:
        await transaction.execute_many(PUT, [(thread, *write) for write in writes])
        await recount(transaction, thread)


async def recount(transaction: Transaction, thread: bytes) -> None:
    """Say in the thread's row how many bytes its rows hold."""
    sums = (
        "(SELECT COALESCE(SUM(LENGTH(metadata) + LENGTH(body)), 0) FROM llmops_ck_step WHERE thread = ?)",
        "(SELECT COALESCE(SUM(LENGTH(body)), 0) FROM llmops_ck_chunk WHERE thread = ?)",
        "(SELECT COALESCE(SUM(LENGTH(body)), 0) FROM llmops_ck_write WHERE thread = ?)",
    )
    await transaction.execute(
        f"UPDATE llmops_ck_thread SET stored_bytes = {' + '.join(sums)} WHERE thread = ?", (thread,) * 4
    )


async def clear_rows(transaction: Transaction, thread: bytes) -> None:
    """Delete everything of a thread but its own row."""
    for table in (*TABLES, "llmops_ck_cold_run"):
        await transaction.execute(f"DELETE FROM {table} WHERE thread = ?", (thread,))
