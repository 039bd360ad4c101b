"""What a request looks like, in numbers: the only thing the rules see."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

    from langchain_llmops.core.tokens import TokenCounter

__all__ = ["Signals", "read_signals"]

_CODE: Final = re.compile(
    r"```|\bdef \w+\(|\bclass \w+[:({]|\bimport \w+|\bfunction\s*\w*\(|=>|</\w+>|\bSELECT\b[^\n]{1,200}?\bFROM\b"
    r"|\bTraceback\b|[;{]\s*$",
    re.MULTILINE,
)
MAX_SCANNED_CHARS: Final = 20_000


@dataclass(frozen=True, slots=True)
class Signals:
    """The shape of a request.

    Of the last user message: `tokens`, `has_code`, `text` (lower case, its first 20,000 characters); of the request:
    `tools` offered, `tool_results` since that message, user `turns` so far.
    """

    tokens: int
    has_code: bool
    text: str
    tools: int
    tool_results: int
    turns: int


def read_signals(messages: Sequence[BaseMessage], *, tools: int, counter: TokenCounter) -> Signals:
    """The signals of a request; a request without a user message has an empty text."""
    last = next((i for i in range(len(messages) - 1, -1, -1) if messages[i].type == "human"), None)
    text = messages[last].text if last is not None else ""
    after = messages[last + 1 :] if last is not None else messages
    scanned = text[:MAX_SCANNED_CHARS]
    tokens = counter.count(scanned) * len(text) // max(1, len(scanned))
    return Signals(
        tokens=tokens,
        has_code=_CODE.search(scanned) is not None,
        text=scanned.lower(),
        tools=tools,
        tool_results=sum(message.type == "tool" for message in after),
        turns=sum(message.type == "human" for message in messages),
    )
