"""What a finished model call says about its tokens, read from LangChain's results."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from langchain_llmops.core.types import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

    from langchain_llmops.core.tokens import TokenCounter

__all__ = ["answer_of", "estimate_prompt", "text_of", "usage_of"]

TOKENS_PER_MESSAGE = 3


def answer_of(result: LLMResult) -> BaseMessage | None:
    """The first generation's message, if the model was a chat model."""
    generations = result.generations[0] if result.generations else []
    return getattr(generations[0], "message", None) if generations else None


def text_of(result: LLMResult) -> str:
    """The first generation's text, whatever kind of model gave it."""
    generations = result.generations[0] if result.generations else []
    return generations[0].text if generations else ""


def usage_of(metadata: Mapping[str, Any] | None) -> Usage | None:
    """A message's `usage_metadata` as `Usage`; None when it reports no tokens. Negative counts become 0."""
    if not metadata or "input_tokens" not in metadata:
        return None
    inputs = metadata.get("input_token_details") or {}
    outputs = metadata.get("output_token_details") or {}
    one_hour = _count(inputs, "ephemeral_1h_input_tokens")
    five_minutes = _count(inputs, "cache_creation") or _count(inputs, "ephemeral_5m_input_tokens")
    return Usage(
        input_tokens=_count(metadata, "input_tokens"),
        output_tokens=_count(metadata, "output_tokens"),
        cache_read_tokens=_any_tier(inputs, "cache_read"),
        cache_write_tokens=five_minutes,
        cache_write_1h_tokens=one_hour,
        reasoning_tokens=_any_tier(outputs, "reasoning"),
        audio_input_tokens=_count(inputs, "audio"),
        audio_output_tokens=_count(outputs, "audio"),
    )


def estimate_prompt(messages: Sequence[BaseMessage], counter: TokenCounter) -> int:
    """Tokens of a prompt by our own count: its texts, its tool calls, and three for each message's frame."""
    return sum(_message_tokens(message, counter) for message in messages)


def _message_tokens(message: BaseMessage, counter: TokenCounter) -> int:
    calls = getattr(message, "tool_calls", None) or []
    return (
        TOKENS_PER_MESSAGE + counter.count(message.text) + sum(counter.count(f"{c['name']}{c['args']}") for c in calls)
    )


def _any_tier(source: Mapping[str, Any], key: str) -> int:
    """langchain-openai names a service tier before the kind: `flex_cache_read`."""
    return max(_count(source, name) for name in (key, f"flex_{key}", f"priority_{key}"))


def _count(source: Mapping[str, Any], key: str) -> int:
    value = source.get(key)
    return max(0, int(value)) if isinstance(value, int | float) and math.isfinite(value) else 0
