"""A kept vector is what the provider gave to the last bit; what is no such vector is no hit."""

from __future__ import annotations

import math
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_llmops.cache.embeddings import CachedEmbeddings
from langchain_llmops.cache.vectors import HEADER, decode, encode
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import MalformedAnswerError
from tests.support.cache import Clock
from tests.support.shelves import MemoryShelves
from tests.support.words import Words


@settings(max_examples=100)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_a_hit_is_the_vector_that_the_provider_gave_to_the_last_bit(vector):
    shelves = MemoryShelves(Clock())

    class One(Words):
        def embed_documents(self, texts):
            self.calls.append(texts)
            return [vector for _ in texts]

    cached = CachedEmbeddings(One(), shelves, shelves, model="one")
    first, second = cached.embed_documents(["a"]), cached.embed_documents(["a"])
    assert [number.hex() for number in first[0]] == [number.hex() for number in vector]
    assert [number.hex() for number in second[0]] == [number.hex() for number in vector]
    assert cached.stats()["calls"] == 1


@pytest.mark.parametrize("answer", [[], [[1.0]], [[1.0]] * 3, [[1.0], [1.0, 2.0]], [[], []], None, [["a"], ["b"]], 7])
async def test_another_number_or_shape_of_vectors_is_a_typed_error_and_keeps_nothing(
    words, make_embeddings, shelves, answer
):
    words.embed_documents = lambda texts: answer
    with pytest.raises(MalformedAnswerError):
        await make_embeddings().aembed_documents(["a", "b"])
    with pytest.raises(MalformedAnswerError):
        make_embeddings().embed_documents(["a", "b"])
    assert not shelves.writes


async def test_a_vector_that_is_no_number_is_given_and_not_kept(words, make_embeddings, shelves):
    words.embed_documents = lambda texts: [[float("nan"), 1.0]]
    cached = make_embeddings()
    assert math.isnan((await cached.aembed_documents(["a"]))[0][0])
    assert not shelves.writes
    assert cached.stats()["unstored"] == 1


HOSTILE = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-3],
    "foreign": lambda data: b"\x80\x04K\x01.",
    "flipped": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "sealed but empty": lambda data: Envelope().seal(b""),
    "too few numbers": lambda data: Envelope().seal(HEADER.pack(1, b"d", 3) + bytes(16)),
    "a bomb": lambda data: Envelope().seal(HEADER.pack(1, b"f", 2**24) + bytes(2**26)),
    "no number": lambda data: Envelope().seal(HEADER.pack(1, b"f", 3) + b"\xff" * 12),
    "another type": lambda data: Envelope().seal(HEADER.pack(1, b"u", 3) + bytes(12)),
    "a later version": lambda data: Envelope().seal(HEADER.pack(2, b"f", 3) + bytes(12)),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_or_damaged_bytes_are_a_miss(words, make_embeddings, shelves, change):
    assert await make_embeddings().aembed_documents(["a"]) == [words.vector("a")]
    await shelves.spoil(change)
    cached = make_embeddings()
    assert await cached.aembed_documents(["a"]) == [words.vector("a")]
    assert cached.stats()["damaged"] == 1
    assert cached.embed_documents(["a"]) == [words.vector("a")]
    assert len(words.calls) == 2


async def test_an_encrypted_entry_that_was_moved_to_another_text_is_a_miss(words, make_embeddings, shelves):
    cached = make_embeddings(envelope=Envelope(keys={"k": b"k" * 32}))
    await cached.aembed_documents(["a", "bb"])
    (one, two) = await shelves.everything()
    await shelves.items.set(one, await shelves.items.get(two))
    assert await cached.aembed_documents(["a", "bb"]) == [words.vector("a"), words.vector("bb")]
    assert cached.stats()["damaged"] == 1


async def test_vectors_of_another_size_are_never_mixed_nor_believed(words, make_embeddings):
    old = make_embeddings()
    await old.aembed_documents(["a", "b"])
    words.size = 5
    mixed = make_embeddings()  # a new process: it cannot know yet
    assert {len(vector) for vector in await mixed.aembed_documents(["a", "c"])} == {5}
    assert {len(vector) for vector in await mixed.aembed_documents(["b"])} == {5}
    assert len(mixed.embed_documents(["b"])[0]) == 5
    words.size = 3
    assert {len(vector) for vector in make_embeddings().embed_documents(["d", "a"])} == {3}


def test_a_vector_is_as_short_as_it_can_be_without_loss():
    short, long = (encode(array("d", [x] * 9), "k", Envelope(keys={"k": b"k" * 32})) for x in (0.5, 0.1))
    assert decode(short, "k", envelope := Envelope(keys={"k": b"k" * 32})) == array("d", [0.5] * 9)
    assert envelope.open(short, b"k")[1:2] == b"f"
    assert envelope.open(long, b"k")[1:2] == b"d"
