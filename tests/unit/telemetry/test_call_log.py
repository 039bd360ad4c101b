"""One JSON object per call, on one line, with no prompt in it."""

from __future__ import annotations

import json
import logging
import threading
from dataclasses import fields, replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import CacheLooked, CallFinished
from langchain_llmops.core.redaction import redact
from langchain_llmops.core.types import CallRecord, ErrorKind, Identity, Money, Usage
from langchain_llmops.telemetry.logs import CallLog
from langchain_llmops.telemetry.masking import mask_secrets, may_hold_secret
from tests.support.models import ScriptedModel, answer
from tests.support.recorded import chat, full

CALL = chat(
    latency_s=0.30000049, identity=Identity(user="u1", session="s1", request="r1"), usage=Usage(1000, 200),
    money=Money(Decimal("0.00015"), Decimal("0.00012")), route="simple", finish_reason="stop", prompt_hash="ab12",
    tags=("beta",),
)  # fmt: skip


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
        "prompt_hash": "ab12", "tags": ["beta"], "input_cost_usd": "0.00015", "output_cost_usd": "0.00012",
    }  # fmt: skip
    assert tool["event"] == "tool_call"
    assert "input_tokens" not in tool


FULL = full(unpriced=True, rung=0, latency_s=0.30000049, ttft_s=0.1000000049)


def test_every_figure_that_has_a_value_is_in_the_line(log, path) -> None:
    log(CallFinished(FULL))
    (line,) = lines(path)
    assert line.pop("timestamp")
    assert line == {
        "event": "model_call", "level": "error", "name": "ChatOpenAI", "provider": "openai", "model": "gpt-4o-mini",
        "tenant_id": "acme", "team_id": "team-1", "user_id": "u1", "session_id": "s1", "request_id": "r1",
        "trace_id": "trace-1", "run_id": "run-1", "parent_run_id": "run-0", "node": "agent", "latency_s": 0.3,
        "ttft_s": 0.1, "inter_token_s": 0.02, "streamed": True, "service_tier": "flex", "unpriced": True,
        "estimated": True, "clamped": True, "cache_level": "L1", "saved_usd": "0.5", "route": "simple", "rung": 0,
        "attempt": 2, "retries": 1, "finish_reason": "stop", "error_kind": "timeout",
        "error_class": "ModelTimeoutError", "prompt_hash": "ab12", "tags": ["a", "b"], "experiment": "e1", "arm": "b",
        "outcome": "resolved", "content_ref": "s3://b/k", "content": "{}", "input_tokens": 1000, "output_tokens": 200,
        "cache_read_tokens": 300, "cache_write_tokens": 40, "cache_write_1h_tokens": 50, "reasoning_tokens": 60,
        "audio_input_tokens": 7, "audio_output_tokens": 8, "failed_cost_usd": "0.6", "failed_input_cost_usd": "0.1",
        "failed_output_cost_usd": "0.2", "failed_fee_usd": "0.3", "failed_cache_read_cost_usd": "0.01",
        "failed_cache_write_cost_usd": "0.000000001",
    }  # fmt: skip


def test_only_lines_of_answers_have_a_cost(log, path) -> None:
    """What a failed attempt may have cost has names of its own: a sum over `cost_usd` is the ledger's."""
    log(CallFinished(FULL))
    log(CallFinished(replace(FULL, error_kind=None)))
    failed, answered = ({key for key in line if key.endswith("_usd")} - {"saved_usd"} for line in lines(path))
    assert failed == {f"failed_{key}" for key in answered}
    assert {"cost_usd", "input_cost_usd", "fee_usd"} < answered


def test_no_field_of_a_record_is_forgotten(log, path) -> None:
    """A new field of `CallRecord` must be logged, or be named here."""
    log(CallFinished(FULL))
    (line,) = lines(path)
    elsewhere = {"kind", "identity", "started_at", "usage", "money", "saved", "version"}
    assert {f.name for f in fields(CallRecord)} - elsewhere <= line.keys()


def test_the_time_of_a_line_is_its_clocks(path) -> None:
    moments = iter([0.0, 0.25, 1.999999, 1795264351.5])
    log = CallLog(str(path), clock=lambda: next(moments))
    for _ in range(4):
        log(CallFinished(CALL))
    log.close()
    assert [line["timestamp"] for line in lines(path)] == [
        "1970-01-01T00:00:00.000000Z",
        "1970-01-01T00:00:00.250000Z",
        "1970-01-01T00:00:01.999999Z",
        "2026-11-21T12:32:31.500000Z",
    ]


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


