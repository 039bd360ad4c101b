"""PostgreSQL's connections: lost in every way, crowded, cancelled, and silent."""

from __future__ import annotations

import asyncio
import itertools
import random

import pytest

from langchain_llmops.core.errors import StoreError, StoreUnavailableError
from langchain_llmops.stores import postgres_connections
from langchain_llmops.stores.base import idempotent
from tests.support.callers import Caller, at_last
from tests.support.servers import postgres_server
from tests.support.wires import Proxy

COLOURS = pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
TABLE = ("CREATE TABLE fact (n INTEGER PRIMARY KEY, side TEXT)",)
INSERT = "INSERT INTO fact (n, side) VALUES (?, ?)"
KEEP = f"{INSERT} ON CONFLICT (n) DO NOTHING"


@pytest.fixture(scope="module")
def server():
    with postgres_server() as server:
        yield server


@pytest.fixture(params=[False, True], ids=["async", "blocking"])
def way(server, request):
    """A caller behind a proxy, and a table."""
    url = f"postgresql://postgres@127.0.0.1:{server.port}/postgres"
    with Caller(url, blocking=True) as plain, Proxy(server.port) as proxy:
        plain.run(plain.store.sql.execute("DROP TABLE IF EXISTS fact"))
        plain.run(plain.store.sql.execute(TABLE[0]))
        behind = f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres?answer_timeout_s=20&sslmode=disable"
        with Caller(behind, blocking=request.param, timeout_s=1.0) as caller:
            yield caller, proxy


async def open_some(sql, count: int) -> None:
    """Leaves idle connections."""

    async def nest(left: int) -> None:
        async with sql.transaction() as transaction:
            await transaction.fetch("SELECT 1")
            if left:
                await nest(left - 1)

    await nest(count - 1)


async def facts(sql) -> list:
    return await sql.fetch("SELECT n, side FROM fact ORDER BY n, side")


def test_connections_that_were_reset_are_not_noticed(way):
    caller, proxy = way
    sql = caller.store.sql
    caller.run(open_some(sql, 4))
    proxy.reset()
    for n in range(5):
        assert caller.run(sql.execute(INSERT, (n, "a"))) == 1


def test_connections_that_were_forgotten_while_they_rested_are_not_noticed(way, monkeypatch):
    caller, proxy = way
    sql = caller.store.sql
    caller.run(open_some(sql, 4))
    proxy.forget()
    monkeypatch.setattr(postgres_connections, "IDLE_CHECK_S", -1.0)
    for n in range(3):
        assert at_last(lambda n=n: caller.run(sql.execute(INSERT, (n, "a")))) == 1
    assert proxy.made == 5  # the four forgotten ones were given up together


def test_a_statement_that_was_lost_is_done_again_where_it_may_be(way):
    caller, proxy = way
    sql = caller.store.sql
    for n, words in enumerate([proxy.lose_before, proxy.lose_after]):
        words.append(b"INSERT")
        caller.run(idempotent(lambda n=n: sql.execute(KEEP, (n, "a"))))
        assert words == []
    assert caller.run(facts(sql)) == [(0, "a"), (1, "a")]


@pytest.mark.parametrize("word", [b"BEGIN", b"INSERT", b"COMMIT"])
@pytest.mark.parametrize("when", ["lose_before", "lose_after"])
def test_a_transaction_that_was_lost_is_done_again_as_a_whole(way, word, when):
    caller, proxy = way
    sql = caller.store.sql

    async def work() -> str:
        async with sql.transaction() as transaction:
            await transaction.execute(KEEP, (1, "a"))
            await transaction.execute(KEEP, (2, "b"))
        return "done"

    getattr(proxy, when).append(word)
    assert caller.run(idempotent(work)) == "done"
    assert caller.run(facts(sql)) == [(1, "a"), (2, "b")]
    assert proxy.made == 2


def test_what_was_lost_says_that_nobody_knows_whether_it_happened(way):
    caller, proxy = way
    sql = caller.store.sql
    for n, words in enumerate([proxy.lose_before, proxy.lose_after]):
        words.append(b"INSERT")
        with pytest.raises(StoreUnavailableError) as caught:
            caller.run(sql.execute(INSERT, (n, "a")))
        assert caught.value.outcome_unknown
    assert caller.run(facts(sql)) == [(1, "a")]


def test_what_never_began_is_known_not_to_have_happened(server):
    url = f"postgresql://postgres@127.0.0.1:{server.port}/postgres?max_connections=1"
    with Caller(url, blocking=True, timeout_s=0.1) as caller:

        async def work() -> None:
            async with caller.store.sql.transaction():
                await caller.store.sql.fetch("SELECT 1")

        with pytest.raises(StoreUnavailableError, match="all 1 connections") as caught:
            caller.run(work())
        assert not caught.value.outcome_unknown


