"""A cached answer as bytes: plain JSON in an envelope, rebuilt field by field."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_llmops.core.context import CURRENT_RUN
from langchain_llmops.core.errors import EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_llmops.core.envelope import Envelope

__all__ = ["Entry", "decode", "encode", "rebuild"]

VERSION: Final = 1
# what bytes of another making do to code that expects ours
DAMAGE: Final = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class Entry:
    """A decoded answer: when it was made (Unix seconds), under which generation of the cache, and its content."""

    created: float
    generation: int
    answers: list[dict[str, Any]]


def encode(answers: Sequence[Generation], *, created: float, generation: int, envelope: Envelope) -> bytes:
    """The answer as stored bytes; raises `TypeError` or `ValueError` on content that JSON cannot hold."""
    body = {"v": VERSION, "t": created, "g": generation, "a": [_plain(answer) for answer in answers]}
    return envelope.seal(json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass"))


def decode(stored: bytes, envelope: Envelope) -> Entry:
    """The entry of stored bytes; raises `EnvelopeError` on anything foreign, damaged or of another version."""
    try:
        body = json.loads(envelope.open(stored))
        if body["v"] != VERSION:
            raise EnvelopeError(f"cache entry version {body['v']} is not readable by this library")
        return Entry(float(body["t"]), int(body["g"]), list(body["a"]))
    except DAMAGE as error:
        raise EnvelopeError("cache entry is damaged") from error


def rebuild(entry: Entry, *, level: str, age_s: float) -> list[Generation]:
    """Fresh generations: new message and tool-call ids, zero usage, and the original usage under `llmops_cache`.

    A message has the id that LangChain gives an answer of this run, so that feedback on it finds the run.
    """
    run = CURRENT_RUN.get() or uuid.uuid4()
    CURRENT_RUN.set(None)  # one run, one answer: an id is never given twice
    try:
        return [_answer(answer, f"lc_run--{run}-{n}", level, age_s) for n, answer in enumerate(entry.answers)]
    except DAMAGE as error:
        raise EnvelopeError("cache entry is damaged") from error


def _plain(answer: Generation) -> dict[str, Any]:
    plain: dict[str, Any] = {"text": answer.text, "info": answer.generation_info}
    if isinstance(answer, ChatGeneration):
        message = answer.message
        if not isinstance(message, AIMessage):
            raise TypeError(f"cannot cache a {type(message).__name__}")
        plain["message"] = {
            "content": message.content,
            "tool_calls": [{key: call[key] for key in ("name", "args", "id")} for call in message.tool_calls],
            "usage": message.usage_metadata,
            "meta": {key: value for key, value in message.response_metadata.items() if key != "token_usage"},
            "extra": {k: v for k, v in message.additional_kwargs.items() if k not in ("tool_calls", "parsed")},
            "name": message.name,
        }
    return plain


def _answer(plain: dict[str, Any], message_id: str, level: str, age_s: float) -> Generation:
    if "message" not in plain:
        return Generation(text=plain["text"], generation_info=plain["info"])
    stored = plain["message"]
    if not isinstance(stored["usage"] or {}, dict):
        raise EnvelopeError("cache entry is damaged")
    hit = {"level": level, "age_s": age_s, "saved": stored["usage"]}
    calls = [{**call, "id": f"call_{uuid.uuid4().hex[:24]}", "type": "tool_call"} for call in stored["tool_calls"]]
    ids = {str(old["id"]): new["id"] for old, new in zip(stored["tool_calls"], calls, strict=True)}
    message = AIMessage(
        content=_renamed(stored["content"], ids),
        name=stored["name"],
        id=message_id,
        tool_calls=calls,
        usage_metadata={"input_tokens": 0, "output_tokens": 0, "total_tokens": 0},
        response_metadata={**stored["meta"], "llmops_cache": hit},
        additional_kwargs=stored["extra"],
    )
    return ChatGeneration(message=message, generation_info=plain["info"])


def _renamed(content: Any, ids: dict[str, str]) -> Any:
    """Some providers repeat a tool call, with its id, as a block of the content."""
    if not isinstance(content, list):
        return content
    return [
        {**block, "id": ids[str(block["id"])]} if isinstance(block, dict) and str(block.get("id")) in ids else block
        for block in content
    ]
