"""From what conversations cost to what many of them will cost."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from statistics import NormalDist
from typing import TYPE_CHECKING, Final

from langchain_llmops.core.types import ModelSpec
from langchain_llmops.ledger.baseline import Asked, OtherModel
from langchain_llmops.ledger.filters import ANSWERED, CONVERSATION, COST, PAID, SPOKEN, UNPRICED, Filter
from langchain_llmops.ledger.schema import from_pico

if TYPE_CHECKING:
    from collections.abc import Iterable

    from langchain_llmops.core.pricing import PriceBook
    from langchain_llmops.stores.base import Row, Sql

__all__ = ["Alternative", "Sample", "alternatives", "compared_models", "cost_sample", "student_quantile"]

ANSWER: Final = f"{PAID} AND {ANSWERED}"
GROUPS: Final = (
    "SELECT CASE WHEN MAX(session_id) IS NOT NULL THEN 'session'"
    f" WHEN MAX(CASE WHEN {SPOKEN} THEN 1 ELSE 0 END) = 1 THEN 'request' ELSE 'outside' END AS class,"
    f" COALESCE(SUM({COST}) FILTER (WHERE {ANSWER}), 0) AS pico, COUNT(*) FILTER (WHERE {ANSWER}) AS answers,"
    f" COUNT(*) FILTER (WHERE {ANSWER} AND {UNPRICED}) AS unknown FROM llmops_calls"
)
# exact quantiles where the expansion below is not; index 0 is one degree of freedom
FEW: Final = (12.706, 4.303, 3.182, 2.776)


@dataclass(frozen=True, slots=True)
class Sample:
    """Cost of conversations in dollars: how many were seen, their mean and standard deviation.

    A conversation is a session of a tenant or, where none is named, a request (a trace, where none is named either)
    with a turn or a model call. What other calls cost, like embeddings for nobody in particular, is `overhead_usd`:
    the conversations share it evenly, in the mean too. Where there are only such calls, each request of theirs counts
    as a conversation. `sessions` of all conversations are sessions.
    """

    count: int
    mean_usd: float
    deviation_usd: float
    total_usd: Decimal
    unpriced_calls: int
    sessions: int = 0
    overhead_usd: Decimal = Decimal(0)
    overhead_calls: int = 0

    def interval(self) -> tuple[float, float] | None:
        """The 95 % t-interval of the mean, cut at zero; None with fewer than two conversations.

        Costs are skewed to the right: with few conversations the upper end is rather too low. The overhead counts as
        certain: its share is in both ends.
        """
        if self.count < 2:  # noqa: PLR2004 - one observation has no spread
            return None
        half = student_quantile(self.count - 1) * self.deviation_usd / math.sqrt(self.count)
        share = float(self.overhead_usd) / self.count
        return share + max(0.0, self.mean_usd - share - half), self.mean_usd + half


@dataclass(frozen=True, slots=True)
class Alternative:
    """The same answers of providers at another model's prices; `cost_usd` is None when it has none.

    Embeddings are in it at the price they had.
    """

    model: str
    cost_usd: Decimal | None


@dataclass(frozen=True, slots=True)
class _Part:
    """Groups of calls of one class; the sum of their `squares` in square dollars."""

    count: int = 0
    cost_usd: Decimal = Decimal(0)
    squares: float = 0.0
    unpriced: int = 0
    answers: int = 0

    @classmethod
    def of(cls, row: Row) -> _Part:
        return cls(int(row[1]), from_pico(row[2]), float(row[3]), int(row[4]), int(row[5]))

    def plus(self, other: _Part) -> _Part:
        return _Part(
            self.count + other.count,
            self.cost_usd + other.cost_usd,
            self.squares + other.squares,
            self.unpriced + other.unpriced,
            self.answers + other.answers,
        )


async def cost_sample(sql: Sql, chosen: Filter) -> Sample:
    """Every conversation, with the cost of its answers."""
    where, parameters = chosen.where()
    rows = await sql.fetch(
        "SELECT class, COUNT(*), SUM(pico), SUM((pico / 1e12) * (pico / 1e12)), SUM(unknown), SUM(answers)"
        f" FROM ({GROUPS}{where} GROUP BY {CONVERSATION}) parts WHERE class <> 'outside' OR answers > 0 GROUP BY class",
        parameters,
    )
    found = {row[0]: _Part.of(row) for row in rows}
    sessions, requests, outside = (found.get(name, _Part()) for name in ("session", "request", "outside"))
    spoken = sessions.plus(requests)
    return _sample(spoken, outside, sessions.count) if spoken.count else _sample(outside, _Part(), 0)


def _sample(spoken: _Part, outside: _Part, sessions: int) -> Sample:
    count, total = spoken.count, spoken.cost_usd + outside.cost_usd
    own = float(spoken.cost_usd) / count if count else 0.0
    variance = max(0.0, spoken.squares - count * own**2) / max(1, count - 1)
    return Sample(
        count,
        float(total) / count if count else 0.0,
        math.sqrt(variance),
        total,
        spoken.unpriced + outside.unpriced,
        sessions,
        outside.cost_usd,
        outside.answers,
    )


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
