"""The key of a model call: a hash of what goes to the provider, under who may share it."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.types import Identity

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_llmops.core.settings import CacheScope

__all__ = ["Uncacheable", "fingerprint", "scope_of"]

VERSION: Final = "1"
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
# as a JSON field of a model, or as a parameter written by repr
_TEMPERATURE: Final = re.compile(r"""['"]temperature['"](?::|,) (\d+(?:\.\d+)?(?:e-?\d+)?)""")


class Uncacheable(Exception):  # noqa: N818 - a decision, not a failure; never leaves the cache
    """This call must not be cached, for the reason given."""


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


def fingerprint(prompt: str, llm_string: str, *, owner: str, namespace: str) -> str:
    """BLAKE2b-256 over the canonical request and its scope, in hex; raises `Uncacheable`.

    `prompt` and `llm_string` are what langchain-core hands to a `BaseCache`. Message ids, tool-call ids, usage and
    response metadata of the history do not count; text as a string or as text blocks is the same.
    """
    if _OPAQUE.search(llm_string):
        raise Uncacheable("the request holds a class or an object whose content the cache cannot see")
    if any(float(found[1]) > 0 for found in _TEMPERATURE.finditer(llm_string)):
        raise Uncacheable("temperature is above 0")
    parts = [VERSION, namespace, owner, _model(llm_string), _prompt(prompt)]
    digest = hashlib.blake2b(digest_size=32)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def _model(llm_string: str) -> str:
    head, separator, parameters = llm_string.partition("}---[")
    if not separator:
        return llm_string
    try:
        model = json.loads(head + "}")
        settings = {key: value for key, value in model["kwargs"].items() if key not in CLIENT_SIDE}
    except (ValueError, KeyError, TypeError, AttributeError):  # a model described in a form of its own
        return llm_string
    return json.dumps([model.get("id"), settings, parameters], sort_keys=True)


def _prompt(prompt: str) -> str:
    """Messages in a form of their own; a text model's prompt, even one that looks like JSON, as the text it is."""
    try:
        messages = json.loads(prompt)
        numbers: dict[str, int] = {}
        canonical = [_message(message["kwargs"], numbers) for message in messages if message["lc"] == 1]
        if not canonical or len(canonical) != len(messages):
            return f"text:{prompt}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # no messages, but a text like JSON
        return f"text:{prompt}"
    return "messages:" + json.dumps(canonical, sort_keys=True, ensure_ascii=False)


def _message(kwargs: Mapping[str, Any], numbers: dict[str, int]) -> list[Any]:
    calls = [
        [call["name"], call["args"], numbers.setdefault(str(call.get("id")), len(numbers))]
        for call in kwargs.get("tool_calls") or []
    ]
    answered = kwargs.get("tool_call_id")
    return [
        kwargs.get("type"),
        kwargs.get("role"),
        _content(kwargs.get("content")),
        kwargs.get("name"),
        calls,
        [[call.get("name"), call.get("args")] for call in kwargs.get("invalid_tool_calls") or []],
        None if answered is None else numbers.setdefault(str(answered), len(numbers)),
        kwargs.get("status"),
        _extra(kwargs.get("additional_kwargs") or {}, has_calls=bool(calls)),
    ]


def _content(content: Any) -> Any:
    if isinstance(content, list) and all(isinstance(b, dict) and set(b) == {"type", "text"} for b in content):
        return "".join(block["text"] for block in content)
    return content


def _extra(extra: Mapping[str, Any], *, has_calls: bool) -> dict[str, Any]:
    """Provider-specific fields that are sent back, without the copy of the tool calls that carries their ids."""
    return {key: value for key, value in extra.items() if value is not None and not (has_calls and key == "tool_calls")}
