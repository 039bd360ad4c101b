"""What is told to LangSmith about a run arrives, also right after it; a silent LangSmith holds nobody."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from langchain_llmops import sending, tracing
from langchain_llmops.core.errors import LLMOpsError
from langchain_llmops.recorder.running import running as recording
from tests.support import langsmith
from tests.support.langsmith import environment, traced_to
from tests.support.models import ScriptedModel, eventually

LOST = "LangSmith did not take everything"
CHILD = """
import json, logging, sys, time
from langchain_llmops import LLMOps, Settings, sending, tracing
from tests.support.models import ScriptedModel

logging.basicConfig(level=logging.WARNING)
tracing.PATIENCE_S, tracing.CLOSE_S, tracing.FLUSH_S, tracing.TIMEOUT_MS, sending.EXIT_S = 0.2, 1, 0.2, (300, 300), 1
folder, way = sys.argv[1:]
sending.LONGEST_ANSWER_S = 0.5 if way == "closed" else 60
ops = LLMOps(Settings(state_dir=folder, trace_project="fresh", log_calls="off"))
answer = ScriptedModel().invoke("hi", ops.config(user_id="u"))
ops.feedback(answer.id, 1.0)
if way == "closed":
    ops.close()
print(json.dumps(dict(ops._observers.tracing.losses)))
"""


opened = partial(langsmith.opened, trace_project="fresh")


@pytest.fixture
def recorder():
    with recording() as recorder, traced_to(recorder.url):
        yield recorder


@pytest.fixture
def silent():
    """A server that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.fixture
def busy():
    """A server that asks everybody to come back in an hour."""

    class Later(BaseHTTPRequestHandler):
        def do_GET(self):
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(429)
            self.send_header("Retry-After", "3600")
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *args):
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Later) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def hurried(monkeypatch):
    for module, name, value in (
        (tracing, "TIMEOUT_MS", (300, 300)),
        (tracing, "FLUSH_S", 0.1),
        (tracing, "CLOSE_S", 1.0),
        (tracing, "SHARE_S", 0.5),
        (tracing, "PATIENCE_S", 0.2),
        (sending, "LONGEST_PAUSE_S", 0.01),
        (sending, "LONGEST_ANSWER_S", 0.5),
    ):
        monkeypatch.setattr(module, name, value)


def losses(ops, what):
    return ops.registry.get_sample_value("llmops_trace_losses_total", {"what": what})


def ask(ops):
    return ScriptedModel().invoke("hi", ops.config(user_id="u"))


def test_feedback_and_a_link_right_after_the_first_run_of_a_new_project_arrive(recorder, tmp_path, caplog):
    with opened(tmp_path) as ops:
        answer = ask(ops)
        ops.feedback(answer.id, 1.0, comment="helped")
        link = ops.share_link(answer.id)
        client = ops.callbacks[1].client
        client.flush()
        (run,) = recorder.runs()
        told = list(client.list_feedback(run_ids=[run["id"]]))
        assert [(one.key, one.score, one.comment) for one in told] == [("user_score", 1.0, "helped")]
        assert run["id"] in httpx.get(link, follow_redirects=True).text
        assert (losses(ops, "runs"), losses(ops, "feedback")) == (0, 0)
    assert not [record for record in caplog.records if record.name.startswith("langchain_llmops")]


@pytest.mark.parametrize(("flush_s", "pauses_s"), [(3.0, ()), (0.0, tracing.PAUSES_S)], ids=["sent", "tried again"])
def test_a_link_right_after_the_first_run_of_a_new_project_is_made(recorder, tmp_path, monkeypatch, flush_s, pauses_s):
    monkeypatch.setattr(tracing, "FLUSH_S", flush_s)
    monkeypatch.setattr(tracing, "PAUSES_S", pauses_s)
    with opened(tmp_path) as ops:
        assert "hi" in httpx.get(ops.share_link(ask(ops).id), follow_redirects=True).text


def test_async_callers_are_told_the_same_and_their_loop_goes_on(recorder, tmp_path):
    async def told(ops, answer):
        await ops.afeedback(answer.id, 1.0)
        return await ops.ashare_link(answer.id), await ops.aerase_user("u")

    with opened(tmp_path) as ops:
        answer = ask(ops)
        link = ops.share_link(answer.id)
        shared, erased = asyncio.run(told(ops, answer))
        assert shared == link
        assert erased.pop("conversations").state == "done"
        assert erased == {"calls": 1, "events": 0, "feedback": 1, "outcomes": 0}


def test_a_share_link_is_never_made_of_a_request_of_another_tenant(tmp_path, recorder):
    with opened(tmp_path, tenant="a") as one, opened(tmp_path, tenant="b") as two:
        ScriptedModel().invoke("hi", one.config(request_id="r1"))
        assert one.share_link("r1").startswith(recorder.url)
        with pytest.raises(LLMOpsError, match="no share link"):
            two.share_link("r1")


