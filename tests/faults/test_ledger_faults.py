"""Whatever happens to the ledger's database, calls go on, rows wait, and what is lost is counted."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from langchain_llmops.core.concurrency import run_sync
from langchain_llmops.core.errors import StoreError, StoreUnavailableError
from langchain_llmops.core.events import Bus
from langchain_llmops.ledger import background
from langchain_llmops.ledger.writer import Ledger
from langchain_llmops.stores.base import open_store
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support import servers
from tests.support.models import ScriptedModel, eventually

ROOT = Path(__file__).resolve().parents[2]


class Application:
    """Calls of a model, observed by a ledger."""

    def __init__(self, url: str, **options) -> None:
        bus = Bus()
        self.ledger = Ledger(open_store(url, setting="LLMOPS_TEST_URL", timeout_s=2.0), **options)
        bus.subscribe(self.ledger)
        self.failures = bus.failures
        self._handler = OpsCallbackHandler(bus)
        self._model = ScriptedModel("fine")

    def call(self, times: int = 1) -> None:
        """Every answer arrives."""
        for _ in range(times):
            answer = self._model.invoke("hi", {"callbacks": [self._handler], "metadata": {"user_id": "u"}})
            assert answer.text == "fine"

    def fetch(self, statement: str) -> list:
        async def fetch():
            return await (await self.ledger.sql()).fetch(statement)

        return run_sync(fetch())

    def rows(self) -> int:
        """Of different calls; fails when one is there twice."""
        ((rows, calls),) = self.fetch("SELECT COUNT(*), COUNT(DISTINCT run_id) FROM llmops_calls")
        assert rows == calls
        return rows


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(background, "RETRY_AFTER_S", 0.05)
    monkeypatch.setattr(background, "RETRY_MAX_S", 0.1)


@pytest.fixture
def opened():
    """An application that is closed at the end, however its database is then."""
    made = []

    def opener(url: str, **options) -> Application:
        made.append(Application(url, **options))
        return made[-1]

    yield opener
    for application in made:
        with contextlib.suppress(StoreError):
            run_sync(application.ledger.aclose())


def test_a_full_disk_keeps_rows_waiting_and_calls_going(tmp_path, opened, caplog):
    """SQLITE_FULL, as of a disk: the connection's own limit of pages."""
    application = opened(f"sqlite:///{tmp_path}/ledger.db", max_buffered=400)
    application.call(5)
    application.ledger.flush()
    ((pages,),) = application.fetch("PRAGMA page_count")
    application.fetch(f"PRAGMA max_page_count = {pages + 4}")
    application.call(300)
    eventually(lambda: application.ledger.failures >= 2)
    with pytest.raises(StoreUnavailableError, match="check disk and folder"):
        application.ledger.flush()
    assert application.ledger.dropped == 0
    waiting = application.ledger.buffered  # all of them, but for a few when the writer was there before the last call
    application.call(200)
    lost = application.ledger.dropped
    assert lost == waiting + 200 - 400 > 0
    application.fetch("PRAGMA max_page_count = 1000000")
    eventually(lambda: application.ledger.buffered == 0)
    assert application.rows() == 5 + 300 + 200 - lost
    assert not application.failures
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "database or disk is full" in caplog.records[0].message


def test_a_file_limit_of_the_system_ends_in_one_error_and_a_sound_file(tmp_path):
    code = f"""
        import logging, os, resource
        from langchain_llmops.core.concurrency import run_sync
        from langchain_llmops.core.errors import StoreError
        from tests.faults.test_ledger_faults import Application
        logging.disable()
        application = Application("sqlite:///{tmp_path}/ledger.db")
        application.call(50)
        application.ledger.flush()
        limit = os.path.getsize("{tmp_path}/ledger.db-wal") + 20_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        application.call(300)
        try:
            run_sync(application.ledger.aclose())
        except StoreError as error:
            print(application.ledger.dropped, error)
    """
    said = in_process(code)
    assert "records that the ledger could not write and that are lost: 300 (LLMOPS_TEST_URL: cannot read or" in said
    assert sound_rows(tmp_path / "ledger.db") == 50


def test_postgresql_gone_and_back_loses_nothing_that_the_buffer_holds(opened, caplog):
    with servers.postgres_server() as server:
        application = opened(server.url, max_buffered=500)
        application.call(20)
        application.ledger.flush()
        server.kill()
        application.call(30)
        eventually(lambda: application.ledger.failures >= 2)
        application.call(500)
        assert (application.ledger.buffered, application.ledger.dropped) == (500, 30)
        server.restart()
        eventually(lambda: application.ledger.buffered == 0)
        assert application.rows() == 520
        application.call(5)
        eventually(lambda: application.rows() == 525)
        run_sync(application.ledger.aclose())
    assert not application.failures
    assert [record.levelname for record in caplog.records].count("WARNING") <= 2


