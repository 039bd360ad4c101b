"""Percentiles by component, exact: nearest rank over every call, computed by the database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from langchain_llmops.ledger.filters import ANSWERED, Filter

if TYPE_CHECKING:
    from langchain_llmops.stores.base import Sql

__all__ = ["KINDS", "Latency", "Quantiles", "latencies"]

KINDS: Final = ("turn", "model", "embedding", "tool", "retriever")
MEASURES: Final = ("latency_s", "ttft_s", "inter_token_s")
ALL: Final = "CAST(NULL AS TEXT)"
PERCENTS: Final = (50, 95, 99)
ANSWERS: Final = (ANSWERED, "cache_level IS NULL")
_Key = tuple[str, str | None]


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Seconds; of `count` observations."""

    count: int
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Latency:
    """A component: a kind of call, or one model, tool, retriever or graph of that kind when `name` is given.

    Only answers count, and of models only those of a provider: a hit in the cache is no latency of the model.
    """

    kind: str
    name: str | None
    latency: Quantiles
    ttft: Quantiles | None = None
    inter_token: Quantiles | None = None


async def latencies(sql: Sql, chosen: Filter, *, by_name: bool = True) -> list[Latency]:
    """Every kind of call in the order of `KINDS`, each followed by its components, busiest first."""
    found = await _components(sql, chosen, ALL)
    if by_name:
        found += await _components(sql, chosen, "COALESCE(model, name)")
    return sorted(found, key=lambda one: (KINDS.index(one.kind), one.name is not None, -one.latency.count, one.name))


async def _components(sql: Sql, chosen: Filter, name: str) -> list[Latency]:
    where, parameters = chosen.where(*ANSWERS)
    counts = ", ".join(f"COUNT({measure})" for measure in MEASURES)
    rows = await sql.fetch(
        f"SELECT kind, {name}, {counts} FROM llmops_calls{where} GROUP BY 1, 2",  # noqa: S608
        parameters,
    )
    observed = [{(row[0], row[1]): int(row[place]) for row in rows if row[0] in KINDS} for place in (2, 3, 4)]
    whole, ttft, inter = [
        await _quantiles(sql, chosen, name, measure, counted)
        for measure, counted in zip(MEASURES, observed, strict=True)
    ]
    return [Latency(*key, found, ttft.get(key), inter.get(key)) for key, found in whole.items()]


async def _quantiles(
    sql: Sql, chosen: Filter, name: str, measure: str, counted: dict[_Key, int]
) -> dict[_Key, Quantiles]:
    """Every component is sorted once; only the rows on a wanted rank of any component leave the database."""
    ranks = {key: [(count * percent + 99) // 100 for percent in PERCENTS] for key, count in counted.items() if count}
    if not ranks:
        return {}
    places = ", ".join(map(str, sorted({rank for wanted in ranks.values() for rank in wanted})))
    where, parameters = chosen.where(*ANSWERS, f"{measure} IS NOT NULL")
    rows = await sql.fetch(
        f"SELECT kind, name, place, seconds FROM (SELECT kind, {name} AS name, {measure} AS seconds,"  # noqa: S608
        f" ROW_NUMBER() OVER (PARTITION BY kind, {name} ORDER BY {measure}) AS place"
        f" FROM llmops_calls{where}) ranked WHERE place IN ({places})",
        parameters,
    )
    found = {(row[0], row[1], int(row[2])): float(row[3]) for row in rows}
    return {key: Quantiles(counted[key], *(found[*key, rank] for rank in wanted)) for key, wanted in ranks.items()}
