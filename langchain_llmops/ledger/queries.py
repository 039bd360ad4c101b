"""The figures of a report, read from the ledger."""

from __future__ import annotations

from collections import Counter, defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from langchain_llmops.core.stats import quantile
from langchain_llmops.core.types import Money, Usage
from langchain_llmops.ledger.schema import from_pico, usage_from_text

if TYPE_CHECKING:
    from langchain_llmops.core.pricing import PriceBook
    from langchain_llmops.stores.base import Row, Sql

__all__ = ["Figures"]

QUANTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
TOP = 5


class Figures:
    """Queries over the calls that started at or after `since` (Unix seconds).

    Args:
        baseline_model: what every call would have been asked without the suite; its own model when None.
    """

    def __init__(self, sql: Sql, prices: PriceBook, *, since: float, baseline_model: str | None) -> None:
        self._sql = sql
        self._prices = prices
        self._since = since
        self._baseline_model = baseline_model

    async def collect(self) -> dict[str, Any]:
        """Every figure under the keys of the report."""
        calls = await self._fetch(
            "SELECT route, model, cache_level, input_tokens, output_tokens, cache_read_tokens, cache_write_tokens,"
            " input_pico, output_pico + fee_pico, saved_usage, saved_pico, unpriced, estimated, session_id, provider"
            " FROM llmops_calls WHERE kind = 'model' AND error_kind IS NULL AND started_at >= ?"
        )
        figures = await self._counts()
        figures |= self._money(calls)
        figures["cache"] = _cache(calls)
        figures["routes"] = _routes(calls)
        figures["latency"] = {kind: await self._latency(kind) for kind in ("model", "tool", "turn")}
        figures["errors"] = await self._errors()
        figures["failed_attempts"] = _failed(figures["errors"])
        figures["slowest"] = await self._slowest()
        figures["dearest"] = _dearest(calls)
        return figures

    async def _fetch(self, statement: str, *parameters: Any) -> list[Row]:
        return await self._sql.fetch(statement, (self._since, *parameters))

    async def _counts(self) -> dict[str, Any]:
        rows = await self._fetch(
            "SELECT COUNT(DISTINCT session_id),"
            " COALESCE(SUM(CASE WHEN kind = 'turn' AND error_kind IS NULL THEN 1 ELSE 0 END), 0),"
            " COALESCE(SUM(CASE WHEN kind = 'turn' AND error_kind IS NOT NULL THEN 1 ELSE 0 END), 0),"
            " COALESCE(SUM(CASE WHEN kind = 'tool' THEN 1 ELSE 0 END), 0),"
            " COALESCE(SUM(CASE WHEN kind = 'model' AND error_kind IS NULL THEN 1 ELSE 0 END), 0)"
            " FROM llmops_calls WHERE started_at >= ?"
        )
        names = ("conversations", "turns", "failed_turns", "tool_calls", "model_calls")
        return dict(zip(names, (int(value) for value in rows[0]), strict=True))

    def _money(self, calls: list[Row]) -> dict[str, Any]:
        cost = sum((_cost(row) for row in calls), Decimal(0))
        baseline = sum((self._baseline(row) for row in calls), Decimal(0))
        tokens = {"input": 0, "output": 0, "cache_read": 0, "saved_by_cache": 0}
        for row in calls:
            tokens["input"] += row[3]
            tokens["output"] += row[4]
            tokens["cache_read"] += row[5]
            tokens["saved_by_cache"] += _used(row).total_tokens if row[2] else 0
        return {
            "tokens": tokens | {"total": tokens["input"] + tokens["output"]},
            "cost_usd": float(cost),
            "baseline_cost_usd": float(baseline),
            "baseline_model": self._baseline_model,
            "saved_usd": float(baseline - cost),
            "saved_pct": float(100 * (baseline - cost) / baseline) if baseline else 0.0,
            "unpriced_calls": sum(1 for row in calls if row[11]),
            "estimated_calls": sum(1 for row in calls if row[12]),
        }

    def _baseline(self, row: Row) -> Decimal:
        if self._baseline_model is None:
            return _cost(row) + from_pico(row[10])
        price = self._prices.price(self._baseline_model, _used(row), provider=row[14])
        return price.total_usd if isinstance(price, Money) else Decimal(0)

    async def _latency(self, kind: str) -> dict[str, float | None]:
        """Seconds; a model's are those of answers from a provider, a cache hit is none."""
        rows = await self._fetch(
            "SELECT latency_s FROM llmops_calls WHERE started_at >= ? AND kind = ? AND error_kind IS NULL"
            " AND cache_level IS NULL ORDER BY latency_s",
            kind,
        )
        ordered = [float(row[0]) for row in rows]
        return {name: quantile(ordered, q) for name, q in QUANTILES}

    async def _errors(self) -> dict[str, dict[str, Any]]:
        """By kind: failed model attempts and tool calls, what was done about them, and what reached the caller."""
        errors: dict[str, dict[str, Any]] = defaultdict(
            lambda: {
                "model_attempts": 0,
                "tool_calls": 0,
                "retried": 0,
                "fell_back": 0,
                "failed_turns": 0,
                "cost_usd": 0.0,
            }
        )
        columns = {"model": "model_attempts", "tool": "tool_calls", "turn": "failed_turns"}
        for error, kind, count, cost in await self._fetch(
            "SELECT error_kind, kind, COUNT(*), SUM(COALESCE(input_pico + output_pico + fee_pico, 0))"
            " FROM llmops_calls WHERE started_at >= ? AND error_kind IS NOT NULL GROUP BY error_kind, kind"
        ):
            if kind in columns:
                errors[error][columns[kind]] += int(count)
                errors[error]["cost_usd"] += float(from_pico(cost))
        for event, error, count in await self._fetch(
            "SELECT event, error_kind, COUNT(*) FROM llmops_events WHERE at >= ? GROUP BY event, error_kind"
        ):
            errors[error][event] += int(count)
        return dict(errors)

    async def _slowest(self) -> list[dict[str, Any]]:
        rows = await self._fetch(
            "SELECT session_id, SUM(latency_s), COUNT(*) FROM llmops_calls WHERE started_at >= ? AND kind = 'turn'"
            " AND session_id IS NOT NULL GROUP BY session_id ORDER BY SUM(latency_s) DESC LIMIT ?",
            TOP,
        )
        return [{"session": row[0], "seconds": float(row[1]), "turns": int(row[2])} for row in rows]


