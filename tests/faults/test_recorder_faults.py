"""`llmops traces` as a process: killed in the middle, asked to stop, given what cannot work."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import pytest

from langchain_llmops.core.errors import ConfigurationError, StoreUnavailableError
from langchain_llmops.recorder.running import running
from tests.support.models import eventually
from tests.support.servers import free_port, postgres_server
from tests.support.traces import child, multipart, run, send

CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(("LLMOPS_", "LANGSMITH_"))}
COMMAND = [sys.executable, "-m", "langchain_llmops", "traces"]


@contextmanager
def command(*arguments, **environment):
    """The command once it listens, and what it said; ended with the block."""
    process = subprocess.Popen(
        [*COMMAND, "--port", "0", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**CLEAN, **environment},
    )
    try:
        said = [process.stdout.readline() for _ in range(4)]
        yield process, said
    finally:
        process.kill()
        process.communicate()


def ended(*arguments, **environment):
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=60, env={**CLEAN, **environment}
    )
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def keep_sending(url, acknowledged) -> None:
    """Traces of a root and ten children, until nobody answers."""
    with httpx.Client(base_url=url) as http:
        while True:
            root = run()
            sent = [root, *(child(root, order, inputs={"x": "y" * 2000}) for order in range(1, 11))]
            try:
                answer = send(http, multipart(*((f"post.{one['id']}", one) for one in sent)), "zstd")
            except httpx.TransportError:
                return
            assert answer.status_code == 202
            acknowledged += [one["id"] for one in sent]


def test_what_was_acknowledged_outlives_a_kill(tmp_path):
    acknowledged: list[str] = []
    with command("--state", tmp_path) as (process, said):
        url = re.search(r"http://\S+", said[0])[0]
        writers = [threading.Thread(target=keep_sending, args=(url, acknowledged)) for _ in range(4)]
        for writer in writers:
            writer.start()
        eventually(lambda: len(acknowledged) > 1000)
        process.kill()
        for writer in writers:
            writer.join()
    with running(f"sqlite:///{tmp_path / 'traces.db'}") as recorder:
        kept = {one["id"] for one in recorder.runs()}
    assert len(acknowledged) > 1000
    assert set(acknowledged) <= kept
    assert len(kept) % 11 == 0  # a request is there as a whole or not at all


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_says_what_to_set_and_ends_cleanly(tmp_path, how):
    with command("--state", tmp_path) as (process, said):
        url = re.search(r"http://\S+", said[0])[0]
        with httpx.Client(base_url=url) as http:
            assert http.get("/info").status_code == 200
            process.send_signal(how)
            process.wait(30)
    assert process.returncode == 0
    assert str(tmp_path / "traces.db") in said[0]
    assert [line.strip() for line in said[1:]] == [
        "export LANGSMITH_TRACING=true",
        f"export LANGSMITH_ENDPOINT={url}",
        "export LANGSMITH_API_KEY=local",
    ]


def test_what_is_not_here_leaves_no_line_in_the_terminal(tmp_path):
    with command("--state", tmp_path) as (process, said):
        url = re.search(r"http://\S+", said[0])[0]
        with httpx.Client(base_url=url, headers={"Accept": "text/html"}) as http:
            for path in ("/traces/00000000-0000-4000-8000-000000000000", "/traces/x", "/threads/%00%FF", "/nothing"):
                assert http.get(path).status_code == 404
        process.terminate()
        assert process.communicate(timeout=30) == ("", "")


def test_a_port_in_use_is_one_clear_line(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = ended("--port", port, "--state", tmp_path)
    assert f"cannot listen on 127.0.0.1 port {port}" in line
    assert "choose another with --port or --host" in line


def test_a_missing_extra_is_named_with_the_line_that_installs_it(tmp_path):
    (tmp_path / "uvicorn.py").write_text("raise ImportError('uvicorn')")
    line = ended(PYTHONPATH=os.pathsep.join([str(tmp_path), os.getcwd()]))
    assert "llmops traces needs an extra: pip install 'langchain-llmops[serve]'" in line


def test_a_database_that_went_away_is_told_to_the_client_which_may_try_again():
    with postgres_server() as server:
        with running(server.url) as recorder, httpx.Client(base_url=recorder.url) as http:
            posted = run()
            server.kill()
            answer = http.post("/runs", json=posted)
            assert answer.status_code == 503
            assert "\n" not in answer.json()["detail"]
            assert "127.0.0.1" in recorder.problems[-1]
            page = http.get("/")
            assert (page.status_code, page.headers["content-type"]) == (503, "text/html; charset=utf-8")
            server.restart()
            eventually(lambda: http.post("/runs", json=posted).status_code == 202)
            assert [one["id"] for one in recorder.runs()] == [posted["id"]]


NOWHERE = f"postgresql://u:hunter2@127.0.0.1:{free_port()}/x"


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (StoreUnavailableError, {"url": NOWHERE}),
        (ConfigurationError, {"url": "redis://127.0.0.1:1"}),
        (ConfigurationError, {"url": "sqlite:////proc/nothing/traces.db"}),
        (ConfigurationError, {"host": "no address"}),
        (ConfigurationError, {"host": "192.0.2.1"}),
    ],
)
def test_a_start_that_fails_raises_one_line_and_leaves_nothing(error, options):
    with pytest.raises(error) as raised, running(**options):
        pytest.fail("it started")
    assert "recorder" not in {thread.name for thread in threading.enumerate()}
    assert "\n" not in str(raised.value)
    assert "hunter2" not in str(raised.value)
