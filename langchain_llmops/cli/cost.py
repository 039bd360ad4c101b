"""`llmops cost`: what was spent, by whom and on what; what it will cost; what a success costs."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from langchain_llmops.cli.reports import MOST_ROWS, TOP, calls_sheet, conversations_sheet
from langchain_llmops.cli.scope import Scope, plain, scoped
from langchain_llmops.cli.tables import Column, Sheet, count, emit, usd
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.ledger.calls import Call, Conversation, calls, conversations
from langchain_llmops.ledger.filters import has_tenants
from langchain_llmops.ledger.projection import Alternative, Sample, alternatives, compared_models, cost_sample
from langchain_llmops.ledger.report import counted
from langchain_llmops.ledger.spend import DIMENSIONS, OF_TENANTS, Dimension, Spend, spend_by, total_spend
from langchain_llmops.ledger.success import SuccessCost, cost_per_success

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_llmops.stores.base import Sql

__all__ = ["cost"]

GOOD: Final = 0.5
ROWS: Final = 50
NO_PRICE: Final = ("call of a model without a price is", "calls of models without a price are")
UNSUMMED: Final = ("key", "tenant")
SPENT: Final = {
    "calls": Column("calls", count),
    "cache_hits": Column("hits", count),
    "input_tokens": Column("tokens in", count),
    "output_tokens": Column("out", count),
    "cost_usd": Column("cost", usd),
}
RATE: Final = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)\s*/\s*(hour|day|week|month|year)")
DAYS: Final = {"hour": 1 / 24, "day": 1.0, "week": 7.0, "month": 365 / 12, "year": 365.0}


@scoped
def cost(
    scope: Scope,
    *,
    by: Annotated[str | None, typer.Option(help="user, session, day, model, tag, route or node (day).")] = None,
    all_tags: Annotated[
        bool, typer.Option("--all-tags", help="With --by tag: also those of LangChain's own, like seq:step:1.")
    ] = False,
    project: Annotated[
        str | None, typer.Option(help="What so many conversations will cost: 10000/day, 500/hour, 2000000/month.")
    ] = None,
    models: Annotated[str | None, typer.Option(help="With --project: models to compare with, a,b,c.")] = None,
    per_success: Annotated[bool, typer.Option("--per-success", help="By successful conversation.")] = False,
    threshold: Annotated[
        float | None, typer.Option(help="With --per-success: the least feedback that is good (0.5).")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, max=MOST_ROWS, help="With --by: rows at most, the dearest or latest (50).")
    ] = None,
) -> None:
    """What was spent, by whom and on what; what it will cost; what a success costs.

    Example: llmops cost --by user --since 7d
    """
    if sum((by is not None, project is not None, per_success)) > 1:
        raise ConfigurationError("give one of --by, --project and --per-success")
    _check_together(
        {
            "--all-tags goes with --by tag": all_tags and by != "tag",
            "--models goes with --project": models is not None and project is None,
            "--threshold goes with --per-success": threshold is not None and not per_success,
            "--limit goes with --by": limit is not None and (project is not None or per_success),
        }
    )
    threshold = GOOD if threshold is None else threshold
    if not math.isfinite(threshold):
        raise ConfigurationError("--threshold must be a finite number")
    if project is not None:
        _project(scope, *_rate(project), _models(models))
    elif per_success:
        _per_success(scope, threshold)
    else:
        _by(scope, _dimension(by or "day"), limit or ROWS, overview=by is None, all_tags=all_tags)


def _check_together(wrong: Mapping[str, bool]) -> None:
    """An option that would do nothing is a mistake to tell."""
    for said, holds in wrong.items():
        if holds:
            raise ConfigurationError(said)


def _dimension(name: str) -> Dimension:
    for known in DIMENSIONS:
        if name == known:
            return known
    raise ConfigurationError(f"--by takes one of {', '.join(DIMENSIONS)}, not {name!r}")


def _by(scope: Scope, by: Dimension, limit: int, *, overview: bool, all_tags: bool) -> None:
    async def query(sql: Sql) -> tuple[list[Spend], Spend, list[Conversation], list[Call], bool]:
        return (
            await spend_by(sql, by, scope.chosen, limit=limit, all_tags=all_tags),
            await total_spend(sql, scope.chosen),
            await conversations(sql, scope.chosen, limit=TOP, order="dearest"),
            await calls(sql, scope.chosen, limit=TOP, order="dearest"),
            await has_tenants(sql, scope.chosen),
        )

    spends, total, sessions, dearest, tenants = scope.read(query)
    rows = [_spend_row(by, spend) for spend in spends]
    shown = rows + ([_total_row(by, total)] if len(rows) > 1 else []) if scope.form == "table" else rows
    columns = _spend_columns(by, total, tenants=tenants or scope.form != "table")
    sheets = [Sheet("rows", f"Cost by {by}", columns, shown, list(_spend_row(by, total)))]
    if overview:
        sheets.append(conversations_sheet("dearest_conversations", "Dearest conversations", sessions, tenants=tenants))
        sheets.append(calls_sheet("dearest_calls", "Dearest calls", dearest))
    emit(
        scope.form,
        sheets,
        facts={"by": by, "total": {name: value for name, value in asdict(total).items() if name not in UNSUMMED}},
        notes=_spend_notes(by, total) if rows else [scope.nothing],
    )


def _spend_columns(by: Dimension, total: Spend, *, tenants: bool) -> dict[str, Column]:
    owner = {"tenant": Column("tenant")} if by in OF_TENANTS and tenants else {}
    failed = {"failed_cost_usd": Column("failed, at most", usd)} if total.failed_cost_usd else {}
    return {**owner, by: Column(by), **SPENT, **failed}


def _spend_row(by: Dimension, spend: Spend) -> dict[str, Any]:
    row = asdict(spend)
    if spend.unpriced_calls and not spend.cost_usd:  # nobody knows, which is not nothing
        row["cost_usd"] = None
    key, tenant = row.pop("key"), row.pop("tenant")
    return {**({"tenant": tenant} if by in OF_TENANTS else {}), by: key, **row}


def _total_row(by: Dimension, total: Spend) -> dict[str, Any]:
    row = _spend_row(by, total)
    return row | dict.fromkeys(("tenant", by) if "tenant" in row else (by,), "all")


def _spend_notes(by: str, total: Spend) -> list[str]:
    unpriced = counted(
        total.unpriced_calls, "call of a model without a price is", "calls of models without a price are"
    )
    failed = counted(total.failed_calls, "failed attempt is", "failed attempts are")
    notes = {
        "A call with several tags counts under each of them.": by == "tag",
        f"{unpriced} not in the cost.": total.unpriced_calls,
        f"The tokens of {counted(total.estimated_calls, 'call', 'calls')} are our estimate.": total.estimated_calls,
        f"{failed} not in the cost.": total.failed_calls,
        f"The cache saved {usd(total.saved_usd)}.": total.saved_usd,
    }
    return [note for note, holds in notes.items() if holds]


def _per_success(scope: Scope, threshold: float) -> None:
    chosen = replace(scope.chosen, replays=False)
    found = scope.read(lambda sql: cost_per_success(sql, chosen, threshold=threshold))
    row = {**asdict(found), "per_success_usd": found.per_success_usd}
    columns = {
        "successful": Column("successful", count),
        "unsuccessful": Column("not", count),
        "judged_cost_usd": Column("cost of both", usd),
        "per_success_usd": Column("per success", usd),
        "unjudged": Column("unjudged", count),
        "unjudged_cost_usd": Column("their cost", usd),
    }
    seen = found.successful + found.unsuccessful + found.unjudged
    sheet = Sheet("per_success", "Cost per successful conversation", columns, [row] if seen else [], list(row))
    emit(scope.form, [sheet], facts={"threshold": threshold}, notes=_success_notes(scope, found, threshold))


def _success_notes(scope: Scope, found: SuccessCost, threshold: float) -> list[str]:
    if not found.successful + found.unsuccessful + found.unjudged:
        return [scope.nothing]
    if not found.successful + found.unsuccessful:
        return ["No conversation was judged: report ops.outcome(session_id, ok) or ops.feedback(run_id, score)."]
    return [f"A success is a session whose latest outcome is ok or, with none, feedback of {threshold:g} or more."]


def _rate(words: str) -> tuple[float, str]:
    """Conversations, and the stretch of time they come in."""
    rate = RATE.fullmatch(words.strip())
    if rate is None or not float(rate[1]):
        raise ConfigurationError(f"--project takes conversations per time, like 10000/day or 500/hour, not {words!r}")
    return float(rate[1]), rate[2]


def _models(words: str | None) -> list[str]:
    named = [name.strip() for name in plain(words or "", "--models").split(",") if name.strip()]
    return named or compared_models()


def _project(scope: Scope, rate: float, per: str, models: list[str]) -> None:
    prices = PriceBook.from_file(scope.settings.prices_file)

    async def query(sql: Sql) -> tuple[Sample, list[Alternative]]:
        chosen = replace(scope.chosen, replays=False)
        return await cost_sample(sql, chosen), await alternatives(sql, chosen, prices, models)

    sample, others = scope.read(query)
    facts = {"conversations": rate, "per": per, "sample": asdict(sample), "confidence": 0.95}
    sheets = [_projected(sample, rate, per), _compared(sample, others, rate, per)]
    emit(scope.form, sheets, facts=facts, notes=_project_notes(sample) if sample.count else [scope.nothing])


def _projected(sample: Sample, rate: float, per: str) -> Sheet:
    low, high = sample.interval() or (None, None)
    daily = rate / DAYS[per]
    lengths = {"1 conversation": 1.0, "1 day": daily, "1 month": daily * DAYS["month"], "1 year": daily * DAYS["year"]}
    rows = [
        {
            "for": name,
            "conversations": times,
            "cost_usd": sample.mean_usd * times,
            "low_usd": None if low is None else low * times,
            "high_usd": None if high is None else high * times,
        }
        for name, times in (lengths.items() if sample.count else ())
    ]
    columns = {
        "for": Column("for"),
        "conversations": Column("conversations", _whole),
        "cost_usd": Column("cost", usd),
        "low_usd": Column("95 % from", usd),
        "high_usd": Column("to", usd),
    }
    told = f"{rate:,.6f}".rstrip("0").rstrip(".")
    return Sheet("projection", f"{told} {'conversation' if rate == 1 else 'conversations'} per {per}", columns, rows)


def _compared(sample: Sample, others: Sequence[Alternative], rate: float, per: str) -> Sheet:
    """The recorded mix among the other models, cheapest first; the cache's hits stay free in all of them."""
    monthly = rate / DAYS[per] * DAYS["month"]
    found = [("as recorded", sample.total_usd), *((one.model, one.cost_usd) for one in others)]
    now = float(sample.total_usd)
    rows = [
        {
            "model": model,
            "per_conversation_usd": None if total is None else float(total) / sample.count,
            "month_usd": None if total is None else float(total) / sample.count * monthly,
            "ratio": None if total is None or not now else float(total) / now,
        }
        for model, total in (sorted(found, key=lambda one: (one[1] is None, one[1] or 0)) if sample.count else ())
    ]
    columns = {
        "model": Column("model"),
        "per_conversation_usd": Column("1 conversation", usd),
        "month_usd": Column("1 month", usd),
        "ratio": Column("times", _times),
    }
    return Sheet("models", "The same tokens on other models, cheapest first", columns, rows)


