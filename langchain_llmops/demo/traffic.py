"""The traffic of a run: conversations of our own making, or those of a file."""

from __future__ import annotations

import gzip
import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_llmops.core.errors import ConfigurationError, InputFileError
from langchain_llmops.demo.shop import load_data

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Conversation", "made_traffic", "read_traffic"]

ROLES = ("system", "user", "assistant", "tool")


@dataclass
class Conversation:
    """One session: what the user says, turn by turn, and the whole recording when there is one."""

    session: str
    user: str
    turns: list[str] = field(default_factory=list)
    recorded: list[dict[str, Any]] | None = None
    recorded_name: str = ""

    @property
    def system(self) -> str | None:
        """The recording's system prompt."""
        first = self.recorded[0] if self.recorded else None
        return first["content"] if first is not None and first["role"] == "system" else None

    @property
    def after_system(self) -> list[dict[str, Any]]:
        """The recorded messages of the conversation proper."""
        return [message for message in self.recorded or [] if message["role"] != "system"]


def made_traffic(conversations: int, seed: int) -> list[Conversation]:
    """Support conversations over the demo's shop: frequent questions, orders, a few hard ones; the same for a seed."""
    draw = random.Random(seed)  # noqa: S311 - traffic, not secrets
    questions, orders = load_data("questions.json"), list(load_data("shop.json")["orders"].items())
    weights = [1 / (rank + 1) for rank in range(len(questions["faq"]))]
    made = []
    for number in range(conversations):
        order, details = orders[number % len(orders)]
        turns = [draw.choices(questions["faq"], weights)[0]]
        kinds = ("order", "faq", "hard", "small")
        asked = draw.choices(kinds, (5, 3, 2, 2), k=draw.randint(1, 3))
        turns += [draw.choice(questions[kind]).format(order=order) for kind in asked]
        made.append(Conversation(f"demo-{seed}-{number:04}", details["customer"], turns))
    return made


def read_traffic(path: Path) -> list[Conversation]:
    """Conversations of a JSONL file (or `.gz`), in the order of their first lines.

    A line is `{"user_id", "session_id", "message"}`, or a whole conversation `{"conversation_id", "user_id",
    "messages": [OpenAI messages]}`. Raises `InputFileError` with the line number.
    """
    sessions: dict[str, Conversation] = {}
    for number, line in _lines(path):
        conversation = _whole(path, number, line) if "messages" in line else _turn(path, number, line, sessions)
        if conversation.recorded is not None and conversation.session in sessions:
            raise InputFileError(path, number, f"conversation {conversation.session!r} appears twice")
        sessions[conversation.session] = conversation
    if not sessions:
        raise ConfigurationError(f"{path}: holds no traffic; each line is a JSON object with a message or messages")
    return list(sessions.values())


def _lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                if text.strip():
                    yield number, _parse(path, number, text)
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: not UTF-8 text ({error.reason})") from error
    except (OSError, EOFError) as error:
        raise ConfigurationError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _parse(path: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputFileError(path, number, f"not JSON ({error.msg})") from error
    if not isinstance(line, dict):
        raise InputFileError(path, number, "not a JSON object")
    return line


def _turn(path: Path, number: int, line: dict[str, Any], sessions: dict[str, Conversation]) -> Conversation:
    for key in ("user_id", "session_id", "message"):
        if not isinstance(line.get(key), str) or not line[key]:
            raise InputFileError(path, number, f"{key!r} must be a non-empty text")
    conversation = sessions.get(line["session_id"]) or Conversation(line["session_id"], line["user_id"])
    if conversation.user != line["user_id"] or conversation.recorded is not None:
        raise InputFileError(path, number, f"session {conversation.session!r} belongs to user {conversation.user!r}")
    conversation.turns.append(line["message"])
    return conversation


def _whole(path: Path, number: int, line: dict[str, Any]) -> Conversation:
    name, messages = line.get("conversation_id") or line.get("session_id"), line["messages"]
    if not isinstance(name, str) or not isinstance(messages, list) or not messages:
        raise InputFileError(path, number, "'conversation_id' must be a text and 'messages' a list")
    for place, message in enumerate(messages, 1):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise InputFileError(path, number, f"message {place} needs a role of {', '.join(ROLES)}")
    turns = [message["content"] for message in messages if message["role"] == "user"]
    if not turns or not all(isinstance(turn, str) for turn in turns):
        raise InputFileError(path, number, "a conversation needs at least one user message, with text content")
    recorded = list(_without_gaps(path, number, messages))
    return Conversation(name, str(line.get("user_id") or name), turns, recorded, name)


def _without_gaps(path: Path, number: int, messages: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for place, message in enumerate(messages, 1):
        if message["role"] == "system" and place > 1:
            raise InputFileError(path, number, f"message {place}: a system message may only come first")
        yield message
