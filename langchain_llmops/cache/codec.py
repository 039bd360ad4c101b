"""A cached answer as bytes: plain JSON, sealed in an envelope below the first level, rebuilt field by field."""

from __future__ import annotations

import itertools
import json
import os
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import orjson
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from langchain_llmops.cache.history import CALL_IDS, CALL_NAMES
from langchain_llmops.core.errors import EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

__all__ = ["Entry", "encode", "rebuild", "unpacked"]

T = TypeVar("T")

VERSION: Final = 2
FAST, EXACT = b"+", b"-"
# what bytes of another making do to code that expects ours
DAMAGE: Final = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
MESSAGE: Final = AIMessage("")
CHAT: Final = ChatGeneration(message=MESSAGE)
TEXTS: Final = (str, type(None))
NUMBERS: Final = (float, int, type(None))
OBJECT: Final = (dict, type(None))
TEXT: Final = (str, list)
HEAD_BYTES, TAG_BYTES = 400, 48  # tracemalloc, CPython 3.11; the keys of tags are shared
NO_USAGE: Final = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


@dataclass(slots=True)
class Entry:
    """A kept answer; it is shared by all who hold it, and nobody changes it (frozen, it took twice as long to make).

    `created`: Unix seconds; `ttl_s`: how long it is fresh; `took_s`: what asking for it took; `generations`: those of
    its tags when it was asked for; `body`: the answer in JSON, which nobody reads before it is served.
    """

    created: float
    ttl_s: float
    took_s: float
    generations: Mapping[str, int]
    body: bytes

    @property
    def size(self) -> int:
        """Bytes that it takes, about."""
        return HEAD_BYTES + len(self.body) + TAG_BYTES * len(self.generations)

    def packed(self) -> bytes:
        """As bytes: a line about the answer, and the answer."""
        head = [VERSION, self.created, self.ttl_s, self.took_s, self.generations]
        return orjson.dumps(head) + b"\n" + self.body


def unpacked(packed: bytes) -> Entry:
    """The entry of bytes; raises `EnvelopeError` on anything foreign, damaged or of another version."""
    head, _, body = packed.partition(b"\n")
    try:
        version, created, ttl_s, took_s, generations = orjson.loads(head)
        if version != VERSION:
            raise EnvelopeError(f"cache entry version {version} is not readable by this library")
        for one in generations.values():
            if type(one) is not int:
                raise EnvelopeError("cache entry is damaged")
        return Entry(float(created), float(ttl_s), float(took_s), generations, body)
    except DAMAGE as error:
        raise EnvelopeError("cache entry is damaged") from error


def encode(answers: Sequence[Generation], worth: Callable[[Generation], float | None] = lambda _: None) -> bytes:
    """The answer as JSON, the text of a single one behind it, where nobody need parse it.

    `worth` says what asking for one cost in dollars, so that no hit need work it out.

    Raises `TypeError`, `ValueError` or `RecursionError` on content that JSON cannot hold.
    """
    body = [_plain(answer, worth) for answer in answers]
    text = _taken_out(body[0]) if len(body) == 1 else None
    written = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    kind = FAST if _same(written, body) else EXACT
    return kind + written + (b"" if text is None else b"\n" + text.encode("utf-8", "surrogatepass"))


def rebuild(
    entry: Entry, hit: Mapping[str, Any], run_id: UUID | None = None, *, chat: bool = False
) -> list[Generation]:
    """Fresh generations: new ids of messages and tool calls, zero usage; `llmops_cache` has the original and its price.

    A message has the id that LangChain gives an answer of this run, so that feedback on it finds the run.

    Raises `EnvelopeError` on anything damaged, an entry without an answer, and one without messages for a `chat`.
    """
    run: object = run_id or _IDS.new()
    try:
        answers = [_answer(answer, f"lc_run--{run}-{n}", hit) for n, answer in enumerate(_loads(entry.body))]
    except DAMAGE as error:
        raise EnvelopeError("cache entry is damaged") from error
    if not answers or (chat and not all(isinstance(answer, ChatGeneration) for answer in answers)):
        raise EnvelopeError("cache entry holds no answer to what is asked")
    return answers


class _Ids:
    """Ids that are never given twice: a part of this process's own and a number, where nobody need not guess them."""

    def __init__(self) -> None:
        self._begin()
        os.register_at_fork(after_in_child=self._begin)

    def new(self) -> str:
        """In the form of a UUID, a tenth as dear."""
        return f"{self._own}{next(self._numbers):012x}"

    def _begin(self) -> None:
        self._own = str(uuid.uuid4())[:-12]
        self._numbers = itertools.count()


_IDS: Final = _Ids()


def _taken_out(plain: dict[str, Any]) -> str | None:
    content = plain["message"]["content"] if "message" in plain else None
    if not isinstance(content, str):
        return None
    plain["message"]["content"] = None
    return str(content)


def _loads(body: bytes) -> Any:
    end = body.find(b"\n")
    written = memoryview(body)[1 : end if end > 0 else len(body)]
    answers = orjson.loads(written) if body[:1] == FAST else json.loads(str(written, "utf-8", "surrogatepass"))
    if end > 0:
        answers[0]["message"]["content"] = str(memoryview(body)[end + 1 :], "utf-8", "surrogatepass")
    return answers


