"""Sums by user, session, day, model, tag, route and node: exact, complete, and the same in both databases."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler

from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.types import ErrorKind, Usage
from langchain_llmops.ledger.filters import Filter
from langchain_llmops.ledger.schema import MIGRATIONS
from langchain_llmops.ledger.spend import DIMENSIONS, Spend, spend_by, total_spend
from langchain_llmops.stores.base import open_store
from tests.support.plans import Planned
from tests.support.recorded import NOON, URLS, call, fill, hit, ledger, traffic, url_of

KEYS = {
    "user": lambda r: [r.identity.user],
    "session": lambda r: [r.identity.session],
    "day": lambda r: [datetime.fromtimestamp(r.started_at, UTC).date().isoformat()],
    "model": lambda r: [r.model],
    "tag": lambda r: list(r.tags) or [None],
    "route": lambda r: [r.route or "direct"],
    "node": lambda r: [r.node],
}


def by_hand(records, keys) -> dict[str | None, Spend]:
    """The same sums, one record after the other."""
    found: dict[str | None, Spend] = defaultdict(Spend)
    for record in records:
        if record.kind == "model":
            for key in keys(record):
                found[key] = found[key].plus(_one(record))
    return dict(found)


def _one(record) -> Spend:
    if record.error_kind is not None:
        return Spend(calls=1, failed_calls=1, failed_cost_usd=record.cost_usd)
    return Spend(
        calls=1,
        cache_hits=record.cache_level is not None,
        unpriced_calls=record.unpriced,
        estimated_calls=record.estimated,
        input_tokens=record.usage.input_tokens,
        output_tokens=record.usage.output_tokens,
        cache_read_tokens=record.usage.cache_read_tokens,
        cost_usd=record.cost_usd,
        saved_usd=record.saved_usd or Decimal(0),
    )


@pytest.mark.parametrize("database", URLS)
async def test_every_way_to_group_gives_the_sums_of_the_single_calls(database, request, tmp_path) -> None:
    records = traffic(400, seed=3)
    async with ledger(url_of(database, request, tmp_path), records) as sql:
        for by in DIMENSIONS:
            found = {spend.key: replace(spend, tenant=None) for spend in await spend_by(sql, by, Filter())}
            assert {key: spend.plus(Spend()) for key, spend in found.items()} == {
                key: Spend(key).plus(spend) for key, spend in by_hand(records, KEYS[by]).items()
            }, by
        assert await total_spend(sql, Filter()) == by_hand(records, lambda _: [None])[None]


@pytest.mark.parametrize("database", URLS)
async def test_a_filter_keeps_what_it_names_and_nothing_else(database, request, tmp_path) -> None:
    records = [*traffic(200, seed=4), call(tenant="other"), call(started_at=NOON)]
    chosen = {
        Filter(user="ada"): lambda r: r.identity.user == "ada",
        Filter(session="s1"): lambda r: r.identity.session == "s1",
        Filter(model="gpt-4o"): lambda r: r.model == "gpt-4o",
        Filter(tenant="other"): lambda r: r.identity.tenant == "other",
        Filter(since=NOON): lambda r: r.started_at >= NOON,
        Filter(until=NOON): lambda r: r.started_at < NOON,
        Filter(since=NOON, user="bob"): lambda r: r.started_at >= NOON and r.identity.user == "bob",
    }
    async with ledger(url_of(database, request, tmp_path), records) as sql:
        for wanted, keep in chosen.items():
            expected = by_hand([r for r in records if keep(r)], lambda _: [None])[None]
            assert await total_spend(sql, wanted) == expected, wanted


async def test_an_empty_ledger_spent_nothing(tmp_path) -> None:
    async with ledger(f"sqlite:///{tmp_path}/l.db") as sql:
        assert await total_spend(sql, Filter()) == Spend()
        assert await spend_by(sql, "user", Filter()) == []


@given(st.lists(st.integers(0, 10**15), max_size=20))
def test_money_is_the_exact_sum_of_pico_dollars(amounts) -> None:
    async def summed() -> Decimal:
        store = open_store("memory://", blocking=True)
        await store.sql.migrate("ledger", MIGRATIONS)
        await fill(store.sql, [call(cost=f"{amount}e-12") for amount in amounts])
        spend = await total_spend(store.sql, Filter())
        await store.aclose()
        return spend.cost_usd

    assert drive(summed()) == Decimal(sum(amounts)).scaleb(-12)


@pytest.mark.parametrize("database", URLS)
async def test_a_day_ends_at_midnight_utc(database, request, tmp_path) -> None:
    midnight = datetime(2025, 11, 2, tzinfo=UTC).timestamp()
    records = [call(started_at=midnight - 0.001), call(started_at=midnight), call(started_at=midnight + 86399.9)]
    async with ledger(url_of(database, request, tmp_path), records) as sql:
        days = await spend_by(sql, "day", Filter())
        assert [(day.key, day.calls) for day in days] == [("2025-11-01", 1), ("2025-11-02", 2)]
        assert [day.key for day in await spend_by(sql, "day", Filter(), limit=1)] == ["2025-11-02"]


@pytest.mark.parametrize("by", ["user", "tag"])
async def test_a_limit_keeps_the_dearest(by, tmp_path) -> None:
    records = [call(who=(f"u{n}", "s", None), tags=(f"u{n}",), cost=f"0.00{n}") for n in (3, 1, 9, 4)]
    async with ledger(f"sqlite:///{tmp_path}/l.db", records) as sql:
        assert [spend.key for spend in await spend_by(sql, by, Filter(), limit=2)] == ["u9", "u4"]


@pytest.mark.parametrize("database", URLS)
@pytest.mark.parametrize("by", ["user", "session"])
async def test_a_user_and_a_session_are_those_of_a_tenant(by, database, request, tmp_path) -> None:
    records = [call(tenant=tenant, who=("x", "x", None), cost=cost) for tenant, cost in (("a", "1"), ("b", "2"))]
    async with ledger(url_of(database, request, tmp_path), [*records, call(tenant=None, who=("x", "x", None))]) as sql:
        found = [(one.key, one.tenant, one.calls) for one in await spend_by(sql, by, Filter())]
        assert found == [("x", "b", 1), ("x", "a", 1), ("x", None, 1)]
        assert [(one.tenant, one.calls) for one in await spend_by(sql, "day", Filter())] == [(None, 3)]


FRAMEWORK_TAGS = (
    "seq:step:1", "map:key:a\nb", "map:key:", "graph:step:12", "branch:3", "branch:default", "condition:1",
    "retry:attempt:2", "langsmith:hidden", "langsmith:nostream",
)  # fmt: skip
OWN_TAGS = ("seq:step", "seq:step:x", "my seq:step:1", "map", "branch:main", "condition:good", "langsmith", "nostream")


async def test_the_tags_that_langchain_sets_count_only_when_asked_for(tmp_path) -> None:
    async with ledger(f"sqlite:///{tmp_path}/l.db", [call(tags=FRAMEWORK_TAGS), call(tags=OWN_TAGS)]) as sql:
        assert {one.key for one in await spend_by(sql, "tag", Filter())} == {None, *OWN_TAGS}
        found = {one.key for one in await spend_by(sql, "tag", Filter(), all_tags=True)}
        assert found == {*FRAMEWORK_TAGS, *OWN_TAGS}


async def test_the_tags_left_out_are_those_that_langchain_sets(tmp_path) -> None:
    """Whatever this version of LangChain and LangGraph puts on a model below one of theirs."""
    from langchain_core.language_models import FakeListChatModel
    from langchain_core.runnables import RunnableBranch, RunnableLambda, RunnableParallel
    from langgraph.graph import START, MessagesState, StateGraph

    seen: set[str] = set()

    class Seen(BaseCallbackHandler):
        def on_chat_model_start(self, *_, tags=None, **__) -> None:
            seen.update(tags or ())

        def on_chain_start(self, *_, tags=None, **__) -> None:
            seen.update(tags or ())

    model = FakeListChatModel(responses=["a"])
    branch = RunnableBranch((lambda _: True, model), model)
    config = {"callbacks": [Seen()]}
    (RunnableLambda(str) | RunnableParallel(one=branch, two=model)).invoke("a", config)
    RunnableBranch((lambda _: False, model), model).invoke("a", config)
    graph = StateGraph(MessagesState).add_node("model", lambda state: {"messages": model.invoke("a")})
    graph.add_edge(START, "model").compile().invoke({"messages": []}, config)
    assert {tag.rpartition(":")[0] for tag in seen} >= {"seq:step", "map:key", "condition", "branch", "graph:step"}
    async with ledger(f"sqlite:///{tmp_path}/l.db", [call(tags=tuple(seen))]) as sql:
        assert [one.key for one in await spend_by(sql, "tag", Filter())] == [None]


@pytest.mark.parametrize("database", URLS)
async def test_any_tag_can_be_grouped_by(database, request, tmp_path) -> None:
    tags = ("a\x00b", "\ud83d", "'; DROP TABLE x--", "é", '"')
    async with ledger(url_of(database, request, tmp_path), [call(tags=(tag, tag)) for tag in tags]) as sql:
        found = await spend_by(sql, "tag", Filter())
        assert {spend.key for spend in found} == {"?" if tag == "\ud83d" else tag for tag in tags}
        assert {spend.calls for spend in found} == {1}


async def test_an_answer_from_the_cache_of_a_model_without_a_price_is_unpriced(tmp_path) -> None:
    async with ledger(f"sqlite:///{tmp_path}/l.db", [hit(saved_usd=None), hit()]) as sql:
        assert (await total_spend(sql, Filter())).unpriced_calls == 1


async def test_what_failed_attempts_may_have_cost_is_apart(tmp_path) -> None:
    failed = call(cost="0.5", error_kind=ErrorKind.TIMEOUT, usage=Usage(9, 9), estimated=True)
    async with ledger(f"sqlite:///{tmp_path}/l.db", [call(cost="0.25"), failed]) as sql:
        spend = await total_spend(sql, Filter())
        assert (spend.cost_usd, spend.failed_cost_usd) == (Decimal("0.25"), Decimal("0.5"))
        assert (spend.input_tokens, spend.estimated_calls) == (100, 0)


@pytest.mark.parametrize("database", URLS)
async def test_a_stretch_of_time_and_a_name_are_found_by_their_index(database, request, tmp_path) -> None:
    wanted = {
        Filter(since=NOON, until=NOON + 60): "llmops_calls_started",
        Filter(user="ada", since=NOON): "llmops_calls_user",
        Filter(session="s1"): "llmops_calls_session",
    }
    async with ledger(url_of(database, request, tmp_path), traffic(300, seed=5)) as sql:
        await sql.execute("ANALYZE llmops_calls")
        for chosen, index in wanted.items():
            planned = Planned(sql)
            await total_spend(planned, chosen)
            if database == "postgresql" and chosen.user:  # its planner may well prefer the time
                assert "llmops_calls_" in planned.plans[0]
            else:
                assert index in planned.plans[0], planned.plans