def test_a_share_link_of_an_id_that_nobody_knows_says_so_and_what_to_give(tmp_path, recorder):
    with opened(tmp_path) as ops:
        ask(ops)
        with pytest.raises(LLMOpsError, match=r"the ledger does not know 'unknown': give .*answer\.id") as refused:
            ops.share_link("unknown")
    assert "\n" not in str(refused.value)


def test_feedback_on_a_trace_that_was_not_sampled_is_no_loss(recorder, tmp_path, caplog):
    with opened(tmp_path, trace_sample_rate=0.0) as ops:
        ops.feedback(ask(ops).id, 1.0)
        assert losses(ops, "feedback") == 0
    assert "LangSmith" not in caplog.text


def test_closing_sends_what_waits_and_is_safe_again_and_from_another_thread(recorder, tmp_path):
    with opened(tmp_path) as ops:
        for _ in range(5):
            ask(ops)
        others = [threading.Thread(target=ops.close) for _ in range(3)]
        for other in others:
            other.start()
        for other in others:
            other.join()
        assert len(recorder.runs()) == 5
        ops.close()
        asyncio.run(ops.aclose())
        asyncio.run(ops._observers.tracing.close())
        assert losses(ops, "runs") == 0


def test_runs_and_feedback_that_a_silent_langsmith_never_takes_are_counted_and_told_once(
    silent, hurried, tmp_path, caplog
):
    with traced_to(silent), opened(tmp_path) as ops:
        answers = [ask(ops) for _ in range(3)]
        ops.feedback(answers[0].id, 0.5)
        with pytest.raises(LLMOpsError, match=r"no share link \(\w+\)$"):
            ops.share_link(answers[0].id)
        assert ops.ledger.buffered == 0
        ops.close()
        assert (losses(ops, "runs"), losses(ops, "feedback")) == (3, 1)
    assert caplog.text.count(LOST) == 1
    assert "3 runs and 1 feedback are lost" in caplog.text


def test_a_langsmith_that_asks_for_patience_gets_little(busy, hurried, tmp_path, caplog):
    with traced_to(busy), opened(tmp_path) as ops:
        ops.feedback(ask(ops).id, 0.5)
        eventually(lambda: losses(ops, "feedback") == 1)
    assert "LangSmith did not take the feedback" in caplog.text


def test_feedback_that_finds_too_much_waiting_is_counted_and_logged(recorder, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(tracing, "MAX_WAITING", 0)
    with opened(tmp_path) as ops:
        ops.feedback(ask(ops).id, 0.5)
        assert losses(ops, "feedback") == 1
    assert "too much waits" in caplog.text


@pytest.mark.parametrize("way", ["closed", "left open"])
def test_a_silent_langsmith_does_not_hold_the_interpreter(silent, tmp_path, way):
    command = [sys.executable, "-c", CHILD, str(tmp_path), way]
    told = {**os.environ, **environment(silent)}
    done = subprocess.run(command, env=told, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr.count(LOST) == 1, done.stderr
    assert "1 runs and 1 feedback are lost" in done.stderr
    if way == "closed":
        assert json.loads(done.stdout) == {"runs": 1, "feedback": 1}


def test_an_outbox_does_its_work_in_turn_and_keeps_no_thread(monkeypatch):
    monkeypatch.setattr(sending, "IDLE_S", 0.01)
    outbox, done, hold = sending.Outbox(), [], threading.Event()
    first = outbox.submit(hold.wait)
    rest = [outbox.submit(lambda number=number: done.append(number)) for number in range(20)]
    assert outbox.waiting >= 19
    hold.set()
    assert first.result(10)
    rest[-1].result(10)
    assert done == list(range(20))
    eventually(lambda: not [one for one in threading.enumerate() if one.name == "llmops-langsmith"])
    assert outbox.submit(lambda: 7).result(10) == 7


def test_an_outbox_that_can_start_no_thread_works_at_once(monkeypatch):
    def refuse(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert sending.Outbox().submit(lambda: 7).result(0) == 7


def test_a_forked_child_does_nothing_that_waits_in_its_parent_and_works_on_its_own():
    outbox, done, hold = sending.Outbox(), [], threading.Event()
    outbox.submit(hold.wait)
    waiting = outbox.submit(lambda: done.append("parent"))
    child = os.fork()
    if not child:
        right = False
        try:
            right = outbox.submit(lambda: 7).result(10) == 7 and not done
        finally:
            os._exit(not right)
    assert os.waitpid(child, 0)[1] == 0
    hold.set()
    waiting.result(10)
    assert done == ["parent"]
