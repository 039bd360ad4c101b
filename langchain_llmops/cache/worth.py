"""What an answer cost, which is what each of its hits saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_core.outputs import ChatGeneration

from langchain_llmops.core.context import text_from
from langchain_llmops.core.usage import read_message

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from langchain_core.outputs import Generation

    from langchain_llmops.core.pricing import PriceBook

__all__ = ["worth_of"]


def worth_of(prices: PriceBook, said: Mapping[str, Any] | None, answer: Generation) -> float | None:
    """Dollars, as the telemetry charges for the same answer; None where no price is known, or no usage.

    `said` is the metadata of the run, which names the provider; without it the answer's own word counts. A model
    without a price is not counted as such here: who records its calls does that.
    """
    if not isinstance(answer, ChatGeneration):
        return None
    try:
        told = answer.message.response_metadata
        named = said or {}
        reading = read_message(answer.message)
        if reading.usage is None:
            return None
        model = reading.model or named.get("ls_model_name")
        provider = named.get("ls_provider") or told.get("model_provider")
        rates = prices.rates(
            text_from(model), provider=text_from(provider) if provider else None, tier=reading.service_tier
        )
        return None if rates is None else float(rates.cost(reading.usage).total_usd)
    except Exception:  # noqa: BLE001 - the figures are a stranger's; an answer that is paid for is kept without a price
        return None
