"""What is asked for, and by whom: langchain-core hands a `BaseCache` two strings, and its own frame knows the rest."""

from __future__ import annotations

import json
import logging
import math
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_core.callbacks import BaseRunManager
from langchain_core.outputs import ChatGeneration
from pydantic import BaseModel

from langchain_llmops.cache.fingerprint import Fingerprints, Uncacheable, schema_seen, scope_of
from langchain_llmops.cache.place import is_text_model, place_of
from langchain_llmops.core.context import (
    ambient_metadata,
    cache_tags_from,
    checked_tags,
    current_identity,
    identity_from,
    text_from,
)
from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from contextlib import AbstractContextManager
    from types import FrameType
    from uuid import UUID

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import Generation

    from langchain_llmops.cache.engine import Generations
    from langchain_llmops.cache.fingerprint import Question
    from langchain_llmops.cache.policy import Policy
    from langchain_llmops.cache.tags import Tags
    from langchain_llmops.core.settings import CacheScope
    from langchain_llmops.core.types import Identity

__all__ = ["Asked", "Caller", "Requests", "call_in", "caller_of"]

INFINITY: Final = math.inf
SCOPES: Final = ("shared", "user", "session")
MOST_OWNERS: Final = 1000

_log = logging.getLogger(__name__)
_NOTHING: Final = nullcontext()


class Caller(NamedTuple):
    """Whose call it is: its run's metadata and id, the output classes it asks by, and tags of its model.

    `place`: where the model's requests go, "" where that is not known; `text`: whether it is a text model.
    """

    metadata: Mapping[str, Any] | None
    run_id: UUID | None = None
    classes: Sequence[type] = ()
    tags: Sequence[str] = ()
    place: str = ""
    text: bool = False


@dataclass(slots=True)
class Asked:
    """A request's key, its tags, where their generations are kept, and whose it is.

    `at_most_s`: how long an answer with these tags is fresh; `chat`, `as_json`: as in its `Key`; `seen`: the
    generations that its first look found.
    """

    key: str
    tags: tuple[str, ...]
    tag_keys: list[str]
    who: Identity | None
    caller: Caller
    prompt: str
    llm_string: str
    owner: str
    at_most_s: float
    chat: bool = False
    as_json: bool = False
    seen: Generations = field(default_factory=dict)

    def fit(self, answers: Sequence[Generation]) -> bool:
        """Put into messages what langchain-openai parses out of those that are asked for by class; whether it could."""
        return all(_parsed(message, one) for message in _messages(answers) for one in self.caller.classes)

    def in_form(self, answers: Sequence[Generation]) -> bool:
        """Whether those that are asked for as JSON, or by class, are that."""
        if not self.as_json and not self.caller.classes:
            return True
        messages = _messages(answers)
        if self.as_json and not all(map(_is_json, messages)):
            return False
        return all(_read(message, one) is not None for message in messages for one in self.caller.classes)


def caller_of(frame: FrameType, prompt: str) -> Caller | None:
    """Who called, as the locals of langchain-core show; None where one prompt is asked for two identities at once.

    Nor does it tell of one whose model fails to say where it asks.

    A context variable in place of this would outlive a call that is cancelled, and name its user for the next one.
    """
    seen = frame.f_locals
    run = seen.get("run_manager")
    if isinstance(run, BaseRunManager):
        classes = [value for value in seen.get("kwargs", {}).values() if isinstance(value, type)]
        return _at(seen.get("self"), Caller(run.metadata, run.run_id, classes))
    outer = frame.f_back.f_locals if frame.f_back is not None else {}
    managers = outer.get("callback_managers")  # text models look before their runs start
    if not isinstance(managers, list):
        return _at(seen.get("self"), Caller(ambient_metadata()))
    named = [one.metadata for text, one in zip(outer.get("prompts", ()), managers, strict=False) if text == prompt]
    if len({identity_from(metadata) for metadata in named}) > 1:
        return None
    return _at(outer.get("self"), Caller(named[0] if named else ambient_metadata()))


def _at(model: object, caller: Caller) -> Caller | None:
    """The caller, and what its model says; None where that cannot be read."""
    place, text = place_of(model), is_text_model(model)
    if place is None:
        return None
    return Caller(*caller[:4], place, text) if place or text else caller


def call_in(frame: FrameType) -> FrameType:
    """The frame that lasts as long as the call: text models look in a function of its own, which returns before it."""
    return frame.f_back or frame if frame.f_code.co_name == "get_prompts" else frame


