"""Answers with what was recorded, never with anything else and never by order."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from langchain_llmops.simulator.canonical import EMPTY, canonical, chain, digest_of
from langchain_llmops.simulator.recordings import Recording, read_recordings
from langchain_llmops.simulator.types import ApiError, Message, Reply, Request, ToolCall

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Replay"]

_NAMED_AT_MOST: Final = 20


class Replay:
    """Answers with the recorded assistant message of the conversation whose messages so far match the request.

    Errors: 409 `ambiguous_prefix` when recordings go on differently and no `X-Replay-Conversation` header names one of
    them, 404 `recording_ended` after the last message of a recording, 404 `unknown_prefix` for anything else.
    """

    def __init__(self, recordings: Iterable[Recording]) -> None:
        # What follows each prefix, by conversation: the recorded reply, or None where the recording ends.
        self._next: defaultdict[bytes, dict[str, Message | None]] = defaultdict(dict)
        for recording in recordings:
            self._add(recording)

    @classmethod
    def from_file(cls, path: str | Path) -> Replay:
        """The recordings of a `.jsonl` or `.jsonl.gz` file.

        Raises:
            SimulatorError: names the file and the line that is wrong.
        """
        return cls(read_recordings(path))

    def answer(self, request: Request) -> Reply:
        """The recorded reply to exactly these messages."""
        options = self._next.get(digest_of(request.messages))
        if options is None:
            raise ApiError(404, "No recorded conversation has these messages so far.", code="unknown_prefix")
        followed = self._choose(options, request.conversation_id)
        if followed is None:
            raise ApiError(404, "The recorded conversation ends here, without a reply.", code="recording_ended")
        return _reply(followed)

    def _add(self, recording: Recording) -> None:
        before = EMPTY
        for message, digest in zip(recording.messages, chain(recording.messages), strict=True):
            if message["role"] == "assistant":
                self._next[before][recording.conversation_id] = message
            before = digest
        self._next[before][recording.conversation_id] = None

    @staticmethod
    def _choose(options: dict[str, Message | None], conversation_id: str | None) -> Message | None:
        if conversation_id in options:
            return options[conversation_id]
        if len({_meaning(message) for message in options.values()}) == 1:
            return next(iter(options.values()))
        names = ", ".join(list(options)[:_NAMED_AT_MOST])
        more = f" and {len(options) - _NAMED_AT_MOST} more" if len(options) > _NAMED_AT_MOST else ""
        raise ApiError(
            409,
            f"These messages go on differently in {len(options)} recordings: {names}{more}. "
            "Name one in the header X-Replay-Conversation.",
            code="ambiguous_prefix",
        )


def _meaning(message: Message | None) -> tuple[bytes, str] | None:
    """What two recorded replies must share to be the same answer."""
    return None if message is None else (canonical(message), message.get("refusal") or "")


def _reply(message: Message) -> Reply:
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part["type"] == "text")
    return Reply(
        content=content,
        tool_calls=tuple(ToolCall(function["name"], function["arguments"]) for function in functions),
        refusal=message.get("refusal"),
        recorded=True,
    )
