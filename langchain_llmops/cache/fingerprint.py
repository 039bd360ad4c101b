"""The key of a model call: a hash of what goes to the provider, under who may share it."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import threading
from collections import OrderedDict
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from langchain_core.utils.function_calling import convert_to_openai_tool

from langchain_llmops.cache.history import holds_unknown, messages_in, written
from langchain_llmops.cache.place import PLACES, is_part
from langchain_llmops.core.types import Identity

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from langchain_llmops.core.settings import CacheScope

__all__ = ["Fingerprints", "Key", "Question", "Uncacheable", "schema_seen", "scope_of"]

VERSION: Final = "3"
MEMO_BYTES: Final = 4 * 1024 * 1024
MODELS_REMEMBERED: Final = 256
# Fields of a model that change how we ask, not what is asked.
CLIENT_SIDE: Final = frozenset(
    {
        "cache",
        "callbacks",
        "http_socket_options",
        "max_retries",
        "metadata",
        "name",
        "rate_limiter",
        "request_timeout",
        "stream_chunk_timeout",
        "stream_usage",
        "streaming",
        "tags",
        "timeout",
        "verbose",
    }
)
# A class by its name says nothing of its schema, and an object by its address never comes again.
_OPAQUE: Final = re.compile(r"<class '|<function | at 0x[0-9a-f]+>")
# of parameters that cannot be read: the name, and a number, if one follows
_TEMPERATURE: Final = re.compile(r"temperature\w*['\"]?\s*[,:=]\s*(?:['\"]?([-+.\w]+))?", re.IGNORECASE)
_JSON_FORMAT: Final = re.compile(r"['\"]json_(?:object|schema)['\"]")
_JSON_FORMATS: Final = ("json_object", "json_schema")
_SCHEMAS: ContextVar[Mapping[str, str] | None] = ContextVar("llmops_cache_schemas", default=None)
_NO_JSON: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
_NO_LITERAL: Final = (ValueError, SyntaxError, TypeError, MemoryError, RecursionError)


class Uncacheable(Exception):  # noqa: N818 - a decision, not a failure; never leaves the cache
    """This call must not be cached, for the reason given."""


@dataclass(frozen=True, slots=True)
class Key:
    """`digest`: BLAKE2b-256 in hex of the canonical request and its owner; `temperature`: None where it is unset.

    `chat`: whether messages are asked with; `as_json`: whether the answer is asked for as JSON.
    """

    digest: str
    temperature: float | None
    chat: bool = False
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A request taken apart: `group` is a digest of all but `text`, which the user said last."""

    group: str
    text: str


@dataclass(frozen=True, slots=True)
class _Model:
    canonical: str
    temperature: float | None
    as_json: bool


def scope_of(scope: CacheScope, identity: Identity | None, tenant: str) -> str:
    """Who may share the answer; raises `Uncacheable` when the scope needs an identity that is unknown.

    The tenant that the run names wins over the cache's own. Two users may well choose one name for a session, so a
    session belongs to its user.
    """
    who = identity or Identity()
    owner = [who.tenant or tenant]
    if scope != "shared":
        name = who.user if scope == "user" else who.session
        if not name:
            raise Uncacheable(f"scope is {scope!r} and the run names no {scope}")
        owner += [scope, who.user or "", name]
    return json.dumps(owner)


@contextmanager
def schema_seen(schema: type) -> Iterator[None]:
    """Within the block, a request that names this class is known by the class's schema and may be cached."""
    seen = json.dumps(convert_to_openai_tool(schema), sort_keys=True)
    token = _SCHEMAS.set({**(_SCHEMAS.get() or {}), repr(schema): seen})
    try:
        yield
    finally:
        _SCHEMAS.reset(token)


class Fingerprints:
    """Keys of one namespace and prompt version; those of late requests are remembered, within `memo_bytes`.

    `prompt` and `llm_string` are what langchain-core hands to a `BaseCache`; `place` is where the request goes, which
    they need not tell, and `text` says that a text model asks. What the provider does not see does not count: ids of
    messages and tool calls, usage and response metadata of the history, settings of the client, the order of tools;
    text as a string or as one block of text is the same.
    """

    def __init__(self, *, namespace: str = "", prompt_version: str = "", memo_bytes: int = MEMO_BYTES) -> None:
        self._start = _started(VERSION, namespace, prompt_version)
        self._models: OrderedDict[tuple[str, str], _Model | str] = OrderedDict()
        self._keys: OrderedDict[tuple[str, ...], Key] = OrderedDict()
        self._memo_bytes = memo_bytes
        self._held = 0
        self._lock = threading.Lock()

    def key(self, prompt: str, llm_string: str, owner: str, place: str = "", *, text: bool = False) -> Key:
        """The key of a request; raises `Uncacheable`."""
        seen = _with_schemas(llm_string)
        asked = (prompt, seen, owner, place, "text" if text else "")
        found = self._keys.get(asked)
        if found is None:
            with _readable():
                model = self._model(seen, place)
                messages = None if text else messages_in(prompt)
                if messages is not None and holds_unknown(prompt):
                    raise Uncacheable("the messages hold an object whose content the cache cannot see")
                # a text model's prompt, even one that looks like JSON, is the text it is
                said = f"text:{prompt}" if messages is None else f"messages:{written(messages)}"
                digest = self._digest(owner, place, model.canonical, said)
            found = Key(digest, model.temperature, messages is not None, model.as_json)
            self._remember(asked, found)
        return found

    def question(
        self, prompt: str, llm_string: str, owner: str, place: str = "", *, text: bool = False
    ) -> Question | None:
        """The request taken apart; None where it does not end in plain text of a user; raises `Uncacheable`."""
        with _readable():
            model = self._model(_with_schemas(llm_string), place)
            messages = None if text else messages_in(prompt)
            if not messages or messages[-1][0] != "human" or not isinstance(messages[-1][2], str):
                return None
            said = messages[-1][2]
            messages[-1][2] = None
            return Question(self._digest(owner, place, model.canonical, written(messages)), said)

    def _model(self, llm_string: str, place: str) -> _Model:
        found = self._models.get((llm_string, place))
        if found is None:
            try:
                with _readable():
                    found = _model(llm_string, place)
            except Uncacheable as error:
                found = str(error)
            with self._lock:
                self._models[llm_string, place] = found
                if len(self._models) > MODELS_REMEMBERED:
                    self._models.popitem(last=False)
        if isinstance(found, str):
            raise Uncacheable(found)
        return found

    def _digest(self, *parts: str) -> str:
        digest = self._start.copy()
        _add(digest, *parts)
        return digest.hexdigest()

    def _remember(self, asked: tuple[str, ...], key: Key) -> None:
        size = sum(map(len, asked))
        if size * 8 > self._memo_bytes:
            return
        with self._lock:
            if asked not in self._keys:
                self._keys[asked] = key
                self._held += size
            while self._held > self._memo_bytes:
                forgotten, _ = self._keys.popitem(last=False)
                self._held -= sum(map(len, forgotten))


