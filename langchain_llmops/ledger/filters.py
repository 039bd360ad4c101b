"""Which calls a query is about, and the few expressions that all queries share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_llmops.stores.base import Dialect, Sql

__all__ = [
    "ANSWERED",
    "CONVERSATION",
    "COST",
    "DAY",
    "FAILED",
    "PAID",
    "REPLAY_TAG",
    "REQUEST",
    "SPOKEN",
    "UNPRICED",
    "Filter",
    "has_tenants",
]

PAID: Final = "kind IN ('model', 'embedding')"
ANSWERED: Final = "error_kind IS NULL"
FAILED: Final = "error_kind IS NOT NULL"
# an answer from the cache is free: whether its model has a price shows in what it saved
UNPRICED: Final = "(unpriced = 1 OR (cache_level IS NOT NULL AND saved_pico IS NULL))"
COST: Final = "(COALESCE(input_pico, 0) + COALESCE(output_pico, 0) + COALESCE(fee_pico, 0))"
REPLAY_TAG: Final = "llmops:replay"
NOT_REPLAYED: Final = f"tags NOT LIKE '%\"{REPLAY_TAG}\"%'"
REQUEST: Final = "COALESCE(request_id, trace_id)"
# a session of a tenant is a conversation whatever is in it; a request without one, only with a turn or a model call
CONVERSATION: Final = f"COALESCE(tenant, ''), session_id IS NULL, COALESCE(session_id, {REQUEST})"
SPOKEN: Final = "(session_id IS NOT NULL OR kind IN ('turn', 'model'))"
# both count days since 1970-01-01 UTC; a CAST alone truncates in one dialect and rounds in the other
DAY: Final[Mapping[Dialect, str]] = {
    "sqlite": "CAST(started_at / 86400 AS INTEGER)",
    "postgresql": "CAST(FLOOR(started_at / 86400) AS BIGINT)",
}


@dataclass(frozen=True, slots=True)
class Filter:
    """Calls that began in `since <= t < until` (Unix seconds) and are of this user, session, model and tenant.

    Without `replays`, what `llmops replay` asked is left out.
    """

    since: float | None = None
    until: float | None = None
    user: str | None = None
    session: str | None = None
    model: str | None = None
    tenant: str | None = None
    replays: bool = True

    def where(self, *conditions: str) -> tuple[str, tuple[Any, ...]]:
        """A WHERE clause with `conditions` of our own, and its parameters; those of the conditions come after them."""
        wanted = {
            "started_at >= ?": self.since,
            "started_at < ?": self.until,
            "user_id = ?": self.user,
            "session_id = ?": self.session,
            "model = ?": self.model,
            "tenant = ?": self.tenant,
        }
        given = {condition: value for condition, value in wanted.items() if value is not None}
        own = () if self.replays else (NOT_REPLAYED,)
        return " WHERE " + " AND ".join((*given, *own, *conditions, "1 = 1")), tuple(given.values())


async def has_tenants(sql: Sql, chosen: Filter) -> bool:
    """Whether the calls are of more than one tenant: the same name of a user or session may then mean two."""
    if chosen.tenant is not None:
        return False
    where, parameters = chosen.where()
    return len(await sql.fetch(f"SELECT DISTINCT tenant FROM llmops_calls{where} LIMIT 2", parameters)) > 1
