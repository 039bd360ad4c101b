"""Why a write was not stored, in words that say what to do."""

from __future__ import annotations

from langchain_llmops.checkpoint.names import shown
from langchain_llmops.checkpoint.schema import Status
from langchain_llmops.core.errors import CheckpointConflict, ConversationEnded, ThreadOwnerMismatch, UserErased

__all__ = ["refuse"]


def refuse(thread_id: str, status: Status, timeout_s: float | None) -> None:
    """Raise the error of an outcome that no other try would change."""
    thread = shown(thread_id)
    if status is Status.OWNER:
        raise ThreadOwnerMismatch(f"session {thread} belongs to another user; use a session id of this user's own")
    if status is Status.CONFLICT:
        raise CheckpointConflict(
            f"another writer has continued thread {thread}; read it again and continue from its newest checkpoint"
        )
    if status is Status.ENDED:
        raise ConversationEnded(
            f"session {thread} was left alone for longer than {timeout_s or 0:g} s and has ended; use a new session id"
        )
    if status is Status.ERASED:
        raise UserErased(
            f"the user of session {thread} is erased; nothing is stored for them until erase_grace_s after that"
        )