def test_once_more_is_once(way):
    caller, proxy = way
    sql, counted = caller.store.sql, itertools.count()

    async def work() -> None:
        next(counted)
        await sql.execute(KEEP, (1, "a"))

    proxy.lose_before += [b"INSERT", b"INSERT"]
    with pytest.raises(StoreUnavailableError):
        caller.run(idempotent(work))
    assert next(counted) == 2


def test_a_refused_statement_is_not_done_again(way):
    caller, _ = way
    sql, counted = caller.store.sql, itertools.count()

    async def work() -> None:
        next(counted)
        await sql.execute("INSERT INTO absent VALUES (1)")

    with pytest.raises(StoreError, match="absent"):
        caller.run(idempotent(work))
    assert next(counted) == 1


def test_doing_it_again_takes_a_new_connection_as_the_others_may_be_lost_too(way):
    caller, proxy = way
    sql = caller.store.sql
    caller.run(open_some(sql, 4))
    proxy.lose_before.append(b"INSERT")

    async def work() -> int:
        changed = sql.execute(KEEP, (1, "a"))
        try:
            return await changed
        except StoreUnavailableError:
            proxy.forget()  # only a connection made from now on is any good
            raise

    assert at_last(lambda: caller.run(idempotent(work))) == 1
    assert proxy.made == 5


@COLOURS
@pytest.mark.parametrize("kind", ["fetch", "transaction", "insert_rows", "execute_many"])
def test_a_server_that_stops_in_the_middle_is_given_up(blocking, kind):
    with postgres_server() as server:
        url = f"{server.url}?answer_timeout_s=0.4"
        with Caller(url, blocking=blocking, timeout_s=1.0) as caller:
            sql = caller.store.sql
            caller.run(sql.migrate("fact", TABLE))
            rows = [(n, "x" * 200) for n in range(50)]

            async def transaction() -> None:
                async with sql.transaction() as begun:
                    server.pause()
                    await begun.execute(INSERT, (1, "a"))

            async def paused(work) -> None:
                server.pause()
                await work

            calls = {
                "fetch": lambda: paused(sql.fetch("SELECT 1")),
                "transaction": transaction,
                "insert_rows": lambda: paused(sql.insert_rows("fact", ("n", "side"), rows)),
                "execute_many": lambda: paused(sql.execute_many(INSERT, rows)),
            }
            try:
                with pytest.raises(StoreUnavailableError, match="answer_timeout_s") as caught:
                    at_last(lambda: caller.run(calls[kind]()))
                assert caught.value.outcome_unknown
            finally:
                server.resume()
            assert caller.run(sql.execute(INSERT, (99, "after"))) == 1
            assert [row for row in caller.run(facts(sql)) if row[1] == "a"] == []


@COLOURS
def test_a_statement_may_take_as_long_as_was_said_and_a_migration_longer(server, blocking):
    url = f"{server.url}?answer_timeout_s=0.3"
    with Caller(url, blocking=blocking) as caller:
        sql = caller.store.sql
        assert caller.run(sql.migrate(f"slow-{blocking}", ("SELECT pg_sleep(0.8)",))) == 1
        with pytest.raises(StoreUnavailableError, match="said nothing more"):
            caller.run(sql.fetch("SELECT pg_sleep(30)"))
        assert caller.run(sql.fetch("SELECT 1")) == [(1,)]


def test_five_hundred_coroutines_share_four_connections_and_cancelled_ones_leak_none(server):
    url = f"{server.url}?max_connections=4&application_name=crowd"
    with Caller(url, blocking=False, timeout_s=30.0) as caller, Caller(server.url, blocking=True) as watcher:
        sql, rng = caller.store.sql, random.Random(7)

        async def work(n: int) -> int:
            async with sql.transaction() as transaction:
                rows = await transaction.fetch("SELECT ?::bigint", (n,))
            return rows[0][0]

        async def crowd(cancel: bool) -> list:
            tasks = [asyncio.create_task(work(n)) for n in range(500)]
            while cancel and any(not task.done() for task in tasks[::2]):
                await asyncio.sleep(0)
                rng.choice(tasks[::2]).cancel()
            return await asyncio.gather(*tasks, return_exceptions=cancel)

        assert caller.run(crowd(cancel=False)) == list(range(500))
        assert caller.run(crowd(cancel=True))[1::2] == list(range(1, 500, 2))
        assert caller.run(crowd(cancel=False)) == list(range(500))
        counting = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'crowd' AND state <> 'idle'"
        assert watcher.run(watcher.store.sql.fetch(counting)) == [(0,)]
        caller.run(open_some(sql, 4))  # no place among the connections was lost
