"""Who is asking: user, session and request, in and out of LangChain's run metadata."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from langchain_core.utils.uuid import uuid7

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from uuid import UUID

    from langchain_core.runnables import RunnableConfig

__all__ = [
    "ARM",
    "ATTEMPT",
    "CURRENT_METADATA",
    "CURRENT_RUN",
    "EXPERIMENT",
    "ROUTE",
    "RUNG",
    "current_identity",
    "identity_from",
    "run_config",
    "text_from",
]

ROUTE: Final = "llmops_route"
RUNG: Final = "llmops_rung"
ATTEMPT: Final = "llmops_attempt"
EXPERIMENT: Final = "llmops_experiment"
ARM: Final = "llmops_arm"

_KEYS: Final = {
    "tenant": "tenant_id",
    "team": "team_id",
    "user": "user_id",
    "session": "session_id",
    "request": "request_id",
    "api_key_id": "api_key_id",
    "ip": "ip",
}

_NAMES: Final = tuple(_KEYS.items())
_LOOKED_AT: Final = (*_KEYS.values(), "thread_id")
_MEANT: Final = ("user", "session", "request", "tenant")
KNOWN_IDENTITIES: Final = 4096
LONGEST_KNOWN: Final = 256
_known: dict[tuple[Any, ...], Identity] = {}  # a call reads its identity several times, and its trace's runs share it

CURRENT_METADATA: ContextVar[Mapping[str, Any] | None] = ContextVar("llmops_metadata", default=None)
"""The metadata of the model call that is under way: a `BaseCache` is handed two strings and can ask only here.

Our callback handler sets it at every model start, to nothing when the run names nobody, and clears it at its end.
"""

CURRENT_RUN: ContextVar[UUID | None] = ContextVar("llmops_run", default=None)
"""The run of that call; None also for calls that LangChain starts several of before it asks the cache for any."""


def current_identity() -> Identity | None:
    """Who asks for the model call that is under way; None outside of one, or where nobody observes."""
    metadata = CURRENT_METADATA.get()
    return None if metadata is None else identity_from(metadata)


def identity_from(metadata: Mapping[str, Any] | None, tenant: str | None = None) -> Identity:
    """Read the identity a run's metadata names; `thread_id` stands in for a missing session, `tenant` for a tenant."""
    get = (metadata or {}).get
    named = (tenant, *map(get, _LOOKED_AT))
    try:
        return _known[named]
    except KeyError:  # not remembered yet
        who = _identity(get, tenant)
        if all(value is None or (type(value) is str and len(value) <= LONGEST_KNOWN) for value in named):
            if len(_known) >= KNOWN_IDENTITIES:
                _known.clear()
            _known[named] = who
        return who
    except Exception:  # noqa: BLE001 - a value that is no key, for whatever reason of its own
        return _identity(get, tenant)


def _identity(get: Callable[[str], Any], tenant: str | None) -> Identity:
    found = {name: text_from(value) for name, key in _NAMES if (value := get(key))}
    if "session" not in found and (thread := get("thread_id")):
        found["session"] = text_from(thread)
    if tenant is not None:
        found.setdefault("tenant", tenant)
    return Identity.of(found)


def text_from(value: object) -> str:
    """What somebody put into metadata as text, whatever it is."""
    if type(value) is str:
        return value
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - the class is a stranger's
        return f"<{type(value).__name__}>"


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
    for name in metadata or ():
        if name in _MEANT:
            raise ConfigurationError(f"metadata {name!r} would name nobody: say {_KEYS[name]}")
    named.setdefault("request_id", str(uuid7()))
    thread = thread_id or identity.session
    if thread is not None:
        named["thread_id"] = thread
    config: RunnableConfig = {"metadata": {**(metadata or {}), **named}, "tags": list(tags)}
    if thread is not None:
        config["configurable"] = {"thread_id": thread}
    if callbacks is not None:
        config["callbacks"] = callbacks
    return config
