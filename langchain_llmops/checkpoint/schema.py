"""The warm tier's tables and their rows, and what a write asks of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "COLD",
    "MIXED",
    "STEPS",
    "USER_KEYS",
    "WARM",
    "Applied",
    "Counted",
    "Group",
    "Status",
    "Step",
    "Thread",
    "Write",
]

WARM: Final = "warm"
MIXED: Final = "mixed"  # the newest checkpoints are warm, their history is cold
COLD: Final = "cold"


class Thread(NamedTuple):
    """A thread's row.

    `stamp` is a fresh random number after every write, `epoch` after every one that removes, moves or replaces rows.
    """

    stamp: int
    epoch: int
    owner: bytes | None
    tier: str
    label: bytes


class Step(NamedTuple):
    """A checkpoint; `metadata` and `body` (its manifest) are sealed, `base` is 1 when the manifest is a full one."""

    ns: bytes
    id: bytes
    parent: bytes | None
    run: bytes | None
    base: int
    metadata: bytes
    body: bytes


class Write(NamedTuple):
    """A task's pending write; `body` is sealed."""

    ns: bytes
    id: bytes
    task: bytes
    idx: int
    body: bytes


class Counted(NamedTuple):
    """How much was read, and is whole."""

    checkpoints: int
    writes: int
    chunks: int


class Status(IntEnum):
    """What became of a group of writes; only of `DONE` anything was stored."""

    DONE = 0
    STALE = 1  # rows it counted on were removed or replaced meanwhile
    COLD = 2  # the thread must be restored first
    OWNER = 3  # the thread belongs to another user
    CONFLICT = 4  # strict fencing, and another writer's checkpoint is the head
    REPLACES = 5  # a checkpoint of this id exists, differs, and newer ones may be built on it
    ERASED = 6  # the user is being erased
    ENDED = 7  # the conversation was left alone for longer than its timeout


@dataclass(slots=True)
class Group:
    """Writes of one thread and user that are stored together or not at all.

    Args:
        epoch: the one that its deltas and the chunks it does not carry count on; None when it counts on nothing.
        strict: whether each step must follow the head of its namespace.
        keeps: of its writes, those that leave a stored one as it is; `puts` replace it.
        stamp, fresh_epoch: what the thread's row gets, given when it is stored.
    """

    thread: bytes
    label: bytes
    tenant: bytes
    owner: bytes | None
    epoch: int | None
    strict: bool = False
    chunks: dict[bytes, bytes] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    keeps: list[Write] = field(default_factory=list)
    puts: list[Write] = field(default_factory=list)
    stamp: int = 0
    fresh_epoch: int = 0

    def alone(self, stamp: int, fresh_epoch: int) -> Group:
        """The same, which others may join."""
        parts = (dict(self.chunks), list(self.steps), list(self.keeps), _last(self.puts))
        who = (self.thread, self.label, self.tenant, self.owner, self.epoch, self.strict)
        return Group(*who, *parts, stamp, fresh_epoch)

    def fits(self, other: Group) -> bool:
        """Whether another of this thread may be stored with it."""
        if self.strict != other.strict:
            return False
        taken = {step.ns if self.strict else (step.ns, step.id) for step in self.steps}
        if any((step.ns if self.strict else (step.ns, step.id)) in taken for step in other.steps):
            return False  # of two steps at one head, strict fencing lets one go on
        agree = None in (self.epoch, other.epoch) or self.epoch == other.epoch
        return agree and (None in (self.owner, other.owner) or self.owner == other.owner)

    def join(self, other: Group) -> None:
        """Take in another that fits."""
        self.epoch = other.epoch if self.epoch is None else self.epoch
        self.owner = other.owner if self.owner is None else self.owner
        self.chunks.update(other.chunks)
        self.steps.extend(other.steps)
        self.keeps.extend(other.keeps)
        self.puts = _last([*self.puts, *other.puts]) if other.puts else self.puts


def _last(writes: Sequence[Write]) -> list[Write]:
    """Of writes at one place, which one call may name twice, the last."""
    return list({write[:4]: write for write in writes}.values())


class Applied(NamedTuple):
    """A group's outcome: the thread's stamp before it (0: there was no thread), and its epoch and bytes after it.

    `early` are the (namespace, checkpoint id) of its steps that had pending writes already.
    """

    status: Status
    prior: int
    epoch: int
    size: int = 0
    early: frozenset[tuple[bytes, bytes]] = frozenset()


