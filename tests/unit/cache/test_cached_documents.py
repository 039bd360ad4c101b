"""What a search found comes back as it was, whatever it held; what cannot, or is no longer ours, is no hit."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document

from langchain_llmops.cache.documents import decode, encode
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import EnvelopeError
from tests.support.pages import page

HOSTILE = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-2],
    "foreign": lambda data: b"\x80\x04K\x01.",
    "no json": lambda data: Envelope().seal(b"{"),
    "deep": lambda data: Envelope().seal(b"[" * 100_000),
    "another version": lambda data: Envelope().seal(b'{"v":2,"d":[]}'),
    "no list": lambda data: Envelope().seal(b'{"v":1,"d":7}'),
    "no document": lambda data: Envelope().seal(b'{"v":1,"d":[["a",{}]]}'),
    "no text": lambda data: Envelope().seal(b'{"v":1,"d":[[{"a":1},{},null]]}'),
    "no metadata": lambda data: Envelope().seal(b'{"v":1,"d":[["a",[],null]]}'),
    "metadata by code": lambda data: Envelope().seal(b'{"v":1,"d":[["a",{"$":["decimal","1"]},null]]}'),
    "an unknown kind": lambda data: Envelope().seal(b'{"v":1,"d":[["a",{"x":{"$":["os.system","ls"]}},null]]}'),
    "no decimal": lambda data: Envelope().seal(b'{"v":1,"d":[["a",{"x":{"$":["decimal","ls"]}},null]]}'),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_or_damaged_bytes_are_a_miss(make_retriever, pages, shelves, change):
    cached = make_retriever()
    cached.invoke("q")
    await shelves.spoil(change)
    assert cached.invoke("q") == await cached.ainvoke("q") == pages.found
    assert len(pages.asked) == 2
    assert cached.stats()["damaged"] == 1


def test_a_result_that_is_too_large_is_not_kept(make_retriever, pages, shelves):
    pages.found = [page("".join(chr(n * 7919 % 50_000 + 100) for n in range(5000)))]
    assert make_retriever(max_bytes=1000).invoke("q") == pages.found
    assert not shelves.writes


PARIS = datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=1), "Paris"))


class Chapter(Document):
    """A document with a class of its own."""


@pytest.mark.parametrize(
    "document",
    [
        Chapter("x"),
        page(a=object()),
        page(a={1: "x"}),
        page(a={"$": ["decimal", "1"]}),
        page(a=(1, 2)),
        page(a=Fraction(1, 3)),
        page(a=PARIS),
    ],
    ids=lambda document: str(document.metadata)[:20],
)
async def test_what_could_not_be_given_back_as_it_was_is_given_and_not_kept(make_retriever, pages, shelves, document):
    pages.found = [document]
    cached = make_retriever()
    for answer in await asyncio.gather(cached.ainvoke("q"), cached.ainvoke("q")):
        assert answer == [document]
        assert type(answer[0]) is type(document)
    assert cached.invoke("q") == [document]
    assert len(pages.asked) == 3
    assert not shelves.writes


NAMES = st.text(max_size=5).filter(lambda name: name != "$")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.dates()
    | st.datetimes(timezones=st.just(UTC) | st.none()).map(lambda moment: moment.replace(fold=0))
    | st.uuids()
    | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.text(st.characters()), st.dictionaries(NAMES, VALUES), st.none() | st.text())))
def test_documents_come_back_as_they_were(drawn):
    found = [Document(text, metadata=metadata, id=number) for text, metadata, number in drawn]
    again = decode(encode(found, "k", Envelope()), "k", Envelope())
    assert again == found
    assert repr(again) == repr(found)


class Half(float):
    """A number as arrays have them: none of Python's own types."""


def test_a_score_out_of_an_array_is_kept_as_the_number_it_is(make_retriever, pages):
    pages.found = [page("a", Half(0.5))]
    cached = make_retriever(min_score=0.2)
    assert cached.invoke("q") == cached.invoke("q") == [page("a", 0.5)]
    assert type(cached.invoke("q")[0].metadata["score"]) is float
    assert len(pages.asked) == 1


@settings(max_examples=60)
@given(st.binary(max_size=300))
def test_no_bytes_but_ours_are_read(data):
    for stored in (data, Envelope().seal(data)):
        with pytest.raises(EnvelopeError):
            decode(stored, "k", Envelope())


def test_dates_and_decimals_keep_their_kind(make_retriever, pages):
    kinds = {"at": datetime(2024, 1, 2, tzinfo=UTC), "day": date(2024, 1, 2), "usd": Decimal("1.10"), "n": UUID(int=7)}
    pages.found = [page(**kinds)]
    cached = make_retriever()
    cached.invoke("q")
    assert {name: type(value) for name, value in cached.invoke("q")[0].metadata.items()} == {
        name: type(value) for name, value in kinds.items()
    }
    assert len(pages.asked) == 1
