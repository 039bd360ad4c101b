"""A ledger of an older version is brought up to date, once."""

from __future__ import annotations

import multiprocessing

import pytest

from langchain_llmops.core.concurrency import run_sync
from langchain_llmops.core.errors import StoreError
from langchain_llmops.core.events import CallFinished
from langchain_llmops.ledger.schema import MIGRATIONS
from langchain_llmops.ledger.writer import Ledger
from langchain_llmops.stores.base import open_store
from tests.unit.ledger.conftest import call

STEP_1_CALL = (
    "INSERT INTO llmops_calls (run_id, trace_id, kind, started_at, latency_s, streamed, input_tokens, output_tokens,"
    " cache_read_tokens, cache_write_tokens, reasoning_tokens, estimated, unpriced, tags, version, tenant, user_id)"
    " VALUES ('old', 'old', 'model', 1.5, 0.5, 0, 10, 5, 0, 0, 0, 0, 0, '[]', 1, 't', 'u')"
)
STEP_1_EVENT = "INSERT INTO llmops_events (at, event, user_id) VALUES (1.5, 'retried', 'u')"


async def make(url: str, steps: tuple[str, ...], *statements: str) -> None:
    store = open_store(url)
    await store.sql.migrate("ledger", steps)
    for statement in statements:
        await store.sql.execute(statement)
    await store.aclose()


def test_rows_of_the_first_version_stay_and_new_ones_join_them(url, open_kept) -> None:
    run_sync(make(url, MIGRATIONS[:1], STEP_1_CALL, STEP_1_EVENT))
    kept = open_kept()
    kept.tell(run_id="new", retries=3)
    kept.ledger.flush()
    assert kept.rows(
        "SELECT run_id, retries, cache_write_1h_tokens, clamped, node FROM llmops_calls ORDER BY started_at"
    ) == [("old", 0, 0, 0, None), ("new", 3, 0, 0, None)]
    assert kept.rows("SELECT version FROM llmops_schema WHERE component = 'ledger'") == [(len(MIGRATIONS),)]
    assert kept.ledger.erase_user("u", "t") == {"calls": 2, "events": 1, "feedback": 0, "outcomes": 0}


def test_a_newer_ledger_is_left_alone_and_its_rows_wait(url, open_kept) -> None:
    run_sync(make(url, (*MIGRATIONS, "CREATE TABLE llmops_future (n INTEGER)")))
    kept = open_kept()
    kept.tell()
    with pytest.raises(StoreError, match="upgrade it"):
        kept.ledger.flush()
    assert (kept.ledger.buffered, kept.ledger.dropped) == (1, 0)
    run_sync(make(url, (*MIGRATIONS, "CREATE TABLE llmops_future (n INTEGER)"), "DELETE FROM llmops_schema"))
    run_sync(make(url, (), f"INSERT INTO llmops_schema VALUES ('ledger', {len(MIGRATIONS)})"))


def test_processes_that_start_at_once_migrate_once_and_lose_nothing(url, open_kept) -> None:
    run_sync(make(url, MIGRATIONS[:1], STEP_1_CALL))
    spawn = multiprocessing.get_context("spawn")
    start = spawn.Barrier(2)
    workers = [spawn.Process(target=write, args=(url, start)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    kept = open_kept()
    assert kept.count() == 2 * 500 + 1
    assert kept.rows("SELECT version FROM llmops_schema WHERE component = 'ledger'") == [(len(MIGRATIONS),)]


def write(url, start) -> None:
    ledger = Ledger(open_store(url, timeout_s=30))
    start.wait(60)
    for _ in range(5):
        for _ in range(100):
            ledger(CallFinished(call()))
        ledger.flush()
    run_sync(ledger.aclose())
    assert (ledger.dropped, ledger.failures) == (0, 0)
