"""What a conversation that helped somebody cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from langchain_llmops.ledger.filters import ANSWERED, COST, PAID, Filter
from langchain_llmops.ledger.schema import from_pico

if TYPE_CHECKING:
    from decimal import Decimal

    from langchain_llmops.stores.base import Sql

__all__ = ["SuccessCost", "cost_per_success"]

SPENT: Final = (
    "SELECT COALESCE(tenant, '') AS owner, session_id AS session,"
    f" CASE WHEN {PAID} AND {ANSWERED} THEN {COST} ELSE 0 END AS pico FROM llmops_calls"
)
NEVER: Final = 2**62  # a LIMIT keeps databases from merging a subquery into the query, and from sorting all it reads
REPORTED: Final = (
    "SELECT owner, session, ok FROM (SELECT COALESCE(tenant, '') AS owner, session_id AS session, ok, ROW_NUMBER() OVER"
    " (PARTITION BY COALESCE(tenant, ''), session_id ORDER BY at DESC, id DESC) AS place FROM llmops_outcomes) told"
    " WHERE place = 1"
)
# feedback names a run; given before its run was recorded, what the user knew: the request or the trace
NAMED: Final = " UNION ".join(
    f"SELECT {name} AS named, COALESCE(tenant, '') AS owner, session_id AS session FROM llmops_calls"
    f" WHERE session_id IS NOT NULL AND {name} IN (SELECT run_id FROM llmops_feedback)"
    for name in ("run_id", "trace_id", "request_id")
)
SCORED: Final = (
    "SELECT owner, session, MAX(CASE WHEN score >= ? THEN 1 ELSE 0 END) AS ok FROM ("
    "SELECT run_id, tenant, score, ROW_NUMBER() OVER (PARTITION BY run_id, key ORDER BY at DESC, id DESC) AS place"
    " FROM llmops_feedback WHERE score IS NOT NULL) given"
    f" JOIN ({NAMED}) calls ON calls.named = given.run_id"
    " AND (given.tenant IS NULL OR given.tenant = calls.owner) WHERE place = 1 GROUP BY owner, session"
)


@dataclass(frozen=True, slots=True)
class SuccessCost:
    """Conversations (sessions) by their verdict, and what their answers cost.

    `per_success_usd` is the cost of all judged conversations, the failed ones too, by the number of successful ones;
    None when none succeeded. Conversations without a verdict are in no part of it.
    """

    successful: int
    unsuccessful: int
    unjudged: int
    judged_cost_usd: Decimal
    unjudged_cost_usd: Decimal

    @property
    def per_success_usd(self) -> Decimal | None:
        """Dollars."""
        return self.judged_cost_usd / self.successful if self.successful else None


async def cost_per_success(sql: Sql, chosen: Filter, *, threshold: float = 0.5) -> SuccessCost:
    """Judge every session by its latest outcome; where none was reported, by feedback on any of its runs.

    Feedback is good at `threshold` or above; of several scores for one run and key the latest counts, and one good
    score is enough.
    """
    where, parameters = chosen.where("session_id IS NOT NULL")
    rows = await sql.fetch(
        f"SELECT COALESCE(told.ok, scored.ok), COUNT(*), SUM(spent.cost) FROM"
        f" (SELECT owner, session, SUM(pico) AS cost FROM ({SPENT}{where} LIMIT {NEVER}) calls GROUP BY 1, 2) spent"
        f" LEFT JOIN ({REPORTED}) told ON told.owner = spent.owner AND told.session = spent.session"
        f" LEFT JOIN ({SCORED}) scored ON scored.owner = spent.owner AND scored.session = spent.session GROUP BY 1",
        (*parameters, threshold),
    )
    found = {row[0]: (int(row[1]), int(row[2])) for row in rows}
    good, bad, unknown = (found.get(verdict, (0, 0)) for verdict in (1, 0, None))
    return SuccessCost(good[0], bad[0], unknown[0], from_pico(good[1] + bad[1]), from_pico(unknown[1]))
