"""The published prices: genai-prices, read as rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from genai_prices import Usage as RawUsage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelPrice, TieredPrices, TimeOfDateConstraint

from langchain_llmops.core.rates import Rates

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

    from genai_prices.types import ModelInfo, PriceContext, Provider

__all__ = ["Catalogue", "Listing"]

MTOK: Final = 1_000_000
TIERS: Final[dict[str, PriceContext]] = {
    "flex": {"service_tier": "flex"},
    "priority": {"service_tier": "priority"},
    "fast": {"service_tier": "fast", "speed": "fast"},  # OpenAI's word and Anthropic's
    "batch": {"processing": "batch"},
}


class Listing:
    """One model in one provider's list."""

    def __init__(self, provider: Provider, model: ModelInfo) -> None:
        self._model = model
        # a cloud that falls back to the maker's list does not have the maker's tiers
        self._tiers = any(own is model for own in provider.models)
        prices = model.prices if isinstance(model.prices, list) else []
        self.by_the_hour = any(isinstance(price.constraint, TimeOfDateConstraint) for price in prices)

    def rates(self, moment: datetime, tier: str | None) -> Rates | None:
        """What it costs at that moment; None when it is listed but not by tokens. An unlisted tier costs as none."""
        price = self._model.get_prices(moment, TIERS.get(tier or "") if self._tiers else None)
        listed = {name: value for name, value in vars(price).items() if value is not None}
        if not listed.keys() & {"input_mtok", "output_mtok"}:
            return None
        starts = {tier.start for value in listed.values() if isinstance(value, TieredPrices) for tier in value.tiers}
        above = tuple((start, _rates(_at(listed, start + 1))) for start in sorted(starts))
        return _rates(_at(listed, 0), above)


class Catalogue:
    """Finds models in the lists of providers. Keeps nothing, so that made-up names fill no memory."""

    def __init__(self) -> None:
        self._all = get_snapshot().providers
        self._by_id = {provider.id: provider for provider in self._all}
        self.providers = tuple(self._by_id)

    def find(self, provider: str | None, name: str) -> Listing | None:
        """A model in a provider's own list, or in those that the provider resells at their makers' prices."""
        found = self._by_id.get(provider or "")
        model = found.find_model(name, all_providers=self._all) if found is not None else None
        return Listing(found, model) if found is not None and model is not None else None

    def find_by_maker(self, name: str) -> Listing | None:
        """A model in the list of the company whose names look like this."""
        for provider in self._all:
            if provider.model_match is not None and provider.model_match.is_match(name):
                return self.find(provider.id, name)
        return self.find("openai", name)


def _at(listed: dict[str, Decimal | TieredPrices], input_tokens: int) -> ModelPrice:
    """The price of a request of that length, with no steps left in it."""
    return ModelPrice(
        **{
            name: _step(value, input_tokens) if isinstance(value, TieredPrices) else value
            for name, value in listed.items()
        }
    )


def _step(price: TieredPrices, input_tokens: int) -> Decimal:
    return next((tier.price for tier in reversed(price.tiers) if input_tokens > tier.start), price.base)


def _rates(price: ModelPrice, above: tuple[tuple[int, Rates], ...] = ()) -> Rates:
    """Read off by pricing a million tokens of each kind, so that the library's own fallbacks hold."""

    def rate(**counts: int) -> Decimal:
        cost = price.calc_price(RawUsage(**counts))
        return (cost["input_price"] + cost["output_price"]) / MTOK

    return Rates(
        input=rate(input_tokens=MTOK),
        output=rate(output_tokens=MTOK),
        cache_read=rate(input_tokens=MTOK, cache_read_tokens=MTOK),
        cache_write=rate(input_tokens=MTOK, cache_write_tokens=MTOK),
        cache_write_1h=rate(input_tokens=MTOK, cache_write_tokens=MTOK, cache_write_1h_tokens=MTOK),
        audio_input=rate(input_tokens=MTOK, input_audio_tokens=MTOK),
        audio_output=rate(output_tokens=MTOK, output_audio_tokens=MTOK),
        reasoning=rate(output_tokens=MTOK, output_reasoning_tokens=MTOK),
        request=price.calc_price(RawUsage(input_tokens=0, output_tokens=0))["total_price"],
        above=above,
    )
