"""What a tracer keeps: the newest records, bounded, each once, and the places of runs until their top ends."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from uuid import uuid4

from langchain_llmops.core.events import CacheLooked, CallFinished
from langchain_llmops.core.types import CallRecord, ErrorKind, Money, Usage
from langchain_llmops.telemetry.tracer import KEPT_RECORDS, OpsTracer, RecentRecords, _facts, _Orders

CALL = CallRecord(kind="model", run_id="1", trace_id="1", name="m", started_at=0.0, latency_s=0.0)


def test_a_record_is_given_once() -> None:
    records = RecentRecords()
    records(CallFinished(CALL))
    assert records.take("1") is CALL
    assert records.take("1") is None
    assert records.take("unknown") is None


def test_only_model_calls_are_kept() -> None:
    records = RecentRecords()
    records(CallFinished(replace(CALL, kind="tool")))
    records(CallFinished(replace(CALL, kind="turn")))
    records(CacheLooked("hit"))
    assert records.take("1") is None


def test_the_oldest_goes_when_there_are_too_many() -> None:
    records = RecentRecords(kept=3)
    for number in range(5):
        records(CallFinished(replace(CALL, run_id=str(number))))
    assert [records.take(str(number)) is not None for number in range(5)] == [False, False, True, True, True]


def test_without_a_reader_memory_stays_bounded() -> None:
    records = RecentRecords()
    for number in range(KEPT_RECORDS + 100):
        records(CallFinished(replace(CALL, run_id=str(number))))
    assert len(records._records) == KEPT_RECORDS


def test_many_threads_may_tell_and_ask_at_once() -> None:
    records = RecentRecords(kept=50)

    def tell_and_ask(number: int) -> None:
        records(CallFinished(replace(CALL, run_id=str(number))))
        records.take(str(number - 7))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(tell_and_ask, range(4000)))
    assert len(records._records) <= 50


def test_a_run_is_told_its_exact_cost_route_and_cache_level() -> None:
    record = replace(
        CALL,
        usage=Usage(1000, 100, cache_read_tokens=400, reasoning_tokens=60),
        money=Money(Decimal("0.002"), Decimal("0.001")),
        route="simple",
    )
    assert _facts(record) == {
        "llmops_cache_level": "miss",
        "llmops_route": "simple",
        "llmops_cost_usd": "0.003",
        "usage_metadata": {
            "input_tokens": 1000,
            "output_tokens": 100,
            "total_tokens": 1100,
            "input_token_details": {"cache_read": 400},
            "output_token_details": {"reasoning": 60},
            "input_cost": 0.002,
            "output_cost": 0.001,
            "total_cost": 0.003,
        },
    }


def test_an_unknown_price_is_left_out_and_never_said_to_be_zero() -> None:
    facts = _facts(replace(CALL, unpriced=True))
    assert "llmops_cost_usd" not in facts
    assert "total_cost" not in facts["usage_metadata"]


def test_a_hit_names_its_level_and_costs_zero() -> None:
    facts = _facts(replace(CALL, money=Money(), cache_level="L1"))
    assert facts["llmops_cache_level"] == "L1"
    assert facts["usage_metadata"]["total_cost"] == 0.0


def test_a_failed_attempt_is_no_part_of_what_answers_cost() -> None:
    failed = replace(CALL, money=Money(Decimal("0.002")), error_kind=ErrorKind.TIMEOUT)
    facts = _facts(failed)
    assert "total_cost" not in facts["usage_metadata"]
    assert "llmops_cost_usd" not in facts
    assert facts["llmops_failed_cost_usd"] == "0.002"


def test_the_places_below_a_top_go_with_it_and_others_stay() -> None:
    orders, langsmiths = _Orders(), uuid4()
    first, child, second = uuid4(), uuid4(), uuid4()
    for run_id, parent in [(first, langsmiths), (child, first), (second, langsmiths)]:
        orders[langsmiths] = (langsmiths, "1")
        orders[run_id] = (langsmiths, "1.2")
        orders.started(run_id, parent)
    orders.ended(child, first)
    assert set(orders) == {langsmiths, first, child, second}
    orders.ended(first, langsmiths)
    assert set(orders) == {second}
    orders.ended(second, langsmiths)
    assert not orders


def test_a_tracer_and_its_copies_are_one_and_two_tracers_are_two() -> None:
    tracer, other = OpsTracer(client=object()), OpsTracer(client=object())
    copy = tracer.copy_with_metadata_defaults(metadata={"locale": "de"})
    assert copy is not tracer
    assert {tracer, copy} == {tracer}
    assert len({tracer, copy, other}) == 2
    assert tracer != "tracer"
