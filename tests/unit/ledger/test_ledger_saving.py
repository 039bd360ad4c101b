"""What is claimed to be saved, what it will cost, and what another model would have cost."""

from __future__ import annotations

from decimal import Decimal
from random import Random
from statistics import mean, stdev

import pytest

from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.types import ErrorKind, ModelSpec, Usage
from langchain_llmops.ledger.baseline import Asked, OtherModel
from langchain_llmops.ledger.filters import Filter
from langchain_llmops.ledger.projection import (
    Sample,
    alternatives,
    compared_models,
    cost_sample,
    student_quantile,
)
from langchain_llmops.ledger.queries import Figures
from langchain_llmops.ledger.report import Report
from langchain_llmops.ledger.success import cost_per_success
from tests.support.recorded import NOON, URLS, call, embedding, hit, ledger, traffic, url_of

# dollars per million tokens, so that arithmetic by hand is easy
PRICES = PriceBook(
    {
        "small": {"input_mtok": 1, "output_mtok": 2},
        "large": {"input_mtok": 10, "output_mtok": 20, "cache_write_1h_mtok": 40},
    }
)
M = 1_000_000


class Counted:
    """Statements of another, and how many there were."""

    def __init__(self, sql) -> None:
        self.sql = sql
        self.fetched = 0

    async def fetch(self, *statement):
        self.fetched += 1
        return await self.sql.fetch(*statement)


@pytest.fixture(params=URLS)
def url(request, tmp_path):
    return url_of(request.param, request, tmp_path)


async def figures(url, records, model="large", **options):
    async with ledger(url, records, **options) as sql:
        return await Figures(sql, PRICES, since=0.0, baseline_model=model).collect()


def small(**fields):
    return call(**{"model": "small", "cost": "1", "usage": Usage(M, 0), **fields})


# the saving


async def test_the_saving_is_the_price_on_the_other_model_less_what_was_paid(url) -> None:
    found = await figures(url, [small(), small(), hit(model="small", saved=Usage(0, M), saved_usd="2")])
    assert (found["cost_usd"], found["baseline_cost_usd"], found["saved_usd"]) == (2.0, 40.0, 38.0)
    assert found["saved_pct"] == 95.0
    assert found["saving_note"] is None
    assert found["tokens"]["saved_by_cache"] == M


async def test_calls_without_a_price_are_on_neither_side_of_the_saving(url) -> None:
    unknown = [call(model="own", cost=None, usage=Usage(M, M)), hit(model="own", saved_usd=None)]
    found = await figures(url, [small(), *unknown])
    assert (found["cost_usd"], found["baseline_cost_usd"], found["saved_usd"]) == (1.0, 10.0, 9.0)
    assert found["unpriced_calls"] == 2
    assert found["saving_note"] == "2 calls of models without a price are on neither side of the saving"
    assert found["saving_note"] in str(Report(found))


async def test_where_nothing_has_a_price_nothing_is_saved(url) -> None:
    found = await figures(url, [call(model="own", cost=None)])
    assert (found["baseline_cost_usd"], found["saved_usd"], found["saved_pct"]) == (None, None, None)
    assert "no model that answered has a price" in found["saving_note"]


async def test_a_baseline_without_a_price_claims_no_saving_and_says_why(url) -> None:
    found = await figures(url, [small()], model="nobody-sells-this")
    assert (found["cost_usd"], found["baseline_cost_usd"], found["saved_usd"]) == (1.0, None, None)
    assert found["saving_note"].startswith("no saving is claimed: nobody-sells-this has no price")
    text = str(Report(found))
    assert "not known" in text
    assert found["saving_note"] in text
    assert "not known" in Report(found)._repr_html_()


@pytest.mark.parametrize("model", ["large", None])
async def test_an_answer_that_was_refused_and_asked_again_is_in_the_cost_and_not_in_the_baseline(url, model) -> None:
    chain = {"who": ("u", "s", "r"), "prompt_hash": "p"}
    records = [
        small(rung=0, attempt=1, started_at=NOON, **chain),
        small(rung=0, attempt=2, started_at=NOON + 1, error_kind=ErrorKind.TIMEOUT, **chain),
        call(model="large", cost="10", usage=Usage(M, 0), rung=1, attempt=1, started_at=NOON + 2, **chain),
        small(rung=0, attempt=1, started_at=NOON + 3, **chain),
        small(rung=0, attempt=1, started_at=NOON + 1.5, **chain | {"prompt_hash": "other"}),
    ]
    found = await figures(url, records, model=model)
    assert found["cost_usd"] == 13.0
    assert found["baseline_cost_usd"] == (30.0 if model else 12.0)


