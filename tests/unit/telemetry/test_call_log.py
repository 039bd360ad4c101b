"""One JSON object per call, on one line, with no prompt in it."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import CacheLooked, CallFinished
from langchain_llmops.core.types import CallRecord, ErrorKind, Identity, Money, Usage
from langchain_llmops.telemetry.logs import CallLog
from tests.support.models import ScriptedModel, answer

CALL = CallRecord(
    kind="model",
    run_id="run-1",
    trace_id="trace-1",
    name="ChatOpenAI",
    started_at=1000.0,
    latency_s=0.30000049,
    identity=Identity(user="u1", session="s1", request="r1"),
    model="gpt-4o-mini",
    usage=Usage(1000, 200),
    money=Money(Decimal("0.00015"), Decimal("0.00012")),
    route="simple",
    finish_reason="stop",
    prompt_hash="ab12",
    tags=("beta",),
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "calls.jsonl"


@pytest.fixture
def log(path):
    log = CallLog(str(path))
    yield log
    log.close()


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]


def test_a_call_is_one_json_object_on_one_line(log, path) -> None:
    log(CallFinished(CALL))
    log(CallFinished(replace(CALL, kind="tool", name="lookup")))
    line, tool = lines(path)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "model_call", "level": "info", "name": "ChatOpenAI", "model": "gpt-4o-mini", "user_id": "u1",
        "session_id": "s1", "request_id": "r1", "trace_id": "trace-1", "run_id": "run-1", "latency_s": 0.3,
        "input_tokens": 1000, "output_tokens": 200, "cost_usd": "0.00027", "route": "simple", "finish_reason": "stop",
        "prompt_hash": "ab12", "tags": ["beta"],
    }  # fmt: skip
    assert tool["event"] == "tool_call"


def test_a_failed_call_is_an_error_line(log, path) -> None:
    log(CallFinished(replace(CALL, money=None, error_kind=ErrorKind.TIMEOUT, error_class="ModelTimeoutError")))
    (line,) = lines(path)
    assert (line["level"], line["error_kind"], line["error_class"]) == ("error", "timeout", "ModelTimeoutError")
    assert "cost_usd" not in line


def test_a_hit_says_what_it_saved(log, path) -> None:
    log(CallFinished(replace(CALL, money=Money(), cache_level="L1", saved_usd=Decimal("0.00027"))))
    (line,) = lines(path)
    assert (line["cost_usd"], line["saved_usd"], line["cache_level"]) == ("0", "0.00027", "L1")


def test_other_events_are_not_calls(log, path) -> None:
    log(CacheLooked("hit", "L1"))
    assert path.read_text() == ""


def test_no_prompt_and_no_answer_reach_the_log(log, path, handler, bus) -> None:
    bus.subscribe(log)
    ScriptedModel(answer("the answer is 42")).invoke("my secret question", {"callbacks": [handler]})
    text = path.read_text()
    assert "secret question" not in text
    assert "answer is 42" not in text
    (line,) = lines(path)
    assert len(line["prompt_hash"]) == 32


hostile = st.text() | st.sampled_from(["\n", '"}\n{"event": "forged"}', "\u2028", "\x00", "\x1b[31m", "\ud800"])


@given(hostile, hostile, hostile)
def test_whatever_a_name_holds_a_call_stays_one_line(user, session, tag) -> None:
    told: list[str] = []
    log = CallLog()
    log._logger = logging.Logger("test", logging.INFO)
    log._emit = told.append
    log(CallFinished(replace(CALL, identity=Identity(user=user, session=session), tags=(tag,))))
    (line,) = told
    assert "\n" not in line
    assert json.loads(line)["user_id"] == user


def test_a_name_that_is_no_text_is_written_too(log, path) -> None:
    """A lone surrogate, as half an emoji from a JavaScript client."""
    log(CallFinished(replace(CALL, identity=Identity(user="\ud83d"))))
    assert len(lines(path)) == 1


def test_by_default_the_application_decides(caplog) -> None:
    log = CallLog()
    log(CallFinished(CALL))
    assert caplog.records == []
    with caplog.at_level(logging.INFO, "langchain_llmops.calls"):
        log(CallFinished(CALL))
    (record,) = caplog.records
    assert json.loads(record.getMessage())["run_id"] == "run-1"
    log.close()


def test_a_percent_sign_is_no_format(caplog) -> None:
    with caplog.at_level(logging.INFO, "langchain_llmops.calls"):
        CallLog()(CallFinished(replace(CALL, name="100%s")))
    assert json.loads(caplog.records[0].getMessage())["name"] == "100%s"


def test_the_log_can_go_to_stderr_which_stays_open(capsys) -> None:
    log = CallLog("stderr")
    log(CallFinished(CALL))
    log.close()
    log(CallFinished(CALL))
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 2


def test_a_file_is_appended_to(path) -> None:
    for _ in range(2):
        log = CallLog(str(path))
        log(CallFinished(CALL))
        log.close()
    assert len(lines(path)) == 2


def test_a_file_that_cannot_be_written_is_one_line_that_names_the_setting(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="^LLMOPS_LOG_CALLS: cannot write .*: Is a directory$"):
        CallLog(str(tmp_path))
    with pytest.raises(ConfigurationError, match="^LLMOPS_LOG_CALLS: cannot write .*: No such file or directory$"):
        CallLog(str(tmp_path / "missing" / "calls.jsonl"))
