"""A record as a row and back: exact money, whole text, every column."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core.events import FellBack, Retried
from langchain_llmops.core.types import CallRecord, ErrorKind, Identity, Money, Usage
from langchain_llmops.ledger.schema import (
    CALL_COLUMNS,
    EVENT_COLUMNS,
    MIGRATIONS,
    call_row,
    event_row,
    from_pico,
    to_pico,
    usage_from_text,
)
from langchain_llmops.stores.base import open_store
from tests.support.recorded import full

CALL = full(
    started_at=1000.5, usage=Usage(100, 20, 30, 5, 7, 6, 8, 9), saved_usd=Decimal("0.0000125"),
    money=Money(Decimal("0.00025"), Decimal("0.0002"), Decimal(0), Decimal("0.00003"), Decimal("0.00001")),
)  # fmt: skip
WANTED = {
    "run_id": "run-1", "trace_id": "trace-1", "parent_run_id": "run-0", "kind": "model", "name": "ChatOpenAI",
    "tenant": "acme", "user_id": "u1", "session_id": "s1", "request_id": "r1", "provider": "openai",
    "model": "gpt-4o-mini",
    "started_at": 1000.5, "latency_s": 0.3, "ttft_s": 0.1, "streamed": 1, "input_tokens": 100, "output_tokens": 20,
    "cache_read_tokens": 30, "cache_write_tokens": 5, "reasoning_tokens": 6, "estimated": 1,
    "input_pico": 250_000_000, "output_pico": 200_000_000, "fee_pico": 0, "unpriced": 0, "saved_pico": 12_500_000,
    "cache_level": "L1", "route": "simple", "rung": 1, "attempt": 2, "finish_reason": "stop", "error_kind": "timeout",
    "error_class": "ModelTimeoutError", "prompt_hash": "ab12", "experiment": "e1", "arm": "b", "outcome": "resolved",
    "content_ref": "s3://b/k", "content": "{}", "version": 2,
    "cache_write_1h_tokens": 7, "audio_input_tokens": 8, "audio_output_tokens": 9, "cache_read_pico": 30_000_000,
    "cache_write_pico": 10_000_000, "inter_token_s": 0.02, "retries": 1, "node": "agent", "service_tier": "flex",
    "clamped": 1,
}  # fmt: skip


@pytest.fixture
async def sql(tmp_path):
    store = open_store(f"sqlite:///{tmp_path / 'ledger.db'}")
    await store.sql.migrate("ledger", MIGRATIONS)
    yield store.sql
    await store.aclose()


async def kept(sql, record: CallRecord) -> dict:
    row = call_row(record)
    await sql.insert_rows("llmops_calls", CALL_COLUMNS[: len(row)], [row])
    rows = await sql.fetch(f"SELECT {', '.join(CALL_COLUMNS)} FROM llmops_calls ORDER BY id DESC LIMIT 1")
    return dict(zip(CALL_COLUMNS, rows[0], strict=True))


async def test_every_column_comes_back_as_it_went_in(sql) -> None:
    row = await kept(sql, CALL)
    assert json.loads(row.pop("tags")) == ["a", "b"]
    assert usage_from_text(row.pop("saved_usage")) == CALL.saved
    assert row == WANTED


async def test_a_bare_record_comes_back_with_nothing_made_up(sql) -> None:
    bare = CallRecord(kind="tool", run_id="1", trace_id="1", name="lookup", started_at=0.0, latency_s=0.0)
    row = await kept(sql, bare)
    unknown = {
        "parent_run_id", "tenant", "user_id", "session_id", "request_id", "provider", "model", "ttft_s", "input_pico",
        "output_pico", "fee_pico", "saved_usage", "saved_pico", "cache_level", "route", "rung", "attempt",
        "finish_reason", "error_kind", "error_class", "prompt_hash", "experiment", "arm", "outcome", "content_ref",
        "content", "cache_read_pico", "cache_write_pico", "inter_token_s", "node", "service_tier",
    }  # fmt: skip
    assert {name for name, value in row.items() if value is None} == unknown


async def test_money_of_a_free_call_is_zero_and_of_an_unknown_one_unknown(sql) -> None:
    free = await kept(sql, replace(CALL, money=Money()))
    unknown = await kept(sql, replace(CALL, money=None, unpriced=True))
    assert (free["input_pico"], free["unpriced"]) == (0, 0)
    assert (unknown["input_pico"], unknown["unpriced"]) == (None, 1)


async def test_text_that_a_database_refuses_is_kept_readable(sql) -> None:
    """PostgreSQL takes no NUL, and nothing takes half an emoji."""
    row = await kept(sql, replace(CALL, name="a\x00b", identity=Identity(user="\ud83d", session="'; DROP TABLE x--")))
    assert row["name"] == "a\ufffdb"
    assert row["user_id"] == "?"
    assert row["session_id"] == "'; DROP TABLE x--"


@given(st.text(), st.text(), st.lists(st.text(), max_size=3).map(tuple))
def test_any_text_becomes_storable(name, content, tags) -> None:
    for value in call_row(replace(CALL, name=name, content=content, tags=tags)):
        if isinstance(value, str):
            assert "\x00" not in value
            value.encode("utf-8")
            assert type(value) is str


dollars = st.decimals(0, 1_000_000, places=12)


@given(dollars)
def test_money_to_the_billionth_of_a_millidollar_comes_back_exactly(amount) -> None:
    assert from_pico(to_pico(amount)) == amount


@given(st.lists(dollars, max_size=50))
def test_a_sum_of_rows_is_the_sum_of_the_calls(amounts) -> None:
    assert from_pico(sum(map(to_pico, amounts))) == sum(amounts, Decimal(0))


def test_money_is_rounded_half_to_even_below_that() -> None:
    half = Decimal("0.0000000000005")
    assert [to_pico(half * odd) for odd in (1, 3, 5)] == [0, 2, 2]
    assert from_pico(None) == 0


@given(st.builds(Usage, *[st.integers(0, 10**9)] * 8))
def test_saved_usage_comes_back_exactly(usage) -> None:
    row = dict(zip(CALL_COLUMNS, call_row(replace(CALL, saved=usage)), strict=True))
    assert usage_from_text(row["saved_usage"]) == usage


def test_no_saved_usage_is_none_and_not_nothing() -> None:
    assert usage_from_text(None) is None
    assert usage_from_text("{}") == Usage()


async def test_retries_and_fallbacks_are_rows(sql) -> None:
    who = Identity(tenant="t", user="u", session="s")
    events = [
        Retried("gpt-4o", ErrorKind.RATE_LIMIT, 2, 0.5, who),
        FellBack("gpt-4o", "claude", ErrorKind.TIMEOUT, who),
        FellBack("gpt-4o", "claude", ErrorKind.TIMEOUT),
    ]
    await sql.insert_rows("llmops_events", EVENT_COLUMNS, [event_row(event, 5.0) for event in events])
    columns = "at, event, error_kind, model, to_model, tenant, user_id, session_id"
    assert await sql.fetch(f"SELECT {columns} FROM llmops_events ORDER BY id") == [
        (5.0, "retried", "rate_limit", "gpt-4o", None, "t", "u", "s"),
        (5.0, "fell_back", "timeout", "gpt-4o", "claude", "t", "u", "s"),
        (5.0, "fell_back", "timeout", "gpt-4o", "claude", None, None, None),
    ]


async def test_the_tables_are_made_once(sql) -> None:
    assert await sql.migrate("ledger", MIGRATIONS) == 0


def test_there_is_a_value_for_every_column() -> None:
    assert len(call_row(CALL)) == len(CALL_COLUMNS) == len(set(CALL_COLUMNS))
    assert set(WANTED) | {"tags", "saved_usage"} == set(CALL_COLUMNS)
