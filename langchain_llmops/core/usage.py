"""What a finished model call says about its tokens, read from LangChain's results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_llmops.core.context import text_from
from langchain_llmops.core.types import Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

    from langchain_llmops.core.tokens import TokenCounter

__all__ = [
    "Reading",
    "answer_of",
    "count_bounded",
    "estimate_prompt",
    "read_message",
    "read_usage",
    "text_of",
    "usage_of",
]

TOKENS_PER_MESSAGE: Final = 3
LONGEST_COUNTED: Final = 256 * 1024
MAX_TOKENS: Final = 20_000_000
"""No request is longer; a larger count is a provider's mistake."""

# the kinds of `usage_metadata`: langchain-core's own, langchain-anthropic's, and langchain-openai's, which puts a
# service tier before the kind and the rest of the tokens under the tier's own name
_INPUT_KINDS: Final = {
    "cache_read": "cache_read",
    "cache_creation": "cache_write",
    "audio": "audio_input",
    "ephemeral_5m_input_tokens": "cache_write_5m",
    "ephemeral_1h_input_tokens": "cache_write_1h",
    **{f"{tier}_cache_read": "cache_read" for tier in ("flex", "priority")},
    **{f"{tier}_cache_creation": "cache_write" for tier in ("flex", "priority")},
}
_OUTPUT_KINDS: Final = {
    "reasoning": "reasoning",
    "audio": "audio_output",
    "flex_reasoning": "reasoning",
    "priority_reasoning": "reasoning",
}
_SCHEMAS: Final = ("tools", "functions", "response_format")
_TIERS: Final = frozenset({"flex", "priority", "batch", "fast"})

# the providers' own words, for results without `usage_metadata`; "+" marks tokens that the provider's total leaves out
_RAW: Final = {
    **dict.fromkeys(("input_tokens", "prompt_tokens", "inputTokens", "prompt_token_count"), "input"),
    **dict.fromkeys(("output_tokens", "completion_tokens", "outputTokens", "candidates_token_count"), "output"),
    **dict.fromkeys(("total_tokens", "totalTokens"), "total"),
    # OpenAI: chat completions and responses
    "prompt_tokens_details.cached_tokens": "cache_read",
    "prompt_tokens_details.cache_write_tokens": "cache_write",
    "prompt_tokens_details.audio_tokens": "audio_input",
    "completion_tokens_details.reasoning_tokens": "reasoning",
    "completion_tokens_details.audio_tokens": "audio_output",
    "input_tokens_details.cached_tokens": "cache_read",
    "input_tokens_details.cache_write_tokens": "cache_write",
    "output_tokens_details.reasoning_tokens": "reasoning",
    # Anthropic, also on Bedrock
    "cache_read_input_tokens": "+cache_read",
    "cache_creation_input_tokens": "+cache_write",
    "cache_write_input_tokens": "+cache_write",
    "cache_creation.ephemeral_5m_input_tokens": "cache_write_5m",
    "cache_creation.ephemeral_1h_input_tokens": "cache_write_1h",
    # Bedrock Converse
    "cacheReadInputTokens": "+cache_read",
    "cacheWriteInputTokens": "+cache_write",
    # Gemini
    "cached_content_token_count": "cache_read",
    "thoughts_token_count": "+reasoning",
    "tool_use_prompt_token_count": "+tool_use",
}
_RAW_PLACES: Final = ("token_usage", "usage", "usage_metadata")


class Reading(NamedTuple):
    """What a result says of its call.

    `usage` is None when no tokens are reported (the caller estimates), `service_tier` is flex, priority, batch, fast or
    None, `clamped` tells that impossible counts were cut to possible ones, and `other_cache` that another cache than
    ours (LangChain's own) gave the answer, so that the call cost nothing.
    """

    usage: Usage | None
    service_tier: str | None = None
    clamped: bool = False
    other_cache: bool = False
    model: str | None = None
    finish_reason: str | None = None


def read_usage(result: LLMResult, *, batch_size: int = 1) -> Reading:
    """Read a chat or text model's result in whatever dialect its provider speaks.

    Of several generations the first speaks for all: providers report one usage per request. `batch_size` is that of the
    start event: of a text model's batch, LangChain gives all tokens to the first result and `{}` to the others.
    """
    message = answer_of(result)
    return _read_text(result, batch_size) if message is None else read_message(message)


