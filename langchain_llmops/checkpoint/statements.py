"""The warm tier's statements, the same in SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Final

__all__ = [
    "ADD_WRITE",
    "COPY_ROW",
    "FIND",
    "FIND_NEWEST",
    "FIND_ONE",
    "GO_COLD",
    "GO_WARM",
    "LOCK",
    "PUT_BLOB",
    "PUT_ROW",
    "PUT_WRITE",
    "ROW",
    "TABLES",
    "THREAD",
    "TOUCH",
]

TABLES: Final = ("llmops_checkpoint", "llmops_blob", "llmops_write", "llmops_cold_run")
THREAD: Final = "t.thread_id, t.owner, t.tier, t.stamp, t.epoch, t.object"
ROW: Final = "c.ns, c.id, c.parent, c.run, c.metadata, c.body"

TOUCH: Final = """
    INSERT INTO llmops_thread (thread, thread_id, owner, tier, stamp, epoch, updated_at)
    VALUES (?, ?, ?, 'warm', ?, ?, ?)
    ON CONFLICT (thread) DO UPDATE SET stamp = excluded.stamp, updated_at = excluded.updated_at,
        owner = COALESCE(llmops_thread.owner, excluded.owner)
    RETURNING owner, tier, epoch
"""
PUT_ROW: Final = """
    INSERT INTO llmops_checkpoint (thread, ns, id, parent, run, metadata, body) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (thread, ns, id) DO UPDATE SET
        parent = excluded.parent, run = excluded.run, metadata = excluded.metadata, body = excluded.body
    RETURNING
        EXISTS (SELECT 1 FROM llmops_write w WHERE w.thread = llmops_checkpoint.thread
            AND w.ns = llmops_checkpoint.ns AND w.id = llmops_checkpoint.id),
        EXISTS (SELECT 1 FROM llmops_checkpoint c WHERE c.thread = llmops_checkpoint.thread
            AND c.ns = llmops_checkpoint.ns AND c.id > llmops_checkpoint.id)
"""
COPY_ROW: Final = PUT_ROW.split("RETURNING", maxsplit=1)[0]
PUT_BLOB: Final = """
    INSERT INTO llmops_blob (thread, ns, key, body) VALUES (?, ?, ?, ?)
    ON CONFLICT (thread, ns, key) DO UPDATE SET body = excluded.body
"""
ADD_WRITE: Final = """
    INSERT INTO llmops_write (thread, ns, id, task_id, idx, task_path, channel, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (thread, ns, id, task_id, idx) DO NOTHING
"""
PUT_WRITE: Final = ADD_WRITE.replace(
    "NOTHING", "UPDATE SET task_path = excluded.task_path, channel = excluded.channel, body = excluded.body"
)
FIND: Final = f"SELECT {THREAD}, {ROW} FROM llmops_thread t LEFT JOIN llmops_checkpoint c ON c.thread = t.thread"
FIND_NEWEST: Final = f"""{FIND} AND c.ns = ? AND c.id = (
    SELECT n.id FROM llmops_checkpoint n WHERE n.thread = ? AND n.ns = ? ORDER BY n.id DESC LIMIT 1
) WHERE t.thread = ?"""
FIND_ONE: Final = f"{FIND} AND c.ns = ? AND c.id = ? WHERE t.thread = ?"
LOCK: Final = """
    UPDATE llmops_thread SET stamp = ?, epoch = CASE WHEN ? = 1 THEN ? ELSE epoch END
    WHERE thread = ? RETURNING thread_id, owner, tier, stamp, epoch, object
"""
GO_COLD: Final = """
    UPDATE llmops_thread SET tier = 'cold', object = ?, object_bytes = ?, checkpoints = ?, head = ?,
        stamp = ?, epoch = ?
    WHERE thread = ? AND stamp = ? AND tier = 'warm'
"""
GO_WARM: Final = """
    UPDATE llmops_thread SET tier = 'warm', object = NULL, object_bytes = NULL, checkpoints = NULL, head = NULL,
        stamp = ?, epoch = ?
    WHERE thread = ? AND object = ? AND tier = 'cold'
"""