def test_postgresql_killed_again_and_again_under_load_keeps_every_row_once(opened):
    with servers.postgres_server() as server:
        application = opened(server.url)
        told = 0
        for _ in range(2):
            application.call(200)
            told += 200
            eventually(lambda told=told: application.ledger.buffered < 200)
            application.call(100)
            told += 100
            server.kill()
            server.restart()
        eventually(lambda: application.ledger.buffered == 0)
        assert (application.rows(), application.ledger.dropped) == (told, 0)
        run_sync(application.ledger.aclose())


def test_postgresql_that_does_not_answer_does_not_hold_the_end_up_for_ever(postgres_url, opened, monkeypatch):
    import psycopg

    monkeypatch.setattr(background, "CLOSE_TIMEOUT_S", 0.2)
    application = opened(postgres_url)
    application.call()
    application.ledger.flush()
    with psycopg.connect(postgres_url) as other:
        other.execute("LOCK TABLE llmops_calls IN ACCESS EXCLUSIVE MODE")
        application.call(3)
        with pytest.raises(StoreError, match=r"are lost: 3 \(the database did not answer within 0\.2 s\)"):
            run_sync(application.ledger.aclose(), 30)
    assert (application.ledger.dropped, application.ledger.buffered) == (3, 0)
    assert application.rows() == 1, "what is counted as lost is not written later"


def test_postgresql_that_is_never_there_costs_one_error_at_the_end(opened):
    application = opened(f"postgresql://postgres@127.0.0.1:{servers.free_port()}/postgres")
    application.call(7)
    with pytest.raises(StoreError, match=r"are lost: 7 \(LLMOPS_TEST_URL: PostgreSQL at 127\.0\.0\.1:\d+ cannot be"):
        run_sync(application.ledger.aclose())
    assert application.ledger.dropped == 7


def test_a_killed_process_keeps_what_was_written_and_corrupts_nothing(tmp_path):
    """Two of them at once, so that the kill also meets a file with another writer."""
    url, path = f"sqlite:///{tmp_path}/ledger.db?synchronous=normal", tmp_path / "ledger.db"
    notes = [tmp_path / "notes-0", tmp_path / "notes-1"]
    command = [sys.executable, "-m", "tests.faults.ledger_writer"]
    writers = [subprocess.Popen([*command, str(note), url], cwd=ROOT, stdin=subprocess.DEVNULL) for note in notes]
    try:
        eventually(lambda: all(written(note)[1] >= 2000 for note in notes))
    finally:
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
            writer.wait(30)
    rows = sound_rows(path)
    assert sum(written(note)[1] for note in notes) <= rows
    with contextlib.closing(sqlite3.connect(path)) as file:
        for writer, note in zip(writers, notes, strict=True):
            mine = f"run_id LIKE '{writer.pid}-%'"
            count, last = file.execute(f"SELECT COUNT(*), MAX(started_at) FROM llmops_calls WHERE {mine}").fetchone()
            assert written(note)[1] <= count <= written(note)[0] + 20
            assert count == last + 1, "no gap: what is lost is the end alone"


def written(note: Path) -> tuple[int, int]:
    """How many were told, and how many of them written, by the last whole line."""
    lines = note.read_bytes().split(b"\n")[:-1] if note.exists() else []
    told, kept = lines[-1].split() if lines else (0, 0)
    return int(told), int(kept)


