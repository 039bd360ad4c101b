"""From the bus into the tables, on SQLite and PostgreSQL: nothing twice, nothing lost without being counted."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal

import pytest

from langchain_llmops.core.concurrency import DOOR, run_sync
from langchain_llmops.core.errors import ConfigurationError, StoreError, StoreUnavailableError
from langchain_llmops.core.events import CallFinished, FellBack, Retried, Routed
from langchain_llmops.core.types import ErrorKind, Identity, Money, Usage
from langchain_llmops.ledger import background, buffer, writer
from langchain_llmops.ledger.writer import Ledger
from langchain_llmops.stores.base import open_store
from tests.support.models import DEADLINE_S, eventually
from tests.unit.ledger.conftest import call


def test_records_arrive_without_anybody_asking(kept) -> None:
    kept.tell(3)
    eventually(lambda: kept.count() == 3)
    kept.tell(2)
    eventually(lambda: kept.count() == 5)
    assert (kept.ledger.buffered, kept.ledger.dropped, kept.ledger.failures) == (0, 0, 0)


def test_records_of_every_shape_arrive_in_one_batch(kept) -> None:
    money = Money(Decimal("0.001"), Decimal("0.002"))
    kept.tell(error_kind=ErrorKind.TIMEOUT, error_class="X", content="said", tags=("a", "é"))
    kept.tell(kind="model", model="gpt-4o", money=money, usage=Usage(10, 5))
    kept.tell(kind="turn")
    who = Identity(tenant="t", user="u", session="s")
    kept.ledger(Retried("gpt-4o", ErrorKind.RATE_LIMIT, 2, 0.5, who))
    kept.ledger(FellBack("gpt-4o", "o3", ErrorKind.TIMEOUT, who))
    kept.ledger(Routed("simple", "gpt-4o", ()))
    kept.ledger.flush()
    question = "SELECT kind, model, input_pico, error_kind, content, tags FROM llmops_calls ORDER BY run_id"
    assert sorted(kept.rows(question), key=str) == sorted(
        [
            ("tool", None, None, "timeout", "said", '["a", "\\u00e9"]'),
            ("model", "gpt-4o", 1_000_000_000, None, None, "[]"),
            ("turn", None, None, None, None, "[]"),
        ],
        key=str,
    )
    assert kept.rows("SELECT event, model, to_model, tenant FROM llmops_events ORDER BY id") == [
        ("retried", "gpt-4o", None, "t"),
        ("fell_back", "gpt-4o", "o3", "t"),
    ]


def test_a_burst_as_large_as_the_buffer_loses_nothing(kept) -> None:
    kept.tell(10_000)
    kept.ledger.flush()
    assert (kept.count(), kept.ledger.dropped) == (10_000, 0)


def test_the_writer_keeps_up_beside_a_thread_that_never_rests(kept) -> None:
    """Twice the buffer. A busy interpreter lets another thread in every 5 ms only: not for each row, then."""
    event, end = CallFinished(call()), time.monotonic() + DEADLINE_S
    for _ in range(20_000):
        while kept.ledger.buffered > 5000:
            assert time.monotonic() < end, "the writer is starved"
        kept.ledger(event)
    kept.ledger.flush()
    assert (kept.count(), kept.ledger.dropped) == (20_000, 0)


def test_what_the_buffer_does_not_hold_is_counted_and_logged_once(open_kept, caplog) -> None:
    kept = open_kept(max_buffered=5)
    holding = threading.Event()
    DOOR.loop().call_soon_threadsafe(holding.wait, 10)
    kept.tell(8)
    assert (kept.ledger.buffered, kept.ledger.dropped) == (5, 3)
    holding.set()
    kept.ledger.flush()
    assert (kept.count(), kept.ledger.buffered) == (5, 0)
    kept.tell(1)
    kept.ledger.flush()
    assert (kept.count(), kept.ledger.dropped) == (6, 3)
    assert [r.message for r in caplog.records] == [
        "the ledger loses records, which are only counted from now on: its buffer is full"
    ]


def test_content_is_bounded_by_record_and_altogether(open_kept, monkeypatch, caplog) -> None:
    monkeypatch.setattr(buffer, "MAX_CONTENT", 100)
    kept = open_kept(max_characters=300)
    holding = threading.Event()
    DOOR.loop().call_soon_threadsafe(holding.wait, 10)
    kept.tell(content="x" * 250)
    kept.tell(2, content="y" * 100)
    kept.tell()
    assert (kept.ledger.cut, kept.ledger.dropped, kept.ledger.buffered) == (1, 1, 3)
    holding.set()
    kept.ledger.flush()
    assert sorted(content or "" for (content,) in kept.rows("SELECT content FROM llmops_calls")) == [
        "",
        "x" * 100 + "… [150 characters cut by the ledger]",
        "y" * 100,
    ]
    for _ in range(3):
        kept.tell(content="z" * 100)
        kept.ledger.flush()
    assert (kept.count(), kept.ledger.dropped) == (6, 1), "what is written makes room again"


async def test_flushing_works_from_any_loop_and_many_at_once(kept) -> None:
    kept.tell(100)
    await asyncio.gather(*(kept.ledger.aflush() for _ in range(5)))
    assert await asyncio.to_thread(kept.count) == 100


def test_what_is_told_after_the_close_is_counted(kept, caplog) -> None:
    kept.tell()
    kept.close()
    kept.tell(2)
    assert (kept.ledger.buffered, kept.ledger.dropped) == (0, 2)
    assert "it is closed" in caplog.text
    assert kept.count() == 1


# rows at fault

ODD = {
    "NUL and half an emoji": {"name": "a\x00b\ud83d", "content": "\x00\ud83d"},
    "an endless name": {"user": "u" * 100_000, "session": "é" * 100_000},
    "numbers out of range": {"usage": Usage(2**70, -(2**70)), "retries": 2**40, "rung": 2**33},
    "no number": {"latency_s": float("nan"), "started_at": float("inf"), "ttft_s": float("nan")},
    "money out of range": {"money": Money(Decimal(10) ** 30)},
    "text that is no plain text": {"name": ErrorKind.OTHER, "model": ErrorKind.OTHER},
}


@pytest.mark.parametrize("fields", ODD.values(), ids=ODD)
def test_a_value_that_a_database_refuses_is_mended_and_the_row_kept(kept, fields) -> None:
    kept.tell(5)
    kept.tell(**fields)
    kept.tell(5)
    kept.ledger.flush()
    assert (kept.count(), kept.ledger.dropped, kept.ledger.failures) == (11, 0, 0)
    for name, latency_s, started_at in kept.rows("SELECT name, latency_s, started_at FROM llmops_calls"):
        assert "\x00" not in name
        assert math.isfinite(latency_s)
        assert math.isfinite(started_at)


HOPELESS = {
    "no record at all": {"usage": None},
    "a value of no type that a database has": {"name": {"a": 1}},
    "money that is no number": {"money": Money(Decimal("nan"))},
    "tags that are no text": {"tags": (object(),)},
    "nothing where there must be something": {"run_id": None},
}


@pytest.mark.parametrize("fields", HOPELESS.values(), ids=HOPELESS)
def test_a_row_at_fault_is_dropped_alone_and_counted(kept, caplog, fields) -> None:
    kept.tell(1000)
    kept.tell(**fields)
    kept.tell(1000)
    kept.tell(**fields)
    kept.ledger.flush()
    assert (kept.count(), kept.ledger.dropped, kept.ledger.buffered) == (2000, 2, 0)
    assert len(caplog.records) == 1
    kept.tell()
    kept.ledger.flush()
    assert kept.count() == 2001


def test_tables_at_fault_drop_nothing(kept, caplog) -> None:
    kept.tell()
    kept.ledger.flush()
    kept.rows("ALTER TABLE llmops_events RENAME TO elsewhere")
    kept.tell(10)
    kept.ledger(Retried("gpt-4o", ErrorKind.RATE_LIMIT, 2, 0.5))
    with pytest.raises(StoreError):
        kept.ledger.flush()
    eventually(lambda: kept.ledger.failures > 0)
    assert (kept.ledger.buffered, kept.ledger.dropped) == (11, 0)
    kept.rows("ALTER TABLE elsewhere RENAME TO llmops_events")
    kept.ledger.flush()
    assert (kept.count(), kept.count("events"), kept.ledger.buffered) == (11, 1, 0)


class AfterCommit:
    """A database that does something between a commit and its answer."""

    def __init__(self, sql, act) -> None:
        self._sql = sql
        self._act = act

    def __getattr__(self, name):
        return getattr(self._sql, name)

    @asynccontextmanager
    async def transaction(self):
        async with self._sql.transaction() as transaction:
            yield transaction
        await self._act()


def put_after_commit(kept, act) -> None:
    run_sync(kept.ledger.sql())
    kept.ledger._store._sql = AfterCommit(kept.ledger._store._sql, act)


def test_a_commit_without_an_answer_is_not_done_twice(kept) -> None:
    answers = [StoreUnavailableError("the connection broke")]

    async def break_once() -> None:
        if answers:
            raise answers.pop()

    put_after_commit(kept, break_once)
    kept.tell(10)
    with pytest.raises(StoreUnavailableError):
        kept.ledger.flush()
    kept.ledger.flush()
    assert (kept.count(), kept.ledger.buffered) == (10, 0)


def test_a_flush_that_is_given_up_after_the_commit_writes_nothing_twice(kept) -> None:
    committed, go_on = threading.Event(), asyncio.Event()

    async def wait() -> None:
        committed.set()
        await go_on.wait()

    put_after_commit(kept, wait)
    kept.tell(10)
    flush = DOOR.submit(kept.ledger.aflush())
    assert committed.wait(DEADLINE_S)
    flush.cancel()
    DOOR.loop().call_soon_threadsafe(go_on.set)
    kept.ledger.flush()
    assert (kept.count(), kept.ledger.buffered) == (10, 0)


# failures


@pytest.fixture
def ruined(tmp_path):
    path = tmp_path / "ruined.db"
    path.write_bytes(b"this is not a database at all" * 100)
    return path


def test_a_file_that_is_no_database_is_told_once_counted_and_tried_again(ruined, monkeypatch, caplog) -> None:
    monkeypatch.setattr(background, "RETRY_AFTER_S", 0.01)
    monkeypatch.setattr(background, "RETRY_MAX_S", 0.01)
    ledger = Ledger(open_store(f"sqlite:///{ruined}", setting="LLMOPS_STATE_DIR"))
    for _ in range(3):
        ledger(CallFinished(call()))
    eventually(lambda: ledger.failures >= 3)
    assert (ledger.buffered, ledger.dropped) == (3, 0)
    (warning,) = caplog.records
    assert "LLMOPS_STATE_DIR: cannot use" in warning.message
    ruined.unlink()
    eventually(lambda: ledger.buffered == 0)
    assert ledger.dropped == 0
    run_sync(ledger.aclose())


def test_pauses_between_attempts_grow_up_to_a_limit(ruined, monkeypatch) -> None:
    for name, value in {"FLUSH_AFTER_S": 0.0005, "RETRY_AFTER_S": 0.001, "RETRY_MAX_S": 0.01}.items():
        monkeypatch.setattr(background, name, value)
    pauses = []

    class Noted(background.Background):
        def _note(self, error, pause):
            pauses.append(super()._note(error, pause))
            return pauses[-1]

    monkeypatch.setattr(writer, "Background", Noted)
    ledger = Ledger(open_store(f"sqlite:///{ruined}"))
    ledger(CallFinished(call()))
    eventually(lambda: len(pauses) >= 6)
    assert pauses[:6] == [0.001, 0.002, 0.004, 0.008, 0.01, 0.01]
    with pytest.raises(StoreError):
        run_sync(ledger.aclose())


def test_closing_says_in_one_error_what_is_lost_and_counts_it(ruined) -> None:
    ledger = Ledger(open_store(f"sqlite:///{ruined}", setting="LLMOPS_STATE_DIR"))
    for _ in range(3):
        ledger(CallFinished(call()))
    wanted = r"records that the ledger could not write and that are lost: 3 \(LLMOPS_STATE_DIR: cannot use"
    with pytest.raises(StoreError, match=wanted) as caught:
        run_sync(ledger.aclose())
    assert isinstance(caught.value.__cause__, ConfigurationError)
    assert "\n" not in str(caught.value)
    assert (ledger.buffered, ledger.dropped) == (0, 3)


def test_a_clock_that_steps_back_changes_nothing_but_the_times(kept) -> None:
    kept.tell()
    kept.clock.now -= 10_000
    kept.tell()
    kept.ledger(Retried("gpt-4o", ErrorKind.RATE_LIMIT, 2, 0.5))
    kept.ledger.flush()
    assert (kept.count(), kept.count("events"), kept.ledger.dropped) == (2, 1, 0)


def test_a_record_is_what_was_told_not_what_the_buffer_made_of_it(kept) -> None:
    record = replace(call(), content="x")
    kept.ledger(CallFinished(record))
    assert record.content == "x"
