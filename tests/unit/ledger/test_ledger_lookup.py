"""An id found by how it begins: by the index, whatever order the database's language has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core.concurrency import drive
from langchain_llmops.ledger.filters import Filter
from langchain_llmops.ledger.lookup import Matches, _bounds, matches
from langchain_llmops.ledger.schema import MIGRATIONS
from langchain_llmops.stores.base import open_store
from tests.support.plans import Planned
from tests.support.recorded import URLS, call, fill, ledger, traffic, url_of


@pytest.fixture(params=URLS)
def url(request, tmp_path):
    return url_of(request.param, request, tmp_path)


async def test_runs_of_one_trace_and_traces_of_one_request_are_one_match(url) -> None:
    records = [
        call("turn", run_id="0a-turn-1", trace_id="0a-turn-1", who=("u", "s", "0b-request")),
        call(run_id="0a-run-2", trace_id="0a-turn-1", who=("u", "s", "0b-request")),
        call(run_id="0a-turn-2", trace_id="0a-turn-2", who=("u", "s", "0b-request")),
    ]
    async with ledger(url, records) as sql:
        assert await matches(sql, "0a-run", Filter()) == Matches(1, ["0a-turn-1"], "0a-turn-1")
        assert await matches(sql, "0a-turn-2", Filter()) == Matches(1, ["0a-turn-2"], "0a-turn-2")
        assert await matches(sql, "0a", Filter()) == Matches(1, ["0b-request"], "0b-request")
        assert await matches(sql, "0b", Filter()) == Matches(1, ["0b-request"], "0b-request")


async def test_several_requests_are_counted_and_the_first_are_named(url) -> None:
    records = [call(run_id=f"0a{n}", who=("u", "s", None)) for n in (4, 1, 3, 2)]
    async with ledger(url, [*records, call(run_id="0b", tenant="rival")]) as sql:
        assert await matches(sql, "0a", Filter()) == Matches(4, ["0a1", "0a2", "0a3"], None)
        assert await matches(sql, "0", Filter(tenant="rival")) == Matches(1, ["0b"], "0b")
        assert await matches(sql, "0c", Filter()) == Matches(0, [], None)


@given(texts=st.sets(st.text("0189afAz-%_é", min_size=1, max_size=6), min_size=1), size=st.integers(1, 5))
def test_what_begins_so_is_found_and_nothing_else(texts, size) -> None:
    prefix = max(texts)[:size]

    async def found() -> int:
        store = open_store("memory://", blocking=True)
        await store.sql.migrate("ledger", MIGRATIONS)
        await fill(store.sql, [call(run_id=text, who=("u", "s", None)) for text in texts])
        answer = await matches(store.sql, prefix, Filter())
        await store.aclose()
        return answer.count

    assert drive(found()) == sum(text.startswith(prefix) for text in texts)


@pytest.mark.parametrize("prefix", ["01a1fe8e", "01a1fe8e-536f", "abcdef7f"])
async def test_a_beginning_is_found_by_the_index_of_each_column(url, prefix) -> None:
    async with ledger(url, traffic(300, seed=5)) as sql:
        await sql.execute("ANALYZE llmops_calls")
        planned = Planned(sql)
        await matches(planned, prefix, Filter())
        for column in ("request", "trace", "run"):
            assert f"llmops_calls_{column}" in planned.plans[0], planned.plans
            assert f"{column}_id>" in planned.plans[0] or f"{column}_id >=" in planned.plans[0], planned.plans
        if sql.dialect == "sqlite":
            assert "SCAN llmops_calls" not in planned.plans[0]


# orders of other languages, as PostgreSQL's indexes may have them: a key for each


def _letters(text: str) -> tuple[object, ...]:
    """Signs count for nothing and capitals are as small letters, unless all else is equal."""
    return [character for character in text.lower() if character.isalnum()], text


def _danish(text: str) -> tuple[object, ...]:
    """`aa` is the letter å, after z."""
    return list(text.lower().replace("aa", "~")), text


def _hungarian(text: str) -> tuple[object, ...]:
    """`cs`, `dz` and `zs` are letters after c, d and z."""
    lower = text.lower()
    for pair in ("cs", "dz", "zs"):
        lower = lower.replace(pair, f"{pair[0]}~")
    return list(lower), text


@pytest.mark.parametrize("order", [str, _letters, _danish, _hungarian])
@given(prefix=st.text("0189acdfszAZ-", min_size=1, max_size=9), rest=st.text("09aAcsz-~é", max_size=4))
def test_the_stretch_holds_everything_with_the_prefix_in_every_order(order, prefix, rest) -> None:
    bounds = _bounds(prefix)
    if not bounds:
        assert not set(prefix) & set("012345678")
        return
    low, high = map(order, bounds)
    assert low <= order(prefix + rest) < high
