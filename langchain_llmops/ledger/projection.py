"""From what conversations cost to what many of them will cost."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib.resources import files
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

from langchain_llmops.core.types import ModelSpec
from langchain_llmops.ledger.baseline import Asked, OtherModel
from langchain_llmops.ledger.filters import ANSWERED, COST, PAID, UNPRICED, Filter
from langchain_llmops.ledger.schema import from_pico

if TYPE_CHECKING:
    from collections.abc import Iterable
    from decimal import Decimal

    from langchain_llmops.core.pricing import PriceBook
    from langchain_llmops.stores.base import Sql

__all__ = ["Alternative", "Sample", "alternatives", "compared_models", "cost_sample", "student_quantile"]

CONVERSATION: Final = "COALESCE(tenant, ''), COALESCE(session_id, request_id, trace_id)"
# exact quantiles where the expansion below is not; index 0 is one degree of freedom
FEW: Final = (12.706, 4.303, 3.182, 2.776)


@dataclass(frozen=True, slots=True)
class Sample:
    """Cost of conversations in dollars: how many were seen, their mean and standard deviation.

    A conversation is a session; calls that name no session count one conversation per request.
    """

    count: int
    mean_usd: float
    deviation_usd: float
    total_usd: Decimal
    unpriced_calls: int

    def interval(self) -> tuple[float, float] | None:
        """The 95 % t-interval of the mean, cut at zero; None with fewer than two conversations.

        Costs are skewed to the right: with few conversations the upper end is rather too low.
        """
        if self.count < 2:  # noqa: PLR2004 - one observation has no spread
            return None
        half = student_quantile(self.count - 1) * self.deviation_usd / math.sqrt(self.count)
        return max(0.0, self.mean_usd - half), self.mean_usd + half


@dataclass(frozen=True, slots=True)
class Alternative:
    """The same answers of providers at another model's prices; `cost_usd` is None when it has none."""

    model: str
    cost_usd: Decimal | None


async def cost_sample(sql: Sql, chosen: Filter) -> Sample:
    """Every conversation that asked a model, with the cost of its answers."""
    where, parameters = chosen.where(PAID, ANSWERED)
    rows = await sql.fetch(
        "SELECT COUNT(*), SUM(pico), SUM((pico / 1e12) * (pico / 1e12)), SUM(unknown) FROM ("  # noqa: S608
        f"SELECT SUM({COST}) AS pico, COUNT(*) FILTER (WHERE {UNPRICED}) AS unknown"
        f" FROM llmops_calls{where} GROUP BY {CONVERSATION}) conversations",
        parameters,
    )
    count, pico, squares, unpriced = rows[0]
    total = from_pico(pico)
    mean = float(total) / count if count else 0.0
    variance = max(0.0, float(squares or 0) - count * mean**2) / max(1, count - 1)
    return Sample(int(count), mean, math.sqrt(variance), total, int(unpriced or 0))


async def alternatives(sql: Sql, chosen: Filter, prices: PriceBook, models: Iterable[str]) -> list[Alternative]:
    """What other models (`provider:name` or a name) would have cost for the same tokens; cheapest first, unpriced last.

    The same number of tokens: another tokenizer counts differently, by some 10 to 30 %.
    """
    asked, found = Asked(sql, chosen), []
    for model in dict.fromkeys(models):
        spec = ModelSpec.parse(model)
        other = OtherModel(prices, spec.name, spec.provider)
        found.append(Alternative(model, await other.cost_of_asked(asked) if other.is_priced else None))
    return sorted(found, key=lambda one: (one.cost_usd is None, one.cost_usd or 0, one.model))


def compared_models() -> list[str]:
    """The models to compare with when none are named."""
    text = files("langchain_llmops.ledger").joinpath("data/compared_models.json").read_text("utf-8")
    models: list[str] = json.loads(text)
    return models


def student_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t: Abramowitz and Stegun 26.7.5, within 0.001 from five degrees on."""
    if degrees <= len(FEW):
        return FEW[degrees - 1]
    z, n = NormalDist().inv_cdf(0.975), degrees
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum((term / float(n**power) for power, term in enumerate(terms, 1)), 0.0)