def _same(written: bytes, body: Any) -> bool:
    """Whether orjson, four times as fast, reads it as it is: it rounds large integers and refuses half an emoji."""
    try:
        return bool(orjson.loads(written) == body)
    except orjson.JSONDecodeError:
        return False


def _plain(answer: Generation, worth: Callable[[Generation], float | None]) -> dict[str, Any]:
    plain: dict[str, Any] = {"text": answer.text, "info": answer.generation_info}
    if isinstance(answer, ChatGeneration):
        message = answer.message
        if not isinstance(message, AIMessage):
            raise TypeError(f"cannot cache a {type(message).__name__}")
        if answer.text == message.content:
            plain["text"] = None  # it is not kept twice
        plain["message"] = {
            "content": message.content,
            "tool_calls": [{key: call[key] for key in ("name", "args", "id")} for call in message.tool_calls],
            "usage": message.usage_metadata,
            "meta": {key: value for key, value in message.response_metadata.items() if key != "token_usage"},
            "extra": {k: v for k, v in message.additional_kwargs.items() if k not in ("tool_calls", "parsed")},
            "name": message.name,
        }
        if (usd := worth(answer)) is not None:
            plain["message"]["usd"] = usd
    return plain


def _answer(plain: dict[str, Any], message_id: str, hit: Mapping[str, Any]) -> Generation:
    text, info = plain["text"], plain["info"]
    if "message" not in plain:
        return Generation(text=text, generation_info=info)
    stored = plain["message"]
    content, meta, extra = stored["content"], stored["meta"], stored["extra"]
    usage, name, usd = stored["usage"], stored["name"], stored.get("usd")
    _check(content, meta, extra, usage, name, info, usd)
    meta["llmops_cache"] = {"saved": usage, **hit} if usd is None else {"saved": usage, "saved_usd": usd, **hit}
    fields = MESSAGE.__dict__ | {
        "content": content,
        "id": message_id,
        "name": name,
        "usage_metadata": NO_USAGE.copy(),
        "response_metadata": meta,
        "additional_kwargs": extra,
        "tool_calls": [],
        "invalid_tool_calls": [],
    }
    if stored["tool_calls"]:
        fields |= _renamed(content, extra, stored["tool_calls"])
    message = _made(MESSAGE, fields)
    if text is None:
        text = content if isinstance(content, str) else message.text
    if not isinstance(text, str):
        raise EnvelopeError("cache entry is damaged")
    return _made(CHAT, CHAT.__dict__ | {"message": message, "text": str(text), "generation_info": info})


def _check(content: Any, meta: Any, extra: Any, usage: Any, name: Any, info: Any, usd: Any) -> None:
    """The types that a message has: its fields are set without asking pydantic, which is three times as slow."""
    blocks = content if isinstance(content, list) else ()
    right = (
        isinstance(content, TEXT)
        and (not blocks or all(isinstance(block, str | dict) for block in blocks))
        and isinstance(meta, dict)
        and isinstance(extra, dict)
        and isinstance(usage, OBJECT)
        and isinstance(name, TEXTS)
        and isinstance(info, OBJECT)
        and isinstance(usd, NUMBERS)
    )
    if not right:
        raise EnvelopeError("cache entry is damaged")


def _made(like: T, fields: dict[str, Any]) -> T:
    """What `like.model_copy(update=fields)` gives, in a third of the time."""
    made = object.__new__(type(like))
    set_ = object.__setattr__
    set_(made, "__dict__", fields)
    set_(made, "__pydantic_fields_set__", {*fields})
    set_(made, "__pydantic_extra__", None)
    set_(made, "__pydantic_private__", None)
    return made


def _renamed(content: Any, extra: dict[str, Any], calls: list[dict[str, Any]]) -> dict[str, Any]:
    """Tool calls with new ids; some providers repeat a call, with its id, as a block of the content."""
    renamed = [_call(call) for call in calls]
    ids = {old["id"]: new["id"] for old, new in zip(calls, renamed, strict=True) if isinstance(old["id"], str)}
    if isinstance(content, list):
        content = [_with_ids(block, ids) if isinstance(block, dict) else block for block in content]
    if isinstance(items := extra.get(CALL_NAMES), dict):
        extra = {**extra, CALL_NAMES: {ids.get(name, name): item for name, item in items.items()}}
    return {"content": content, "additional_kwargs": extra, "tool_calls": renamed}


def _with_ids(block: dict[str, Any], ids: Mapping[str, str]) -> dict[str, Any]:
    return block | {
        name: ids[said] for name in ("id", *CALL_IDS) if isinstance(said := block.get(name), str) and said in ids
    }


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(call["name"], str) or not isinstance(call["args"], dict):
        raise EnvelopeError("cache entry is damaged")
    return {"name": call["name"], "args": call["args"], "id": f"call_{uuid.uuid4().hex[:24]}", "type": "tool_call"}
