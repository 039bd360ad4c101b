"""What caches answered, and what that saved."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from langchain_llmops.ledger.filters import ANSWERED, PAID, Filter
from langchain_llmops.ledger.schema import from_pico, usage_from_text

if TYPE_CHECKING:
    from langchain_llmops.stores.base import Sql

__all__ = ["CacheUse", "cache_use"]


@dataclass(slots=True)
class CacheUse:
    """The answers of one `model` (None: of all): from a cache, by level, and from its provider (`misses`).

    `other` among the levels is a cache that is not ours. `unpriced_hits` saved dollars that nobody knows.
    """

    model: str | None = None
    hits: Counter[str] = field(default_factory=Counter)
    misses: int = 0
    saved_tokens: int = 0
    saved_usd: Decimal = Decimal(0)
    saved_usd_by_level: dict[str, Decimal] = field(default_factory=dict)
    unpriced_hits: int = 0

    @property
    def hit_rate(self) -> float | None:
        """Share of answers that came from a cache; None without an answer."""
        answers = self.hits.total() + self.misses
        return self.hits.total() / answers if answers else None

    def _add(self, level: str | None, count: int, saved: str | None, usd: Decimal, unpriced: int) -> None:
        if level is None:
            self.misses += count
            return
        usage = usage_from_text(saved)
        self.hits[level] += count
        self.saved_tokens += 0 if usage is None else usage.total_tokens * count
        self.saved_usd += usd
        self.saved_usd_by_level[level] = self.saved_usd_by_level.get(level, Decimal(0)) + usd
        self.unpriced_hits += unpriced


async def cache_use(sql: Sql, chosen: Filter) -> tuple[CacheUse, list[CacheUse]]:
    """Of all models together, and of each that was answered by a cache at least once, most hits first."""
    where, parameters = chosen.where(PAID, ANSWERED)
    rows = await sql.fetch(
        "SELECT model, cache_level, saved_usage, COUNT(*), SUM(saved_pico), COUNT(*) - COUNT(saved_pico)"
        f" FROM llmops_calls{where} GROUP BY model, cache_level, saved_usage",
        parameters,
    )
    total, models = CacheUse(), dict[str | None, CacheUse]()
    for model, level, saved, count, pico, unpriced in rows:
        for use in (total, models.setdefault(model, CacheUse(model))):
            use._add(level, int(count), saved, from_pico(pico), int(unpriced))  # noqa: SLF001 - of this module
    used = (use for use in models.values() if use.hits)
    return total, sorted(used, key=lambda use: (-use.hits.total(), use.model or ""))
