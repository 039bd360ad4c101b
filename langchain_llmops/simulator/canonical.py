"""What makes two messages the same: role, text, tool names and parsed tool arguments; never ids or formatting."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = ["EMPTY", "canonical", "chain", "digest_of"]

DIGEST_BYTES: Final = 16
EMPTY: Final = bytes(DIGEST_BYTES)
"""The digest of no messages."""


def canonical(message: Mapping[str, Any]) -> bytes:
    """One spelling for all equal messages: null content is the empty text, a list of text blocks is the joined text."""
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    calls = [[function["name"], _arguments(function["arguments"])] for function in functions]
    return _dump([message["role"], _content(message.get("content")), calls])


def chain(messages: Iterable[Mapping[str, Any]]) -> Iterator[bytes]:
    """The digest of each prefix, shortest first: one BLAKE2b step per message, so a look-up is O(messages)."""
    digest = EMPTY
    for message in messages:
        digest = blake2b(digest + canonical(message), digest_size=DIGEST_BYTES).digest()
        yield digest


def digest_of(messages: Iterable[Mapping[str, Any]]) -> bytes:
    """The digest of the whole conversation so far."""
    digest = EMPTY
    for digest in chain(messages):  # noqa: B007 - the last one is the answer
        pass
    return digest


def _content(content: object) -> object:
    if isinstance(content, list) and all(part.get("type") == "text" for part in content):
        return "".join(part["text"] for part in content)
    return content or ""


def _arguments(text: str) -> list[object]:
    try:
        return ["json", json.loads(text.strip() or "{}", strict=False, parse_float=_number)]
    except (ValueError, RecursionError):  # a model may write arguments that are not JSON: then the text itself counts
        return ["text", text]


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _dump(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")
