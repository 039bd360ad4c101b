"""Lists as parameters, which PostgreSQL takes as arrays."""

from __future__ import annotations

import pytest
from psycopg.types.array import ListDumper

from tests.support.callers import Caller

LISTS = {
    "bytes": ("bytea", [b"a", b"\x00\xff\\", b""]),
    "bytes and none": ("bytea", [None, b"a", None]),
    "only none": ("bytea", [None, None]),
    "empty": ("bytea", []),
    "small numbers": ("bigint", [1, 2, -3]),
    "numbers of every size": ("bigint", [1, None, 2**62, -(2**63)]),
    "only none, of numbers": ("bigint", [None]),
    "no number": ("bigint", []),
    "fractions": ("float8", [0.5, None, 2.0]),
}


@pytest.fixture(params=[False, True], ids=["async", "blocking"])
def caller(request, postgres_url):
    with Caller(postgres_url, blocking=request.param) as caller:
        yield caller


@pytest.mark.parametrize(("kind", "given"), LISTS.values(), ids=LISTS)
def test_a_list_arrives_as_it_was_given(caller, kind, given):
    sql = caller.store.sql
    for _ in range(7):  # prepared by then
        assert caller.run(sql.fetch(f"SELECT ?::{kind}[]", (given,))) == [(given,)]


def test_lists_of_many_rows_are_stored_by_one_statement(caller):
    sql = caller.store.sql
    caller.run(sql.migrate("arrays", ("CREATE TABLE many (name BYTEA, n BIGINT)",)))
    names, numbers = [b"%d\x00" % n for n in range(500)], [n if n % 3 else None for n in range(500)]
    insert = "INSERT INTO many SELECT * FROM unnest(?::bytea[], ?::bigint[])"
    assert caller.run(sql.execute(insert, (names, numbers))) == 500
    found = caller.run(sql.fetch("SELECT name, n FROM many WHERE name = ANY(?::bytea[])", (names[:50],)))
    assert sorted(found) == sorted(zip(names[:50], numbers[:50], strict=True))


def test_what_is_in_a_list_goes_in_binary(caller, monkeypatch):
    def refuse(*_):
        raise AssertionError("as text")

    monkeypatch.setattr(ListDumper, "dump", refuse)
    for given in ([b"a", None], [1, None]):
        assert caller.run(caller.store.sql.fetch("SELECT ?", (given,))) == [(given,)]
