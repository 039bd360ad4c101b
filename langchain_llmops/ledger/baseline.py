"""What the recorded tokens would have cost on another model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import Money, Usage
from langchain_llmops.ledger.filters import ANSWERED, COST, PAID, REQUEST, UNPRICED, Filter
from langchain_llmops.ledger.schema import from_pico, usage_from_text

if TYPE_CHECKING:
    from langchain_llmops.core.pricing import PriceBook
    from langchain_llmops.stores.base import Sql

__all__ = ["Asked", "OtherModel", "Superseded", "superseded"]

TOKENS: Final = (
    "input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens",
    "reasoning_tokens", "audio_input_tokens", "audio_output_tokens",
)  # fmt: skip
USAGE: Final = ", ".join(TOKENS)
SUMS: Final = ", ".join(f"SUM({name})" for name in TOKENS)
ASKED: Final = ("kind = 'model'", ANSWERED, "cache_level IS NULL")
EMBEDDED: Final = ("kind = 'embedding'", ANSWERED, "cache_level IS NULL")
HITS: Final = (PAID, ANSWERED, "cache_level IS NOT NULL", "saved_pico IS NOT NULL")
STEP: Final = "rung * 1000 + attempt"
PROBE: Final = Usage(6000, 2000, 1000, 1000, 1000, 1000, 1000, 1000)
MOST_TOKENS: Final = 2**40


@dataclass(frozen=True, slots=True)
class Superseded:
    """An answer that its caller never got: refused or unreadable, so that the chain asked again.

    `worth_usd` is what it cost, or what it saved when it came from the cache.
    """

    usage: Usage
    worth_usd: Decimal


class Asked:
    """Answers of providers, summed by the size of their input; asked about many models, it reads no sum twice.

    With `only_priced` without those of models that have no price. Embeddings are apart: no chat model makes them.
    """

    def __init__(self, sql: Sql, chosen: Filter, *, only_priced: bool = False) -> None:
        self._sql = sql
        self._chosen = chosen
        self._where, self._parameters = chosen.where(*ASKED, *(["unpriced = 0"] if only_priced else []))
        self._sums: dict[tuple[int, int], list[int]] = {}
        self._embedded: Decimal | None = None

    async def between(self, low: int, high: int) -> list[int]:
        """How many calls had `low <= input tokens < high`, and their tokens in the order of `TOKENS`."""
        if (low, high) not in self._sums:
            rows = await self._sql.fetch(
                f"SELECT COUNT(*), {SUMS} FROM llmops_calls{self._where} AND input_tokens >= ? AND input_tokens < ?",
                (*self._parameters, low, high),
            )
            self._sums[low, high] = [int(value or 0) for value in rows[0]]
        return self._sums[low, high]

    async def embedded(self) -> Decimal:
        """What the embeddings cost as recorded."""
        if self._embedded is None:
            where, parameters = self._chosen.where(*EMBEDDED)
            rows = await self._sql.fetch(f"SELECT SUM({COST}) FROM llmops_calls{where}", parameters)
            self._embedded = from_pico(rows[0][0])
        return self._embedded


class OtherModel:
    """Recorded tokens at today's prices of one model, beside embeddings at the price they had.

    Check `is_priced` first: sums of an unpriced one raise.
    """

    def __init__(self, prices: PriceBook, model: str, provider: str | None = None) -> None:
        self._prices = prices
        self._model = model
        self._provider = provider
        self.is_priced = self._find(PROBE) is not None

    def cost_of(self, usage: Usage) -> Decimal:
        """Dollars for one answer."""
        money = self._find(usage)
        if money is None:
            raise ConfigurationError(f"no price is known for model {self._model!r}; add it to LLMOPS_PRICES_FILE")
        return money.total_usd

    async def cost_of_asked(self, asked: Asked) -> Decimal:
        """Dollars for all answers of providers, exact also where the price has tiers or a fee per call."""
        total = await asked.embedded()
        for low, high in pairwise((*self._bands(), MOST_TOKENS)):
            total += self._cost_in_band(low, await asked.between(low, high))
        return total

    async def cost_of_hits(self, sql: Sql, chosen: Filter) -> Decimal:
        """Dollars for the answers that came from the cache, had this model given them; of models with a price."""
        where, parameters = chosen.where(*HITS)
        rows = await sql.fetch(
            f"SELECT kind, saved_usage, COUNT(*), SUM(saved_pico) FROM llmops_calls{where} GROUP BY 1, 2",
            parameters,
        )
        return sum((self._cost_of_alike(*row) for row in rows), Decimal(0))

    def _cost_of_alike(self, kind: str, saved_usage: str | None, count: int, pico: int) -> Decimal:
        if kind == "embedding":
            return from_pico(pico)
        return self.cost_of(usage_from_text(saved_usage) or Usage()) * int(count)

    def _find(self, usage: Usage) -> Money | None:
        money = self._prices.price(self._model, usage, provider=self._provider)
        return money if isinstance(money, Money) else None

    def _bands(self) -> list[int]:
        """The numbers of input tokens from which on another tier holds, from 0; between them prices are linear."""
        starts = [0]
        edges = [1, *(2**power for power in range(10, MOST_TOKENS.bit_length()))]
        for low, high in pairwise(edges):
            starts += self._changes(low, high)
        return starts

    def _changes(self, low: int, high: int) -> list[int]:
        if self._tier(low) == self._tier(high):
            return []
        if high - low == 1:
            return [high]
        middle = (low + high) // 2
        return self._changes(low, middle) + self._changes(middle, high)

    def _tier(self, tokens: int) -> tuple[Decimal, ...]:
        """What marks the tier of a call with so many input tokens."""
        plain = self.cost_of(Usage(tokens))
        per_token = (plain - self.cost_of(Usage())) / tokens
        others = (Usage(tokens, 1), Usage(tokens, cache_read_tokens=1), Usage(tokens, cache_write_tokens=1))
        return per_token, *(self.cost_of(usage) - plain for usage in others)

    def _cost_in_band(self, low: int, sums: list[int]) -> Decimal:
        """`sums` are the calls and their tokens. Kinds that are part of the input cost what they cost more than it."""
        first = max(low, 1)
        base, fee = self.cost_of(Usage(first)), self.cost_of(Usage())
        rates = [(base - fee) / first]
        rates += [self.cost_of(replace(Usage(first), **{name: 1})) - base for name in TOKENS[1:]]
        return sums[0] * fee + sum((rate * count for rate, count in zip(rates, sums[1:], strict=True)), Decimal(0))


async def superseded(sql: Sql, chosen: Filter) -> list[Superseded]:
    """Answers of priced models after which the same prompt was asked again on a later attempt or rung."""
    again, parameters = chosen.where("kind = 'model'", "(rung > 0 OR attempt > 1)")
    where, _ = chosen.where("kind = 'model'", f"{REQUEST} IN (SELECT {REQUEST} FROM llmops_calls{again})")
    rows = await sql.fetch(
        f"SELECT {USAGE}, saved_usage, {COST} + COALESCE(saved_pico, 0) FROM (SELECT *, {STEP} AS step,"
        f" LEAD({STEP}) OVER (PARTITION BY {REQUEST}, prompt_hash ORDER BY started_at, id) AS next_step"
        f" FROM llmops_calls{where}) steps WHERE {ANSWERED} AND next_step > step AND NOT {UNPRICED}",
        (*parameters, *parameters),
    )
    return [Superseded(usage_from_text(row[8]) or Usage(*row[:8]), from_pico(row[9])) for row in rows]
