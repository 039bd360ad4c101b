"""Token counts in `usage`, by a stated method.

A text counts `count_tokens(text)`; the default is its UTF-8 bytes over four, rounded up.
Prompt: per message the counts of its role, its text and each tool call's name and arguments, plus 3; plus 3 that prime
the reply; plus the tool schemas as compact JSON. Blocks that are not text count nothing.
Completion: the counts of content, refusal and each tool call's name and arguments.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.simulator.types import Reply, Request, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Usage", "completion_tokens", "default_count", "limited", "prompt_tokens", "split_text", "usage_of"]

PER_MESSAGE: Final = 3
PER_REPLY: Final = 3
_PIECE: Final = re.compile(r"\s*\S{1,6}|\s+")


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer, over all its choices."""

    prompt: int
    completion: int

    def as_dict(self) -> dict[str, Any]:
        """The `usage` object of the chat API."""
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }


def default_count(text: str) -> int:
    """UTF-8 bytes over four, rounded up."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4)


def split_text(text: str) -> list[str]:
    """Pieces of about a token each, as streamed; joined they are the text."""
    return _PIECE.findall(text)


def prompt_tokens(request: Request, count: Callable[[str], int]) -> int:
    """Tokens of the request's messages and tool schemas."""
    total = PER_REPLY + sum(_message_tokens(message, count) for message in request.messages)
    if request.tools:
        total += count(json.dumps(request.tools, ensure_ascii=False, separators=(",", ":")))
    return total


def _message_tokens(message: Mapping[str, Any], count: Callable[[str], int]) -> int:
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    calls = _call_tokens(((f["name"], f["arguments"]) for f in functions), count)
    return PER_MESSAGE + count(message["role"]) + count(text_of(message)) + calls


def _call_tokens(calls: Iterable[tuple[str, str]], count: Callable[[str], int]) -> int:
    return sum(count(name) + count(arguments) for name, arguments in calls)


def completion_tokens(reply: Reply, count: Callable[[str], int]) -> int:
    """Tokens of one choice."""
    calls = _call_tokens(((call.name, call.arguments) for call in reply.tool_calls), count)
    return count(reply.content or "") + count(reply.refusal or "") + calls


def usage_of(request: Request, reply: Reply, count: Callable[[str], int]) -> Usage:
    """Usage of the whole answer: `n` choices of the same reply."""
    return Usage(prompt_tokens(request, count), request.n * completion_tokens(reply, count))


def limited(reply: Reply, max_tokens: int | None, count: Callable[[str], int]) -> Reply:
    """The reply with its text cut to `max_tokens` and `finish_reason` "length"; tool calls are never cut."""
    text = reply.content
    if max_tokens is None or reply.recorded or not text or count(text) <= max_tokens:
        return reply
    pieces = split_text(text)
    kept = bisect_right(range(len(pieces)), max_tokens, key=lambda n: count("".join(pieces[:n]))) - 1
    return replace(reply, content="".join(pieces[:kept]), finish_reason="length")
