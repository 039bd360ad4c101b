"""Usage to money, by the prices of genai-prices and the user's own."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from genai_prices import Usage as RawUsage
from genai_prices.data_snapshot import get_snapshot
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices, TimeOfDateConstraint

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import Money, Unpriced, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["PriceBook", "normalize_model"]

_log = logging.getLogger(__name__)

MTOK: Final = 1_000_000
MEMO_ENTRIES: Final = 4096
PROVIDERS: Final = {
    "amazon_bedrock": "aws",
    "azure_openai": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "google_genai": "google",
    "google_vertexai": "google",
    "mistralai": "mistral",
    "together_ai": "together",
    "vertex_ai": "google",
    "xai": "x-ai",
}
_BEDROCK = re.compile(
    r"^((us|eu|apac|global|jp|au|us-gov)\.)?(anthropic|amazon|meta|mistral|cohere|ai21|deepseek|qwen)\."
)
_DATE = re.compile(r"[-@](\d{4}-\d{2}-\d{2}|\d{8}|\d{4})$")


@dataclass(frozen=True, slots=True)
class _Rates:
    """US dollars per token by kind of token."""

    input: Decimal
    output: Decimal
    cache_read: Decimal
    cache_write: Decimal
    cache_write_1h: Decimal
    audio_input: Decimal
    audio_output: Decimal


_Price = _Rates | ModelPrice
"""Rates where the price is linear in the tokens; the library's own price where it has tiers or fees."""


def normalize_model(model: str, provider: str | None = None) -> tuple[str | None, str]:
    """`(provider, name)` in the words of genai-prices.

    Understands `provider/name` and `provider:name`, `models/name`, Bedrock ids with and without a region, and
    LangChain's `ls_provider` values. A fine-tuned name `ft:base:org::id` becomes `ft:base`.
    """
    known = {p.id for p in get_snapshot().providers} | set(PROVIDERS)
    name = model.removeprefix("models/")
    for separator in ("/", ":"):
        head, found, rest = name.partition(separator)
        if found and head.lower() in known:
            provider, name = head.lower(), rest.removeprefix("models/")
            break
    if name.startswith("ft:"):
        return "openai", ":".join(name.split(":")[:2])
    if _BEDROCK.match(name):
        return "aws", name
    return _vendor(provider), name


def _vendor(provider: str | None) -> str | None:
    provider = provider.lower() if provider else None
    return PROVIDERS.get(provider, provider) if provider else None