def read_message(message: BaseMessage) -> Reading:
    """The same of an answer alone."""
    told = message.response_metadata
    said = getattr(message, "usage_metadata", None) or {}
    usage, clamped, tier = _counted(said) if "input_tokens" in said else _raw_counted(told)
    model = told.get("model_name") or told.get("model")
    reason = told.get("finish_reason") or told.get("stop_reason") or told.get("stopReason")
    return Reading(
        usage,
        _tier(told) or tier,
        clamped,
        "total_cost" in said and said["total_cost"] == 0,
        model if isinstance(model, str) else None,
        reason if isinstance(reason, str) else None,
    )


def usage_of(metadata: Mapping[str, Any] | None) -> Usage | None:
    """A message's `usage_metadata` as `Usage`; None when it reports no tokens. Impossible counts become possible."""
    return _counted(metadata)[0] if metadata and "input_tokens" in metadata else None


def answer_of(result: LLMResult) -> BaseMessage | None:
    """The first generation's message, if the model was a chat model."""
    generations = result.generations[0] if result.generations else []
    return getattr(generations[0], "message", None) if generations else None


def text_of(result: LLMResult) -> str:
    """The first generation's text, whatever kind of model gave it."""
    generations = result.generations[0] if result.generations else []
    return generations[0].text if generations else ""


def estimate_prompt(
    messages: Sequence[BaseMessage], counter: TokenCounter, asked: Mapping[str, Any] | None = None
) -> int:
    """Tokens of a prompt by our own count: texts, tool calls, three for each message's frame, and schemas as JSON.

    `asked` are the invocation parameters, which hold the tools and the response format.
    """
    schemas = [asked[name] for name in _SCHEMAS if asked.get(name)] if asked else []
    described = sum(count_bounded(_as_json(schema), counter) for schema in schemas)
    return described + sum(_message_tokens(message, counter) for message in messages)


def _as_json(schema: Any) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False, separators=(",", ":"), default=text_from, skipkeys=True)
    except (ValueError, RecursionError):  # a circle
        return ""


def _message_tokens(message: BaseMessage, counter: TokenCounter) -> int:
    calls = getattr(message, "tool_calls", None) or []
    called = sum(count_bounded(f"{c['name']}{c['args']}", counter) for c in calls)
    return TOKENS_PER_MESSAGE + count_bounded(message.text, counter) + called


def count_bounded(text: str, counter: TokenCounter) -> int:
    """Tokens of a text; of a huge one the beginning is counted and stands for the rest, as a caller waits for this."""
    if len(text) <= LONGEST_COUNTED:
        return counter.count(text)
    return round(counter.count(text[:LONGEST_COUNTED]) * len(text) / LONGEST_COUNTED)


def _read_text(result: LLMResult, batch_size: int) -> Reading:
    output = result.llm_output or {}
    generations = result.generations[0] if result.generations else []
    told = (generations[0].generation_info if generations else None) or {}
    usage, clamped, tier = _raw_counted(output)
    if usage is None:
        usage, clamped, tier = _raw_counted(told)
    if usage is None and batch_size > 1 and output.get("token_usage") == {}:
        usage = Usage()
    model = output.get("model_name") or output.get("model_id") or told.get("model_name")
    reason = told.get("finish_reason")
    return Reading(
        usage,
        _tier(output) or _tier(told) or tier,
        clamped,
        model=model if isinstance(model, str) else None,
        finish_reason=reason if isinstance(reason, str) else None,
    )


def _tier(told: Mapping[str, Any]) -> str | None:
    """OpenAI says it in the answer, Anthropic in its usage; the providers' words for the ordinary tier are no tier."""
    tier = told.get("service_tier")
    if tier is None and "usage" in told and isinstance(told["usage"], dict):
        usage = told["usage"]
        tier = "fast" if usage.get("speed") == "fast" else usage.get("service_tier")
    return tier if isinstance(tier, str) and tier in _TIERS else None


_Counted = tuple[Usage | None, bool, str | None]


