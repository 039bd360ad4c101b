"""Prices of one's own: a JSON object of model names, dollars per million tokens."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.rates import Rates

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["TIERS", "PriceEntry", "check_table", "rates_from", "read_table"]

MTOK: Final = 1_000_000
TIERS: Final = frozenset({"flex", "priority", "batch", "fast"})
_NEEDED: Final = frozenset({"input_mtok", "output_mtok"})
_FIELDS: Final = _NEEDED | {
    "cache_read_mtok",
    "cache_write_mtok",
    "cache_write_1h_mtok",
    "audio_input_mtok",
    "audio_output_mtok",
}

PriceEntry = dict[str | None, dict[str, Decimal]]
"""Fields by tier; the fields outside of any tier are under None."""


def rates_from(entry: PriceEntry, tier: str | None) -> Rates:
    """What an entry says for a tier; a tier that it does not name, or a field of it, costs as without a tier."""
    per_token = {name: value / MTOK for name, value in (entry[None] | entry.get(tier, {})).items()}
    base, output = per_token["input_mtok"], per_token["output_mtok"]
    write = per_token.get("cache_write_mtok", base)
    return Rates(
        input=base,
        output=output,
        cache_read=per_token.get("cache_read_mtok", base),
        cache_write=write,
        cache_write_1h=per_token.get("cache_write_1h_mtok", write),
        audio_input=per_token.get("audio_input_mtok", base),
        audio_output=per_token.get("audio_output_mtok", output),
        reasoning=output,
    )


def read_table(text: str, source: str) -> dict[str, PriceEntry]:
    """A checked table from JSON text; errors name the source and the entry."""
    try:
        table = json.loads(text, parse_float=Decimal)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"{source}: not JSON (line {error.lineno}: {error.msg})") from error
    return check_table(table, source)


def check_table(table: Any, source: str) -> dict[str, PriceEntry]:
    """The same from an object."""
    if not isinstance(table, dict):
        raise ConfigurationError(f"{source}: expected an object of model names")
    return {model: _entry(entry, f"{source}: {model!r}") for model, entry in table.items()}


def _entry(entry: Any, where: str) -> PriceEntry:
    if not isinstance(entry, dict) or not set(entry) >= _NEEDED or not set(entry) <= _FIELDS | TIERS:
        raise ConfigurationError(
            f"{where} needs input_mtok and output_mtok, and knows {sorted(_FIELDS)} and the tiers {sorted(TIERS)}"
        )
    tiers: PriceEntry = {None: _fields({name: value for name, value in entry.items() if name in _FIELDS}, where)}
    for tier in TIERS & set(entry):
        if not isinstance(entry[tier], dict) or not set(entry[tier]) <= _FIELDS:
            raise ConfigurationError(f"{where} {tier} must be an object of some of {sorted(_FIELDS)}")
        tiers[tier] = _fields(entry[tier], f"{where} {tier}")
    return tiers


def _fields(entry: Mapping[str, Any], where: str) -> dict[str, Decimal]:
    return {name: _dollars(value, f"{where} {name}") for name, value in entry.items()}


def _dollars(value: object, where: str) -> Decimal:
    try:
        number = Decimal(str(value))
    except ArithmeticError:
        number = Decimal(-1)
    if isinstance(value, bool) or not number.is_finite() or number < 0:
        raise ConfigurationError(f"{where} must be dollars per million tokens, not {value!r}")
    return number
