"""`llmops prices`: what tokens cost, and whether our sums are right."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.settings import Settings

if TYPE_CHECKING:
    from langchain_llmops.core.rates import Rates

__all__ = ["prices"]

MTOK: Final = 1_000_000
TOLERANCE_USD: Final = Decimal("1e-9")
TIERS: Final = (None, "flex", "priority", "fast", "batch")
COLUMNS: Final = {
    "tier": "tier",
    "above": "input above",
    "input": "input",
    "cache_read": "cache read",
    "cache_write": "write 5m",
    "cache_write_1h": "write 1h",
    "output": "output",
}
RARE_COLUMNS: Final = {  # shown only where they differ from a plain token
    "reasoning": ("reasoning", "output"),
    "audio_input": ("audio in", "input"),
    "audio_output": ("audio out", "output"),
    "request": ("$/request", None),
}


def prices(
    model: Annotated[str | None, typer.Argument(help="A model, also as provider:name.")] = None,
    provider: Annotated[str | None, typer.Option(help="Who serves it; an ls_provider of LangChain, too.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Print the table of prices worked out by hand.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what a million tokens of a model cost today, or check our sums against those worked out by hand.

    Example: llmops prices claude-sonnet-4-5
    """
    if check == (model is not None):
        raise ConfigurationError("name a model (llmops prices gpt-4o) or ask for the table (llmops prices --check)")
    if check:
        _check(as_json=as_json)
    elif model is not None:
        _list(model, provider, as_json=as_json)


def _list(model: str, provider: str | None, *, as_json: bool) -> None:
    from langchain_llmops.core.pricing import PriceBook  # noqa: PLC0415 - loads the whole price list

    book = PriceBook.from_file(Settings().prices_file)
    rows: list[dict[str, Any]] = []
    standard = book.rates(model, provider=provider)
    if standard is None:
        raise ConfigurationError(f"no price is known for model {model!r}; add it to LLMOPS_PRICES_FILE")
    for tier in TIERS:
        rates = book.rates(model, provider=provider, tier=tier)
        if rates is not None and (tier is None or rates != standard):
            rows += [_row(tier, above, step) for above, step in ((0, rates), *rates.above)]
    if as_json:
        _print_json({"model": model, "provider": provider, "usd_per_million_tokens": rows})
        return
    rare = {
        name: heading
        for name, (heading, plain) in RARE_COLUMNS.items()
        if any(row[name] != (row[plain] if plain else 0) for row in rows)
    }
    columns = COLUMNS | rare
    table = Table(*columns.values(), title=f"{model}: US dollars per million tokens")
    for row in rows:
        table.add_row(*(_shown(name, row[name]) for name in columns))
    Console().print(table)


def _row(tier: str | None, above: int, rates: Rates) -> dict[str, Any]:
    per_token = asdict(rates)
    del per_token["above"]
    return {
        "tier": tier,
        "above": above,
        **{name: float(value if name == "request" else value * MTOK) for name, value in per_token.items()},
    }


def _shown(name: str, value: Any) -> str:
    if name == "tier":
        return value or "standard"
    if name == "above":
        return f"{value:,}" if value else ""
    return f"{value:.6g}"


def _check(*, as_json: bool) -> None:
    from langchain_llmops.telemetry.price_check import price_cases  # noqa: PLC0415 - imports LangChain

    logging.getLogger("langchain_llmops").addHandler(logging.NullHandler())  # the table has models without a price
    rows = [_case_row(case.name, (case.usd, case.saved_usd), case.priced()) for case in price_cases()]
    largest = max(row["difference"] for row in rows)
    if as_json:
        _print_json({"cases": rows, "largest_difference_usd": largest})
    else:
        table = Table("case", "expected", "ours", "difference")
        for row in rows:
            table.add_row(row["case"], row["expected"], row["ours"], f"${row['difference']:.2g}")
        Console().print(table)
        Console(highlight=False).print(f"{len(rows)} cases, largest difference ${largest:.2g}")
    if largest > TOLERANCE_USD:
        raise typer.Exit(1)


_Dollars = tuple[Decimal | None, Decimal | None]


def _case_row(name: str, expected: _Dollars, ours: _Dollars) -> dict[str, Any]:
    """A price where none is known, or the other way round, differs without bound."""
    differences = [
        0.0 if one == other else float("inf") if one is None or other is None else float(abs(one - other))
        for one, other in zip(expected, ours, strict=True)
    ]
    return {"case": name, "expected": _told(expected), "ours": _told(ours), "difference": max(differences)}


def _told(dollars: _Dollars) -> str:
    charged, saved = dollars
    text = "unpriced" if charged is None else f"${charged.normalize():f}"
    return text if saved is None else f"{text}, saved ${saved.normalize():f}"


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))  # noqa: T201 - the output of the command
