"""What the cache counts, beside hits: what invalidation took, what was written, and all of it as metrics."""

from __future__ import annotations

from decimal import Decimal

import pytest

from langchain_llmops import PriceBook
from langchain_llmops.cache.figures import watch_cache
from langchain_llmops.telemetry.prometheus import PrometheusReader
from tests.support.cache import KEPT, hearing, keep, tags_of
from tests.support.models import ScriptedModel, answer


def invalidated(cache) -> dict[str, int]:
    """By level."""
    kinds = ((name.partition(":"), count) for name, count in cache.stats().items())
    return {level: count for (kind, _, level), count in kinds if kind == "invalidated"}


@pytest.mark.parametrize("l2", [True, False])
def test_a_look_that_invalidation_turned_into_a_miss_is_counted_once(make, l2) -> None:
    cache = make(tags_of=tags_of, l2=l2)
    keep(cache, "a", "b", "a,b", "c")
    cache.invalidate(["a"])
    for prompt in ("a", "b", "a,b", "c", "never kept"):
        cache.lookup(prompt, "m")
    assert sum(invalidated(cache).values()) == 2
    assert sum(count for name, count in cache.stats().items() if name.startswith("hit:")) == 2
    assert cache.stats()["invalidated_tags"] == 1


def test_what_another_process_invalidated_is_told_apart_from_what_only_must_be_looked_up_again(make, clock) -> None:
    cache, other = make(tags_of=tags_of), make(tags_of=tags_of)
    keep(cache, "a", "b")
    other.invalidate(["a"])
    clock.pass_s(0.25)
    cache.lookup("b", "m")
    assert (invalidated(cache), cache.stats()["hit:L2"]) == ({}, 1)
    cache.lookup("a", "m")
    assert invalidated(cache) == {"L2": 1}


def test_what_was_cleared_counts_as_invalidated_in_other_processes(make, clock) -> None:
    cache, other = make(), make()
    cache.update("a", "m", KEPT)
    other.lookup("a", "m")
    cache.clear()
    clock.pass_s(0.25)
    assert other.lookup("a", "m") is None
    assert invalidated(other) == {"L2": 1}


def test_what_ended_or_was_never_there_is_not_invalidated(make, clock) -> None:
    cache = make(l2_s=10)
    cache.update("a", "m", KEPT)
    clock.pass_s(11)
    cache.lookup("a", "m")
    cache.lookup("b", "m")
    assert invalidated(cache) == {}


def test_bytes_written_are_those_that_the_level_has(make, shelf) -> None:
    cache = make()
    cache.update("a", "m", KEPT)
    kept = [len(value) for key, (value, _) in shelf.items._items.items() if key.startswith("llmops:cache:2:")]
    assert cache.stats()["written_bytes:L2"] == sum(kept) > 0
    shelf.broken = True
    cache.update("b", "m", KEPT)
    assert cache.stats()["written_bytes:L2"] == sum(kept)


# as metrics

JOINED = {
    "hit:L1": 3, "miss": 2, "bypass": 1, "error:L2": 1, "stale": 4, "coalesced": 5, "stored": 6,
    "new_in_a_later_version": 7,
    "invalidated:L1": 8, "invalidated:L2": 9, "invalidated_tags": 2, "written_bytes:L2": 1000, "l1_entries": 10,
    "l1_bytes": 11, "semantic:lookups": 12, "semantic:would_be": 13, "semantic:served": 0, "semantic:judged": 14,
    "semantic:wrong": 1, "semantic:mode": "shadow", "semantic:off": False, "semantic:entries": 15, "semantic:groups": 2,
    "semantic:false_hit_rate": 0.1, "semantic:false_hit_low": 0.05, "semantic:false_hit_high": 0.2,
    "prefetch:issued": 20, "prefetch:used": 8, "prefetch:skipped:cached": 3, "prefetch:open": 4,
    "prefetch:spent_usd": 0.5, "prefetch:saved_usd": 0.7, "prefetch:precision": None, "prefetch:saved_s": 3.0,
}  # fmt: skip
EXPORTED = {
    ("llmops_cache_counts_total", "what", "stale"): 4,
    ("llmops_cache_counts_total", "what", "coalesced"): 5,
    ("llmops_cache_counts_total", "what", "invalidated_tags"): 2,
    ("llmops_cache_counts_total", "what", "new_in_a_later_version"): 7,
    ("llmops_cache_counts_total", "what", "miss"): None,
    ("llmops_cache_counts_total", "what", "l1_bytes"): None,
    ("llmops_cache_invalidated_total", "level", "L2"): 9,
    ("llmops_cache_written_bytes_total", "level", "L2"): 1000,
    ("llmops_cache_semantic_total", "what", "would_be"): 13,
    ("llmops_cache_semantic_total", "what", "judged"): 14,
    ("llmops_cache_semantic_total", "what", "entries"): None,
    ("llmops_cache_semantic_now", "what", "entries"): 15,
    ("llmops_cache_semantic_now", "what", "off"): 0,
    ("llmops_cache_semantic_false_hit_share", "bound", "estimate"): 0.1,
    ("llmops_cache_semantic_false_hit_share", "bound", "high"): 0.2,
    ("llmops_cache_prefetch_total", "what", "issued"): 23,
    ("llmops_cache_prefetch_total", "what", "used"): 8,
    ("llmops_cache_prefetch_total", "what", "spent_usd"): None,
    ("llmops_cache_prefetch_usd_total", "what", "spent"): 0.5,
    ("llmops_cache_prefetch_now", "what", "open"): 4,
}


def test_every_count_of_a_cache_is_exported_under_one_name() -> None:
    reader = PrometheusReader()
    watch_cache(reader.watch, lambda: JOINED)
    found = {
        (name, label, value): reader.registry.get_sample_value(name, {label: value}) for name, label, value in EXPORTED
    }
    assert found == EXPORTED
    assert reader.registry.get_sample_value("llmops_cache_l1_bytes") == 11


def test_metadata_ledger_and_prometheus_name_the_same_dollars(make) -> None:
    prices = PriceBook({"m": {"input_mtok": 3, "output_mtok": 7}})
    reader, (handler, records) = PrometheusReader(), hearing(prices=prices)
    handler.bus.subscribe(reader)
    model = ScriptedModel(answer(usage=(11, 13), response_metadata={"model_name": "m"}), cache=make(prices=prices))
    model.invoke("hi", {"callbacks": [handler]})
    told = model.invoke("hi", {"callbacks": [handler]}).response_metadata["llmops_cache"]["saved_usd"]
    reader.refresh()
    exported = reader.registry.get_sample_value("llmops_saved_usd_total", {"model": "m"})
    assert (Decimal(str(told)), told) == (records[-1].saved_usd, exported)
    assert told == 124e-6
