"""Who is asking: user, session and request, in and out of LangChain's run metadata."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from langchain_core.runnables.config import ensure_config, var_child_runnable_config
from langchain_core.utils.uuid import uuid7

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from langchain_core.runnables import RunnableConfig

__all__ = [
    "ARM",
    "ATTEMPT",
    "CACHE_TAGS",
    "EXPERIMENT",
    "PREFETCH",
    "ROUTE",
    "RUNG",
    "acting_for",
    "ambient_metadata",
    "cache_tags_from",
    "checked_tags",
    "current_identity",
    "identity_from",
    "metadata_of",
    "run_config",
    "text_from",
]

ROUTE: Final = "llmops_route"
RUNG: Final = "llmops_rung"
ATTEMPT: Final = "llmops_attempt"
EXPERIMENT: Final = "llmops_experiment"
ARM: Final = "llmops_arm"
PREFETCH: Final = "llmops_prefetch"
CACHE_TAGS: Final = "cache_tags"

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
LONGEST_TAG: Final = 200
_known: dict[tuple[Any, ...], Identity] = {}  # a call reads its identity several times, and its trace's runs share it

_ACTING_FOR: ContextVar[Identity | None] = ContextVar("llmops_acting_for", default=None)


def ambient_metadata() -> Mapping[str, Any] | None:
    """The metadata of the chain or graph node that runs around us."""
    return None if var_child_runnable_config.get() is None else ensure_config().get("metadata")


def current_identity(metadata: Mapping[str, Any] | None = None) -> Identity | None:
    """Who asks: what the run's metadata names, the rest by `acting_for`; None if unknown.

    But for the tenant, what `acting_for` says is of its user alone.
    """
    named = None if metadata is None else identity_from(metadata)
    meant = _ACTING_FOR.get()
    if meant is None or named is None:
        return meant or named
    if named.user not in (None, meant.user):
        return replace(named, tenant=named.tenant or meant.tenant)
    more = {name: value for name in _KEYS if (value := getattr(named, name)) is not None}
    return replace(meant, **more)


def cache_tags_from(metadata: Mapping[str, Any] | None) -> tuple[str, ...]:
    """The tags that a run's metadata gives its cached answer; raises `ConfigurationError` for what are none."""
    tags = None if metadata is None else metadata.get(CACHE_TAGS)
    return () if tags is None else checked_tags(tags)


def checked_tags(tags: object) -> tuple[str, ...]:
    """Tags of the cache, one as a text or several; raises `ConfigurationError` for what are none."""
    given = (tags,) if isinstance(tags, str) else tuple(tags) if isinstance(tags, Iterable) else (tags,)
    for tag in given:
        if not isinstance(tag, str) or not 0 < len(tag) <= LONGEST_TAG:
            raise ConfigurationError(f"a cache tag is a text of 1 to {LONGEST_TAG} characters, not {tag!r:.60}")
    return given


@contextmanager
def acting_for(who: Identity) -> Iterator[None]:
    """Calls within the block whose run names no user and no session are those of `who`."""
    token = _ACTING_FOR.set(who)
    try:
        yield
    finally:
        _ACTING_FOR.reset(token)


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


def metadata_of(identity: Identity) -> dict[str, Any]:
    """What names this identity in a run's metadata; raises `ConfigurationError` for what is no name."""
    named = {key: getattr(identity, name) for name, key in _KEYS.items() if getattr(identity, name) is not None}
    for key, value in named.items():
        if not isinstance(value, str) or not value:
            raise ConfigurationError(f"{key} must be a non-empty string, not {value!r}")
    return named


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
    named = metadata_of(identity)
    cache_tags_from(metadata)
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
