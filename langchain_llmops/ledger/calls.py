"""Single calls and conversations: newest, slowest, dearest."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

from langchain_llmops.ledger.filters import ANSWERED, COST, PAID, Filter
from langchain_llmops.ledger.schema import from_pico

if TYPE_CHECKING:
    from langchain_llmops.stores.base import Row, Sql

__all__ = ["CALL", "Call", "Conversation", "Order", "calls", "conversations", "read_call"]

Order = Literal["newest", "slowest", "dearest"]
ORDERS: Final[dict[Order, str]] = {
    "newest": "started_at DESC, id DESC",
    "slowest": "latency_s DESC, id DESC",
    "dearest": f"{COST} DESC, id DESC",
}
CALL: Final = (
    "started_at, kind, name, model, user_id, session_id, request_id, trace_id, run_id, parent_run_id, latency_s,"
    f" ttft_s, input_tokens, output_tokens, {COST}, unpriced, estimated, cache_level, route, rung, attempt, node,"
    " error_kind, error_class, tenant"
)
SAME_TENANT: Final = "(tenant = owner OR (tenant IS NULL AND owner IS NULL))"


@dataclass(frozen=True, slots=True)
class Call:
    """One record as people look at it; `at` is Unix seconds.

    `cost_usd` is what an answer cost; what a failed attempt may have cost (estimated) is `failed_cost_usd`, apart.
    """

    at: float
    kind: str
    name: str | None
    model: str | None
    user: str | None
    session: str | None
    request: str | None
    trace_id: str
    run_id: str
    parent_run_id: str | None
    latency_s: float
    ttft_s: float | None
    input_tokens: int
    output_tokens: int
    cost_usd: Decimal
    failed_cost_usd: Decimal
    unpriced: bool
    estimated: bool
    cache_level: str | None
    route: str | None
    rung: int | None
    attempt: int | None
    node: str | None
    error_kind: str | None
    error_class: str | None
    tenant: str | None


@dataclass(frozen=True, slots=True)
class Conversation:
    """One session of a tenant: its turns and the seconds they took, its model calls and what the answered ones cost."""

    session: str
    turns: int
    seconds: float
    model_calls: int
    cost_usd: Decimal
    tenant: str | None


def read_call(row: Row) -> Call:
    """The columns of `CALL`."""
    cost, failed, nothing = from_pico(row[14]), row[22] is not None, Decimal(0)
    costs = (nothing, cost) if failed else (cost, nothing)
    values: list[Any] = [*row[:14], *costs, bool(row[15]), bool(row[16]), *row[17:]]
    return Call(*values)


async def calls(
    sql: Sql, chosen: Filter, *, limit: int, order: Order = "newest", slower_than_s: float | None = None
) -> list[Call]:
    """Calls of every kind (only priced kinds when the dearest are asked for) that took at least `slower_than_s`."""
    conditions = [PAID, f"{COST} > 0"] if order == "dearest" else []
    where, parameters = chosen.where(*conditions)
    if slower_than_s is not None:
        where, parameters = where + " AND latency_s >= ?", (*parameters, slower_than_s)
    rows = await sql.fetch(
        f"SELECT {CALL} FROM llmops_calls{where} ORDER BY {ORDERS[order]} LIMIT ?",
        (*parameters, limit),
    )
    return [read_call(row) for row in rows]


async def conversations(
    sql: Sql, chosen: Filter, *, limit: int, order: Literal["slowest", "dearest"]
) -> list[Conversation]:
    """The sessions whose turns took longest together, or whose answers cost most."""
    turns, answers = "kind = 'turn'", f"{PAID} AND {ANSWERED}"
    ranked, told = (f"SUM({COST})", answers) if order == "dearest" else ("SUM(latency_s)", turns)
    among, parameters = chosen.where("session_id IS NOT NULL", told)
    within, again = chosen.where(SAME_TENANT)
    rows = await sql.fetch(
        f"SELECT session_id, COUNT(*) FILTER (WHERE {turns}), SUM(latency_s) FILTER (WHERE {turns}),"
        f" COUNT(*) FILTER (WHERE {answers}), SUM({COST}) FILTER (WHERE {answers}), tenant"
        f" FROM (SELECT session_id AS best, tenant AS owner, {ranked} AS worth FROM llmops_calls{among}"
        f" GROUP BY tenant, session_id HAVING {ranked} > 0 ORDER BY 3 DESC, 1 LIMIT ?) bests"
        f" JOIN llmops_calls ON session_id = best{within} GROUP BY tenant, session_id, worth ORDER BY worth DESC, 1",
        (*parameters, limit, *again),
    )
    return [_conversation(row) for row in rows]


def _conversation(row: Row) -> Conversation:
    return Conversation(row[0], int(row[1]), float(row[2] or 0), int(row[3]), from_pico(row[4]), row[5])