@contextmanager
def _readable() -> Iterator[None]:
    """Whatever fails within says that the request is one that no key can be made of."""
    try:
        yield
    except Uncacheable:
        raise
    except Exception as error:
        raise Uncacheable(f"the request cannot be read: {type(error).__name__}") from error


def _with_schemas(llm_string: str) -> str:
    for name, schema in (_SCHEMAS.get() or {}).items():
        llm_string = llm_string.replace(name, repr({"schema": schema}))
    return llm_string


def _started(*parts: str) -> hashlib.blake2b:
    digest = hashlib.blake2b(digest_size=32)
    _add(digest, *parts)
    return digest


def _add(digest: hashlib.blake2b, *parts: str) -> None:
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)


def _model(llm_string: str, place: str) -> _Model:
    """A model and what it is asked with: its fields in JSON and the `repr` of parameters, or the latter alone."""
    head, separator, rest = llm_string.partition("}---[")
    kind, fields = None, {}
    if separator:
        try:
            described = json.loads(head + "}")
            kind, fields = described.get("id"), dict(described["kwargs"])
        except _NO_JSON:
            separator = ""
    told = f"[{rest}" if separator else llm_string
    parameters = _literal(told)
    if _OPAQUE.search(head if separator else "") or (parameters is None and _OPAQUE.search(llm_string)):
        raise Uncacheable("the request holds a class or an object whose content the cache cannot see")
    fields = _counted(fields, place)
    if parameters is None:
        warmest = max([*_temperatures(fields), *_temperatures_in(told)], default=None)
        as_json = _as_json(fields) or _JSON_FORMAT.search(told) is not None
        return _Model(_written([kind, fields, told]), warmest, as_json)
    parameters = _counted(parameters, place)
    if isinstance(parameters.get("tools"), list):
        parameters["tools"] = sorted(json.dumps(one, sort_keys=True, default=repr) for one in parameters["tools"])
    asked = [fields, parameters]
    as_json = any(map(_as_json, asked))
    return _Model(_written([kind, asked]), max(_temperatures(asked), default=None), as_json)


def _written(asked: list[Any]) -> str:
    return json.dumps(asked, sort_keys=True, default=repr)


def _counted(part: Mapping[str, Any], place: str) -> dict[str, Any]:
    """What the provider sees, without what `place` says already."""
    return {
        name: value
        for name, value in part.items()
        if name not in CLIENT_SIDE and not (name in PLACES and isinstance(value, str) and is_part(value, place))
    }


def _as_json(part: Mapping[str, Any]) -> bool:
    more = part.get("model_kwargs")
    form = part.get("response_format") or (more.get("response_format") if isinstance(more, dict) else None)
    return isinstance(form, dict) and form.get("type") in _JSON_FORMATS


def _literal(text: str) -> dict[str, Any] | None:
    """Parameters written by `repr` of a sorted list of pairs; None where they are no plain data."""
    try:
        pairs = ast.literal_eval(text)
        parameters = {name: value for name, value in pairs if isinstance(name, str)}
        return parameters if len(parameters) == len(pairs) else None
    except _NO_LITERAL:
        return None


def _temperatures(asked: Any) -> Iterator[float]:
    """Wherever they are set: on the model, with the call, or among what a model passes on unread."""
    if isinstance(asked, list | tuple):
        for one in asked:
            yield from _temperatures(one)
    elif isinstance(asked, dict):
        for name, value in asked.items():
            if name == "temperature" and isinstance(value, int | float | str):
                yield _temperature(str(value))
            else:
                yield from _temperatures(value)


def _temperatures_in(text: str) -> Iterator[float]:
    """Those of parameters that cannot be read, by their names."""
    for found in _TEMPERATURE.finditer(text):
        if found[1] not in ("None", "null"):
            yield _temperature(found[1] or "")


def _temperature(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise Uncacheable("the temperature cannot be read") from error