class PriceBook:
    """What tokens cost, by model and day.

    Args:
        overrides: prices that win over the built-in ones, by model name (`name` or `provider:name`):
            `{"my-model": {"input_mtok": 1.5, "output_mtok": 6, "cache_read_mtok": 0.15}}`, dollars per million tokens.

    A model without a price is `Unpriced`, counted in `unpriced` and warned about once; it is never 0.
    """

    def __init__(self, overrides: Mapping[str, Mapping[str, float | str | Decimal]] | None = None) -> None:
        table = _read_table(
            files("langchain_llmops.core").joinpath("data/prices.json").read_text("utf-8"), "built-in prices"
        )
        table.update(_check_table(overrides or {}, "price overrides"))
        self._own = table
        self._memo: dict[tuple[Any, ...], _Price | ModelInfo | None] = {}
        self.unpriced: Counter[str] = Counter()

    @classmethod
    def from_file(cls, path: Path | None) -> PriceBook:
        """A book with the overrides of a JSON file; raises `ConfigurationError` naming the file and the entry."""
        if path is None:
            return cls()
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"LLMOPS_PRICES_FILE {path}: not UTF-8 text") from error
        except OSError as error:
            raise ConfigurationError(f"LLMOPS_PRICES_FILE: cannot read {path}: {error.strerror}") from error
        return cls(_read_table(text, f"LLMOPS_PRICES_FILE {path}"))

    def price(
        self, model: str, usage: Usage, *, provider: str | None = None, at: datetime | None = None
    ) -> Money | Unpriced:
        """The price of one call at the moment `at` (now when None)."""
        price = self._price(model, provider, at or datetime.now(UTC))
        if price is None:
            self._count_unpriced(model)
            return Unpriced(model)
        usage = _within_totals(usage)
        return _linear(price, usage) if isinstance(price, _Rates) else _by_library(price, usage)

    def _price(self, model: str, provider: str | None, moment: datetime) -> _Price | None:
        """Remembered by model and day; a model whose price changes by the hour is looked up by the minute."""
        key = (provider, model, moment.toordinal())
        if key not in self._memo:
            self._remember(key, self._find(model, provider, moment))
        found = self._memo[key]
        if not isinstance(found, ModelInfo):
            return found
        minute = (*key, moment.hour * 60 + moment.minute)
        if minute not in self._memo:
            self._remember(minute, _from_library(found.get_prices(moment)))
        price = self._memo[minute]
        return None if isinstance(price, ModelInfo) else price

    def _remember(self, key: tuple[Any, ...], found: _Price | ModelInfo | None) -> None:
        if len(self._memo) >= MEMO_ENTRIES:
            self._memo.clear()
        self._memo[key] = found

    def _find(self, model: str, provider: str | None, moment: datetime) -> _Price | ModelInfo | None:
        vendor, name = normalize_model(model, provider)
        for candidate in _override_names(model, vendor, name):
            if candidate in self._own:
                return _from_table(self._own[candidate])
        if name.startswith("ft:"):
            return None
        for place, listed in dict.fromkeys(
            ((_vendor(provider), model), (vendor, name), (None, name), ("openai", name))
        ):
            try:
                _, found = get_snapshot().find_provider_model(listed, None, place, None)
            except LookupError:
                continue
            return found if _changes_by_the_hour(found) else _from_library(found.get_prices(moment))
        return None

    def _count_unpriced(self, model: str) -> None:
        self.unpriced[model] += 1
        if self.unpriced[model] == 1:
            _log.warning(
                "no price is known for model %r: its calls are counted as unpriced; add it to LLMOPS_PRICES_FILE", model
            )


def _override_names(model: str, vendor: str | None, name: str) -> list[str]:
    plain = _DATE.sub("", name)
    return [model, f"{vendor}:{name}", name, f"{vendor}:{plain}", plain]


def _linear(rates: _Rates, usage: Usage) -> Money:
    special = (
        usage.cache_read_tokens + usage.cache_write_tokens + usage.cache_write_1h_tokens + usage.audio_input_tokens
    )
    input_usd = (
        max(0, usage.input_tokens - special) * rates.input
        + usage.cache_read_tokens * rates.cache_read
        + usage.cache_write_tokens * rates.cache_write
        + usage.cache_write_1h_tokens * rates.cache_write_1h
        + usage.audio_input_tokens * rates.audio_input
    )
    plain_output = max(0, usage.output_tokens - usage.audio_output_tokens)
    return Money(input_usd, plain_output * rates.output + usage.audio_output_tokens * rates.audio_output)


def _by_library(price: ModelPrice, usage: Usage) -> Money:
    cost = price.calc_price(
        RawUsage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens + usage.cache_write_1h_tokens,
            cache_write_1h_tokens=usage.cache_write_1h_tokens,
            input_audio_tokens=usage.audio_input_tokens,
            output_audio_tokens=usage.audio_output_tokens,
        )
    )
    fee = cost["total_price"] - cost["input_price"] - cost["output_price"]
    return Money(cost["input_price"], cost["output_price"], fee)


