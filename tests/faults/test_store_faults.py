"""Servers that die, come back or stop answering, and writers that are killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
import redis

from langchain_llmops.core.errors import StoreError, StoreUnavailableError
from tests.support.callers import Caller
from tests.support.servers import postgres_server, redis_server

COLOURS = pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
TABLE = ("CREATE TABLE pair (n INTEGER, side TEXT)",)
INSERT = "INSERT INTO pair (n, side) VALUES (?, ?)"


async def crowd(kv, count: int) -> None:
    """Leaves several connections idle in the pool."""
    await asyncio.gather(*(kv.set(f"k{n}", b"x") for n in range(count)))


@COLOURS
def test_redis_that_was_restarted_is_used_again_at_once(blocking):
    with redis_server() as server, Caller(server.url, blocking=blocking) as caller:
        kv = caller.store.kv
        caller.run(kv.set("k", b"x") if blocking else crowd(kv, 20))
        server.kill()
        with pytest.raises(StoreUnavailableError, match=rf"127\.0\.0\.1:{server.port} cannot be reached"):
            caller.run(kv.get("k"))
        with pytest.raises(StoreUnavailableError):
            caller.run(kv.increment("n"))
        server.restart()
        assert [caller.run(kv.increment("n")) for _ in range(3)] == [1, 2, 3]
        assert caller.run(kv.get("k")) is None


@COLOURS
def test_connections_that_redis_dropped_are_not_noticed(blocking):
    with redis_server() as server, Caller(server.url, blocking=blocking) as caller:
        kv = caller.store.kv
        caller.run(kv.set("k", b"x") if blocking else crowd(kv, 20))
        server.kill()
        server.restart()
        caller.let_see()
        assert [caller.run(kv.increment("n")) for _ in range(25)] == list(range(1, 26))
        assert caller.run(kv.add("once", b"1"))


@COLOURS
def test_redis_that_does_not_answer_is_given_up_and_used_again(blocking):
    with redis_server() as server, Caller(server.url, blocking=blocking, timeout_s=0.3) as caller:
        kv = caller.store.kv
        assert caller.run(kv.increment("n")) == 1
        server.pause()
        try:
            for _ in range(3):
                with pytest.raises(StoreUnavailableError):
                    caller.run(kv.get("k"))
        finally:
            server.resume()
        assert caller.run(kv.increment("n")) == 2


@COLOURS
def test_a_connection_lost_in_the_middle_is_tried_again_only_for_what_may_run_twice(blocking):
    with redis_server() as server, cutting_proxy(server.port, b"GET") as cut:
        with Caller(f"redis://127.0.0.1:{cut.port}/0", blocking=blocking) as caller:
            kv = caller.store.kv
            cut.left = 1
            assert caller.run(kv.get("k")) is None
            cut.left = 1
            assert caller.run(kv.get_many(["k", "l"])) == [None, None]
            cut.left, cut.word = 1, b"SET"
            caller.run(kv.set("k", b"x"))
            for call in (lambda: kv.increment("n"), lambda: kv.add("once", b"1"), lambda: kv.delete("k")):
                cut.left, cut.word = 1, b"\r\n"
                with pytest.raises(StoreUnavailableError):
                    caller.run(call())
                assert cut.left == 0
            assert caller.run(kv.get_many(["k", "n", "once"])) == [b"x", None, None]


def test_a_crowd_waits_for_few_connections(redis_url, redis_cluster_url):
    for url in (redis_url, redis_cluster_url):
        with Caller(url, blocking=False) as caller, contextlib.ExitStack() as stack:
            for _ in range(2):  # the first stands in line for the client itself
                caller.run(crowd(caller.store.kv, 1500))
            for node in nodes_of(url):
                client = stack.enter_context(contextlib.closing(redis.Redis(port=node)))
                assert 0 < len([one for one in client.client_list() if one["name"] == "langchain-llmops"]) <= 65


@COLOURS
def test_postgres_that_was_restarted_is_used_again(blocking):
    with postgres_server() as server, Caller(server.url, blocking=blocking, timeout_s=2.0) as caller:
        sql, kv = caller.store.sql, caller.store.kv
        caller.run(sql.migrate("pair", TABLE))
        caller.run(kv.set("k", b"x") if blocking else crowd(kv, 10))
        server.kill()
        with pytest.raises(StoreUnavailableError, match=rf"127\.0\.0\.1:{server.port} cannot be reached"):
            caller.run(kv.get("k"))
        server.restart()
        until(lambda: available(caller, sql))
        for n in range(12):
            assert caller.run(sql.execute(INSERT, (n, "a"))) == 1
        assert caller.run(sql.fetch("SELECT COUNT(*) FROM pair")) == [(12,)]


@COLOURS
def test_connections_that_postgres_ended_are_not_noticed(blocking):
    """A failover or `pg_terminate_backend` leaves the pool full of dead connections."""
    with postgres_server() as server, Caller(server.url, blocking=blocking, timeout_s=5.0) as caller:
        sql, kv = caller.store.sql, caller.store.kv
        caller.run(sql.migrate("pair", TABLE))
        caller.run(kv.set("k", b"x") if blocking else crowd(kv, 10))
        with Caller(server.url, blocking=True) as other:
            other.run(
                other.store.sql.fetch(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
                    " WHERE pid <> pg_backend_pid() AND application_name = ?",
                    ("langchain-llmops",),
                )
            )
        for n in range(12):
            assert caller.run(sql.execute(INSERT, (n, "a"))) == 1


@COLOURS
def test_a_transaction_whose_server_dies_leaves_nothing(blocking):
    with postgres_server() as server, Caller(server.url, blocking=blocking, timeout_s=2.0) as caller:
        sql = caller.store.sql
        caller.run(sql.migrate("pair", TABLE))

        async def work():
            async with sql.transaction() as transaction:
                await transaction.execute(INSERT, (1, "a"))
                server.kill()
                await transaction.execute(INSERT, (1, "b"))

        with pytest.raises(StoreUnavailableError):
            caller.run(work())
        server.restart()
        until(lambda: available(caller, sql))
        assert caller.run(sql.fetch("SELECT COUNT(*) FROM pair")) == [(0,)]


def test_all_connections_in_use_is_said_so():
    with postgres_server() as server, Caller(server.url, blocking=False, timeout_s=0.3) as caller:
        sql = caller.store.sql

        async def work():
            async def hold(ready, end):
                async with sql.transaction():
                    ready.release()
                    await end.wait()

            ready, end = asyncio.Semaphore(0), asyncio.Event()
            holders = [asyncio.create_task(hold(ready, end)) for _ in range(10)]
            for _ in holders:
                await ready.acquire()
            try:
                with pytest.raises(StoreUnavailableError, match=r"all 10 connections .* in use"):
                    await sql.fetch("SELECT 1")
            finally:
                end.set()
                await asyncio.gather(*holders)
            assert await sql.fetch("SELECT 1") == [(1,)]

        caller.run(work())


WRITER = """
import os, sys
from langchain_llmops.core.concurrency import drive, run_sync
from langchain_llmops.stores.base import open_store
path, blocking, acknowledged = sys.argv[1], sys.argv[2] == "True", os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT)
run = drive if blocking else run_sync
store = open_store("sqlite:///" + path, blocking=blocking)
run(store.sql.migrate("pair", ("CREATE TABLE pair (n INTEGER, side TEXT)",)))
async def pair(n):
    async with store.sql.transaction() as transaction:
        await transaction.execute("INSERT INTO pair (n, side) VALUES (?, ?)", (n, "a"))
        await transaction.execute("INSERT INTO pair (n, side) VALUES (?, ?)", (n, "b"))