# also alone, in a database of its own
USER_KEYS: Final = """
    CREATE TABLE llmops_ck_user_key (
        owner {BLOB} NOT NULL PRIMARY KEY, id TEXT NOT NULL UNIQUE, body {BLOB} NOT NULL
    )
    """
# `updated_at` is indexed, and written only when it is TOUCHED_S old: PostgreSQL then need not touch the indexes.
# All names of users are digests or sealed; ids are UTF-8 bytes, which sort as Python's strings and may hold NUL.
STEPS: Final = (
    """
    CREATE TABLE llmops_ck_thread (
        thread {BLOB} NOT NULL PRIMARY KEY, label {BLOB} NOT NULL, tenant {BLOB} NOT NULL, owner {BLOB},
        tier TEXT NOT NULL, stamp BIGINT NOT NULL, prior BIGINT NOT NULL, epoch BIGINT NOT NULL,
        created_at {REAL} NOT NULL, updated_at {REAL} NOT NULL, pinned_until {REAL}, stored_bytes BIGINT NOT NULL,
        is_ended INTEGER NOT NULL DEFAULT 0,
        restored_at {REAL}, head_bytes BIGINT, rest_bytes BIGINT, cold_steps BIGINT, cold_head {BLOB}
    ){ROOM};
    CREATE INDEX llmops_ck_thread_idle ON llmops_ck_thread (tenant, updated_at);
    CREATE INDEX llmops_ck_thread_cold ON llmops_ck_thread (tenant, cold_head) WHERE cold_head IS NOT NULL;
    CREATE INDEX llmops_ck_thread_owner ON llmops_ck_thread (owner) WHERE owner IS NOT NULL;
    CREATE TABLE llmops_ck_step (
        thread {BLOB} NOT NULL, ns {BLOB} NOT NULL, id {BLOB} NOT NULL, parent {BLOB}, run {BLOB},
        base SMALLINT NOT NULL, metadata {BLOB} NOT NULL, body {BLOB} NOT NULL, PRIMARY KEY (thread, ns, id)
    ){CLUSTERED};
    CREATE INDEX llmops_ck_step_newest ON llmops_ck_step (id);
    CREATE INDEX llmops_ck_step_run ON llmops_ck_step (run) WHERE run IS NOT NULL;
    CREATE TABLE llmops_ck_chunk (
        thread {BLOB} NOT NULL, name {BLOB} NOT NULL, body {BLOB} NOT NULL, PRIMARY KEY (thread, name)
    ){CLUSTERED};
    CREATE TABLE llmops_ck_write (
        thread {BLOB} NOT NULL, ns {BLOB} NOT NULL, id {BLOB} NOT NULL, task {BLOB} NOT NULL, idx INTEGER NOT NULL,
        body {BLOB} NOT NULL, PRIMARY KEY (thread, ns, id, task, idx)
    ){CLUSTERED};
    CREATE TABLE llmops_ck_cold_run (run {BLOB} NOT NULL, thread {BLOB} NOT NULL, PRIMARY KEY (run, thread));
    CREATE TABLE llmops_ck_object (
        path TEXT NOT NULL PRIMARY KEY, thread {BLOB} NOT NULL, state TEXT NOT NULL, bytes BIGINT NOT NULL,
        attempt BIGINT NOT NULL, stamp BIGINT NOT NULL, since {REAL} NOT NULL, until {REAL} NOT NULL,
        errors INTEGER NOT NULL
    );
    CREATE INDEX llmops_ck_object_thread ON llmops_ck_object (thread);
    CREATE INDEX llmops_ck_object_state ON llmops_ck_object (state, since);
    CREATE INDEX llmops_ck_object_attempt ON llmops_ck_object (attempt);
    CREATE TABLE llmops_ck_erasure (
        owner {BLOB} NOT NULL PRIMARY KEY, tenant {BLOB} NOT NULL, asked_at {REAL} NOT NULL, until {REAL} NOT NULL,
        state TEXT NOT NULL, receipt {BLOB} NOT NULL
    );
    CREATE TABLE llmops_ck_erased (
        owner {BLOB} NOT NULL, thread {BLOB} NOT NULL, state TEXT NOT NULL, body {BLOB} NOT NULL,
        PRIMARY KEY (owner, thread)
    ){CLUSTERED};
    CREATE INDEX llmops_ck_erased_thread ON llmops_ck_erased (thread);
    """
    + USER_KEYS,
)