def _within_totals(usage: Usage) -> Usage:
    """Providers have reported more cached tokens than tokens: no kind may exceed what is left of its total."""
    left = usage.input_tokens
    kinds = {}
    for kind in ("cache_read_tokens", "cache_write_tokens", "cache_write_1h_tokens", "audio_input_tokens"):
        kinds[kind] = min(getattr(usage, kind), left)
        left -= kinds[kind]
    return replace(usage, **kinds, audio_output_tokens=min(usage.audio_output_tokens, usage.output_tokens))


def _changes_by_the_hour(model: ModelInfo) -> bool:
    prices = model.prices if isinstance(model.prices, list) else []
    return any(isinstance(price.constraint, TimeOfDateConstraint) for price in prices)


def _from_library(price: ModelPrice) -> _Price | None:
    """Read the rates off by pricing a million tokens of each kind, so that the library's own fallbacks hold."""
    listed = {name: value for name, value in vars(price).items() if value is not None}
    if not any(name in listed for name in ("input_mtok", "output_mtok")):
        return None
    if any(isinstance(value, TieredPrices) for value in listed.values()) or "requests_kcount" in listed:
        return price

    def rate(**counts: int) -> Decimal:
        cost = price.calc_price(RawUsage(**counts))
        return (cost["input_price"] + cost["output_price"]) / MTOK

    rates = _Rates(
        input=rate(input_tokens=MTOK),
        output=rate(output_tokens=MTOK),
        cache_read=rate(input_tokens=MTOK, cache_read_tokens=MTOK),
        cache_write=rate(input_tokens=MTOK, cache_write_tokens=MTOK),
        cache_write_1h=rate(input_tokens=MTOK, cache_write_tokens=MTOK, cache_write_1h_tokens=MTOK),
        audio_input=rate(input_tokens=MTOK, input_audio_tokens=MTOK),
        audio_output=rate(output_tokens=MTOK, output_audio_tokens=MTOK),
    )
    # a fee that no token carries makes the price of nothing more than nothing
    return price if price.calc_price(RawUsage(input_tokens=0, output_tokens=0))["total_price"] else rates


def _from_table(entry: Mapping[str, Decimal]) -> _Rates:
    per_token = {name: value / MTOK for name, value in entry.items()}
    base, output = per_token["input_mtok"], per_token["output_mtok"]
    write = per_token.get("cache_write_mtok", base)
    return _Rates(
        input=base,
        output=output,
        cache_read=per_token.get("cache_read_mtok", base),
        cache_write=write,
        cache_write_1h=per_token.get("cache_write_1h_mtok", write),
        audio_input=per_token.get("audio_input_mtok", base),
        audio_output=per_token.get("audio_output_mtok", output),
    )


_FIELDS: Final = frozenset(
    {
        "input_mtok",
        "output_mtok",
        "cache_read_mtok",
        "cache_write_mtok",
        "cache_write_1h_mtok",
        "audio_input_mtok",
        "audio_output_mtok",
    }
)


def _read_table(text: str, source: str) -> dict[str, dict[str, Decimal]]:
    try:
        table = json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{source}: not JSON (line {error.lineno}: {error.msg})") from error
    return _check_table(table, source)


def _check_table(table: Any, source: str) -> dict[str, dict[str, Decimal]]:
    if not isinstance(table, dict):
        raise ConfigurationError(f"{source}: expected an object of model names")
    checked: dict[str, dict[str, Decimal]] = {}
    for model, entry in table.items():
        if not isinstance(entry, dict) or not {"input_mtok", "output_mtok"} <= set(entry) <= _FIELDS:
            raise ConfigurationError(
                f"{source}: {model!r} needs input_mtok and output_mtok, and knows {sorted(_FIELDS)}"
            )
        checked[model] = {name: _dollars(value, model, name, source) for name, value in entry.items()}
    return checked


def _dollars(value: object, model: str, name: str, source: str) -> Decimal:
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        number = Decimal(-1)
    if isinstance(value, bool) or not number.is_finite() or number < 0:
        raise ConfigurationError(f"{source}: {model!r} {name} must be dollars per million tokens, not {value!r}")
    return number
