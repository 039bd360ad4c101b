"""The corners of a relational database, on every backend."""

from __future__ import annotations

import asyncio
import random
import threading
import uuid

import pytest

from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import StoreConflictError, StoreError, StoreUnavailableError
from langchain_llmops.stores.base import open_store


@pytest.fixture
def table(opened, sql):
    name = f"t{uuid.uuid4().hex[:8]}"
    steps = (
        f"""CREATE TABLE {name} (
            id {{AUTOKEY}}, label TEXT UNIQUE, body {{BLOB}}, note {{JSON}}, weight {{REAL}}, done INTEGER, big BIGINT
        );
        CREATE INDEX {name}_weight ON {name} (weight);
        """,
    )
    opened.run(sql.migrate(name, steps))
    return name


def insert(table: str) -> str:
    return f"INSERT INTO {table} (label) VALUES (?)"


def labels(opened, sql, table: str) -> list[str]:
    return sorted(row[0] for row in opened.run(sql.fetch(f"SELECT label FROM {table}")))


def test_values_come_back_with_the_same_types_everywhere(opened, sql, table):
    note = '{"b":1,  "a":[true,null,"\\u00fc"]}'
    values = ("naïve 日本", b"\x00\xff", note, 0.1, True, 2**62)
    opened.run(
        sql.execute(f"INSERT INTO {table} (label, body, note, weight, done, big) VALUES (?, ?, ?, ?, ?, ?)", values)
    )
    opened.run(sql.execute(f"INSERT INTO {table} (label) VALUES (?)", (None,)))
    rows = opened.run(sql.fetch(f"SELECT label, body, note, weight, done, big FROM {table} ORDER BY id"))
    assert rows == [("naïve 日本", b"\x00\xff", note, 0.1, 1, 2**62), (None,) * 6]
    assert [type(value) for value in rows[0]] == [str, bytes, str, float, int, int]


def test_rows_touched_are_counted(opened, sql, table):
    opened.run(sql.execute_many(insert(table), [(str(n),) for n in range(5)]))
    assert opened.run(sql.execute(f"UPDATE {table} SET done = ? WHERE label < ?", (False, "3"))) == 3
    assert opened.run(sql.execute(f"DELETE FROM {table} WHERE label = ?", ("absent",))) == 0
    assert opened.run(sql.fetch(f"DELETE FROM {table} WHERE label >= ? RETURNING label", ("3",))) == [("3",), ("4",)]
    opened.run(sql.execute_many(insert(table), []))
    assert labels(opened, sql, table) == ["0", "1", "2"]


def test_the_second_of_a_unique_pair_is_a_conflict(opened, sql, table):
    opened.run(sql.execute(insert(table), ("one",)))
    with pytest.raises(StoreConflictError) as caught:
        opened.run(sql.execute(insert(table), ("one",)))
    assert "LLMOPS_TEST_URL" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["\ud800", "a\x00b"], ids=["surrogate", "nul"])
def test_text_the_database_refuses_is_a_typed_error_or_comes_back(opened, sql, table, text):
    try:
        opened.run(sql.execute(insert(table), (text,)))
    except StoreError as refused:
        said = str(refused)
    else:
        said = ""
    assert ("use bytes" in said, labels(opened, sql, table)) in ((True, []), (False, [text]))
    opened.run(sql.execute(insert(table), ("after",)))


def test_a_number_or_a_thing_the_database_cannot_hold_is_a_typed_error(opened, sql, table):
    for value in (2**80, object(), {"a": 1}):
        with pytest.raises(StoreError):
            opened.run(sql.execute(f"INSERT INTO {table} (big) VALUES (?)", (value,)))
    assert opened.run(sql.fetch(f"SELECT COUNT(*) FROM {table}")) == [(0,)]


@pytest.mark.parametrize("error", [OSError("mine"), ConnectionError("mine"), ValueError("mine"), TimeoutError("mine")])
def test_an_error_of_the_callers_own_passes_through_a_transaction_unchanged(opened, sql, table, error):
    async def work():
        async with sql.transaction() as transaction:
            await transaction.execute(insert(table), ("gone",))
            raise error

    with pytest.raises(type(error)) as caught:
        opened.run(work())
    assert caught.value is error
    assert labels(opened, sql, table) == []


def test_rows_are_never_lost_in_silence_when_a_statement_failed_and_the_caller_went_on(opened, sql, table):
    async def work():
        async with sql.transaction() as transaction:
            await transaction.execute(insert(table), ("kept",))
            with pytest.raises(StoreError):
                await transaction.execute("SELECT nonsense FROM nowhere")

    try:
        opened.run(work())
    except StoreError as refused:
        said = str(refused)
    else:
        said = ""
    assert ("nothing was stored" in said, labels(opened, sql, table)) in ((True, []), (False, ["kept"]))