for n in range(1_000_000):
    run(pair(n))
    os.write(acknowledged, b"%d\\n" % n)
"""


@COLOURS
@pytest.mark.parametrize("least", [3, 17])
def test_what_a_killed_writer_was_told_is_stored_is_there_and_nothing_is_half(tmp_path, blocking, least):
    file, acknowledged = tmp_path / "pairs.db", tmp_path / "acknowledged"
    command = [sys.executable, "-c", WRITER, str(file), str(blocking), str(acknowledged)]
    writer = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, env=dict(os.environ))
    try:
        until(lambda: acknowledged.exists() and acknowledged.read_bytes().count(b"\n") >= least)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    told = {int(line) for line in acknowledged.read_text().split("\n")[:-1]}
    with Caller(f"sqlite:///{file}", blocking=True) as caller:
        rows = caller.run(caller.store.sql.fetch("SELECT n, side FROM pair"))
    stored = {n for n, _ in rows}
    assert told <= stored
    assert sorted(rows) == [(n, side) for n in sorted(stored) for side in "ab"]


EXIT = """
import atexit, sys
from langchain_llmops.core.concurrency import drive, run_sync
from langchain_llmops.stores.base import open_store
store = open_store(sys.argv[1], blocking=sys.argv[2] == "True")
run = drive if sys.argv[2] == "True" else run_sync
run(store.kv.set("early", b"1"))
atexit.register(lambda: run(store.kv.set("late", b"2")))
"""


@COLOURS
@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres"])
def test_what_is_written_while_the_interpreter_ends_is_stored_and_an_unclosed_store_ends_quietly(
    request, tmp_path, kind, blocking
):
    url = f"sqlite:///{tmp_path}/x.db" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    done = subprocess.run(
        [sys.executable, "-c", EXIT, url, str(blocking)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    with Caller(url, blocking=True) as caller:
        assert caller.run(caller.store.kv.get_many(["early", "late"])) == [b"1", b"2"]
        caller.run(caller.store.kv.delete("early", "late"))


class Cut:
    """How many more requests with `word` in them lose their connection before they reach the server."""

    def __init__(self, port: int, word: bytes) -> None:
        self.port = port
        self.word = word
        self.left = 0


@contextlib.contextmanager
def cutting_proxy(upstream: int, word: bytes):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        cut = Cut(listener.getsockname()[1], word)
        threading.Thread(target=accept, args=(listener, upstream, cut), daemon=True).start()
        yield cut
        listener.shutdown(socket.SHUT_RDWR)


def accept(listener, upstream: int, cut: Cut) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        server = socket.create_connection(("127.0.0.1", upstream))
        threading.Thread(target=forward, args=(client, server, cut), daemon=True).start()
        threading.Thread(target=forward, args=(server, client, None), daemon=True).start()


def forward(source, target, cut: Cut | None) -> None:
    with source:
        while data := source.recv(65_536):
            if cut is not None and cut.left and cut.word in data and b"CLIENT" not in data:
                cut.left -= 1
                break
            target.sendall(data)
        with contextlib.suppress(OSError):
            source.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


def nodes_of(url: str) -> list[int]:
    port = int(url.rpartition(":")[2].partition("/")[0])
    if "cluster" not in url:
        return [port]
    with contextlib.closing(redis.Redis(port=port)) as client:
        return [int(name.rpartition(":")[2]) for name in client.cluster("nodes")]


def available(caller: Caller, sql) -> bool:
    try:
        return caller.run(sql.fetch("SELECT 1")) == [(1,)]
    except StoreError:
        return False


def until(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.01)