def _counted(said: Mapping[str, Any]) -> _Counted:
    """LangChain's `usage_metadata`: usage, whether clamped, and the tier its keys name."""
    kinds: dict[str, Any] = {}
    tier = _collected(said.get("input_token_details"), _INPUT_KINDS, kinds)
    tier = _collected(said.get("output_token_details"), _OUTPUT_KINDS, kinds) or tier
    total_in, total_out, total = said["input_tokens"], said.get("output_tokens", 0), said.get("total_tokens", 0)
    read, reasoning = kinds.get("cache_read", 0), kinds.get("reasoning", 0)
    if (  # as nearly every answer is
        len(kinds) == (read != 0) + (reasoning != 0)
        and type(total_in) is type(total_out) is type(read) is type(reasoning) is int
        and 0 <= read <= total_in <= MAX_TOKENS
        and 0 <= reasoning <= total_out <= MAX_TOKENS
        and total == total_in + total_out
    ):
        counts = {"input_tokens": total_in, "output_tokens": total_out}
        if kinds:
            counts |= {"cache_read_tokens": read, "reasoning_tokens": reasoning}
        return Usage.of(counts), False, tier
    usage, clamped = _fitted({**kinds, "input": total_in, "output": total_out, "total": total})
    return usage, clamped, tier


def _collected(details: Any, names: Mapping[str, str], kinds: dict[str, Any]) -> str | None:
    """Put the counts above zero into `kinds`; returns the tier whose name is a key."""
    tier = None
    if isinstance(details, dict):
        for key, value in details.items():
            if key in names:
                if value:
                    kinds[names[key]] = value
            elif key in _TIERS:
                tier = key
    return tier


def _raw_counted(told: Mapping[str, Any]) -> _Counted:
    """A provider's own report, wherever its integration left it."""
    for place in _RAW_PLACES:
        raw = told.get(place)
        if isinstance(raw, dict) and "input_token_details" in raw and "input_tokens" in raw:
            return _counted(raw)
        if isinstance(raw, dict):
            kinds: dict[str, Any] = {}
            for key, value in _flat(raw):
                kind = _RAW.get(key)
                if kind is not None and value:
                    kinds[kind] = value
            if "input" in kinds or "output" in kinds:
                return *_fitted(kinds), None
    return None, False, None


def _flat(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in raw.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{name}", count) for name, count in value.items())
        else:
            yield key, value


def _fitted(kinds: Mapping[str, Any]) -> tuple[Usage, bool]:
    """Bring counts into our meaning, totals that include every kind, and cut what cannot be."""
    counts = {kind: _possible(value) for kind, value in kinds.items()}
    clamped = any(
        count != kinds[kind] or isinstance(kinds[kind], bool) for kind, count in counts.items() if kinds[kind]
    )
    count = counts.get
    total_in, total_out = count("input", 0) + count("+tool_use", 0), count("output", 0) + count("+reasoning", 0)
    read = count("cache_read", 0) + count("+cache_read", 0)
    write_1h = count("cache_write_1h", 0)
    # the sum of all writes, the part for five minutes, or (langchain-anthropic) 0 next to its two parts
    write = max(count("cache_write_5m", 0), count("cache_write", 0) + count("+cache_write", 0) - write_1h)
    cached, reasoning = read + write + write_1h, count("reasoning", 0)
    beyond = count("total", 0) - total_in - total_out
    if "+cache_read" in counts or "+cache_write" in counts or cached > total_in or 0 < cached == beyond:
        total_in += cached  # Bedrock and Anthropic's own reports leave cached tokens out of the input
    if reasoning > total_out or 0 < reasoning == beyond:
        total_out += reasoning  # xAI's reports leave reasoning out of the output
    audio_in, audio_out = count("audio_input", 0), count("audio_output", 0)
    clamped = clamped or audio_in > total_in or audio_out > total_out
    usage = Usage(
        total_in,
        total_out,
        read,
        write,
        write_1h,
        reasoning + count("+reasoning", 0),
        min(audio_in, total_in - cached),  # audio may be cached, too: what is both counts as cached
        min(audio_out, total_out),
    )
    return usage, clamped


def _possible(value: Any) -> int:
    """A count between nothing and the most that a request can hold; what is no number counts nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:  # NaN is not above zero
        return 0
    return int(min(value, MAX_TOKENS))