async def test_writes_for_an_hour_are_priced_as_such_in_the_baseline(url) -> None:
    found = await figures(url, [small(usage=Usage(M, 0, cache_write_1h_tokens=M))])
    assert found["baseline_cost_usd"] == 40.0


async def test_embeddings_keep_their_own_price_in_the_baseline(url) -> None:
    records = [small(), embedding("0.25", usage=Usage(M)), embedding("9", error_kind=ErrorKind.TIMEOUT)]
    found = await figures(url, [*records, embedding("0", saved=Usage(M), saved_usd=Decimal("0.5"), cache_level="L1")])
    assert (found["cost_usd"], found["baseline_cost_usd"]) == (1.25, 10.75)


async def test_embeddings_between_attempts_do_not_hide_that_an_answer_was_refused(url) -> None:
    chain = {"who": ("u", "s", "r")}
    records = [
        small(rung=0, attempt=1, started_at=NOON, **chain),
        embedding("0", started_at=NOON + 1, **chain),
        small(rung=0, attempt=2, started_at=NOON + 2, **chain),
    ]
    assert (await figures(url, records))["baseline_cost_usd"] == 10.0


async def test_one_session_name_of_two_tenants_is_two_conversations_and_embeddings_have_a_latency(url) -> None:
    found = await figures(url, [small(), small(), small(tenant="rival"), embedding(latency_s=0.25)])
    assert found["conversations"] == 2
    assert found["latency"]["embedding"] == {"p50": 0.25, "p95": 0.25, "p99": 0.25}
    assert found["latency"]["tool"] == {"p50": None, "p95": None, "p99": None}


async def test_an_empty_ledger_makes_a_whole_report(url) -> None:
    found = await figures(url, [])
    assert (found["model_calls"], found["cost_usd"], found["saved_usd"], found["saved_pct"]) == (0, 0.0, 0.0, 0.0)
    assert found["latency"]["turn"] == {"p50": None, "p95": None, "p99": None}
    text = str(Report(found))
    assert text.endswith("\n")
    assert not text.endswith("\n\n")


async def test_the_parts_of_a_report_add_up(url) -> None:
    records = traffic(300, seed=8)
    event = (NOON, "retried", "timeout", "gpt-4o", None, None, None)
    found = await figures(url, records, model=None, events=[event])
    models = [r for r in records if r.kind == "model"]
    answers = [r for r in models if r.error_kind is None]
    assert found["model_calls"] == len(answers) == sum(route["calls"] for route in found["routes"].values())
    assert found["failed_attempts"]["count"] == len(models) - len(answers)
    assert found["errors"]["timeout"]["retried"] == 1
    assert found["cache"]["hits"] + found["cache"]["misses"] == len(answers)
    assert found["cache"]["by_level"] == {"L1": found["cache"]["hits"]}
    assert found["cost_usd"] == pytest.approx(float(sum(r.cost_usd for r in answers)), abs=1e-12)
    spoken = [r for r in records if r.identity.session is not None or r.kind in ("model", "turn")]
    named = {(r.identity.session, None if r.identity.session else r.identity.request or r.trace_id) for r in spoken}
    assert found["conversations"] == len(named) > 3
    assert sum(sum(route["models"].values()) for route in found["routes"].values()) == len(answers)


# other models


