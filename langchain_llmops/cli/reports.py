"""`llmops latency`, `errors`, `logs` and `trace`: what the ledger knows about time and failures."""

from __future__ import annotations

from dataclasses import asdict, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from langchain_llmops.cli.lookup import ID_HELP, check_tenant, look_up
from langchain_llmops.cli.scope import Scope, duration_s, scoped
from langchain_llmops.cli.tables import Column, Sheet, clock, count, emit, seconds, text, usd, utc
from langchain_llmops.ledger.calls import Call, Conversation, calls, conversations
from langchain_llmops.ledger.failures import Failure, failures
from langchain_llmops.ledger.filters import has_tenants
from langchain_llmops.ledger.latency import Latency, latencies
from langchain_llmops.ledger.tree import Step, trace_tree

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from _typeshed import DataclassInstance

    from langchain_llmops.stores.base import Sql

__all__ = ["TOP", "calls_sheet", "conversations_sheet", "errors", "latency", "logs", "trace"]

TOP: Final = 5
MOST_ROWS: Final = 1_000_000
MEASURES: Final = ("latency", "ttft", "inter_token")
QUANTILES: Final = ("p50", "p95", "p99")
LATENCY_FIELDS: Final = ("kind", "name", "count", *(f"{measure}_{q}_s" for measure in MEASURES for q in QUANTILES))


@scoped
def latency(scope: Scope) -> None:
    """Percentiles of every component, and the slowest calls and conversations.

    Example: llmops latency --since 24h
    """

    async def query(sql: Sql) -> tuple[list[Latency], list[Call], list[Conversation], bool]:
        return (
            await latencies(sql, scope.chosen),
            await calls(sql, scope.chosen, limit=TOP, order="slowest"),
            await conversations(sql, scope.chosen, limit=TOP, order="slowest"),
            await has_tenants(sql, scope.chosen),
        )

    found, slowest, sessions, tenants = scope.read(query)
    rows = [_latency_row(one) for one in found]
    columns = {"kind": Column("component"), "name": Column("name"), "count": Column("calls", count)}
    columns |= {f"latency_p{q}_s": Column(f"p{q}", seconds) for q in (50, 95, 99)}
    if any(row["ttft_p50_s"] is not None for row in rows):
        columns |= {"ttft_p50_s": Column("1st token p50", seconds), "ttft_p95_s": Column("p95", seconds)}
    sheets = [
        Sheet("components", "Latency of answers: exact percentiles", columns, rows, LATENCY_FIELDS),
        conversations_sheet("slowest_conversations", "Slowest conversations", sessions, tenants=tenants),
        calls_sheet("slowest_calls", "Slowest calls", slowest),
    ]
    emit(scope.form, sheets, notes=[] if found or slowest else [scope.nothing])


@scoped
def errors(scope: Scope) -> None:
    """What failed: how often, when last, and a request to look at with `llmops trace`.

    Example: llmops errors --since 24h
    """
    found = scope.read(lambda sql: failures(sql, scope.chosen))
    columns = {
        "kind": Column("of"),
        "error_kind": Column("error", _error, of_row=True),
        "count": Column("count", count),
        "last_at": Column("last (UTC)", clock),
        "example": Column("example request"),
    }
    rows = [asdict(one) | {"last_at": utc(one.last_at)} for one in found]
    nothing = f"Nothing matched: the ledger in {scope.place} has no such failures."
    sheet = Sheet("errors", "Failed calls", columns, rows, _names_of(Failure))
    emit(scope.form, [sheet], notes=[] if rows else [nothing])