def _project_notes(sample: Sample) -> list[str]:
    interval = "The interval is a t-interval of the mean cost of a conversation."
    seen = counted(sample.count, "conversation", "conversations")
    notes = [
        f"From {seen} ({_kinds(sample)}) that cost {usd(sample.total_usd)}; a month is 365/12 days.",
        *_overhead(sample),
        interval if sample.count > 1 else "One conversation gives no interval: record more of them.",
        "Another model may use more or fewer tokens for the same text, and answer worse; embeddings keep their price.",
    ]
    if sample.unpriced_calls:
        said = ("call of a model without a price counts", "calls of models without a price count")
        notes.append(f"{counted(sample.unpriced_calls, *said)} as nothing in `as recorded`.")
    return notes


def _kinds(sample: Sample) -> str:
    """What was counted as a conversation."""
    others = sample.count - sample.sessions
    if not others:
        return "sessions"
    if not sample.sessions:
        return "requests or traces without a session"
    named = counted(sample.sessions, "session", "sessions")
    return f"{named}, and {counted(others, 'request or trace', 'requests or traces')} without one"


def _overhead(sample: Sample) -> list[str]:
    if not sample.overhead_calls:
        return []
    calls = counted(sample.overhead_calls, "call", "calls")
    cost = usd(sample.overhead_usd)
    return [f"{cost} of it is of {calls} outside of any conversation (embeddings), and shared evenly by all of them."]


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}"
