"""Bytes at rest: what went in comes out, and anything else is one typed error."""

from __future__ import annotations

import copy
import os
import struct
from concurrent.futures import ThreadPoolExecutor

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
SAMPLES = [b'{"order": %d, "city": "%s", "state": "shipped"}' % (n, b"abcdefgh"[n % 7 :]) for n in range(3000)]
DICTIONARY, OTHER = (
    zstandard.train_dictionary(1024, SAMPLES, k=64, d=6, f=16, accel=1, dict_id=number).as_bytes()
    for number in (40_001, 40_002)
)
SHORT = Envelope(dictionary=DICTIONARY)
BOTH = st.sampled_from([PLAIN, SECRET, SHORT, Envelope(dictionary=DICTIONARY, keys={"k1": OLD})])
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


def test_a_dictionary_makes_short_values_shorter() -> None:
    value = b'{"order": 4711, "city": "def", "state": "shipped"} {"order": 4712, "city": "abcd", "state": "lost"}'
    stored = SHORT.seal(value)
    assert stored[3] == room.WITH_DICTIONARY
    assert len(stored) < 0.6 * len(value) < len(PLAIN.seal(value))
    assert SHORT.open(stored) == value


def test_long_values_need_no_dictionary_and_tiny_ones_no_compression() -> None:
    long = b"".join(SAMPLES)[: room.DICTIONARY_BELOW_BYTES]
    assert SHORT.seal(long)[3] == room.ZSTD
    assert SHORT.seal(long[1:])[3] == room.WITH_DICTIONARY
    assert SHORT.seal(long[:63])[3] == 0


def test_one_value_may_be_packed_harder_than_the_rest_and_opens_like_them() -> None:
    long = b"".join(SAMPLES) * 2
    stored = SHORT.seal(long, b"place", level=15)
    assert stored[3] == room.WITH_DICTIONARY
    assert len(stored) < len(SHORT.seal(long))
    assert SHORT.open(stored) == long
    assert PLAIN.open(PLAIN.seal(TEXT, level=15)) == TEXT


def test_values_from_before_the_dictionary_are_opened_with_it() -> None:
    for data in (b"", b"short", TEXT, os.urandom(500)):
        assert SHORT.open(PLAIN.seal(data)) == data


@pytest.mark.parametrize("reader", [PLAIN, Envelope(dictionary=OTHER)], ids=["none", "another"])
def test_a_missing_dictionary_is_named(reader) -> None:
    with pytest.raises(EnvelopeError, match="need compression dictionary 40001, which is not given"):
        reader.open(SHORT.seal(SAMPLES[0] * 3))


@pytest.mark.parametrize("data", [b"", b"no dictionary", b"text " * 1000], ids=range(3))
def test_what_is_no_dictionary_is_refused(data) -> None:
    with pytest.raises(ConfigurationError, match="no zstd dictionary"):
        Envelope(dictionary=data)


def test_threads_share_an_envelope() -> None:
    values = [sample * (n % 40 + 1) for n, sample in enumerate(SAMPLES[:400])]

    def work(turn: int) -> list[bytes]:
        return [SHORT.open(SHORT.seal(value)) for value in values[turn:] + values[:turn]]

    with ThreadPoolExecutor(8) as pool:
        for turn, found in enumerate(pool.map(work, range(16))):
            assert found == values[turn:] + values[:turn]


def test_a_copy_of_an_envelope_opens_what_the_first_sealed() -> None:
    for copied in (copy.copy(SHORT), copy.deepcopy(SHORT)):
        assert copied.open(SHORT.seal(TEXT)) == SHORT.open(copied.seal(TEXT)) == TEXT


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


@pytest.mark.parametrize("flags", [8, 16, 0x80, 0xFF])
def test_flags_of_the_future_are_not_guessed(flags) -> None:
    stored = bytearray(PLAIN.seal(b"data"))
    stored[3] = flags
    with pytest.raises(EnvelopeError):
        PLAIN.open(bytes(stored))


def _sealed_by_someone_else(frame: bytes, monkeypatch) -> bytes:
    """A well-formed value around a hostile compressed frame."""
    with monkeypatch.context() as patch:
        patch.setattr(PLAIN, "_packed", lambda *_: (room.ZSTD, frame))
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


def test_one_that_seals_with_another_key_opens_what_the_first_does_and_the_first_asks_for_its_key() -> None:
    asked = []

    def find_key(key_id: str) -> bytes | None:
        asked.append(key_id)
        return NEW if key_id == "own" else None

    tenant = Envelope(keys={"k1": OLD}, find_key=find_key)
    own = tenant.sealing_with("own", NEW)
    assert own.open(tenant.seal(b"data", b"here"), b"here") == b"data"
    assert not asked
    assert tenant.open(own.seal(b"data", b"here"), b"here") == b"data"
    assert asked == ["own"]
    with pytest.raises(EnvelopeError, match="'gone', which is not configured or was destroyed"):
        tenant.open(tenant.sealing_with("gone", NEW).seal(b"data"))
    with pytest.raises(EnvelopeError, match="failed authentication"):
        tenant.open(own.seal(b"data", b"here"), b"there")
