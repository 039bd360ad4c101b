"""The scoreboard: what happened lately, right to 1 %, and nothing older."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import CacheLooked, CallFinished
from langchain_llmops.core.stats import quantile
from langchain_llmops.core.types import CallRecord, ErrorKind, Money
from langchain_llmops.telemetry.scoreboard import Score, Scoreboard
from tests.support.models import ScriptedModel
from tests.support.recorded import chat
from tests.unit.telemetry.conftest import Clock

CALL = chat(model="gpt-4o", money=Money(Decimal("0.1"), Decimal("0.2")))
TOOL = replace(CALL, kind="tool", model=None, name="lookup", money=None)


@pytest.fixture
def board(clock) -> Scoreboard:
    return Scoreboard(windows=6, window_s=10.0, max_names=3, clock=clock)


def tell(board, *records: CallRecord) -> None:
    for record in records:
        board(CallFinished(record))


def test_calls_errors_hits_and_money_are_told_apart_by_model(board) -> None:
    failed = replace(CALL, money=None, error_kind=ErrorKind.TIMEOUT)
    tell(board, CALL, CALL, failed, replace(CALL, money=Money(), cache_level="L1"), replace(CALL, model="gpt-5"), TOOL)
    board(CacheLooked("hit", "L1"))
    score = board.score("gpt-4o")
    assert (score.calls, score.errors, score.hits, score.cost_usd) == (4, 1, 1, Decimal("0.6"))
    assert board.error_rate("gpt-4o") == 0.25
    assert board.score().calls == 5
    assert board.score("lookup", "tool").calls == 1
    assert board.score("lookup").calls == 0


def test_only_answers_of_the_model_itself_say_how_fast_it_is(board) -> None:
    quick = replace(CALL, latency_s=0.001)
    tell(board, CALL, replace(quick, error_kind=ErrorKind.AUTH), replace(quick, cache_level="L1"))
    assert board.latency("gpt-4o", 0.0) == pytest.approx(0.3, rel=0.01)


def test_a_cancelled_call_is_nobodys_error(board) -> None:
    tell(board, CALL, replace(CALL, error_kind=ErrorKind.CANCELLED))
    assert board.error_rate("gpt-4o") == 0.0


def test_what_failed_attempts_may_have_cost_is_counted_apart(board) -> None:
    failed = replace(CALL, error_kind=ErrorKind.TIMEOUT, estimated=True)
    tell(board, CALL, failed, replace(failed, error_kind=ErrorKind.CANCELLED))
    score = board.score("gpt-4o")
    assert (score.cost_usd, score.failed_cost_usd) == (Decimal("0.3"), Decimal("0.6"))
    told = board.snapshot()["kinds"]["model"]
    assert (told["cost_usd"], told["failed_cost_usd"]) == ("0.3", "0.6")


def test_nothing_is_known_of_a_model_that_was_not_called(board) -> None:
    assert board.latency("gpt-4o", 0.5) is None
    assert board.error_rate("gpt-4o") is None
    assert board.snapshot() == {"seconds": 60.0, "kinds": {}, "names": {}}


@given(
    st.lists(st.tuples(st.floats(0, 25), st.floats(0.001, 60)), min_size=1, max_size=60),
    st.integers(1, 6),
    st.floats(0, 100),
    st.floats(0, 1),
)
def test_windows_forget_what_is_too_old_and_nothing_else(calls, windows, idle_s, q) -> None:
    clock = Clock(1003.0)
    board = Scoreboard(windows=windows, window_s=10.0, clock=clock)
    seen = []
    for pause_s, latency_s in calls:
        clock.pass_s(pause_s)
        tell(board, replace(CALL, latency_s=latency_s))
        seen.append((clock(), latency_s))
    clock.pass_s(idle_s)
    oldest = clock() // 10 - windows + 1
    kept = sorted(latency_s for at, latency_s in seen if at // 10 >= oldest)
    assert board.score("gpt-4o").calls == len(kept)
    exact = quantile(kept, q)
    assert board.latency("gpt-4o", q) == (None if exact is None else pytest.approx(exact, rel=0.02))


def test_a_clock_that_steps_back_loses_nothing(board, clock) -> None:
    for _ in range(10):
        for step_s in (-500.0, 500.0):
            tell(board, CALL)
            clock.pass_s(step_s)
    assert board.score("gpt-4o").calls == 20
    clock.pass_s(60.0)
    assert board.score("gpt-4o").calls == 0


def test_names_without_end_share_one_score_and_a_window_later_start_anew(board, clock) -> None:
    tell(board, *(replace(CALL, model=f"model-{number}") for number in range(100)))
    names = board.snapshot()["names"]["model"]
    assert set(names) == {"model-0", "model-1", "model-2", "other"}
    assert sum(score["calls"] for score in names.values()) == board.score().calls == 100
    clock.pass_s(10.0)
    tell(board, replace(CALL, model="model-99"))
    assert board.score("model-99").calls == 1


def test_a_name_of_any_length_is_kept_short(board) -> None:
    tell(board, replace(CALL, model="x" * 100_000))
    (name,) = board.snapshot()["names"]["model"]
    assert len(name) <= 128


def test_a_snapshot_is_plain_data_by_kind_and_by_name(board) -> None:
    tell(board, *(replace(CALL, latency_s=n / 100) for n in range(1, 101)), TOOL)
    told = board.snapshot()
    model = told["names"]["model"]["gpt-4o"]
    assert (model["calls"], model["errors"], model["error_rate"], model["cost_usd"]) == (100, 0, 0.0, "30.0")
    assert [model["p50_s"], model["p95_s"], model["p99_s"]] == pytest.approx([0.5, 0.95, 0.99], rel=0.02)
    assert told["kinds"]["model"] == model
    assert told["names"]["tool"]["lookup"]["calls"] == 1


def test_money_is_told_in_digits_and_never_as_an_exponent(board) -> None:
    tell(board, replace(CALL, money=Money(Decimal("4E-8"))))
    assert board.snapshot()["kinds"]["model"]["cost_usd"] == "0.00000004"


def test_scores_of_several_processes_add_up() -> None:
    boards = [Scoreboard(), Scoreboard()]
    for board, latency_s in zip(boards, (0.1, 0.5), strict=True):
        tell(board, replace(CALL, latency_s=latency_s))
    whole = Score()
    for board in boards:
        whole.merge(board.score("gpt-4o"))
    assert (whole.calls, whole.cost_usd) == (2, Decimal("0.6"))
    assert whole.latency.quantile(1.0) == pytest.approx(0.5, rel=0.02)


def test_what_was_read_does_not_change_any_more(board) -> None:
    tell(board, CALL)
    score = board.score("gpt-4o")
    tell(board, CALL)
    assert (score.calls, score.latency.count) == (1, 1)


@pytest.mark.usefixtures("threads_that_interrupt_each_other_often")
def test_calls_of_many_threads_are_all_counted_while_others_read(clock) -> None:
    board = Scoreboard(clock=clock)
    rounds, workers = 300, 4
    records = [replace(CALL, latency_s=1.05**n) for n in range(rounds)]  # each in a bucket of its own

    def work(_) -> None:
        for record in records:
            tell(board, record)
            board.score()

    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(work, range(workers)))
    score = board.score("gpt-4o")
    assert score.calls == score.latency.count == rounds * workers


def test_a_run_of_langchain_reaches_the_board(board, bus, handler, clock) -> None:
    bus.subscribe(board)
    ScriptedModel().invoke("hi", {"callbacks": [handler]})
    assert board.score("gpt-4o-mini").calls == 1


FORK = """
import os
import signal
from langchain_llmops.core.events import CallFinished
from langchain_llmops.core.types import CallRecord
from langchain_llmops.telemetry.scoreboard import Scoreboard

call = CallFinished(CallRecord(kind="model", run_id="r", trace_id="r", name="m", started_at=0.0, latency_s=0.3))
board = Scoreboard(window_s=3600.0)
board(call)
board.score()
board(call)
board._lock.acquire()  # as when another thread is counting
child = os.fork()
if child == 0:
    signal.alarm(10)
    board(call)
    os._exit(board.score().calls)
board._lock.release()
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), board.score().calls)
"""


def test_a_forked_child_knows_its_own_calls_only_and_waits_for_no_thread_of_its_parent() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 2\n", "")


@pytest.mark.parametrize("wrong", [{"windows": 0}, {"window_s": 0.0}, {"max_names": 0}])
def test_a_board_without_room_is_refused(wrong) -> None:
    with pytest.raises(ConfigurationError, match="^a scoreboard needs"):
        Scoreboard(**wrong)
