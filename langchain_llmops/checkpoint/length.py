"""How long a conversation may become: what is longer is refused, or loses its oldest messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.errors import ConversationTooLong

if TYPE_CHECKING:
    from langgraph.checkpoint.base import Checkpoint

__all__ = ["admitted", "trimmed"]

CHANNEL: Final = "messages"


def admitted(checkpoint: Checkpoint, max_length: int | None, *, trims: bool) -> Checkpoint:
    """The checkpoint as it may be stored; raises `ConversationTooLong` where it is not trimmed."""
    messages: Any = checkpoint["channel_values"].get(CHANNEL)
    if max_length is None or not isinstance(messages, list) or len(messages) <= max_length:
        return checkpoint
    if not trims:
        raise ConversationTooLong(
            f"a conversation of {len(messages)} messages is longer than {max_length} (max_length);"
            " begin a new session, or set on_max_length='trim'"
        )
    values = {**checkpoint["channel_values"], CHANNEL: trimmed(messages, max_length)}
    return {**checkpoint, "channel_values": values}


def trimmed(messages: list[Any], max_length: int) -> list[Any]:
    """The instructions in front and the newest messages; no answer of a tool is left without the call it answers."""
    instructions = 0
    while instructions < len(messages) and _kind(messages[instructions]) == "system":
        instructions += 1
    front = messages[: min(instructions, max_length - 1)]
    rest = messages[max(instructions, len(messages) - (max_length - len(front))) :]
    start = next((at for at, message in enumerate(rest) if _kind(message) != "tool"), len(rest))
    return [*front, *rest[start:]]


def _kind(message: Any) -> Any:
    return message.get("type", message.get("role")) if isinstance(message, dict) else getattr(message, "type", None)