@pytest.mark.parametrize("model", ["gpt-4o", "gemini-2.5-pro", "claude-sonnet-4-5", "perplexity:sonar-pro", "large"])
async def test_many_calls_cost_on_another_model_what_each_of_them_would(url, model) -> None:
    """Some have tiers or fees: the price of the sum of all tokens is not the sum of the prices."""
    draw = Random(1)
    sizes = [0, 1, 5, 127_999, 128_000, 128_001, 199_999, 200_000, 200_001, 10**6, *draw.sample(range(300_000), 40)]
    usages = [Usage(size, draw.randrange(9000), size // 3, size // 5, size // 7, 0, size // 9, 0) for size in sizes]
    async with ledger(url, [call(usage=usage) for usage in usages]) as sql:
        spec = ModelSpec.parse(model)
        other = OtherModel(PRICES, spec.name, spec.provider)
        total = await other.cost_of_asked(Asked(sql, Filter()))
    assert total == sum(other.cost_of(usage) for usage in usages)


def test_the_tiers_of_a_price_are_found() -> None:
    assert OtherModel(PRICES, "gpt-4o")._bands() == [0]
    assert OtherModel(PRICES, "gemini-2.5-pro")._bands() in ([0, 200_000], [0, 200_001])


async def test_alternatives_come_cheapest_first_and_those_without_a_price_last(url) -> None:
    records = [small(), call(model="own", cost=None, usage=Usage(M, 0)), hit(), small(error_kind=ErrorKind.TIMEOUT)]
    async with ledger(url, records) as sql:
        found = await alternatives(sql, Filter(), PRICES, ["nobody-sells-this", "large", "small", "large"])
    assert [(one.model, one.cost_usd) for one in found] == [
        ("small", Decimal(2)),
        ("large", Decimal(20)),
        ("nobody-sells-this", None),
    ]


async def test_the_same_model_costs_the_same_beside_embeddings(url) -> None:
    records = [small(cost="1"), small(usage=Usage(0, M), cost="2"), *(embedding("0.25") for _ in range(30))]
    async with ledger(url, records) as sql:
        found = await alternatives(sql, Filter(), PRICES, ["small", "large"])
        assert found[0].cost_usd == (await cost_sample(sql, Filter())).total_usd == Decimal("10.5")
    assert found[1].cost_usd == Decimal("37.5")


async def test_models_whose_prices_have_the_same_steps_are_compared_in_one_reading(url) -> None:
    async with ledger(url, [small(usage=Usage(size, 1)) for size in (7, 300_000)]) as sql:
        counted = Counted(sql)
        found = await alternatives(counted, Filter(), PRICES, ["large", "small", "gpt-4o", "gemini-2.5-pro"])
        assert counted.fetched == 4  # embeddings, everything, and what is below and above the step of the last
        alone = [(await alternatives(sql, Filter(), PRICES, [one.model]))[0] for one in found]
    assert found == alone


def test_every_model_we_compare_with_has_a_price() -> None:
    assert compared_models()
    for model in compared_models():
        provider, _, name = model.partition(":")
        assert OtherModel(PriceBook(), name, provider).is_priced, model


# projection

STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 7: 2.365, 10: 2.228, 30: 2.042, 120: 1.980, 10**6: 1.960}


@pytest.mark.parametrize("degrees", STUDENT)
def test_the_quantile_is_that_of_the_printed_table(degrees) -> None:
    assert student_quantile(degrees) == pytest.approx(STUDENT[degrees], abs=0.001)


async def test_a_sample_is_of_conversations_and_calls_without_a_session_are_one_per_request(url) -> None:
    records = [
        small(who=("u", "a", None), cost="0.1"),
        small(who=("u", "a", "r"), cost="0.2"),
        small(who=("u", None, "r"), cost="0.5"),
        small(who=("u", None, "r"), cost="0.25"),
        small(who=("u", None, None), cost="0.125"),
        small(who=("u", "b", None), cost="9", error_kind=ErrorKind.TIMEOUT),
        call(model="own", who=("u", "a", None), cost=None),
    ]
    async with ledger(url, records) as sql:
        sample = await cost_sample(sql, Filter())
    costs = [0.3, 0.75, 0.125, 0]
    assert (sample.count, sample.sessions, sample.unpriced_calls) == (4, 2, 1)
    assert (sample.total_usd, sample.overhead_usd) == (Decimal("1.175"), 0)
    assert sample.mean_usd == pytest.approx(mean(costs))
    assert sample.deviation_usd == pytest.approx(stdev(costs))


async def test_calls_outside_of_any_conversation_are_shared_evenly(url) -> None:
    costs = [0.5, 1.0, 1.5]
    records = [small(who=("u", f"s{number}", None), cost=str(cost)) for number, cost in enumerate(costs)]
    inside = [embedding("0.25", who=("u", "s0", None)), embedding("0.25", trace_id=records[0].trace_id)]
    async with ledger(url, [*records, *inside, *(embedding("0.05") for _ in range(10)), call("tool")]) as sql:
        sample = await cost_sample(sql, Filter())
    low, high = sample.interval()
    own = [0.75, 1.0, 1.5, 0]
    assert (sample.count, sample.sessions) == (4, 4)
    assert (sample.overhead_usd, sample.overhead_calls) == (Decimal("0.75"), 11)
    assert sample.mean_usd == pytest.approx(mean(own) + 0.75 / 4)
    half = student_quantile(3) * stdev(own) / 2
    assert (low, high) == (pytest.approx(max(0, mean(own) - half) + 0.75 / 4), pytest.approx(sample.mean_usd + half))


async def test_a_turn_makes_a_conversation_of_a_trace_and_a_tool_does_not(url) -> None:
    nobody = ("u", None, None)
    turn = call("turn", run_id="turn", who=nobody)
    records = [turn, embedding("0.5", trace_id="turn"), call("tool", who=nobody), call("retriever", who=nobody)]
    async with ledger(url, [*records, embedding("0.25")]) as sql:
        sample = await cost_sample(sql, Filter())
    assert (sample.count, sample.sessions, sample.overhead_calls) == (1, 0, 1)
    assert sample.mean_usd == 0.75


async def test_a_request_named_as_a_session_is_not_that_session(url) -> None:
    async with ledger(url, [small(who=("u", "same", None)), small(who=("u", None, "same"))]) as sql:
        sample = await cost_sample(sql, Filter())
    assert (sample.count, sample.sessions) == (2, 1)


async def test_where_nothing_but_embeddings_was_asked_each_request_counts(url) -> None:
    records = [embedding("0.25", who=("u", None, "r")), embedding("0.5", who=("u", None, "r")), embedding("0.25")]
    async with ledger(url, [*records, call("tool", who=("u", None, None))]) as sql:
        sample = await cost_sample(sql, Filter())
    assert (sample.count, sample.mean_usd, sample.overhead_calls) == (2, 0.5, 0)
    assert sample.deviation_usd == pytest.approx(stdev([0.75, 0.25]))


async def test_all_reports_count_the_same_conversations(url) -> None:
    nobody = ("u", None, "r1")
    records = [*traffic(300, seed=9), small(who=("u", "s1", None), tenant="rival"), small(who=nobody, tenant="rival")]
    records += [embedding(), call("tool", who=nobody, tenant="third"), small(tags=("llmops:replay",), tenant="third")]
    async with ledger(url, records) as sql:
        chosen = Filter(replays=False)
        sample, success = await cost_sample(sql, chosen), await cost_per_success(sql, chosen)
        found = await Figures(sql, PRICES, since=0.0, baseline_model=None).collect()
        rival = await Figures(sql, PRICES, since=0.0, baseline_model=None, tenant="rival").collect()
    assert sample.sessions == success.unjudged == 4
    assert found["conversations"] == sample.count > sample.sessions
    assert rival["conversations"] == 2
    assert sample.total_usd + 1 == pytest.approx(Decimal(str(found["cost_usd"])))


async def test_a_report_counts_requests_without_a_session_and_no_embeddings_as_conversations(url) -> None:
    said = [call("turn", run_id="turn", who=("u", None, None)), small(trace_id="turn", who=("u", None, None))]
    asked = [small(who=("u", None, "r")), small(who=("u", None, "r")), embedding(who=("u", None, "other"))]
    assert (await figures(url, [*said, *asked, embedding()]))["conversations"] == 2


def test_the_interval_is_students_and_never_below_zero() -> None:
    low, high = Sample(10, 1.0, 0.5, Decimal(10), 0).interval()
    half = 2.262 * 0.5 / 10**0.5
    assert (low, high) == (pytest.approx(1 - half, abs=1e-3), pytest.approx(1 + half, abs=1e-3))
    assert Sample(2, 1.0, 5.0, Decimal(2), 0).interval()[0] == 0.0
    assert Sample(2, 1.0, 5.0, Decimal(2), 0, overhead_usd=Decimal(1)).interval()[0] == 0.5


def test_one_conversation_has_no_interval() -> None:
    assert Sample(1, 1.0, 0.0, Decimal(1), 0).interval() is None


async def test_conversations_that_cost_the_same_have_no_spread(url) -> None:
    async with ledger(url, [small(who=("u", f"s{n}", None), cost="0.1") for n in range(50)]) as sql:
        low, high = (await cost_sample(sql, Filter())).interval()
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.1))
