"""Percentiles, failures, single calls, conversations, traces and successes, the same in both databases."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_llmops.core.stats import quantile
from langchain_llmops.core.types import ErrorKind, Usage
from langchain_llmops.ledger.calls import calls, conversations
from langchain_llmops.ledger.failures import failures
from langchain_llmops.ledger.filters import Filter
from langchain_llmops.ledger.latency import Quantiles, latencies
from langchain_llmops.ledger.success import cost_per_success
from langchain_llmops.ledger.tree import trace_tree
from tests.support.recorded import NOON, URLS, call, hit, ledger, traffic, url_of

ALL = Filter()


@pytest.fixture(params=URLS)
def url(request, tmp_path):
    return url_of(request.param, request, tmp_path)


# percentiles


def expected(values) -> Quantiles | None:
    ordered = sorted(value for value in values if value is not None)
    return Quantiles(len(ordered), *(quantile(ordered, q) for q in (0.5, 0.95, 0.99))) if ordered else None


async def test_percentiles_are_the_nearest_ranks_of_every_answer_of_a_component(url) -> None:
    records = traffic(500, seed=6)
    async with ledger(url, records) as sql:
        found = await latencies(sql, ALL)
    answers = [r for r in records if r.error_kind is None and r.cache_level is None]
    assert {(one.kind, one.name) for one in found} == {
        key for r in answers for key in ((r.kind, None), (r.kind, r.model or r.name))
    }
    for one in found:
        of = [r for r in answers if r.kind == one.kind and one.name in (None, r.model or r.name)]
        assert one.latency == expected(r.latency_s for r in of), one
        assert one.ttft == expected(r.ttft_s for r in of), one
        assert one.inter_token == expected(r.inter_token_s for r in of), one


async def test_a_selection_that_holds_no_answer_has_no_percentiles(url) -> None:
    async with ledger(url, [call(), call(error_kind=ErrorKind.TIMEOUT, started_at=NOON + 9)]) as sql:
        for nothing in (Filter(since=math.inf), Filter(until=-math.inf), Filter(user="nobody"), Filter(since=NOON + 1)):
            assert await latencies(sql, nothing) == []
        everything = Filter(since=-math.inf, until=math.inf)
        assert [one.latency.count for one in await latencies(sql, everything)] == [1, 1]


async def test_calls_without_a_name_count_in_their_kind_alone(url) -> None:
    async with ledger(url, [call("tool", name=None, latency_s=9.0), call("tool", name="lookup", latency_s=1.0)]) as sql:
        found = await latencies(sql, ALL)
    assert [(one.name, one.latency) for one in found] == [
        (None, Quantiles(2, 1.0, 9.0, 9.0)),
        ("lookup", Quantiles(1, 1.0, 1.0, 1.0)),
    ]


async def test_one_answer_is_every_percentile_of_itself(url) -> None:
    async with ledger(url, [call(latency_s=0.25)]) as sql:
        assert (await latencies(sql, ALL))[0].latency == Quantiles(1, 0.25, 0.25, 0.25)


async def test_neither_hits_nor_failures_make_a_model_look_fast_or_slow(url) -> None:
    others = [hit(latency_s=0.0001), call(latency_s=60.0, error_kind=ErrorKind.TIMEOUT)]
    async with ledger(url, [call(latency_s=0.25), *others]) as sql:
        assert {one.latency.count for one in await latencies(sql, ALL)} == {1}


SECONDS = st.one_of(
    st.sampled_from([0.0, 0.1, 0.1 + 0.2, 0.3]),
    st.floats(min_value=0.0, allow_nan=False, allow_infinity=False),
)
ANSWERS = st.lists(
    st.tuples(st.sampled_from(["model", "tool", "turn"]), st.sampled_from(["a", "b"]), SECONDS, st.none() | SECONDS),
    min_size=1,
    max_size=300,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(answers=ANSWERS, by_name=st.booleans())
async def test_percentiles_of_whatever_was_answered_are_nearest_ranks(url, answers, by_name) -> None:
    records = [
        call(kind, name=name, model=name if kind == "model" else None, latency_s=latency, ttft_s=ttft)
        for kind, name, latency, ttft in answers
    ]
    async with ledger(url, records) as sql:
        found = await latencies(sql, ALL, by_name=by_name)
        await sql.execute("DELETE FROM llmops_calls")
    names = {name for _, name, *_ in answers} if by_name else set()
    for kind in {kind for kind, *_ in answers}:
        for name in (None, *names):
            of = [one for one in answers if one[0] == kind and name in (None, one[1])]
            told = [(one.latency, one.ttft) for one in found if (one.kind, one.name) == (kind, name)]
            wanted = (expected(one[2] for one in of), expected(one[3] for one in of))
            assert told == ([wanted] if of else [])


async def test_many_answers_are_read_in_portions_and_none_is_missed(tmp_path, monkeypatch) -> None:
    records = traffic(500, seed=8)
    async with ledger(f"sqlite:///{tmp_path}/l.db", records) as sql:
        at_once = await latencies(sql, Filter(since=NOON - 100_000, user="ada"))
        monkeypatch.setattr("langchain_llmops.ledger.latency.IDS_PER_READ", 7)
        assert await latencies(sql, Filter(since=NOON - 100_000, user="ada")) == at_once
        await sql.execute("DELETE FROM llmops_calls WHERE id BETWEEN 100 AND 200")
        left = [r for r in records[:99] + records[200:] if r.error_kind is None and r.cache_level is None]
        found = {one.kind: one.latency for one in await latencies(sql, ALL, by_name=False)}
    assert found == {kind: expected(r.latency_s for r in left if r.kind == kind) for kind in {r.kind for r in left}}


# failures


async def test_failures_are_counted_by_component_kind_and_class_with_the_last_as_example(url) -> None:
    timeout = {"error_kind": ErrorKind.TIMEOUT, "error_class": "ReadTimeout"}
    records = [
        call(started_at=NOON, who=("u", "s", "r1"), cost="0.1", **timeout),
        call(started_at=NOON + 9, who=("u", "s", "r2"), cost="0.2", **timeout),
        call(started_at=NOON + 5, who=("u", "s", "r3"), cost="0.3", **timeout),
        call("tool", trace_id="trace", **timeout),
        call(),
    ]
    async with ledger(url, records) as sql:
        first, second = await failures(sql, ALL)
    assert (first.kind, first.error_kind, first.error_class, first.count) == ("model", "timeout", "ReadTimeout", 3)
    assert (first.example, first.last_at, first.name) == ("r2", NOON + 9, "gpt-4o")
    assert first.failed_cost_usd == Decimal("0.6")
    assert (second.kind, second.example, second.count) == ("tool", "trace", 1)


# single calls and conversations


async def test_calls_come_newest_slowest_or_dearest_first(url) -> None:
    records = [
        call(started_at=NOON + n, latency_s=latency, cost=cost)
        for n, (latency, cost) in enumerate([(0.5, "0.3"), (2.0, "0.1"), (1.0, "0.2")])
    ]
    async with ledger(url, [*records, call("turn", started_at=NOON - 1, latency_s=0.1)]) as sql:
        assert [c.at - NOON for c in await calls(sql, ALL, limit=9)] == [2, 1, 0, -1]
        assert [c.latency_s for c in await calls(sql, ALL, limit=2, order="slowest")] == [2.0, 1.0]
        dearest = await calls(sql, ALL, limit=9, order="dearest")
        assert [c.cost_usd for c in dearest] == [Decimal("0.3"), Decimal("0.2"), Decimal("0.1")]
        assert [c.latency_s for c in await calls(sql, ALL, limit=9, slower_than_s=1.0)] == [1.0, 2.0]


async def test_conversations_come_slowest_or_dearest_first(url) -> None:
    records = [
        call("turn", who=("u", "long", None), latency_s=9.0),
        call("turn", who=("u", "short", None), latency_s=1.0),
        call("turn", who=("u", "short", None), latency_s=2.0),
        call(who=("u", "short", None), cost="0.5"),
        call(who=("u", "long", None), cost="0.1"),
        call(who=("u", None, None), cost="9"),
        call(who=("u", "long", None), cost="8", error_kind=ErrorKind.TIMEOUT),
    ]
    async with ledger(url, records) as sql:
        slow = await conversations(sql, ALL, limit=5, order="slowest")
        dear = await conversations(sql, ALL, limit=5, order="dearest")
    assert [(one.session, one.seconds, one.turns) for one in slow] == [("long", 9.0, 1), ("short", 3.0, 2)]
    assert [(one.session, one.cost_usd, one.model_calls) for one in dear] == [
        ("short", Decimal("0.5"), 1),
        ("long", Decimal("0.1"), 1),
    ]


async def test_one_session_name_of_several_tenants_is_as_many_conversations(url) -> None:
    records = [
        call("turn", tenant=tenant, who=("u", "main", None), latency_s=seconds)
        for tenant, seconds in (("acme", 1.0), ("rival", 4.0), (None, 2.0), ("acme", 2.5))
    ]
    async with ledger(url, [*records, call(tenant="acme", who=("u", "main", None), cost="0.5")]) as sql:
        slow = await conversations(sql, ALL, limit=2, order="slowest")
        mine = await conversations(sql, Filter(tenant="acme"), limit=5, order="dearest")
        whose = await conversations(sql, ALL, limit=5, order="slowest")
    assert [(one.tenant, one.seconds) for one in slow] == [("rival", 4.0), ("acme", 3.5)]
    assert [(one.tenant, one.seconds, one.cost_usd) for one in mine] == [("acme", 3.5, Decimal("0.5"))]
    assert [(one.tenant, one.turns) for one in whose] == [("rival", 1), ("acme", 2), (None, 1)]


# traces


def traced():
    """A turn with two model calls, one of which failed first, a tool, and a model call inside the tool."""
    who = ("u", "s", "request")

    def step(kind, run, parent, at, **more):
        return call(kind, run_id=run, trace_id="turn", parent_run_id=parent, started_at=NOON + at, who=who, **more)

    return [
        step("tool", "tool", "turn", 3),
        step("turn", "turn", None, 0, latency_s=7.0),
        step("model", "failed", "turn", 1, cost="0.5", error_kind=ErrorKind.TIMEOUT),
        step("model", "first", "turn", 2, cost="0.1", usage=Usage(10, 1)),
        step("model", "inner", "tool", 4, cost="0.01", usage=Usage(20, 2)),
        step("model", "last", "a chain that has no record", 5, cost="0.001", usage=Usage(30, 3)),
        call(who=("u", "s", "another"), cost="9"),
    ]


@pytest.mark.parametrize("wanted", ["request", "turn", "inner"])
async def test_a_request_a_trace_and_a_run_lead_to_the_same_tree(url, wanted) -> None:
    async with ledger(url, traced()) as sql:
        (root,) = await trace_tree(sql, wanted)
    assert root.call.run_id == "turn"
    assert [step.call.run_id for step in root.children] == ["failed", "first", "tool", "last"]
    assert [step.call.run_id for step in root.children[2].children] == ["inner"]


async def test_a_subtree_counts_every_call_below_it_once_and_failures_apart(url) -> None:
    async with ledger(url, traced()) as sql:
        (root,) = await trace_tree(sql, "request")
    assert (root.cost_usd, root.failed_cost_usd) == (Decimal("0.111"), Decimal("0.5"))
    assert (root.input_tokens, root.output_tokens) == (60, 6)
    tool = root.children[2]
    assert (tool.cost_usd, tool.input_tokens, tool.failed_cost_usd) == (Decimal("0.01"), 20, 0)
    assert root.call.latency_s == 7.0


async def test_an_id_that_nobody_has_leads_nowhere(url) -> None:
    async with ledger(url, traced()) as sql:
        assert await trace_tree(sql, "' OR 1=1 --") == []


async def test_records_that_name_each_other_as_parents_still_make_a_tree(url) -> None:
    records = [
        call(run_id="a", trace_id="t", parent_run_id="b", who=("u", "s", "r")),
        call(run_id="b", trace_id="t", parent_run_id="a", who=("u", "s", "r")),
        call(run_id="self", trace_id="t", parent_run_id="self", who=("u", "s", "r")),
        call(run_id="self", trace_id="t", parent_run_id="a", who=("u", "s", "r")),
    ]
    async with ledger(url, records) as sql:
        roots = await trace_tree(sql, "r")
    assert sorted(c.run_id for root in roots for c in root.calls()) == ["a", "b", "self"]


async def test_several_traces_of_one_request_stand_side_by_side(url) -> None:
    records = [call(run_id=name, who=("u", "s", "r"), started_at=NOON + n) for n, name in enumerate("ab")]
    async with ledger(url, records) as sql:
        assert [root.call.run_id for root in await trace_tree(sql, "r")] == ["a", "b"]


# success


def spoken(session, cost="1", **fields):
    return call(who=("u", session, None), cost=cost, **fields)


async def test_a_success_costs_what_all_judged_conversations_cost_by_the_successful_ones(url) -> None:
    records = [spoken("good", "0.3"), spoken("good", "0.1"), spoken("bad", "0.6"), spoken("unknown", "5")]
    async with ledger(url, records, outcomes=[("good", True), ("bad", False)]) as sql:
        found = await cost_per_success(sql, ALL)
    assert (found.successful, found.unsuccessful, found.unjudged) == (1, 1, 1)
    assert found.per_success_usd == Decimal("1.0")
    assert (found.judged_cost_usd, found.unjudged_cost_usd) == (Decimal("1.0"), Decimal(5))


async def test_the_latest_outcome_counts_and_goes_before_feedback(url) -> None:
    outcomes = [("a", True), ("a", False)]
    async with ledger(url, [spoken("a", run_id="run-a")], outcomes=outcomes, feedback=[("run-a", 1)]) as sql:
        found = await cost_per_success(sql, ALL)
    assert (found.successful, found.unsuccessful) == (0, 1)


FEEDBACK = {
    "at the threshold": ([("run-1", 0.7)], 1),
    "below it": ([("run-1", 0.69)], 0),
    "one good run is enough": ([("run-1", 0), ("run-2", 1)], 1),
    "a corrected score": ([("run-1", 1), ("run-1", 0)], 0),
    "another key is no correction": ([("run-1", 1), ("run-1", 0, "tone")], 1),
}


@pytest.mark.parametrize(("feedback", "successful"), FEEDBACK.values(), ids=FEEDBACK)
async def test_without_an_outcome_feedback_on_any_run_decides(tmp_path, feedback, successful) -> None:
    records = [spoken("s", "0.5", run_id="run-1"), call("turn", who=("u", "s", None), run_id="run-2")]
    async with ledger(f"sqlite:///{tmp_path}/l.db", records, feedback=feedback) as sql:
        found = await cost_per_success(sql, ALL, threshold=0.7)
    assert (found.successful, found.unsuccessful) == (successful, 1 - successful)
    assert found.judged_cost_usd == Decimal("0.5")


@pytest.mark.parametrize("named", ["run-1", "trace-1", "request-1"])
async def test_feedback_may_name_a_run_its_trace_or_its_request(url, named) -> None:
    records = [call(run_id="run-1", trace_id="trace-1", who=("u", "s", "request-1")), spoken("other")]
    async with ledger(url, records, feedback=[(named, 1)]) as sql:
        found = await cost_per_success(sql, ALL)
    assert (found.successful, found.unsuccessful, found.unjudged) == (1, 0, 1)


async def test_an_outcome_of_one_tenant_says_nothing_about_the_session_of_another(url) -> None:
    records = [spoken("main", "0.5"), spoken("main", "9", tenant="rival")]
    async with ledger(url, records, outcomes=[("main", True)]) as sql:
        found = await cost_per_success(sql, ALL)
    assert (found.successful, found.unjudged, found.per_success_usd) == (1, 1, Decimal("0.5"))


async def test_without_a_success_there_is_no_cost_of_one(url) -> None:
    async with ledger(url, [spoken("s")], outcomes=[("s", False)]) as sql:
        assert (await cost_per_success(sql, ALL)).per_success_usd is None
