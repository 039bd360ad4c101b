"""Which requests and answers are worth keeping, and for how long."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from langchain_core.outputs import ChatGeneration, Generation

from langchain_llmops.cache.fingerprint import Key, Uncacheable
from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.messages import BaseMessage

__all__ = ["Policy", "Ttl"]

# what providers say of an answer that is whole: OpenAI and its Responses, Anthropic, Gemini, Bedrock, Cohere, Hugging
# Face, Ollama, AI21, Titan
GOOD_ENDS: Final = frozenset(
    {
        "complete",
        "completed",
        "end_turn",
        "endoftext",
        "eos",
        "eos_token",
        "finish",
        "finished",
        "function_call",
        "pause_turn",
        "stop",
        "stop_sequence",
        "tool_call",
        "tool_calls",
        "tool_use",
    }
)
END_KEYS: Final = (
    "finish_reason",
    "finishReason",
    "stop_reason",
    "stopReason",
    "done_reason",
    "completion_reason",
    "completionReason",
    "status",
    "incomplete_details",
)


@dataclass(frozen=True, slots=True)
class Ttl:
    """Seconds that an answer stays in each level; `tags`: less for answers that carry one of these.

    `{"doc": 60}` is said of all tags of that kind, `doc:policy` for one: what stands before the first colon.

    An answer is fresh for as long as it may stay in the last level there is, and may be served for `stale_s` more
    while it is asked for again, or while the provider is down.
    """

    l1_s: float = 30.0
    l2_s: float = 300.0
    l3_s: float = 3600.0
    stale_s: float = 0.0
    tags: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.tags, Mapping):
            raise ConfigurationError(f'the tags of a Ttl are seconds by tag, as {{"doc": 60}}, not {self.tags!r:.60}')
        for name, seconds in {"l1_s": self.l1_s, "l2_s": self.l2_s, "l3_s": self.l3_s, **self.tags}.items():
            if not _is_finite(seconds) or seconds <= 0:
                raise ConfigurationError(f"the time to live {name!r} must be above 0 seconds, not {seconds!r:.60}")
        if not _is_finite(self.stale_s) or self.stale_s < 0:
            raise ConfigurationError(f"the time to live 'stale_s' must be 0 or more seconds, not {self.stale_s!r:.60}")

    def of(self, level: str) -> float:
        """Of `L1`, `L2` or `L3`."""
        return {"L1": self.l1_s, "L2": self.l2_s, "L3": self.l3_s}[level]

    def at_most(self, tags: Sequence[str]) -> float:
        """The shortest of the times given for these tags; infinity when none is."""
        names = (name for tag in tags for name in (tag, tag.partition(":")[0])) if self.tags else ()
        return min((self.tags[name] for name in names if name in self.tags), default=float("inf"))


@dataclass(frozen=True, slots=True)
class Policy:
    """What is kept.

    Args:
        warm: also answers at a temperature above 0.
        unset_temperature: also answers of models whose temperature nobody set.
        tool_calls: answers that call tools: none, all, or those that call none but these tools.
        max_bytes: of an answer in JSON.
        refused_s: for how long `cached(model)` does not ask again what was too long for the model; 0 asks every time.
        keep: the last word: an answer for which it is false, or raises, is not kept (personal data, say).
    """

    warm: bool = False
    unset_temperature: bool = True
    tool_calls: bool | Collection[str] = False
    max_bytes: int = 1_000_000
    refused_s: float = 30.0
    keep: Callable[[Sequence[Generation]], bool] | None = None

    def __post_init__(self) -> None:
        for name in ("warm", "unset_temperature"):
            if not isinstance(value := getattr(self, name), bool):
                raise ConfigurationError(f"{name} of a Policy must be True or False, not {value!r:.60}")
        calls = self.tool_calls
        if isinstance(calls, str) or not isinstance(calls, bool | Collection):
            raise ConfigurationError(
                f'tool_calls of a Policy must be True, False or names of tools, as ["search"], not {calls!r:.60}'
            )
        if isinstance(self.max_bytes, bool) or not isinstance(self.max_bytes, int) or self.max_bytes < 1:
            raise ConfigurationError(f"max_bytes of a Policy must be 1 or more, not {self.max_bytes!r:.60}")
        if not _is_finite(self.refused_s) or self.refused_s < 0:
            raise ConfigurationError(f"refused_s of a Policy must be 0 or more seconds, not {self.refused_s!r:.60}")
        if self.keep is not None and not callable(self.keep):
            raise ConfigurationError(f"keep of a Policy must be a function of the answers, not {self.keep!r:.60}")

    def check(self, key: Key) -> None:
        """Raises `Uncacheable` for a request whose answer is meant to vary."""
        if key.temperature is None and not self.unset_temperature:
            raise Uncacheable("temperature is not set")
        if key.temperature and not self.warm:
            raise Uncacheable("temperature is above 0")

    def allows(self, answers: Sequence[Generation]) -> bool:
        """Whether these answers are worth repeating."""
        return bool(answers) and all(map(self._allows, answers)) and (self.keep is None or self.keep(answers))

    def _allows(self, answer: Generation) -> bool:
        if not isinstance(answer, ChatGeneration):
            return bool(answer.text) and _ended_well(answer.generation_info or {})
        message = answer.message
        if not _ended_well(message.response_metadata) or _refuses(message):
            return False
        calls = getattr(message, "tool_calls", None) or ()
        return bool(message.content or calls) and all(self._may_call(call["name"]) for call in calls)

    def _may_call(self, tool: str) -> bool:
        return self.tool_calls if isinstance(self.tool_calls, bool) else tool in self.tool_calls


def _is_finite(seconds: object) -> bool:
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and math.isfinite(seconds)


def _ended_well(told: Mapping[str, Any]) -> bool:
    """Whether no provider says that the answer was cut, filtered or refused; one that says nothing is believed."""
    ends = [str(told[key]).lower() for key in END_KEYS if told.get(key) is not None]
    return all(end in GOOD_ENDS for end in ends)


def _refuses(message: BaseMessage) -> bool:
    blocks = message.content if isinstance(message.content, list) else []
    in_block = any(isinstance(block, dict) and block.get("type") == "refusal" for block in blocks)
    return in_block or bool(message.additional_kwargs.get("refusal") or getattr(message, "invalid_tool_calls", None))
