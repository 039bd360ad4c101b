"""The statements by which a thread changes its tier, each for a thread that is still as it was found."""

from __future__ import annotations

from typing import Final

from langchain_llmops.checkpoint.schema import COLD, MIXED, WARM, Step, Thread, Write

__all__ = ["NEXT_IDLE", "READ", "TO_COLD", "TO_MIXED", "TO_WARM"]

NEXT_IDLE: Final = """
    SELECT t.thread, t.label, t.updated_at FROM llmops_ck_thread t
    WHERE t.tenant = ? AND t.updated_at < ? AND t.tier <> 'cold' AND (t.updated_at, t.thread) > (?, ?)
        AND (t.restored_at IS NULL OR t.restored_at < ?) AND (t.pinned_until IS NULL OR t.pinned_until <= ?)
        AND NOT EXISTS (SELECT 1 FROM llmops_ck_object o WHERE o.thread = t.thread AND o.state IN ('copying', 'copied'))
    ORDER BY t.updated_at, t.thread LIMIT ?
"""
TO_COLD: Final = f"""
    UPDATE llmops_ck_thread SET prior = stamp, stamp = ?, epoch = ?, tier = '{COLD}', stored_bytes = 0,
        head_bytes = COALESCE(?, head_bytes), rest_bytes = COALESCE(?, rest_bytes),
        cold_steps = COALESCE(?,
            cold_steps + (SELECT COUNT(*) FROM llmops_ck_step s WHERE s.thread = llmops_ck_thread.thread)),
        cold_head = COALESCE(?, cold_head)
    WHERE thread = ? AND stamp = ? AND tier <> '{COLD}' AND (pinned_until IS NULL OR pinned_until <= ?)
    RETURNING stamp
"""
TO_MIXED: Final = f"""
    UPDATE llmops_ck_thread SET prior = stamp, stamp = ?, tier = '{MIXED}', restored_at = ?, cold_steps = cold_steps - ?
    WHERE thread = ? AND tier = '{COLD}' RETURNING {", ".join(Thread._fields)}
"""
TO_WARM: Final = f"""
    UPDATE llmops_ck_thread SET prior = stamp, stamp = ?, tier = '{WARM}', restored_at = ?,
        head_bytes = NULL, rest_bytes = NULL, cold_steps = NULL, cold_head = NULL
    WHERE thread = ? AND tier = ? RETURNING {", ".join(Thread._fields)}
"""
READ: Final = (
    f"SELECT {', '.join(Step._fields)} FROM llmops_ck_step WHERE thread = ?",
    "SELECT name, body FROM llmops_ck_chunk WHERE thread = ?",
    f"SELECT {', '.join(Write._fields)} FROM llmops_ck_write WHERE thread = ?",
)
