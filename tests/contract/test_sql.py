"""What a relational database means, on every backend."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import uuid

import pytest

from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import StoreError
from langchain_llmops.stores.base import open_store

TABLE = (
    """CREATE TABLE thing (id {AUTOKEY}, name TEXT NOT NULL, data {BLOB}, weight {REAL});
    CREATE INDEX thing_name ON thing (name)""",
)
INSERT = "INSERT INTO thing (name, data, weight) VALUES (?, ?, ?)"


@pytest.fixture
def things(opened, sql):
    opened.run(sql.migrate("things", TABLE))
    return sql


def names(opened, sql) -> list[str]:
    return [row[0] for row in opened.run(sql.fetch("SELECT name FROM thing ORDER BY id"))]


def test_rows_come_back_as_they_were_written(opened, things):
    assert opened.run(things.execute(INSERT, ("100 % 'quoted' ?", b"\x00\xff", 1.5))) == 1
    (row,) = opened.run(things.fetch("SELECT name, data, weight FROM thing WHERE name LIKE '100 %'"))
    assert (row[0], bytes(row[1]), row[2]) == ("100 % 'quoted' ?", b"\x00\xff", 1.5)


def test_a_transaction_commits_whole(opened, things):
    async def work():
        async with things.transaction() as transaction:
            await transaction.execute(INSERT, ("a", b"", 0))
            await transaction.execute_many(INSERT, [("b", None, None), ("c", b"", 1)])

    opened.run(work())
    assert names(opened, things) == ["a", "b", "c"]


def test_a_transaction_that_raises_leaves_nothing(opened, things):
    async def work():
        async with things.transaction() as transaction:
            await transaction.execute(INSERT, ("a", b"", 0))
            raise LookupError

    with pytest.raises(LookupError):
        opened.run(work())
    assert names(opened, things) == []


def test_a_caught_failure_never_loses_the_transaction_in_silence(opened, things):
    """Either the rest is stored, or the end of the transaction says that it is not."""

    async def work():
        async with things.transaction() as transaction:
            await transaction.execute(INSERT, ("a", b"", 0))
            with contextlib.suppress(StoreError):
                await transaction.execute(INSERT, (None, b"", 0))

    try:
        opened.run(work())
    except StoreError:
        assert names(opened, things) == []
    else:
        assert names(opened, things) == ["a"]


def test_a_failing_row_takes_its_whole_batch_with_it(opened, things):
    with pytest.raises(StoreError):
        opened.run(things.execute_many(INSERT, [("a", b"", 0), (None, b"", 0)]))
    assert names(opened, things) == []


@pytest.mark.async_only
def test_a_cancelled_transaction_leaves_nothing_and_the_store_usable(opened, things):

    async def work():
        inside = asyncio.Event()

        async def hang():
            async with things.transaction() as transaction:
                await transaction.execute(INSERT, ("a", b"", 0))
                inside.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(hang())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await things.execute(INSERT, ("b", b"", 0))

    opened.run(work())
    assert names(opened, things) == ["b"]


@pytest.mark.async_only
def test_concurrent_transactions_do_not_mix(opened, things):

    async def pair(number: int, *, fail: bool):
        async with things.transaction() as transaction:
            await transaction.execute(INSERT, (f"{number}a", b"", 0))
            await asyncio.sleep(0)
            await transaction.execute(INSERT, (f"{number}b", b"", 0))
            if fail:
                raise LookupError

    async def work():
        return await asyncio.gather(*(pair(n, fail=n % 2 == 1) for n in range(20)), return_exceptions=True)

    opened.run(work())
    kept = names(opened, things)
    assert sorted(kept) == sorted(f"{n}{side}" for n in range(0, 20, 2) for side in "ab")


def test_a_refused_statement_is_a_typed_error(opened, sql):
    with pytest.raises(StoreError):
        opened.run(sql.fetch("SELECT * FROM no_such_table"))


def test_migrations_run_once_and_go_on_where_they_stood(opened, sql):
    component = f"c{uuid.uuid4().hex[:8]}"
    first = (f"CREATE TABLE {component} (n INTEGER)",)
    assert opened.run(sql.migrate(component, first)) == 1
    assert opened.run(sql.migrate(component, first)) == 0
    assert opened.run(sql.migrate(component, (*first, f"ALTER TABLE {component} ADD COLUMN m INTEGER"))) == 1
    opened.run(sql.execute(f"INSERT INTO {component} (n, m) VALUES (?, ?)", (1, 2)))


def test_a_failing_step_leaves_nothing_behind(opened, sql):
    component = f"c{uuid.uuid4().hex[:8]}"
    with pytest.raises(StoreError):
        opened.run(sql.migrate(component, (f"CREATE TABLE {component} (n INTEGER);\nNO SUCH STATEMENT",)))
    assert opened.run(sql.migrate(component, (f"CREATE TABLE {component} (n INTEGER)",))) == 1


def test_a_database_newer_than_the_library_is_refused_by_name(opened, sql):
    component = f"c{uuid.uuid4().hex[:8]}"
    steps = tuple(f"CREATE TABLE {component}_{n} (n INTEGER)" for n in range(2))
    opened.run(sql.migrate(component, steps))
    with pytest.raises(StoreError, match=rf"{component} tables are version 2, this library knows 1"):
        opened.run(sql.migrate(component, steps[:1]))


@pytest.mark.between_processes
def test_processes_that_migrate_and_write_at_once_lose_nothing(opened, sql):
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_write, args=(opened.url, n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert opened.run(sql.fetch("SELECT COUNT(*) FROM thing")) == [(40,)]


def _write(url, number):
    store = open_store(url, blocking=True, timeout_s=30)
    drive(store.sql.migrate("things", TABLE))
    for n in range(20):
        drive(store.sql.execute(INSERT, (f"{number}-{n}", b"", 0)))
    drive(store.aclose())


ODD_TEXT = ("a", "tab\tand\nline\r end", "back\\slash \\N \\.", "quote ' \" é 🙂", "", "?", "%s")


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 127, 128, 129, 300])
def test_many_rows_come_back_as_they_were_written_and_in_order(opened, things, count):
    rows = [(f"{n} {ODD_TEXT[n % len(ODD_TEXT)]}", b"\x00\xff\\", None if n % 3 else n / 7) for n in range(count)]
    opened.run(things.insert_rows("thing", ["name", "data", "weight"], rows))
    found = opened.run(things.fetch("SELECT name, data, weight FROM thing ORDER BY id"))
    assert [(name, bytes(data), weight) for name, data, weight in found] == rows


def test_many_rows_are_stored_all_or_none(opened, things):
    rows = [(f"{n}", b"", 0.0) for n in range(200)]
    with pytest.raises(StoreError):
        opened.run(things.insert_rows("thing", ["name", "data", "weight"], [*rows, (None, b"", 0.0)]))
    assert names(opened, things) == []


def test_many_rows_are_part_of_their_transaction(opened, things):
    async def work():
        async with things.transaction() as transaction:
            await transaction.insert_rows("thing", ["name"], [("a",), ("b",)])
            await transaction.insert_rows("thing", ["name", "weight"], [("c", 1.0)])
            raise LookupError

    with pytest.raises(LookupError):
        opened.run(work())
    assert names(opened, things) == []


def test_whole_numbers_and_truths_in_many_rows_are_integers(opened, sql):
    opened.run(sql.migrate("facts", ("CREATE TABLE fact (n BIGINT, yes INTEGER)",)))
    opened.run(sql.insert_rows("fact", ["n", "yes"], [(2**62, True), (-1, False)]))
    assert opened.run(sql.fetch("SELECT n, yes FROM fact ORDER BY n")) == [(-1, 0), (2**62, 1)]