def test_a_transaction_reads_what_it_has_written_and_others_do_not(opened, sql, table):
    async def work():
        async with sql.transaction() as transaction:
            await transaction.execute(insert(table), ("inside",))
            inside = await transaction.fetch(f"SELECT label FROM {table}")
        return inside, await sql.fetch(f"SELECT label FROM {table}")

    assert opened.run(work()) == ([("inside",)], [("inside",)])


@pytest.mark.async_only
def test_cancelling_transactions_anywhere_keeps_them_whole_and_the_store_usable(opened, sql, table):
    draw = random.Random(7)

    async def pair(number: int):
        async with sql.transaction() as transaction:
            await transaction.execute(insert(table), (f"{number}-a",))
            await asyncio.sleep(0)
            await transaction.execute(insert(table), (f"{number}-b",))

    async def work():
        for batch in range(15):
            tasks = [asyncio.create_task(pair(batch * 10 + n)) for n in range(10)]
            for task in tasks:
                for _ in range(draw.randrange(6)):
                    await asyncio.sleep(draw.choice((0, 0, 0.001)))
                if draw.random() < 0.6:
                    task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await sql.execute(insert(table), ("end",))

    opened.run(work())
    found = labels(opened, sql, table)
    assert found.pop() == "end"
    assert {f"{label[:-1]}{side}" for label in found for side in "ab"} == set(found)


@pytest.mark.async_only
def test_cancelling_those_who_wait_for_a_transaction_leaves_the_store_usable(opened, sql, table):
    async def wait_for_it():
        async with sql.transaction() as transaction:
            await transaction.execute(insert(table), (uuid.uuid4().hex,))

    async def work():
        async with sql.transaction() as transaction:
            waiting = [asyncio.create_task(wait_for_it()) for _ in range(20)]
            await asyncio.sleep(0.01)
            for task in waiting:
                task.cancel()
            ended = await asyncio.gather(*waiting, return_exceptions=True)
            await transaction.execute(insert(table), ("mine",))
        await sql.execute(insert(table), ("after",))
        return sum(1 for result in ended if result is None)

    finished = opened.run(work())
    found = labels(opened, sql, table)
    assert {"mine", "after"} <= set(found)
    assert finished <= len(found) - 2 <= 20  # one that is cancelled while it commits may have committed


def test_eight_threads_that_migrate_at_once_run_each_step_once(opened, sql):
    if opened.url == "memory://":
        pytest.skip("one memory is not shared by several stores")
    name = f"t{uuid.uuid4().hex[:8]}"
    steps = (f"CREATE TABLE {name} (n INTEGER)", f"ALTER TABLE {name} ADD COLUMN m INTEGER")
    ran: list[int] = []

    def migrate():
        store = open_store(opened.url, blocking=True, timeout_s=30)
        ran.append(drive(store.sql.migrate(name, steps)))
        drive(store.aclose())

    threads = [threading.Thread(target=migrate) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ran) == [0] * 7 + [2]


def test_a_step_may_end_in_a_semicolon_and_hold_blank_lines(opened, sql):
    name = f"t{uuid.uuid4().hex[:8]}"
    step = f"\nCREATE TABLE {name} (n INTEGER, t TEXT DEFAULT '{{x}};');\n\n\nCREATE INDEX {name}_n ON {name} (n); \n"
    assert opened.run(sql.migrate(name, (step,))) == 1
    opened.run(sql.execute(f"INSERT INTO {name} (n) VALUES (?)", (1,)))
    assert opened.run(sql.fetch(f"SELECT t FROM {name}")) == [("{x};",)]


@pytest.mark.async_only
def test_a_statement_outside_the_transaction_it_stands_in_ends_in_an_error_or_an_answer(opened, sql, table):
    """On one connection it would wait for itself."""
    store = open_store(opened.url, setting="LLMOPS_TEST_URL", timeout_s=0.2)

    async def work():
        async with store.sql.transaction() as transaction:
            if opened.url == "memory://":
                await transaction.execute("CREATE TABLE thing (n INTEGER)")
            try:
                return await asyncio.wait_for(store.sql.fetch("SELECT 1"), 20)
            except StoreUnavailableError as error:
                return "is busy" in str(error) and "try again" in str(error)
            finally:
                await transaction.fetch("SELECT 1")

    async def whole():
        try:
            return await work()
        finally:
            await store.aclose()

    assert opened.run(whole()) in (True, [(1,)])
