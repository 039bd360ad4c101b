"""What failed: by kind of error, with an example to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_llmops.ledger.filters import COST, FAILED, Filter
from langchain_llmops.ledger.schema import from_pico

if TYPE_CHECKING:
    from decimal import Decimal

    from langchain_llmops.stores.base import Sql

__all__ = ["Failure", "failures"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Failed calls of one kind with one error; the example is the last one, `last_at` its Unix seconds.

    `example` is a request id, or a trace id where no request was named. `failed_cost_usd` is an estimate.
    """

    kind: str
    error_kind: str
    error_class: str | None
    count: int
    last_at: float
    name: str | None
    example: str
    failed_cost_usd: Decimal


async def failures(sql: Sql, chosen: Filter) -> list[Failure]:
    """Most frequent first."""
    where, parameters = chosen.where(FAILED)
    group = "PARTITION BY kind, error_kind, error_class"
    rows = await sql.fetch(
        "SELECT kind, error_kind, error_class, total, started_at, name, example, cost FROM ("
        "SELECT kind, error_kind, error_class, started_at, COALESCE(model, name) AS name,"
        f" COALESCE(request_id, trace_id) AS example, COUNT(*) OVER ({group}) AS total,"
        f" SUM({COST}) OVER ({group}) AS cost, ROW_NUMBER() OVER ({group} ORDER BY started_at DESC, id DESC) AS place"
        f" FROM llmops_calls{where}) ranked WHERE place = 1 ORDER BY total DESC, kind, error_kind, error_class",
        parameters,
    )
    return [Failure(row[0], row[1], row[2], int(row[3]), row[4], row[5], row[6], from_pico(row[7])) for row in rows]
