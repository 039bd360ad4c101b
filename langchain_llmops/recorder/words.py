"""What people said in a run's inputs and outputs, in whatever shape LangChain sent it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

__all__ = ["Line", "last_words", "lines_of"]

Line = tuple[str, str]

WRAPPERS: Final = (
    "messages", "generations", "output", "input", "question", "answer", "text", "update", "request", "result",
)  # fmt: skip
ROLES: Final = {"human": "user", "ai": "assistant", "AIMessageChunk": "assistant", "HumanMessageChunk": "user"}
CALLS: Final = ("tool_use", "tool_call", "function_call")
MOST_NESTED: Final = 6


def lines_of(value: Any) -> list[Line]:
    """`(role, words)` of every message in it; empty where none is recognised."""
    return list(_lines(value, 0))


def last_words(value: Any, *, spoken_by_user: bool) -> str | None:
    """The last thing the user said, or the last thing that anybody else did."""
    lines = [words for role, words in lines_of(value) if (role == "user") is spoken_by_user or not role]
    return lines[-1] if lines else None


def _lines(value: Any, depth: int) -> Iterator[Line]:
    match value:
        case _ if depth > MOST_NESTED:
            return
        case str():
            yield "", value
        case [str(role), str(words)]:
            yield ROLES.get(role, role), words
        case list():
            for item in value:
                if not isinstance(item, str):
                    yield from _lines(item, depth + 1)
        case Mapping():
            yield from _of_mapping(value, depth)


def _of_mapping(value: Mapping[str, Any], depth: int) -> Iterator[Line]:
    message = value["kwargs"] if isinstance(value.get("kwargs"), Mapping) else value
    role = message.get("type") or message.get("role")
    if "content" in message and isinstance(role, str):
        yield ROLES.get(role) or role, _content(message)
    elif isinstance(value.get("message"), Mapping):
        yield from _lines(value["message"], depth + 1)
    elif (wrapper := next((name for name in WRAPPERS if name in value), None)) is not None:
        yield from _lines(value[wrapper], depth + 1)


def _content(message: Mapping[str, Any]) -> str:
    """Text, and a line for each tool it asks for."""
    content = message["content"]
    texts = [_block(block) for block in (content if isinstance(content, list) else [content])]
    calls = [call for call in message.get("tool_calls") or [] if isinstance(call, Mapping)]
    asked = [f"→ {call.get('name')}({json.dumps(call.get('args'), ensure_ascii=False)})" for call in calls]
    return "\n".join([said for said in texts if said] + asked)


def _block(block: Any) -> str:
    match block:
        case str(words) | {"text": str(words)}:
            return words
        case None:
            return ""
        case {"type": str(kind)} if kind in CALLS:
            return ""
    return json.dumps(block, ensure_ascii=False)
