"""`llmops simulate` and `llmops record` as processes, ended by real signals."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

from langchain_llmops.cli.simulate import record, simulate
from langchain_llmops.simulator import SimulatorError
from langchain_llmops.simulator.recordings import read_recordings

PROJECT = Path(__file__).parents[3]
ENTRY = "from langchain_llmops.cli.app import main; main()"
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
def start(request):
    """Starts a command and gives the process and the address it printed."""
    with contextlib.ExitStack() as stack:

        def run(*arguments):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", ENTRY, *map(str, arguments)],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    cwd=PROJECT,
                )
            )
            stack.callback(process.kill)
            line = process.stdout.readline()
            assert line.startswith("listening on http://127.0.0.1:"), process.communicate()[1]
            return process, line.split()[-1]

        yield run


def end(process, how):
    process.send_signal(how)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 0, err
    assert not err
    return out


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_simulate_serves_until_a_signal_and_prints_its_stats(start, how):
    process, url = start("simulate", "--speed", "0")
    answer = httpx.post(f"{url}/chat/completions", json=BODY).json()
    assert answer["choices"][0]["message"]["content"] == "hi"
    lines = end(process, how).splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["by_status"] == {"200": 1}


def test_simulate_takes_scripts_faults_and_models(start, tmp_path):
    script = tmp_path / "script.yaml"
    script.write_text("- default: from the script\n")
    options = ("--script", script, "--speed", "0", "--fault", "rate_limit=0.5", "--fault", "refusal=0", "--model", "m")
    process, url = start("simulate", *options, "--seed", "3")
    statuses = set()
    while len(statuses) < 2:
        response = httpx.post(f"{url}/chat/completions", json={**BODY, "model": "m"})
        statuses.add(response.status_code)
        if response.status_code == 200:
            assert response.json()["choices"][0]["message"]["content"] == "from the script"
    assert statuses == {200, 429}
    assert json.loads(end(process, signal.SIGINT))["by_model"].keys() == {"m"}


def test_record_then_replay_from_the_command_line(start, tmp_path):
    path = tmp_path / "out.jsonl"
    upstream, upstream_url = start("simulate", "--speed", "0")
    recorder, recorder_url = start("record", path, "--upstream", upstream_url)
    assert httpx.post(f"{recorder_url}/chat/completions", json=BODY).status_code == 200
    assert end(recorder, signal.SIGINT) == f"1 conversations in {path}\n"
    assert len(read_recordings(path)) == 1
    replay, replay_url = start("simulate", "--replay", path, "--speed", "0")
    assert httpx.post(f"{replay_url}/chat/completions", json=BODY).json()["choices"][0]["message"]["content"] == "hi"
    end(replay, signal.SIGTERM)
    end(upstream, signal.SIGTERM)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["simulate", "--script", "no.yaml"], "no.yaml: cannot be read: No such file"),
        (["simulate", "--replay", "no.jsonl"], "no.jsonl: cannot be read: No such file"),
        (["simulate", "--script", "a", "--replay", "b"], "--script or --replay, not both"),
        (["simulate", "--fault", "rate_limit"], "--fault takes KIND=RATE"),
        (["simulate", "--fault", "flood=0.1"], "unknown fault 'flood'"),
        (["simulate", "--faults", "2"], "the fault rate must be between 0 and 1"),
        (["simulate", "--speed", "-1"], "speed must be at least 0"),
        (["simulate", "--ttft-ms", "nan"], "ttft_s must be a number"),
        (["simulate", "--port", "99999"], "cannot listen on 127.0.0.1:99999"),
        (["record", "out.jsonl", "--upstream", "nowhere"], "--upstream must be a URL"),
    ],
)
def test_wrong_input_is_one_clear_error_before_anything_is_served(tmp_path, monkeypatch, arguments, reason):
    monkeypatch.chdir(tmp_path)
    app = typer.Typer()
    for command in (simulate, record):
        app.command()(command)
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, SimulatorError)
    assert reason in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not result.output
    assert not list(tmp_path.iterdir())


def test_an_error_is_one_line_and_exit_code_2_for_the_user():
    command = [sys.executable, "-c", ENTRY, "simulate", "--fault", "flood=0.1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=PROJECT, check=False)
    assert done.returncode == 2
    assert "unknown fault 'flood'" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout
