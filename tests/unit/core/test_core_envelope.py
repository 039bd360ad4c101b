"""Bytes at rest: what went in comes out, and anything else is one typed error."""

from __future__ import annotations

import os
import struct

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_llmops.core import envelope as room
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import ConfigurationError, EnvelopeError

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
PLAIN = Envelope()
SECRET = Envelope(keys={"k1": OLD})
BOTH = st.sampled_from([PLAIN, SECRET])
TEXT = b"the quick brown fox " * 40


@given(BOTH, st.binary(max_size=2000) | st.binary(max_size=20).map(lambda part: part * 200), st.binary(max_size=20))
def test_what_went_in_comes_out(envelope, data, context) -> None:
    assert envelope.open(envelope.seal(data, context), context) == data


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_ciphertext_never_repeats(data, context) -> None:
    assert SECRET.seal(data, context) != SECRET.seal(data, context)


def test_long_text_is_stored_shorter_and_noise_no_longer() -> None:
    noise = os.urandom(1000)
    assert len(PLAIN.seal(TEXT)) < len(TEXT) / 4
    assert len(PLAIN.seal(noise)) <= len(noise) + 16
    assert len(PLAIN.seal(b"")) <= 16


def test_a_secret_is_not_readable_at_rest() -> None:
    stored = SECRET.seal(b"card 4111 1111 1111 1111")
    assert b"4111" not in stored
    assert b"k1" in stored  # the key's name is, so that a key can be found


@given(st.binary(max_size=300), st.integers(min_value=0), st.integers(0, 7))
def test_a_flipped_bit_of_a_secret_is_found(data, place, bit) -> None:
    stored = bytearray(SECRET.seal(data))
    stored[place % len(stored)] ^= 1 << bit
    with pytest.raises(EnvelopeError):
        SECRET.open(bytes(stored))


@given(st.binary(max_size=300) | st.just(TEXT), st.integers(min_value=0), st.integers(0, 7))
def test_a_flipped_bit_of_a_plain_value_is_found(data, place, bit) -> None:
    """A cached answer or a checkpoint that says something else must not be believed."""
    stored = bytearray(PLAIN.seal(data))
    stored[place % len(stored)] ^= 1 << bit
    with pytest.raises(EnvelopeError):
        PLAIN.open(bytes(stored))


@given(BOTH, st.binary(max_size=300) | st.just(TEXT), st.integers(min_value=0))
def test_a_value_that_was_cut_is_found(envelope, data, place) -> None:
    stored = envelope.seal(data)
    with pytest.raises(EnvelopeError):
        envelope.open(stored[: place % len(stored)])


@given(BOTH, st.binary(max_size=300) | st.just(TEXT), st.binary(min_size=1, max_size=20))
def test_a_value_with_something_after_it_is_found(envelope, data, more) -> None:
    with pytest.raises(EnvelopeError):
        envelope.open(envelope.seal(data) + more)


@settings(max_examples=300)
@given(BOTH, st.binary(max_size=200) | st.binary(max_size=200).map(lambda tail: b"LO\x01" + tail))
def test_foreign_bytes_are_one_typed_error(envelope, stored) -> None:
    try:
        opened = envelope.open(stored)
    except EnvelopeError as error:
        assert "\n" not in str(error)
    else:
        assert envelope.open(envelope.seal(opened)) == opened


def test_a_value_moved_to_another_place_does_not_open_there() -> None:
    stored = SECRET.seal(b"data", b"thread-1")
    assert SECRET.open(stored, b"thread-1") == b"data"
    with pytest.raises(EnvelopeError, match="forged or moved"):
        SECRET.open(stored, b"thread-2")


def test_the_wrong_key_does_not_open() -> None:
    with pytest.raises(EnvelopeError, match="failed authentication"):
        Envelope(keys={"k1": NEW}).open(SECRET.seal(b"data"))


def test_a_missing_key_is_named() -> None:
    for reader in (PLAIN, Envelope(keys={"k2": NEW})):
        with pytest.raises(EnvelopeError, match="need encryption key 'k1', which is not configured"):
            reader.open(SECRET.seal(b"data"))


def test_a_key_can_be_rotated() -> None:
    rotated = Envelope(keys={"k1": OLD, "k2": NEW}, key_id="k2")
    assert rotated.open(SECRET.seal(b"old")) == b"old"
    stored = rotated.seal(b"new")
    assert Envelope(keys={"k2": NEW}).open(stored) == b"new"
    with pytest.raises(EnvelopeError, match="'k2'"):
        SECRET.open(stored)


def test_with_keys_plaintext_is_refused() -> None:
    with pytest.raises(EnvelopeError, match="ciphertext only"):
        SECRET.open(PLAIN.seal(b"planted"))


def test_another_version_says_so() -> None:
    stored = bytearray(PLAIN.seal(b"data"))
    stored[2] = 9
    with pytest.raises(EnvelopeError, match="version 9 is not readable"):
        PLAIN.open(bytes(stored))


@pytest.mark.parametrize("flags", [4, 8, 0x80, 0xFF])
def test_flags_of_the_future_are_not_guessed(flags) -> None:
    stored = bytearray(PLAIN.seal(b"data"))
    stored[3] = flags
    with pytest.raises(EnvelopeError):
        PLAIN.open(bytes(stored))


def _sealed_by_someone_else(frame: bytes, monkeypatch) -> bytes:
    """A well-formed value around a hostile compressed frame."""
    with monkeypatch.context() as patch:
        patch.setattr(room.zstandard, "compress", lambda *_: frame)
        return PLAIN.seal(bytes(1_000_000))


def test_a_bomb_does_not_go_off(monkeypatch) -> None:
    monkeypatch.setattr(room, "MAX_BYTES", 10_000)
    assert PLAIN.open(PLAIN.seal(bytes(10_000))) == bytes(10_000)
    with pytest.raises(EnvelopeError, match="expand beyond 10000 bytes"):
        PLAIN.open(PLAIN.seal(bytes(10_001)))


def test_a_bomb_that_hides_its_size_does_not_go_off(monkeypatch) -> None:
    monkeypatch.setattr(room, "MAX_BYTES", 10_000)
    packer = zstandard.ZstdCompressor(write_content_size=False)
    with pytest.raises(EnvelopeError):
        PLAIN.open(_sealed_by_someone_else(packer.compress(bytes(1_000_000)), monkeypatch))


def test_a_bomb_that_lies_about_its_size_does_not_go_off(monkeypatch) -> None:
    monkeypatch.setattr(room, "MAX_BYTES", 10_000)
    frame = bytearray(zstandard.compress(bytes(1_000_000)))
    size = zstandard.get_frame_parameters(bytes(frame)).content_size
    where = frame.index(struct.pack("<I", size))
    frame[where : where + 4] = struct.pack("<I", 100)
    with pytest.raises(EnvelopeError):
        PLAIN.open(_sealed_by_someone_else(bytes(frame), monkeypatch))


@pytest.mark.parametrize("key", [b"", b"short", bytes(31), bytes(33)])
def test_a_key_of_the_wrong_length_is_named(key) -> None:
    with pytest.raises(ConfigurationError, match="encryption key 'k1' must be 32 bytes"):
        Envelope(keys={"k1": key})


def test_a_key_id_without_a_key_is_named() -> None:
    with pytest.raises(ConfigurationError, match="encryption key id 'k9' has no key"):
        Envelope(keys={"k1": OLD}, key_id="k9")


def test_keys_never_appear_in_a_repr() -> None:
    assert OLD.hex() not in repr(SECRET)
    assert repr(OLD) not in repr(vars(SECRET))
