"""Messages in the form of a key: what the provider sees of them, and no ids but for which belong together."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["CALL_IDS", "CALL_NAMES", "holds_unknown", "messages_in", "written"]

CHUNK: Final = "AIMessageChunk"  # what a stream adds up to, once it is part of the history
# in text that a user wrote the quotes are escaped
UNKNOWN: Final = '"type": "not_implemented"'
# fields of content blocks that name a tool call, and the blocks whose own id does
CALL_IDS: Final = frozenset({"call_id", "tool_call_id", "tool_use_id"})
CALLS: Final = frozenset(
    {"invalid_tool_call", "mcp_tool_use", "server_tool_call", "server_tool_use", "tool_call", "tool_use"}
)
OWN_IDS: Final = ("msg_", "rs_", "fc_")  # of OpenAI's Responses, beside the content they name
REFERENCE: Final = "item_reference"  # its id is all its content
CALL_NAMES: Final = "__openai_function_call_ids__"
_NO_JSON: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


def messages_in(prompt: str) -> list[list[Any]] | None:
    """The messages, each as a list of what the provider sees of it; None for a text model's prompt."""
    try:
        numbers: dict[str, int] = {}
        messages = json.loads(prompt)
        canonical = [_message(message["kwargs"], numbers) for message in messages if message["lc"] == 1]
    except _NO_JSON:
        return None
    return canonical if canonical and len(canonical) == len(messages) else None


def holds_unknown(prompt: str) -> bool:
    """Whether LangChain wrote of something only its `repr`, of which long ones are cut."""
    return UNKNOWN in prompt


def written(messages: list[list[Any]]) -> str:
    """As text."""
    return json.dumps(messages, sort_keys=True, ensure_ascii=False)


def _message(kwargs: Mapping[str, Any], numbers: dict[str, int]) -> list[Any]:
    calls = [[call["name"], call["args"], _number(call.get("id"), numbers)] for call in kwargs.get("tool_calls") or []]
    answered = kwargs.get("tool_call_id")
    kind = kwargs.get("type")
    return [
        "ai" if kind == CHUNK else kind,
        kwargs.get("role"),
        _content(kwargs.get("content"), numbers),
        kwargs.get("name"),
        calls,
        [[call.get("name"), call.get("args")] for call in kwargs.get("invalid_tool_calls") or []],
        None if answered is None else _number(answered, numbers),
        kwargs.get("status"),
        _extra(kwargs.get("additional_kwargs") or {}, numbers, has_calls=bool(calls)),
    ]


def _number(call_id: Any, numbers: dict[str, int]) -> int:
    """Ids of calls say only which belong together."""
    return numbers.setdefault(str(call_id), len(numbers))


def _content(content: Any, numbers: dict[str, int]) -> Any:
    if not isinstance(content, list):
        return content
    blocks = [_block(block, numbers) for block in content]
    if len(blocks) == 1 and isinstance(blocks[0], dict) and set(blocks[0]) == {"type", "text"}:
        return blocks[0]["text"]
    return blocks


def _block(block: Any, numbers: dict[str, int]) -> Any:
    if not isinstance(block, dict):
        return block
    seen = {}
    for name, value in block.items():
        if name in CALL_IDS or (name == "id" and block.get("type") in CALLS):
            seen[name] = _number(value, numbers)
        elif name != "id" or block.get("type") == REFERENCE or not str(value).startswith(OWN_IDS):
            seen[name] = value
    return seen


def _extra(extra: Mapping[str, Any], numbers: dict[str, int], *, has_calls: bool) -> dict[str, Any]:
    """Provider-specific fields that are sent back, without the copies of the tool calls that carry their ids."""
    copies = ("tool_calls", CALL_NAMES) if has_calls else ()
    return {name: _block(value, numbers) for name, value in extra.items() if value is not None and name not in copies}