def _cost(row: Row) -> Decimal:
    return from_pico((row[7] or 0) + (row[8] or 0))


def _used(row: Row) -> Usage:
    """The tokens of an answer, also of one that came from the cache."""
    saved = usage_from_text(row[9])
    return saved if saved is not None else Usage(row[3], row[4], cache_read_tokens=row[5], cache_write_tokens=row[6])


def _cache(calls: list[Row]) -> dict[str, Any]:
    levels = Counter(row[2] for row in calls if row[2])
    hits = levels.total()
    return {
        "hits": hits,
        "misses": len(calls) - hits,
        "hit_rate": hits / len(calls) if calls else 0.0,
        "by_level": dict(sorted(levels.items())),
        "saved_usd": float(sum((from_pico(row[10]) for row in calls), Decimal(0))),
    }


def _routes(calls: list[Row]) -> dict[str, dict[str, Any]]:
    routes: dict[str, dict[str, Any]] = {}
    costs: dict[str, Decimal] = defaultdict(Decimal)
    for row in calls:
        name = row[0] or "direct"
        route = routes.setdefault(name, {"calls": 0, "hits": 0, "misses": 0, "cost_usd": 0.0, "models": {}})
        route["calls"] += 1
        route["hits" if row[2] else "misses"] += 1
        route["models"][row[1]] = route["models"].get(row[1], 0) + 1
        costs[name] += _cost(row)
    for name, route in routes.items():
        route["cost_usd"] = float(costs[name])
    return routes


def _failed(errors: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "count": sum(error["model_attempts"] for error in errors.values()),
        "cost_usd": sum(error["cost_usd"] for error in errors.values()),
    }


def _dearest(calls: list[Row]) -> list[dict[str, Any]]:
    costs: dict[str, Decimal] = defaultdict(Decimal)
    counts: Counter[str] = Counter()
    for row in calls:
        if row[13] is not None:
            costs[row[13]] += _cost(row)
            counts[row[13]] += 1
    dearest = sorted(costs, key=lambda session: costs[session], reverse=True)[:TOP]
    return [{"session": name, "cost_usd": float(costs[name]), "model_calls": counts[name]} for name in dearest]
