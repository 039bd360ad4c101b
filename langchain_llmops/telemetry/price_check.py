"""The table of prices worked out by hand, and what we make of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files
from typing import Any, Final

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation, LLMResult

from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.types import Money, Unpriced, Usage
from langchain_llmops.core.usage import Reading, read_usage, usage_of

__all__ = ["PriceCase", "price_cases"]

NOON: Final = datetime(2026, 11, 1, 12, tzinfo=UTC)


@dataclass(frozen=True)
class PriceCase:
    """One call as a provider reports it, and its price.

    `usage` and `told` are the message's `usage_metadata` and `response_metadata`, `llm_output` is a text model's and
    `embedded` the tokens of an embedding. `sum` is the arithmetic, from published dollars per million tokens, and `usd`
    its result; None is no price. `saved_usd` is what a cache hit saved. `prices` are overrides.
    """

    name: str
    model: str
    provider: str | None
    at: datetime = NOON
    usage: dict[str, Any] | None = None
    told: dict[str, Any] = field(default_factory=dict)
    llm_output: dict[str, Any] | None = None
    embedded: int | None = None
    prices: dict[str, Any] = field(default_factory=dict)
    sum: str = ""
    usd: Decimal | None = None
    saved_sum: str = ""
    saved_usd: Decimal | None = None
    clamped: bool = False

    @property
    def book(self) -> PriceBook:
        """The prices on the day of the call."""
        return PriceBook(self.prices, clock=self.at.timestamp)

    def result(self) -> LLMResult:
        """What LangChain hands to a callback handler."""
        if self.llm_output is not None:
            return LLMResult(generations=[[Generation(text="ok")]], llm_output=self.llm_output)
        message = AIMessage("ok", response_metadata=self.told)
        # past the validation: some reports are such as no integration should pass on
        message = message.model_copy(update={"usage_metadata": self.usage})
        return LLMResult(generations=[[ChatGeneration(message=message)]])

    def priced(self) -> tuple[Decimal | None, Decimal | None]:
        """Dollars charged and saved by our account, None where there is no price."""
        if self.embedded is not None:
            return self._dollars(Reading(Usage(self.embedded))), None
        reading = read_usage(self.result())
        hit = self.told.get("llmops_cache")
        saved = usage_of(hit["saved"]) if hit else reading.usage if reading.other_cache else None
        if saved is not None:
            return Decimal(0), self._dollars(reading._replace(usage=saved))
        return self._dollars(reading), None

    def _dollars(self, reading: Reading) -> Decimal | None:
        price: Money | Unpriced = self.book.price(
            reading.model or self.model, reading.usage or Usage(), provider=self.provider, tier=reading.service_tier
        )
        return price.total_usd if isinstance(price, Money) else None


def price_cases() -> list[PriceCase]:
    """The whole table."""
    rows = json.loads(files("langchain_llmops.core").joinpath("data/price_cases.json").read_text("utf-8"))
    return [_case(row) for row in rows]


def _case(row: dict[str, Any]) -> PriceCase:
    row.pop("unpriced", None)
    for name in ("usd", "saved_usd"):
        if name in row:
            row[name] = Decimal(row[name])
    if "at" in row:
        row["at"] = datetime.fromisoformat(row["at"])
    return PriceCase(**row)
