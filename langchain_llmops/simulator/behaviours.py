"""What the simulated model says: the contract, and the simplest one."""

from __future__ import annotations

import json
from typing import Any, Protocol

from langchain_llmops.simulator.schema import instance_of
from langchain_llmops.simulator.types import Reply, Request, ToolCall, last_text

__all__ = ["Behaviour", "Echo", "forced_call", "forced_text"]


class Behaviour(Protocol):
    """Answers requests. Called on the server's event loop, so it must not block."""

    def answer(self, request: Request) -> Reply:
        """The reply to a checked request.

        Raises:
            ApiError: to answer with an error instead.
        """
        ...


class Echo:
    """Says what the last user message said; a forced tool call or a response format gets a valid generated instance."""

    def answer(self, request: Request) -> Reply:
        """The last user text, the call of a forced tool, or an instance of the wanted schema."""
        text = last_text(request.messages, "user")
        return forced_call(request) or Reply(content=forced_text(request, text) or text)


def forced_call(request: Request) -> Reply | None:
    """The call that `tool_choice` demands, with arguments made from the tool's schema; None when it demands none.

    A named tool finishes with "stop", as the real API does.
    """
    if not request.tool_required:
        return None
    functions = [tool["function"] for tool in request.tools]
    wanted = request.forced_tool or functions[0]["name"]
    function = next(function for function in functions if function["name"] == wanted)
    arguments = _compact(instance_of(function.get("parameters") or {"type": "object"}))
    reason = "stop" if request.forced_tool else "tool_calls"
    return Reply(tool_calls=(ToolCall(wanted, arguments),), finish_reason=reason)


def forced_text(request: Request, text: str) -> str | None:
    """JSON as `response_format` demands: an instance of the schema, or `{"text": …}`; None for plain text."""
    if request.response_format is None:
        return None
    if request.response_format["type"] == "json_object":
        return _compact({"text": text})
    return _compact(instance_of(request.response_format["schema"]))


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
