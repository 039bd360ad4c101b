"""What tokens cost by kind, and the sum of one call."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from langchain_llmops.core.types import Money

if TYPE_CHECKING:
    from langchain_llmops.core.types import Usage

__all__ = ["Rates"]

NOTHING: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class Rates:
    """US dollars per token by kind of token, and per request.

    `above` holds the rates of long requests, shortest first: `(tokens, rates)` counts for the whole request when it has
    more input tokens than that.
    """

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    audio_input: Decimal
    audio_output: Decimal
    reasoning: Decimal
    request: Decimal = NOTHING
    above: tuple[tuple[int, Rates], ...] = ()

    def cost(self, usage: Usage) -> Money:
        """The price of one call; no kind of token counts beyond what its total leaves for it."""
        for tokens, dearer in reversed(self.above):
            if usage.input_tokens > tokens:
                return dearer.cost(usage)
        if usage.audio_output_tokens or (usage.reasoning_tokens and self.reasoning != self.output):
            output_usd = self._by_output_kind(usage)
        else:
            output_usd = usage.output_tokens * self.output
        read, write, write_1h = usage.cache_read_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens
        if not (read or write or write_1h or usage.audio_input_tokens):
            return Money.of(
                {"input_usd": usage.input_tokens * self.input, "output_usd": output_usd, "fee_usd": self.request}
            )
        return self._by_input_kind(usage, output_usd)

    def _by_output_kind(self, usage: Usage) -> Decimal:
        audio = min(usage.audio_output_tokens, usage.output_tokens)
        reasoning = min(usage.reasoning_tokens, usage.output_tokens - audio)
        plain = usage.output_tokens - audio - reasoning
        return plain * self.output + audio * self.audio_output + reasoning * self.reasoning

    def _by_input_kind(self, usage: Usage, output_usd: Decimal) -> Money:
        read, write, write_1h = usage.cache_read_tokens, usage.cache_write_tokens, usage.cache_write_1h_tokens
        audio = usage.audio_input_tokens
        plain = usage.input_tokens - read - write - write_1h - audio
        if plain < 0:
            left = usage.input_tokens
            read = min(read, left)
            write = min(write, left - read)
            write_1h = min(write_1h, left - read - write)
            audio = min(audio, left - read - write - write_1h)
            plain = left - read - write - write_1h - audio
        read_usd = read * self.cache_read
        write_usd = write * self.cache_write + write_1h * self.cache_write_1h if write or write_1h else NOTHING
        input_usd = plain * self.input + read_usd + write_usd
        if audio:
            input_usd += audio * self.audio_input
        return Money.of(
            {
                "input_usd": input_usd,
                "output_usd": output_usd,
                "fee_usd": self.request,
                "cache_read_usd": read_usd,
                "cache_write_usd": write_usd,
            }
        )
