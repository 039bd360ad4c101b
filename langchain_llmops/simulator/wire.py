"""The shapes of the OpenAI wire: whole chat answers and their stream frames."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from langchain_llmops.simulator.logprobs import token_logprobs
from langchain_llmops.simulator.tokens import Usage, split_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_llmops.simulator.types import Reply, Request, ToolCall

__all__ = ["Answer", "chat_body", "chat_frames", "fresh_id", "to_json"]

DONE: Final = b"data: [DONE]\n\n"
ARGUMENT_PIECE_CHARS: Final = 16


def fresh_id(prefix: str) -> str:
    """An id no other answer has, in this run or another: `chatcmpl-…`, `call_…`, `req_…`."""
    return prefix + uuid4().hex[:24]


def to_json(value: object) -> bytes:
    """Compact JSON in ASCII, so that any text, lone surrogates included, can travel."""
    return json.dumps(value, separators=(",", ":")).encode("ascii")


@dataclass(frozen=True, slots=True)
class Answer:
    """One reply on its way out: what was asked, what is said, and what it counts."""

    request: Request
    reply: Reply
    usage: Usage
    id: str = field(default_factory=lambda: fresh_id("chatcmpl-"))
    created: int = field(default_factory=lambda: int(time.time()))

    def envelope(self, kind: str) -> dict[str, Any]:
        """The members that an answer and all its chunks share."""
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "service_tier": "default",
            "system_fingerprint": None,
        }


def chat_body(answer: Answer) -> bytes:
    """The body of a whole answer: `n` equal choices, each with call ids of its own."""
    choices = [
        {
            "index": index,
            "message": _message(answer.reply),
            "logprobs": _logprobs(answer, _pieces(answer.reply)),
            "finish_reason": answer.reply.finish,
        }
        for index in range(answer.request.n)
    ]
    return to_json({**answer.envelope("chat.completion"), "choices": choices, "usage": answer.usage.as_dict()})


def _message(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.content, "refusal": reply.refusal}
    if reply.tool_calls:
        message["tool_calls"] = [_call(call) for call in reply.tool_calls]
    return message


def _call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": fresh_id("call_"), "type": "function", "function": function}


def _pieces(reply: Reply) -> list[str]:
    return split_text(reply.refusal or reply.content or "")


def _logprobs(answer: Answer, pieces: list[str]) -> dict[str, Any] | None:
    if not answer.request.logprobs:
        return None
    entries = [token_logprobs(piece, answer.request.top_logprobs) for piece in pieces]
    refused = answer.reply.refusal is not None
    return {"content": None if refused else entries, "refusal": entries if refused else None}


def chat_frames(answer: Answer) -> tuple[list[bytes], bytes]:
    """The stream: its frames, the first with the role, and the tail that ends it (finish, usage, `[DONE]`)."""
    frames: list[bytes] = []
    tail = b""
    for index in range(answer.request.n):
        frames += [_frame(answer, index, delta, logprobs) for delta, logprobs in _deltas(answer)]
        tail += _frame(answer, index, {}, None, answer.reply.finish)
    if answer.request.include_usage:
        envelope = answer.envelope("chat.completion.chunk")
        tail += _event({**envelope, "choices": [], "usage": answer.usage.as_dict()})
    return frames, tail + DONE


def _frame(
    answer: Answer, index: int, delta: dict[str, Any], logprobs: dict[str, Any] | None, finish: str | None = None
) -> bytes:
    choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
    chunk = {**answer.envelope("chat.completion.chunk"), "choices": [choice]}
    if answer.request.include_usage:
        chunk["usage"] = None
    return _event(chunk)


def _event(payload: dict[str, Any]) -> bytes:
    return b"data: " + to_json(payload) + b"\n\n"


def _deltas(answer: Answer) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    reply = answer.reply
    opening = "" if reply.content is not None and reply.refusal is None else None
    yield {"role": "assistant", "content": opening, "refusal": None}, None
    kind = "content" if reply.refusal is None else "refusal"
    for piece in _pieces(reply):
        yield {kind: piece}, _logprobs(answer, [piece])
    for index, call in enumerate(reply.tool_calls):
        whole = _call(call)
        opened = {**whole, "index": index, "function": {"name": call.name, "arguments": ""}}
        yield {"tool_calls": [opened]}, None
        for start in range(0, len(call.arguments), ARGUMENT_PIECE_CHARS):
            piece = call.arguments[start : start + ARGUMENT_PIECE_CHARS]
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, None
