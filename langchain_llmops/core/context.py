"""Who is asking: user, session and request, in and out of LangChain's run metadata."""

from __future__ import annotations

import uuid
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import Identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from langchain_core.runnables import RunnableConfig

__all__ = ["ATTEMPT", "CURRENT_IDENTITY", "ROUTE", "RUNG", "identity_from", "run_config"]

ROUTE: Final = "llmops_route"
RUNG: Final = "llmops_rung"
ATTEMPT: Final = "llmops_attempt"

_KEYS: Final = {
    "tenant": "tenant_id",
    "team": "team_id",
    "user": "user_id",
    "session": "session_id",
    "request": "request_id",
    "api_key_id": "api_key_id",
    "ip": "ip",
}

CURRENT_IDENTITY: ContextVar[Identity | None] = ContextVar("llmops_identity", default=None)
"""The identity of the model call that is starting: a `BaseCache` is handed two strings and can ask only here.

Our callback handler sets it at every model start (to `Identity()` when the run names nobody) and clears it at its end.
"""


def identity_from(metadata: Mapping[str, Any] | None) -> Identity:
    """Read the identity a run's metadata names; `thread_id` stands in for a missing session."""
    metadata = metadata or {}
    found = {name: _text(metadata.get(key)) for name, key in _KEYS.items()}
    found["session"] = found["session"] or _text(metadata.get("thread_id"))
    return Identity(**found)


def run_config(
    identity: Identity,
    *,
    thread_id: str | None = None,
    tags: Iterable[str] = (),
    metadata: Mapping[str, Any] | None = None,
    callbacks: list[Any] | None = None,
) -> RunnableConfig:
    """A `RunnableConfig` whose metadata reaches every run of the trace.

    The session is also the LangGraph thread (`configurable.thread_id`) and the LangSmith thread (`session_id`,
    `thread_id` in the metadata), unless `thread_id` names another. A request id is made when none is given.
    """
    named = {key: getattr(identity, name) for name, key in _KEYS.items() if getattr(identity, name) is not None}
    for key, value in named.items():
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{key} must be a non-empty string, not {value!r}")
    named.setdefault("request_id", str(uuid.uuid4()))
    thread = thread_id or identity.session
    if thread is not None:
        named["thread_id"] = thread
    config: RunnableConfig = {"metadata": {**(metadata or {}), **named}, "tags": list(tags)}
    if thread is not None:
        config["configurable"] = {"thread_id": thread}
    if callbacks is not None:
        config["callbacks"] = callbacks
    return config


def _text(value: object) -> str | None:
    return None if value is None else str(value)
