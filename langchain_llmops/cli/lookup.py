"""The ID of `llmops trace` and `llmops replay`: a request, trace or run by its id, or by how its id begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeVar

from langchain_llmops.cli.scope import Scope, plain
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.ledger.lookup import Matches, matches

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable
    from typing import Any

    from langchain_llmops.ledger.calls import Call
    from langchain_llmops.stores.base import Sql

__all__ = ["ID_HELP", "check_tenant", "look_up"]

T = TypeVar("T")

SHORTEST: Final = 8
ID_HELP: Final = f"A request, trace or run id, or its first {SHORTEST} characters or more."


def look_up(scope: Scope, wanted: str, read: Callable[[Sql, str], Coroutine[Any, Any, list[T]]]) -> list[T]:
    """What `read` finds by the id. Raises `ConfigurationError` where there is nothing, or more than one begins so."""
    plain(wanted, "ID")

    async def query(sql: Sql) -> list[T]:
        found = await read(sql, wanted)
        if found:
            return found
        begins = await matches(sql, wanted, scope.chosen) if len(wanted) >= SHORTEST else Matches(0, [], None)
        return await read(sql, _only(begins, wanted, scope.place))

    return scope.read(query)


def check_tenant(wanted: str, calls: Iterable[Call]) -> None:
    """Refuse a name that requests of several tenants have; calls come in order of time, so a trace's root first."""
    owners: dict[str, str] = {}
    for call in calls:
        owners.setdefault(call.trace_id, call.tenant or "none")
    named = sorted(set(owners.values()))
    if len(named) > 1:
        raise ConfigurationError(
            f"{len(named)} tenants have a request {wanted!r} ({', '.join(named)}): name one with --tenant"
        )


def _only(found: Matches, wanted: str, place: str) -> str:
    if found.only is not None:
        return found.only
    if not found.count:
        raise ConfigurationError(
            f"the ledger in {place} has no {wanted!r}; `llmops logs` lists ids, and their first {SHORTEST} characters"
            " or more are enough"
        )
    first = ", ".join(found.first) + (", …" if found.count > len(found.first) else "")
    raise ConfigurationError(
        f"{found.count:,} requests have an id that begins with {wanted!r} ({first}): give more of the one you mean"
    )