CANARY = "c4n4rySeCreT99"
SECRETS = (f"sk-{CANARY}", f"redis://u:{CANARY}@h/0", f"api_key={CANARY}", f"lsv2_pt_{CANARY}", f"ask rk_live_{CANARY}")
OURS = {"run_id", "trace_id", "parent_run_id", "prompt_hash", "kind", "ip", "api_key_id"}
OUTSIDE = [f for f in (*fields(CallRecord), *fields(Identity)) if "str" in str(f.type) and f.name not in OURS]


@pytest.mark.parametrize("name", [f.name for f in OUTSIDE])
def test_a_secret_in_any_text_that_comes_from_outside_is_masked(log, path, name) -> None:
    for secret in SECRETS:
        change = {name: (secret,) if name == "tags" else secret}
        own = name in {f.name for f in fields(CallRecord)}
        log(CallFinished(replace(CALL, **change) if own else replace(CALL, identity=replace(FULL.identity, **change))))
    assert len(lines(path)) == len(SECRETS)
    assert CANARY not in path.read_text()


@given(st.text() | st.builds("{}{}{}".format, st.text(), st.sampled_from(SECRETS), st.text()))
def test_a_text_without_marks_holds_no_secret_that_redaction_knows(text) -> None:
    assert may_hold_secret(text) or redact(text) == text


def test_secrets_are_masked_at_any_depth() -> None:
    (secret, *_) = SECRETS
    assert CANARY not in str(mask_secrets({"a": {"b": [{"c": secret}, (secret,)]}, "n": 5}))
    assert mask_secrets({"n": 5, "t": "plain", "x": None}) == {"n": 5, "t": "plain", "x": None}


def test_a_hook_sees_the_fields_and_decides_what_is_written(path) -> None:
    log = CallLog(str(path), redact=lambda line: {"user_id": "***", "run_id": line["run_id"], "note": SECRETS[0]})
    log(CallFinished(CALL))
    log.close()
    (line,) = lines(path)
    assert (line["user_id"], line["run_id"]) == ("***", "run-1")
    assert CANARY not in path.read_text()
    assert "model" not in line


def broken_hook(_fields):
    raise ValueError(f"no idea, but {SECRETS[0]}")


@pytest.mark.parametrize("hook", [broken_hook, lambda _fields: None])
def test_a_hook_that_fails_costs_the_line_and_never_the_call(path, caplog, handler, bus, hook) -> None:
    log = CallLog(str(path), redact=hook)
    bus.subscribe(log)
    for _ in range(3):
        ScriptedModel().invoke("hi", {"callbacks": [handler]})
    log.close()
    assert path.read_text() == ""
    assert log.failures == 3
    assert not bus.failures
    (told,) = caplog.messages
    assert told.startswith("the call log drops a line")
    assert CANARY not in told


def test_a_full_disk_costs_lines_and_never_the_call(caplog, handler, bus) -> None:
    log = CallLog("/dev/full")
    bus.subscribe(log)
    for _ in range(3):
        assert ScriptedModel("fine").invoke("hi", {"callbacks": [handler]}).text == "fine"
    log.close()
    assert log.failures == 3
    assert not bus.failures
    (told,) = caplog.messages
    assert "No space left on device" in told


def test_after_a_line_that_was_cut_short_the_next_one_stands_alone(log, path, caplog) -> None:
    """The disk took a part of a line, then had room again."""
    whole = log._sink._file

    class Short:
        def write(self, data: bytes) -> int:
            log._sink._file = whole
            return whole.write(data[:20])

    log._sink._file = Short()
    log(CallFinished(CALL))
    log(CallFinished(CALL))
    log(CallFinished(CALL))
    cut, *rest = path.read_text().splitlines()
    assert len(cut) == 20
    assert [json.loads(line)["run_id"] for line in rest] == ["run-1", "run-1"]
    assert log.failures == 1


def test_processes_that_share_a_file_do_not_mix_their_lines(path) -> None:
    """Each line goes out by one write to the end of the file, so that two open files are enough to show it."""
    logs = [CallLog(str(path)) for _ in range(2)]
    threads = [threading.Thread(target=lambda log=log: [log(CallFinished(FULL)) for _ in range(200)]) for log in logs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for log in logs:
        log.close()
    assert len(lines(path)) == 400


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