@scoped
def logs(
    scope: Scope,
    *,
    slower_than: Annotated[str | None, typer.Option(help="Only calls that took as long: 2s, 500ms.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_ROWS, help="Rows at most.")] = 50,
) -> None:
    """Calls that match, newest first.

    Example: llmops logs --slower-than 2s --user u1 --limit 20
    """
    least = None if slower_than is None else duration_s(slower_than, "--slower-than")
    found = scope.read(lambda sql: calls(sql, scope.chosen, limit=limit, slower_than_s=least))
    sheet = calls_sheet("calls", "Calls, newest first", found)
    emit(scope.form, [sheet], notes=[] if found else [scope.nothing])


@scoped
def trace(scope: Scope, wanted: Annotated[str, typer.Argument(metavar="ID", help=ID_HELP)]) -> None:
    """One request as a tree, with tokens, dollars and time on every step.

    Example: llmops trace 1f0c2d4e-… (an id of `llmops logs`)
    """
    roots = look_up(scope, wanted, lambda sql, found: trace_tree(sql, found, scope.chosen))
    check_tenant(wanted, (root.call for root in roots))
    columns = {
        "step": Column("step", _step_label, of_row=True),
        "latency_s": Column("took", seconds),
        "input_tokens": Column("in", count),
        "output_tokens": Column("out", count),
        "cost_usd": Column("cost", _cost, of_row=True, number=True),
    }
    title = f"Request {roots[0].call.request or roots[0].call.trace_id}"
    sheet = Sheet("steps", title, columns, [_step_row(*place) for place in _walk(roots)])
    emit(scope.form, [sheet], facts=_trace_facts(roots), notes=_trace_notes(roots))


def calls_sheet(name: str, title: str, found: Sequence[Call]) -> Sheet:
    """Calls, one a line."""
    columns = {
        "at": Column("began (UTC)", clock),
        "name": Column("call", _label, of_row=True),
        "user": Column("user"),
        "latency_s": Column("took", seconds),
        "cost_usd": Column("cost", _cost, of_row=True, number=True),
        "request": Column("request", _to_look_at, of_row=True),
    }
    rows = [asdict(call) | {"at": utc(call.at), **_own_costs(call)} for call in found]
    return Sheet(name, title, columns, rows, _names_of(Call))


def conversations_sheet(name: str, title: str, found: Sequence[Conversation], *, tenants: bool) -> Sheet:
    """Sessions, one a line, with their tenants where there are several."""
    columns = {
        **({"tenant": Column("tenant")} if tenants else {}),
        "session": Column("session"),
        "turns": Column("turns", count),
        "seconds": Column("took", seconds),
        "model_calls": Column("model calls", count),
        "cost_usd": Column("cost", usd),
    }
    return Sheet(name, title, columns, [asdict(one) for one in found], _names_of(Conversation))


def _names_of(kind: type[DataclassInstance]) -> list[str]:
    """The fields that `asdict` gives."""
    return [field.name for field in fields(kind)]


def _own_costs(call: Call) -> dict[str, Decimal | None]:
    """None where nothing could be charged or nobody knows: tools and turns cost what the models below them cost."""
    if call.kind in ("turn", "tool", "retriever"):
        return {"cost_usd": None, "failed_cost_usd": None}
    own, nothing = None if call.unpriced else call.cost_usd + call.failed_cost_usd, Decimal(0)
    if call.error_kind is None:
        return {"cost_usd": own, "failed_cost_usd": nothing}
    return {"cost_usd": nothing, "failed_cost_usd": own}


def _cost(row: Mapping[str, Any]) -> str:
    """A failed attempt has no certain cost."""
    cost, failed = row["cost_usd"], row["failed_cost_usd"]
    if failed is None:
        return usd(None)
    return f"≤ {usd(failed)}" if failed and not cost else usd(cost)


def _to_look_at(row: Mapping[str, Any]) -> str:
    """What `llmops trace` takes: the request or, where none is named, the trace."""
    return text(row["request"] or row["trace_id"])


def _error(row: Mapping[str, Any]) -> str:
    return f"{row['error_kind']} {row['error_class'] or ''}"


def _latency_row(one: Latency) -> dict[str, Any]:
    row = {"kind": one.kind, "name": one.name or "all", "count": one.latency.count}
    return row | {f"{name}_{q}_s": getattr(getattr(one, name), q, None) for name in MEASURES for q in QUANTILES}


def _label(row: Mapping[str, Any]) -> str:
    """What was called, and what is special about it."""
    told = [row["kind"], row["model"] or row["name"] or "?"]
    told += [f"[{row['route']}]"] if row["route"] and row["kind"] == "model" else []
    told += [f"rung {row['rung']}"] if row["rung"] else []
    told += [f"{row['cache_level']} hit"] if row["cache_level"] else []
    told += ["unpriced"] if row["unpriced"] else []
    told += [f"failed: {row['error_kind']}"] if row["error_kind"] else []
    return " ".join(told)


def _walk(roots: Sequence[Step]) -> Iterator[tuple[str, int, Step]]:
    """Every step from the top, with the branches drawn before it and its depth."""
    waiting = [("", "", 0, root) for root in reversed(roots)]
    while waiting:
        own, below, depth, step = waiting.pop()
        yield own, depth, step
        last = step.children[-1] if step.children else None
        for child in reversed(step.children):
            mark, bar = ("└─ ", "   ") if child is last else ("├─ ", "│  ")
            waiting.append((below + mark, below + bar, depth + 1, child))


def _step_row(branches: str, depth: int, step: Step) -> dict[str, Any]:
    """Own tokens and cost are those of the call alone, the others those of its subtree."""
    call = step.call
    own = {
        "own_input_tokens": call.input_tokens,
        "own_output_tokens": call.output_tokens,
        "own_cost_usd": call.cost_usd,
        "own_failed_cost_usd": call.failed_cost_usd,
    }
    sums = {name: getattr(step, name) for name in ("input_tokens", "output_tokens", "cost_usd", "failed_cost_usd")}
    return {"branches": branches, "depth": depth, **asdict(call), "at": utc(call.at), **own, **sums}


def _step_label(row: Mapping[str, Any]) -> str:
    return f"{row['branches']}{_label(row)}"


def _trace_facts(roots: Sequence[Step]) -> dict[str, Any]:
    names = ("input_tokens", "output_tokens", "cost_usd", "failed_cost_usd")
    return {"total": {name: sum(getattr(root, name) for root in roots) for name in names}}


def _trace_notes(roots: Sequence[Step]) -> list[str]:
    first, total = roots[0].call, _trace_facts(roots)["total"]
    who = " ".join(f"{name} {value}," for name, value in (("user", first.user), ("session", first.session)) if value)
    notes = [
        f"{who} began {utc(first.at)[:19].replace('T', ' ')} UTC".strip(),
        f"Tokens and cost of a step include the steps below it; all together {usd(total['cost_usd'])}.",
    ]
    if total["failed_cost_usd"]:
        notes.append(f"Failed attempts, apart from that: {usd(total['failed_cost_usd'])} at most.")
    return notes