def sound_rows(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return file.execute("SELECT COUNT(*) FROM llmops_calls").fetchone()[0]


# the end of the interpreter

ENDING = """
    import asyncio, os, threading
    from pathlib import Path
    from langchain_llmops import LLMOps, Settings
    from tests.support.models import ScriptedModel
    ops = LLMOps(Settings(state_dir=Path({folder!r}), log_calls="off"))
    model = ScriptedModel("fine")
    def call(user, times):
        for _ in range(times):
            assert model.invoke("hi", ops.config(user_id=user, session_id="s")).text == "fine"
    async def acall(user):
        assert (await model.ainvoke("hi", ops.config(user_id=user, session_id="s"))).text == "fine"
    async def main():
        await asyncio.gather(*(acall("task") for _ in range(4)))
    call("before", 300)
    child = os.fork()
    if child == 0:
        call("child", 5)
        raise SystemExit(0)
    assert os.waitpid(child, 0)[1] == 0
    asyncio.run(main())
    threads = [threading.Thread(target=call, args=("thread", 10)) for _ in range(4)]
    [thread.start() for thread in threads]
    raise SystemExit(0)
"""


def test_what_is_buffered_is_written_once_at_the_end_of_threads_tasks_and_forks(tmp_path):
    in_process(ENDING.format(folder=str(tmp_path)))
    assert sound_rows(tmp_path / "ledger.db") == 349
    with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as file:
        found = file.execute("SELECT user_id, COUNT(*) FROM llmops_calls GROUP BY user_id ORDER BY user_id").fetchall()
    assert found == [("before", 300), ("child", 5), ("task", 4), ("thread", 40)]


CHILDREN = """
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from langchain_llmops.core.concurrency import run_sync
    from tests.faults.test_ledger_faults import Application
    application = Application({url!r})
    def work(number):
        application.call()
        return number
    application.call()
    context = multiprocessing.get_context("fork")
    {then}
    application.ledger.flush()
    print(application.rows(), application.ledger.dropped)
    run_sync(application.ledger.aclose())
"""
WORKERS = {
    "a process": ("child = context.Process(target=work, args=(0,)); child.start(); child.join()", 1),
    "a pool": ("pool = context.Pool(2); pool.map(work, range(6)); pool.close(); pool.join()", 6),
    "an executor": ("with ProcessPoolExecutor(2, context) as pool: list(pool.map(work, range(6)))", 6),
}


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.mark.parametrize(("then", "calls"), WORKERS.values(), ids=WORKERS)
def test_what_forked_workers_have_buffered_is_written_before_they_end(url, then, calls):
    assert in_process(CHILDREN.format(url=url, then=then)).split() == [str(1 + calls), "0"]


def test_a_fork_in_the_middle_of_a_write_waits_for_its_end(url):
    """Else the child's SQLite believes for ever that the file is held, by a connection of the child's own."""
    code = f"""
        import asyncio, os, threading
        from langchain_llmops.core.concurrency import run_sync
        from langchain_llmops.ledger.batch import Batch
        from tests.faults.test_ledger_faults import Application
        insert, begun = Batch.insert, threading.Event()
        async def slow(batch, transaction):
            await insert(batch, transaction)
            begun.set()
            await asyncio.sleep(0.2)
        Batch.insert = slow
        application = Application({url!r})
        application.call()
        assert begun.wait(30)
        child = os.fork()
        application.call()
        application.ledger.flush()
        if child == 0:
            os._exit(application.ledger.failures)
        print(os.waitpid(child, 0)[1], application.rows())
        run_sync(application.ledger.aclose())
    """
    assert in_process(code).split() == ["0", "3"]


def test_an_application_made_in_a_forked_worker_writes_before_it_ends_too(url):
    code = f"""
        import multiprocessing
        from langchain_llmops.core.concurrency import run_sync
        from tests.faults.test_ledger_faults import Application
        def work():
            Application({url!r}).call(3)
        application = Application({url!r})
        child = multiprocessing.get_context("fork").Process(target=work)
        child.start()
        child.join()
        print(child.exitcode, application.rows())
        run_sync(application.ledger.aclose())
    """
    assert in_process(code).split() == ["0", "3"]


def test_a_forked_worker_whose_database_is_gone_ends_in_time_and_says_what_is_lost(postgres_url):
    code = f"""
        import multiprocessing, psycopg
        from langchain_llmops.core.concurrency import run_sync
        from langchain_llmops.ledger import background, buffer
        from tests.faults.test_ledger_faults import Application
        background.CHILD_END_TIMEOUT_S = 0.2
        application = Application({postgres_url!r})
        application.call()
        application.ledger.flush()
        def work():
            buffer._log.disabled = True
            background._log.error = lambda said, *values: print(said % values, flush=True)
            application.call(3)
        with psycopg.connect({postgres_url!r}) as other:
            other.execute("LOCK TABLE llmops_calls IN ACCESS EXCLUSIVE MODE")
            child = multiprocessing.get_context("fork").Process(target=work)
            child.start()
            child.join(30)
        print(child.exitcode, application.rows())
        run_sync(application.ledger.aclose())
    """
    told, ended = in_process(code).splitlines()
    assert "at the end of process" in told
    assert "are lost: 3 (the database did not answer within 0.2 s)" in told
    assert ended == "0 1"


def in_process(code: str) -> str:
    """What a Python process of its own says; anything on its error stream is a failure."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-W", "ignore:This process:DeprecationWarning", "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout
