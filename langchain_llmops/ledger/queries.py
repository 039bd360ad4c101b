"""The figures of a report, read from the ledger."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from langchain_llmops.ledger.baseline import Asked, OtherModel, superseded
from langchain_llmops.ledger.cached import CacheUse, cache_use
from langchain_llmops.ledger.calls import conversations
from langchain_llmops.ledger.filters import ANSWERED, CONVERSATION, COST, PAID, SPOKEN, Filter
from langchain_llmops.ledger.latency import latencies
from langchain_llmops.ledger.report import counted
from langchain_llmops.ledger.schema import from_pico
from langchain_llmops.ledger.spend import Spend, total_spend

if TYPE_CHECKING:
    from langchain_llmops.core.pricing import PriceBook
    from langchain_llmops.stores.base import Row, Sql

__all__ = ["Figures"]

TOP = 5
ABSENT: dict[str, float | None] = {"p50": None, "p95": None, "p99": None}


class Figures:
    """Queries over the calls that started at or after `since` (Unix seconds).

    Args:
        baseline_model: what every call would have been asked without the suite; its own model when None.
        baseline_provider: who serves it, where the same name has several prices.
    """

    def __init__(
        self,
        sql: Sql,
        prices: PriceBook,
        *,
        since: float,
        baseline_model: str | None,
        baseline_provider: str | None = None,
        tenant: str | None = None,
    ) -> None:
        self._sql = sql
        self._prices = prices
        self._chosen = Filter(since=since, tenant=tenant)
        self._baseline_model = baseline_model
        self._baseline_provider = baseline_provider

    async def collect(self) -> dict[str, Any]:
        """Every figure under the keys of the report."""
        spend = await total_spend(self._sql, self._chosen)
        figures = await self._counts()
        use, _ = await cache_use(self._sql, self._chosen)
        figures |= await self._money(spend, use)
        figures["cache"] = _cache(use)
        figures["routes"] = await self._routes()
        figures["latency"] = await self._latency()
        figures["errors"] = await self._errors()
        figures["failed_attempts"] = {"count": spend.failed_calls, "cost_usd": float(spend.failed_cost_usd)}
        figures["slowest"] = await self._slowest()
        figures["dearest"] = await self._dearest()
        return figures

    async def _fetch(self, columns: str, *conditions: str, rest: str = "") -> list[Row]:
        where, parameters = self._chosen.where(*conditions)
        return await self._sql.fetch(f"SELECT {columns} FROM llmops_calls{where} {rest}", parameters)

    async def _counts(self) -> dict[str, Any]:
        rows = await self._fetch(
            f"COUNT(*) FILTER (WHERE kind = 'turn' AND {ANSWERED}),"
            " COUNT(*) FILTER (WHERE kind = 'turn' AND error_kind IS NOT NULL),"
            f" COUNT(*) FILTER (WHERE kind = 'tool'), COUNT(*) FILTER (WHERE {PAID} AND {ANSWERED})"
        )
        names = ("turns", "failed_turns", "tool_calls", "model_calls")
        counts = dict(zip(names, (int(value) for value in rows[0]), strict=True))
        return {"conversations": await self._conversations(), **counts}

    async def _conversations(self) -> int:
        """Those of a cost projection: what was replayed is none."""
        where, parameters = replace(self._chosen, replays=False).where(SPOKEN)
        distinct = f"SELECT DISTINCT {CONVERSATION} FROM llmops_calls{where}"
        rows = await self._sql.fetch(f"SELECT COUNT(*) FROM ({distinct}) found", parameters)
        return int(rows[0][0])

    async def _money(self, spend: Spend, use: CacheUse) -> dict[str, Any]:
        baseline = await self._baseline(spend)
        tokens = {
            "input": spend.input_tokens,
            "output": spend.output_tokens,
            "cache_read": spend.cache_read_tokens,
            "saved_by_cache": use.saved_tokens,
        }
        return {
            "tokens": tokens | {"total": spend.input_tokens + spend.output_tokens},
            "cost_usd": float(spend.cost_usd),
            "baseline_model": self._baseline_model,
            **_saving(spend.cost_usd, baseline),
            "saving_note": self._note(spend, baseline),
            "unpriced_calls": spend.unpriced_calls,
            "estimated_calls": spend.estimated_calls,
        }

    async def _baseline(self, spend: Spend) -> Decimal | None:
        """What the answers that reached their callers would have cost; None when nobody knows."""
        if _nothing_priced(spend):
            return None
        lost = await superseded(self._sql, self._chosen)
        if self._baseline_model is None:
            return spend.cost_usd + spend.saved_usd - sum((one.worth_usd for one in lost), Decimal(0))
        other = OtherModel(self._prices, self._baseline_model, self._baseline_provider)
        if not other.is_priced:
            return None
        asked = await other.cost_of_asked(Asked(self._sql, self._chosen, only_priced=True))
        hits = await other.cost_of_hits(self._sql, self._chosen)
        return asked + hits - sum((other.cost_of(one.usage) for one in lost), Decimal(0))

    def _note(self, spend: Spend, baseline: Decimal | None) -> str | None:
        if _nothing_priced(spend):
            return "no saving is claimed: no model that answered has a price; add them to LLMOPS_PRICES_FILE"
        if baseline is None:
            return f"no saving is claimed: {self._baseline_model} has no price; add it to LLMOPS_PRICES_FILE"
        if spend.unpriced_calls:
            calls = counted(
                spend.unpriced_calls, "call of a model without a price is", "calls of models without a price are"
            )
            return f"{calls} on neither side of the saving"
        return None

    async def _routes(self) -> dict[str, dict[str, Any]]:
        routes: dict[str, dict[str, Any]] = {}
        costs: dict[str, Decimal] = defaultdict(Decimal)
        for name, model, count, hits, pico in await self._fetch(
            f"COALESCE(route, 'direct'), model, COUNT(*), COUNT(cache_level), SUM({COST})",
            PAID,
            ANSWERED,
            rest="GROUP BY 1, 2 ORDER BY 1, 3 DESC, 2",
        ):
            route = routes.setdefault(name, {"calls": 0, "hits": 0, "misses": 0, "cost_usd": 0.0, "models": {}})
            route["calls"] += int(count)
            route["hits"] += int(hits)
            route["misses"] += int(count) - int(hits)
            route["models"][model or "unknown"] = int(count)
            costs[name] += from_pico(pico)
        return {name: route | {"cost_usd": float(costs[name])} for name, route in routes.items()}

    async def _latency(self) -> dict[str, dict[str, float | None]]:
        """Seconds; a model's are those of answers from a provider, a cache hit is none."""
        found = {one.kind: one.latency for one in await latencies(self._sql, self._chosen, by_name=False)}
        return {
            kind: {name: getattr(found[kind], name) for name in ABSENT} if kind in found else dict(ABSENT)
            for kind in ("model", "embedding", "tool", "turn")
        }

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
        columns = {
            "model": "model_attempts",
            "embedding": "model_attempts",
            "tool": "tool_calls",
            "turn": "failed_turns",
        }
        for error, kind, count, cost in await self._fetch(
            f"error_kind, kind, COUNT(*), SUM({COST})", "error_kind IS NOT NULL", rest="GROUP BY error_kind, kind"
        ):
            if kind in columns:
                errors[error][columns[kind]] += int(count)
                errors[error]["cost_usd"] += float(from_pico(cost))
        for event, error, count in await self._sql.fetch(
            "SELECT event, error_kind, COUNT(*) FROM llmops_events WHERE at >= ? AND"
            " COALESCE(tenant, '') = COALESCE(?, tenant, '') GROUP BY event, error_kind",
            (self._chosen.since, self._chosen.tenant),
        ):
            errors[error][event] += int(count)
        return dict(errors)

    async def _slowest(self) -> list[dict[str, Any]]:
        found = await conversations(self._sql, self._chosen, limit=TOP, order="slowest")
        return [{"session": one.session, "seconds": one.seconds, "turns": one.turns} for one in found]

    async def _dearest(self) -> list[dict[str, Any]]:
        found = await conversations(self._sql, self._chosen, limit=TOP, order="dearest")
        return [
            {"session": one.session, "cost_usd": float(one.cost_usd), "model_calls": one.model_calls} for one in found
        ]


def _cache(use: CacheUse) -> dict[str, Any]:
    return {
        "hits": use.hits.total(),
        "misses": use.misses,
        "hit_rate": use.hit_rate or 0.0,
        "by_level": dict(sorted(use.hits.items())),
        "saved_usd": float(use.saved_usd),
        "saved_usd_by_level": {level: float(usd) for level, usd in sorted(use.saved_usd_by_level.items())},
    }


def _nothing_priced(spend: Spend) -> bool:
    return 0 < spend.unpriced_calls == spend.calls - spend.failed_calls


def _saving(cost: Decimal, baseline: Decimal | None) -> dict[str, float | None]:
    if baseline is None:
        return {"baseline_cost_usd": None, "saved_usd": None, "saved_pct": None}
    saved = baseline - cost
    return {
        "baseline_cost_usd": float(baseline),
        "saved_usd": float(saved),
        "saved_pct": float(100 * saved / baseline) if baseline else 0.0,
    }
