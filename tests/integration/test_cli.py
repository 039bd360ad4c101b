"""The commands as a user runs them: what they print, what they write, and one clear line for what is wrong."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys

import pytest

from langchain_llmops import __version__
from tests.support.data import shared_data

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("LLMOPS_", "OPENAI_", "LANGSMITH_"))}


def llmops(*arguments, cwd=None, timeout=120, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "langchain_llmops", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=timeout,
        env={**CLEAN, **environment},
        check=False,
    )


def test_the_demo_prints_a_report_and_writes_it(tmp_path):
    done = llmops(
        "demo", "--conversations", 12, "--speed", 0, "--json", tmp_path / "o.json", "--html", tmp_path / "o.html"
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "o.json").read_text())
    assert figures["conversations"] == 12
    assert figures["saved_usd"] > 0
    assert figures["cache"]["hits"] > 0
    assert {"simple", "complex"} == set(figures["routes"])
    wanted = (
        "conversations turns model_calls tool_calls tokens cost_usd baseline_cost_usd saved_usd saved_pct cache routes"
    )
    assert set(wanted.split()) | {"latency", "errors", "checkpoints"} <= set(figures)
    assert "without the suite" in done.stdout
    assert (tmp_path / "o.html").read_text().startswith("<!doctype html>")


def test_a_second_run_on_the_same_state_goes_on_with_its_sessions(tmp_path):
    options = ("demo", "--conversations", 4, "--speed", 0, "--state", tmp_path / "state")
    llmops(*options, "--json", tmp_path / "1.json")
    done = llmops(*options, "--json", tmp_path / "2.json")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    assert second["conversations"] == first["conversations"] == 4
    assert second["turns"] == first["turns"]
    assert second["checkpoints"]["count"] > first["checkpoints"]["count"]


def test_traffic_of_ones_own_in_single_messages(tmp_path):
    lines = [
        {"user_id": "ada", "session_id": "a", "message": "Where is order 10231?"},
        {"user_id": "bob", "session_id": "b", "message": "What is your returns policy?"},
        {"user_id": "ada", "session_id": "a", "message": "Thank you!"},
    ]
    traffic = tmp_path / "traffic.jsonl"
    traffic.write_text("\n".join(map(json.dumps, lines)))
    done = llmops("demo", "--traffic", traffic, "--speed", 0, "--json", tmp_path / "o.json")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "o.json").read_text())
    assert (figures["conversations"], figures["turns"]) == (2, 3)


def test_the_number_of_conversations_also_cuts_a_recording_short(tmp_path):
    recording = shared_data("support/airline_gpt4o_conversations.jsonl.gz")
    done = llmops("demo", "--replay", recording, "--conversations", 2, "--json", tmp_path / "o.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert json.loads((tmp_path / "o.json").read_text())["replay"]["recording_ends"] == 2


def test_a_provider_that_never_answers_is_not_a_success(tmp_path):
    done = llmops(
        "demo", "--live", "--conversations", 1, OPENAI_API_KEY="k", OPENAI_BASE_URL="http://127.0.0.1:1/v1",
        LLMOPS_MAX_ATTEMPTS="1", LLMOPS_STATE_DIR=str(tmp_path),
    )  # fmt: skip
    assert done.returncode == 1
    assert "given up" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "ledger.db").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_cleanly_with_the_report_so_far(tmp_path, sent):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "langchain_llmops",
            "demo",
            "--conversations",
            "200",
            "--speed",
            "3",
            "--state",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=CLEAN,
    )
    _until_ledger_has_calls(tmp_path, process)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "interrupted" in err
    assert "Traffic and money" in out


def _until_ledger_has_calls(folder, process) -> None:
    import sqlite3
    import time

    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        if (folder / "ledger.db").exists():
            try:
                connection = sqlite3.connect(f"file:{folder / 'ledger.db'}?mode=ro", uri=True)
                if connection.execute("SELECT COUNT(*) FROM llmops_calls").fetchone()[0]:
                    return
            except sqlite3.OperationalError:
                pass  # not there yet: the condition is asked again until the deadline
            finally:
                connection.close()
        time.sleep(0.05)
    pytest.fail("the demo made no calls")


def one_line(done) -> str:
    """The error as a user sees it: exit code 2, one line, no traceback, no output."""
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"user_id": "u", "session_id": "s"}', "line 2: 'message' must be"),
        ("not json", "line 2: not JSON"),
        ("[1]", "line 2: not a JSON object"),
        ('{"conversation_id": "c", "messages": []}', "line 2: 'conversation_id' must be"),
        ('{"conversation_id": "c", "messages": [{"role": "robot"}]}', "line 2: message 1 needs a role"),
        ('{"user_id": "other", "session_id": "s", "message": "hi"}', "line 2: session 's' belongs to user"),
    ],
)
def test_a_malformed_traffic_line_is_named(tmp_path, line, reason):
    traffic = tmp_path / "t.jsonl"
    traffic.write_text('{"user_id": "u", "session_id": "s", "message": "hi"}\n' + line + "\n")
    assert reason in one_line(llmops("demo", "--traffic", traffic))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--redis", "http://nowhere"), "LLMOPS_REDIS_URL"),
        (("--redis", "redis://:hunter2@127.0.0.1:1/0"), "LLMOPS_REDIS_URL: Redis at 127.0.0.1:1 cannot be reached"),
        (("--postgres", "postgresql://u:hunter2@127.0.0.1:1/x"), "LLMOPS_POSTGRES_URL: PostgreSQL at 127.0.0.1:1"),
        (("--postgres", "mysql://u:hunter2@h/x"), "LLMOPS_POSTGRES_URL"),
        (("--objects", "s3://"), "LLMOPS_OBJECTS_URL: s3:// needs a bucket"),
        (("--state", "/proc/nothing"), "LLMOPS_STATE_DIR: cannot create"),
        (("--traffic", "/no/such/file.jsonl"), "cannot read /no/such/file.jsonl"),
        (("--json", "/no/such/folder/out.json"), "cannot write /no/such/folder/out.json"),
        (("--cache-scope", "planet"), "LLMOPS_CACHE_SCOPE"),
        (("--json", "-"), "--json takes a file, not '-'"),
        (("--html", "./-"), "--html takes a file, not '-'"),
        (("--live",), "--live needs OPENAI_API_KEY"),
        (("--live", "--faults", "0.1"), "are for the simulator: give them or --live"),
        (("--live", "--speed", "0"), "are for the simulator: give them or --live"),
    ],
)
def test_bad_input_is_one_clear_line_without_secrets(arguments, reason):
    line = one_line(llmops("demo", "--conversations", 1, *arguments))
    assert reason in line
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("demo", "--nonsense"), "No such option"),
        (("demo", "--faults", "2"), "Invalid value for '--faults'"),
        (("demo", "--conversations", "many"), "Invalid value for '--conversations'"),
        (("nonsense",), "No such command"),
        (("record",), "Missing"),
    ],
)
def test_a_wrong_command_line_is_one_line_too(arguments, reason):
    assert reason in one_line(llmops(*arguments))


def test_a_recording_that_could_not_be_kept_is_not_begun():
    line = one_line(llmops("record", "/proc/recording.jsonl", "--upstream", "http://127.0.0.1:1/v1"))
    assert "/proc/recording.jsonl: cannot be written" in line


def test_the_wrong_recording_is_refused_before_anything_is_written(tmp_path):
    recording = shared_data("support/airline_gpt4o_conversations.jsonl.gz")
    other = tmp_path / "other.jsonl.gz"
    with gzip.open(recording, "rt") as source, gzip.open(other, "wt") as target:
        target.write(source.readline())
    done = llmops(
        "demo", "--traffic", recording, "--replay", other, "--state", tmp_path / "state", "--json", tmp_path / "o"
    )
    assert "--replay must be the same file as --traffic" in one_line(done)
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "o").exists()


def test_messages_without_answers_cannot_be_replayed(tmp_path):
    traffic = tmp_path / "t.jsonl"
    traffic.write_text('{"user_id": "u", "session_id": "s", "message": "hi"}\n')
    assert "session 's' has no recorded answers" in one_line(llmops("demo", "--replay", traffic))


def test_the_settings_are_listed():
    done = llmops("settings")
    assert done.returncode == 0
    assert "LLMOPS_REDIS_URL" in done.stdout


def test_the_version_is_told():
    assert llmops("--version").stdout.strip() == __version__