class Requests:
    """Requests of one namespace, tenant and scope."""

    def __init__(
        self,
        fingerprints: Fingerprints,
        tags: Tags,
        *,
        scope: CacheScope,
        tenant: str,
        policy: Policy,
        tags_of: Callable[[str, str], Iterable[str]] | None,
        at_most: Callable[[Sequence[str]], float],
    ) -> None:
        if scope not in SCOPES:
            raise ConfigurationError(f"scope must be one of {', '.join(SCOPES)}, not {scope!r}")
        self._fingerprints = fingerprints
        self._tags = tags
        self._untagged = tags.keys_of(())
        self._scope = scope
        self._tenant = tenant
        self._policy = policy
        self._tags_of = tags_of
        self._at_most = at_most
        self._told = False
        self._owners: dict[Identity | None, str] = {}

    def asked(self, prompt: str, llm_string: str, caller: Caller | None) -> Asked | None:
        """What is asked for; None when it must not be cached."""
        if caller is None:
            return None
        who = current_identity(caller.metadata)
        try:
            owner = self._owner(who)
            with _known(caller.classes):
                key = self._fingerprints.key(prompt, llm_string, owner, caller.place, text=caller.text)
            self._policy.check(key)
        except Uncacheable:
            return None
        try:
            tags = (*cache_tags_from(caller.metadata), *caller.tags)
            if self._tags_of is not None:
                tags = (*tags, *checked_tags(self._tags_of(prompt, llm_string)))
        except Exception as error:  # noqa: BLE001 - the function is a stranger's; without its tags nothing may be kept
            self._untold(error)
            return None
        at_most_s = self._at_most(tags) if tags else INFINITY
        tag_keys = self._tag_keys(tags, who)
        found = key.digest, tags, tag_keys, who, caller, prompt, llm_string, owner
        return Asked(*found, at_most_s, key.chat, key.as_json)

    def _tag_keys(self, tags: Sequence[str], who: Identity | None) -> list[str]:
        tenant = None if who is None else who.tenant
        own = self._scope != "shared" and who is not None and who.user is not None
        if not tags and not own and tenant in (None, self._tenant):
            return self._untagged
        keys = self._tags.keys_of(tags, tenant)
        return [*keys, self._tags.user(who.user, tenant)] if own and who is not None and who.user is not None else keys

    def _untold(self, error: Exception) -> None:
        if not self._told:
            self._told = True
            _log.warning("calls go past the cache, as their tags cannot be told: %s", text_from(error))

    def question(self, asked: Asked) -> Question | None:
        """What was asked, taken apart; None where it does not end in plain text of a user."""
        who = asked.caller
        with _known(who.classes):
            return self._fingerprints.question(asked.prompt, asked.llm_string, asked.owner, who.place, text=who.text)

    def _owner(self, who: Identity | None) -> str:
        owner = self._owners.get(who)
        if owner is None:
            owner = scope_of(self._scope, who, self._tenant)
            if len(self._owners) >= MOST_OWNERS:
                self._owners.clear()
            self._owners[who] = owner
        return owner


def _messages(answers: Sequence[Generation]) -> list[BaseMessage]:
    return [answer.message for answer in answers if isinstance(answer, ChatGeneration)]


def _is_json(message: BaseMessage) -> bool:
    if getattr(message, "tool_calls", None):
        return True
    try:
        json.loads(message.text)
    except (ValueError, RecursionError):
        return False
    return True


def _parsed(message: BaseMessage, kind: type) -> bool:
    read = _read(message, kind)
    if isinstance(read, BaseModel):
        message.additional_kwargs["parsed"] = read
    return read is not None


def _read(message: BaseMessage, kind: type) -> object | None:
    """The message as one of the class, itself where it is none that can be read; None where it does not fit."""
    if not issubclass(kind, BaseModel) or getattr(message, "tool_calls", None):
        return message
    try:
        return kind.model_validate_json(message.text)
    except Exception:  # noqa: BLE001 - the class's validators are a stranger's
        return None


def _known(classes: Iterable[type]) -> AbstractContextManager[object]:
    """Within it requests that name these classes are known by their schemas."""
    if not classes:
        return _NOTHING
    stack = ExitStack()
    for one in classes:
        with suppress(Exception):  # one without a schema stays unknown, and what it is asked for uncached
            stack.enter_context(schema_seen(one))
    return stack
