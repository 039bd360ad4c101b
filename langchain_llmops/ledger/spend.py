"""What was spent, by whom and on what; exact, because integer pico-dollars are summed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

from langchain_llmops.ledger.filters import ANSWERED, COST, DAY, FAILED, PAID, UNPRICED, Filter
from langchain_llmops.ledger.schema import from_pico

if TYPE_CHECKING:
    from langchain_llmops.stores.base import Row, Sql

__all__ = ["DIMENSIONS", "Dimension", "Spend", "spend_by", "total_spend"]

Dimension = Literal["user", "session", "day", "model", "tag", "route", "node"]
DIMENSIONS: Final[dict[Dimension, str]] = {
    "user": "user_id || ''",  # no column but an expression: SQLite would walk the index and read the rows in its order
    "session": "session_id || ''",
    "day": "",
    "model": "model",
    "tag": "tags",
    "route": "COALESCE(route, 'direct')",
    "node": "node",
}
OF_TENANTS: Final[tuple[Dimension, ...]] = ("user", "session")
# what langchain-core's sequences, maps, branches and retries, and LangGraph's steps, put on the runs below them
FRAMEWORK_TAG: Final = re.compile(
    r"(?:seq:step|graph:step|retry:attempt|condition|branch):(?:\d+|default)|(?:map:key|langsmith):.*", re.DOTALL
)
SUMS: Final = (
    f"COUNT(*), COUNT(*) FILTER (WHERE {FAILED}), COUNT(*) FILTER (WHERE {ANSWERED} AND cache_level IS NOT NULL),"
    f" COUNT(*) FILTER (WHERE {ANSWERED} AND {UNPRICED}), COUNT(*) FILTER (WHERE {ANSWERED} AND estimated = 1),"
    f" SUM(input_tokens) FILTER (WHERE {ANSWERED}), SUM(output_tokens) FILTER (WHERE {ANSWERED}),"
    f" SUM(cache_read_tokens) FILTER (WHERE {ANSWERED}), SUM({COST}) FILTER (WHERE {ANSWERED}),"
    f" SUM({COST}) FILTER (WHERE {FAILED}), SUM(saved_pico) FILTER (WHERE {ANSWERED})"
)
BY_COST: Final = f"COALESCE(SUM({COST}) FILTER (WHERE {ANSWERED}), 0) DESC, COUNT(*) DESC, 1, 2"
NEVER: Final = 2**62  # LIMIT for all


@dataclass(frozen=True, slots=True)
class Spend:
    """Sums over the model calls of one `key` (None: the calls that name none), of users and sessions by `tenant`.

    Tokens and `cost_usd` are those of answers; what failed attempts may have cost is `failed_cost_usd`, apart.
    `unpriced_calls` are not in any sum of money.
    """

    key: str | None = None
    tenant: str | None = None
    calls: int = 0
    failed_calls: int = 0
    cache_hits: int = 0
    unpriced_calls: int = 0
    estimated_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cost_usd: Decimal = Decimal(0)
    failed_cost_usd: Decimal = Decimal(0)
    saved_usd: Decimal = Decimal(0)

    def plus(self, other: Spend) -> Spend:
        """Both together, under this key."""
        names = (f.name for f in fields(self) if f.name not in ("key", "tenant"))
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})


async def total_spend(sql: Sql, chosen: Filter) -> Spend:
    """Everything together."""
    where, parameters = chosen.where(PAID)
    rows = await sql.fetch(f"SELECT NULL, NULL, {SUMS} FROM llmops_calls{where}", parameters)
    return _spend(rows[0])


async def spend_by(
    sql: Sql, by: Dimension, chosen: Filter, *, limit: int | None = None, all_tags: bool = False
) -> list[Spend]:
    """The `limit` dearest keys, dearest first; for days the latest, in order of time.

    A call with several tags counts under each, so that tags add up to more than the total; those that LangChain and
    LangGraph set themselves, like `seq:step:1`, count as none unless `all_tags` are asked for.
    """
    column = DAY[sql.dialect] if by == "day" else DIMENSIONS[by]
    tenant = "tenant" if by in OF_TENANTS else "CAST(NULL AS TEXT)"
    order = "1 DESC" if by == "day" else BY_COST
    where, parameters = chosen.where(PAID)
    in_sql = NEVER if limit is None or by == "tag" else limit
    rows = await sql.fetch(
        f"SELECT {column}, {tenant}, {SUMS} FROM llmops_calls{where} GROUP BY 1, 2 ORDER BY {order} LIMIT ?",
        (*parameters, in_sql),
    )
    if by == "tag":
        return _by_tag(rows, all_tags=all_tags)[:limit]
    if by == "day":
        return [_spend((_day(row[0]), *row[1:])) for row in reversed(rows)]
    return [_spend(row) for row in rows]


def _spend(row: Row) -> Spend:
    counts: list[Any] = [int(value or 0) for value in row[2:10]]
    return Spend(row[0], row[1], *counts, *(from_pico(value) for value in row[10:13]))


def _by_tag(rows: list[Row], *, all_tags: bool) -> list[Spend]:
    """Lists of tags are taken apart here: PostgreSQL refuses JSON with an escaped NUL, which a tag may hold."""
    found: dict[str | None, Spend] = {}
    for row in rows:
        # half an emoji is kept in JSON, and can be shown nowhere
        tags = [tag.encode("utf-8", "replace").decode() for tag in json.loads(row[0])]
        if not all_tags:
            tags = [tag for tag in tags if FRAMEWORK_TAG.fullmatch(tag) is None]
        for tag in dict.fromkeys(tags or [None]):
            found[tag] = found.get(tag, Spend(tag)).plus(_spend(row))
    return sorted(found.values(), key=lambda spend: (-spend.cost_usd, -spend.calls, spend.key or ""))


def _day(number: int) -> str:
    return datetime.fromtimestamp(number * 86400, UTC).date().isoformat()
