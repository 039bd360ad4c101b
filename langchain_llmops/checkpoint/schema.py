"""The warm tier's tables, and their rows."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

__all__ = ["COLD", "STEPS", "WARM", "Blob", "Place", "Row", "Snapshot", "Thread", "ThreadRows", "Write"]

WARM: Final = "warm"
COLD: Final = "cold"


class Place(NamedTuple):
    """Where the checkpoints of one thread and namespace live; `thread` is the digest of the thread id."""

    thread_id: str
    thread: bytes
    ns: bytes


class Thread(NamedTuple):
    """A thread's row.

    `stamp` is a fresh random number after every write, `epoch` after every write that removes or moves rows.
    """

    thread_id: bytes
    owner: bytes | None
    tier: str
    stamp: int
    epoch: int
    object: str | None


class Row(NamedTuple):
    """A checkpoint without its channel values; `metadata` and `body` are sealed, `run` is a digest."""

    ns: bytes
    id: bytes
    parent: bytes | None
    run: bytes | None
    metadata: bytes
    body: bytes


class Blob(NamedTuple):
    """One version of one channel's value; `key` is their digest, `body` is sealed."""

    ns: bytes
    key: bytes
    body: bytes


class Write(NamedTuple):
    """A task's pending write; `body` is sealed."""

    ns: bytes
    id: bytes
    task_id: bytes
    idx: int
    task_path: bytes
    channel: bytes
    body: bytes


class ThreadRows(NamedTuple):
    """Everything of a thread."""

    rows: list[Row]
    blobs: list[Blob]
    writes: list[Write]


class Snapshot(NamedTuple):
    """One checkpoint: its body opened, everything else as stored; `sends` are the parent's, for formats before 4."""

    place: Place
    row: Row
    checkpoint: dict[str, Any]
    blobs: dict[bytes, bytes]
    writes: list[Write]
    sends: list[Write]


# Text of users is stored as UTF-8 bytes: PostgreSQL's TEXT refuses NUL, and bytes sort like Python's strings.
STEPS: Final = (
    """
    CREATE TABLE llmops_thread (
        thread {BLOB} NOT NULL PRIMARY KEY, thread_id {BLOB} NOT NULL, owner {BLOB}, tier TEXT NOT NULL,
        stamp BIGINT NOT NULL, epoch BIGINT NOT NULL, updated_at {REAL} NOT NULL,
        object TEXT, object_bytes BIGINT, checkpoints BIGINT, head {BLOB}
    );
    CREATE INDEX llmops_thread_idle ON llmops_thread (tier, updated_at);
    CREATE TABLE llmops_checkpoint (
        thread {BLOB} NOT NULL, ns {BLOB} NOT NULL, id {BLOB} NOT NULL, parent {BLOB}, run {BLOB},
        metadata {BLOB} NOT NULL, body {BLOB} NOT NULL, PRIMARY KEY (thread, ns, id)
    );
    CREATE INDEX llmops_checkpoint_newest ON llmops_checkpoint (id);
    CREATE INDEX llmops_checkpoint_run ON llmops_checkpoint (run) WHERE run IS NOT NULL;
    CREATE TABLE llmops_blob (
        thread {BLOB} NOT NULL, ns {BLOB} NOT NULL, key {BLOB} NOT NULL, body {BLOB} NOT NULL,
        PRIMARY KEY (thread, ns, key)
    );
    CREATE TABLE llmops_write (
        thread {BLOB} NOT NULL, ns {BLOB} NOT NULL, id {BLOB} NOT NULL, task_id {BLOB} NOT NULL, idx INTEGER NOT NULL,
        task_path {BLOB} NOT NULL, channel {BLOB} NOT NULL, body {BLOB} NOT NULL,
        PRIMARY KEY (thread, ns, id, task_id, idx)
    );
    CREATE TABLE llmops_cold_run (run {BLOB} NOT NULL, thread {BLOB} NOT NULL, PRIMARY KEY (run, thread))
    """,
)
