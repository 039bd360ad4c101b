"""The counts of a cache as series for a metrics reader: nothing is counted twice, and nothing on the way of a hit."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = ["watch_cache"]

Stats = dict[str, float]

INVALIDATED, WRITTEN, SEMANTIC, PREFETCH = "invalidated:", "written_bytes:", "semantic:", "prefetch:"
L1: Final = ("l1_bytes", "l1_entries")
LOOKS: Final = ("hit:", "error:", "miss", "bypass")  # the bus tells them, as `llmops_cache_looks`
ELSEWHERE: Final = (*LOOKS, *L1, INVALIDATED, WRITTEN, SEMANTIC, PREFETCH)
FALSE_HITS: Final = {"false_hit_rate": "estimate", "false_hit_low": "low", "false_hit_high": "high"}
STANDING: Final = frozenset({"entries", "groups", "off"})
DOLLARS: Final = {"spent_usd": "spent", "saved_usd": "saved"}
NOW: Final = frozenset({"open", "in_flight", "stopped"})
# what Prometheus works out itself, and what `issued` leaves out again
DERIVED: Final = frozenset({"precision", "precision_low", "precision_high", "saved_s"})
FOUND_CACHED: Final = "skipped:cached"


def watch_cache(watch: Callable[..., None], stats: Callable[[], Mapping[str, Any]]) -> None:
    """Have `PrometheusReader.watch` export what `TieredCache.stats` returns, at every scrape.

    The semantic level's and the prefetcher's own stats stand in it under `semantic:` and `prefetch:`. Every count has
    a place: one that is not known here is in `llmops_cache_counts`.
    """

    def series(name: str, documentation: str, read: Callable[[Stats], Any], **how: Any) -> None:
        watch(f"llmops_cache_{name}", documentation, lambda: read(_numbers(stats())), **how)

    def counts(name: str, documentation: str, read: Callable[[Stats], Any], label: str) -> None:
        series(name, documentation, read, label=label, counter=True)

    counts("counts", "What a cache did: coalesced, stale, stored, unkept, unstorable …", _plain, "what")
    invalidated = "Lookups that found only an entry of an invalidated tag."
    counts("invalidated", invalidated, partial(_below, INVALIDATED), "level")
    counts("written_bytes", "Bytes written, as they are stored.", partial(_below, WRITTEN), "level")
    series("l1_bytes", "Bytes in process memory.", lambda found: found.get("l1_bytes", 0.0))
    series("l1_entries", "Answers in process memory.", lambda found: found.get("l1_entries", 0.0))
    rest = partial(_rest, SEMANTIC, (*FALSE_HITS, *STANDING))
    counts("semantic", "What the semantic level did: would-be, served and judged hits …", rest, "what")
    standing = "What the semantic level holds, and whether it is off."
    series("semantic_now", standing, partial(_named, SEMANTIC, dict.fromkeys(STANDING)), label="what")
    share = "Share of wrong hits among the latest judged, and its 95 % bounds."
    series("semantic_false_hit_share", share, partial(_named, SEMANTIC, FALSE_HITS), label="bound")
    counts("prefetch", "What became of prefetches: issued, used, wasted …", _prefetches, "what")
    counts("prefetch_usd", "US dollars of prefetches.", partial(_named, PREFETCH, DOLLARS), "what")
    series("prefetch_now", "Prefetches on their way or unused, and groups stopped.",
           partial(_named, PREFETCH, dict.fromkeys(NOW)), label="what")  # fmt: skip


def _numbers(stats: Mapping[str, Any]) -> Stats:
    return {name: float(value) for name, value in stats.items() if isinstance(value, int | float)}


def _plain(found: Stats) -> Stats:
    return {name: number for name, number in found.items() if not name.startswith(ELSEWHERE)}


def _below(prefix: str, found: Stats) -> Stats:
    return {name.removeprefix(prefix): number for name, number in found.items() if name.startswith(prefix)}


def _rest(prefix: str, but: Collection[str], found: Stats) -> Stats:
    return {name: number for name, number in _below(prefix, found).items() if name not in but}


def _named(prefix: str, names: Mapping[str, str | None], found: Stats) -> Stats:
    return {shown or name: found[prefix + name] for name, shown in names.items() if prefix + name in found}


def _prefetches(found: Stats) -> Stats:
    """`issued` with those whose answer was there already, as a counter never goes back."""
    counts = _rest(PREFETCH, (*DOLLARS, *NOW, *DERIVED), found)
    if "issued" in counts:
        counts["issued"] += counts.get(FOUND_CACHED, 0.0)
    return counts
