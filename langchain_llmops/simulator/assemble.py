"""The assistant message inside an answer of the chat API, whole or streamed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_llmops.simulator.types import Message

__all__ = ["StreamedMessage", "message_of"]


def message_of(body: bytes) -> Message | None:
    """The first choice's message of a whole answer; None when the body is none."""
    try:
        choice = json.loads(body)["choices"][0]
        return _kept(choice["message"]) if choice.get("finish_reason") else None
    except (ValueError, LookupError, TypeError, AttributeError):  # a foreign answer: passed on, not recorded
        return None


class StreamedMessage:
    """Puts the first choice together from the bytes of a stream, however they are cut."""

    def __init__(self) -> None:
        self._rest = b""
        self._texts: dict[str, str] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._finished = False
        self._broken = False

    @property
    def message(self) -> Message | None:
        """The message, or None while the stream has not finished it or when a frame could not be read."""
        if not self._finished or self._broken:
            return None
        calls = [self._calls[index] for index in sorted(self._calls)]
        return _kept({"content": None, **self._texts, "tool_calls": calls})

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            payload = line.strip().removeprefix(b"data:").strip()
            if line.startswith(b"data:") and payload != b"[DONE]":
                try:
                    self._take(json.loads(payload))
                except (ValueError, LookupError, TypeError, AttributeError):  # not recorded, and `message` says so
                    self._broken = True

    def _take(self, chunk: dict[str, Any]) -> None:
        for choice in chunk.get("choices") or ():
            if choice.get("index", 0) == 0:
                delta = choice.get("delta") or {}
                self._add_texts(delta)
                for piece in delta.get("tool_calls") or ():
                    self._add_call(piece)
                self._finished = self._finished or bool(choice.get("finish_reason"))

    def _add_texts(self, delta: dict[str, Any]) -> None:
        for name in ("content", "refusal"):
            if delta.get(name) is not None:
                self._texts[name] = self._texts.get(name, "") + delta[name]

    def _add_call(self, piece: dict[str, Any]) -> None:
        call = self._calls.setdefault(
            piece["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = piece.get("id") or call["id"]
        function = piece.get("function") or {}
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""


def _kept(message: dict[str, Any]) -> Message:
    """What a recording needs of an answer."""
    kept: Message = {"role": "assistant", "content": message.get("content")}
    for name in ("tool_calls", "refusal"):
        if message.get(name):
            kept[name] = message[name]
    return kept
