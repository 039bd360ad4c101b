"""The nouns of the simulator."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "DEFAULT_MODELS",
    "ApiError",
    "EmbeddingRequest",
    "Message",
    "Reply",
    "Request",
    "SimulatorError",
    "ToolCall",
    "last_text",
    "text_of",
]

Message = dict[str, Any]
"""One chat message as it travels: `role`, `content`, and `tool_calls` or `tool_call_id` where they apply."""

DEFAULT_MODELS: Final = ("gpt-4o", "gpt-4o-mini", "text-embedding-3-small")


class SimulatorError(Exception):
    """A script, recording, option or address is wrong; the message names it and the fix, in one line."""


class ApiError(Exception):
    """An error answer of the API: HTTP `status` and the body `{"error": {message, type, param, code}}`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.kind = kind
        self.headers = headers

    def body(self) -> bytes:
        """The error as the real API writes it."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


@dataclass(frozen=True, slots=True)
class Request:
    """A checked chat request. `forced_tool` is the tool the caller insists on; `response_format` None means text."""

    model: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    forced_tool: str | None = None
    tool_required: bool = False
    response_format: Mapping[str, Any] | None = None
    stream: bool = False
    include_usage: bool = False
    n: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    max_tokens: int | None = None
    conversation_id: str | None = None


@dataclass(frozen=True, slots=True)
class EmbeddingRequest:
    """A checked embeddings request; an input is a text or a sequence of token numbers."""

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int
    as_base64: bool = False


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call the model asks for; `arguments` is JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model says. A `recorded` reply is given whole, whatever `max_tokens` allows."""

    content: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    refusal: str | None = None
    finish_reason: str | None = None
    recorded: bool = False

    @property
    def finish(self) -> str:
        """The finish reason: as given, else `tool_calls` when there are any, else `stop`."""
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message: null is empty, the text blocks of a list are joined, other blocks have none."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    return content or ""


def last_text(messages: tuple[Message, ...], role: str) -> str:
    """The text of the last message with this role, or the empty text."""
    return next((text_of(message) for message in reversed(messages) if message["role"] == role), "")
