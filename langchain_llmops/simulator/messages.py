"""Checks of chat messages, one by one and in their order, with the wording of the real API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.simulator.types import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from langchain_llmops.simulator.types import Message

__all__ = ["check_message", "check_messages", "invalid", "missing", "of_type"]

ROLES: Final = ("system", "developer", "user", "assistant", "tool")
PARTS: Final = ("text", "image_url", "input_audio", "file", "refusal")
"""The types of content blocks; each has its value in a member of the same name."""

_WORDS: Final = {
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def invalid(message: str, param: str | None, status: int = 400, code: str | None = "invalid_value") -> ApiError:
    """The error for a parameter whose value is not accepted."""
    return ApiError(status, message, code=code, param=param)


def missing(holder: Mapping[str, Any], name: str, path: str) -> Any:
    """The member `name`, which must be there."""
    if holder.get(name) is None:
        param = f"{path}.{name}" if path else name
        raise invalid(f"Missing required parameter: '{param}'.", param, code="missing_required_parameter")
    return holder[name]


def of_type(value: object, kind: type, param: str) -> Any:
    """The value, which must be of this JSON type; an integer is a decimal too, a boolean is no number."""
    accepted = (int, float) if kind is float else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        text = f"expected {_WORDS[kind]}, but got {_WORDS[type(value)]} instead."
        raise invalid(f"Invalid type for '{param}': {text}", param, code="invalid_type")
    return value


def check_messages(value: object) -> Iterator[Message]:
    """The messages of a request: each well formed, and tool results only where they answer tool calls."""
    messages = of_type(missing({"messages": value}, "messages", ""), list, "messages")
    if not messages:
        text = "Invalid 'messages': empty array. Expected an array with minimum length 1."
        raise invalid(text, "messages", code="empty_array")
    open_ids: dict[str, None] = {}  # an ordered set
    for i, message in enumerate(messages):
        yield check_message(message, f"messages[{i}]")
        if message["role"] == "tool":
            _close(open_ids, message["tool_call_id"], i)
            continue
        _refuse_open(open_ids, i)
        open_ids = dict.fromkeys(call["id"] for call in message.get("tool_calls") or ())
    _refuse_open(open_ids, len(messages))


def _close(open_ids: dict[str, None], call_id: str, i: int) -> None:
    if call_id not in open_ids:
        text = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
        raise invalid(f"Invalid parameter: {text}", f"messages.[{i}].role", code=None)
    del open_ids[call_id]


def _refuse_open(open_ids: dict[str, None], i: int) -> None:
    if open_ids:
        text = (
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            f"'tool_call_id'. The following tool_call_ids did not have response messages: {', '.join(open_ids)}"
        )
        raise invalid(text, f"messages.[{i}].role", code=None)


def check_message(message: object, path: str) -> Message:
    """One message, whatever stands around it."""
    fields: Message = of_type(message, dict, path)
    role = missing(fields, "role", path)
    if role not in ROLES:
        supported = ", ".join(f"'{name}'" for name in ROLES)
        raise invalid(f"Invalid value: '{role}'. Supported values are: {supported}.", f"{path}.role")
    calls = fields.get("tool_calls")
    if calls is not None:
        _check_calls(calls, role, path)
    if role == "tool":
        of_type(missing(fields, "tool_call_id", path), str, f"{path}.tool_call_id")
    _check_content(fields, path, may_be_null=role == "assistant" and bool(calls or fields.get("refusal")))
    return fields


def _check_content(message: Message, path: str, *, may_be_null: bool) -> None:
    content = message.get("content")
    param = f"{path}.content"
    if content is None and not may_be_null:
        text = f"Invalid value for 'content': expected a string, got null. ('{param}')"
        raise invalid(text, param, code=None)
    if isinstance(content, list):
        for i, part in enumerate(content):
            _check_part(part, f"{param}[{i}]")
    elif content is not None and not isinstance(content, str):
        text = f"expected one of a string or array of objects, but got {_WORDS[type(content)]} instead."
        raise invalid(f"Invalid type for '{param}': {text}", param, code="invalid_type")


def _check_part(part: object, path: str) -> None:
    kind = missing(of_type(part, dict, path), "type", path)
    if kind not in PARTS:
        supported = ", ".join(f"'{name}'" for name in PARTS)
        raise invalid(f"Invalid value: '{kind}'. Supported values are: {supported}.", f"{path}.type")
    value = missing(part, kind, path)  # type: ignore[arg-type] # of_type has just shown it is a dict
    if kind == "text":
        of_type(value, str, f"{path}.text")


def _check_calls(calls: object, role: str, path: str) -> None:
    param = f"{path}.tool_calls"
    if role != "assistant":
        raise invalid(f"Invalid parameter: only messages with role 'assistant' can have '{param}'.", param)
    for i, call in enumerate(of_type(calls, list, param)):
        here = f"{param}[{i}]"
        of_type(call, dict, here)
        of_type(missing(call, "id", here), str, f"{here}.id")
        function = of_type(missing(call, "function", here), dict, f"{here}.function")
        of_type(missing(function, "name", f"{here}.function"), str, f"{here}.function.name")
        of_type(missing(function, "arguments", f"{here}.function"), str, f"{here}.function.arguments")
