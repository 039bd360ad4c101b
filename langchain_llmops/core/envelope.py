"""Bytes at rest: versioned, compressed, optionally encrypted.

Layout: magic `LO`, version (1 byte), flags (1 byte: 1 = zstd, 2 = AES-256-GCM, 4 = zstd with a dictionary, whose id is
in its frame), then the body. A plain body begins with
the CRC-32 of flags and content (4 bytes, big-endian): damage is found, forgery is not. An encrypted body is key-id
length (1 byte), key id, 12-byte nonce, ciphertext; the header and the caller's `context` are authenticated, so a value
moved to another place does not open there.
"""

from __future__ import annotations

import copy
import os
import threading
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import zstandard

from langchain_llmops.core.errors import ConfigurationError, EnvelopeError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Envelope"]

MAGIC: Final = b"LO"
VERSION: Final = 1
ZSTD: Final = 1
ENCRYPTED: Final = 2
WITH_DICTIONARY: Final = 4
COMPRESSED: Final = ZSTD | WITH_DICTIONARY
FLAGS: Final = COMPRESSED | ENCRYPTED
HEADER_BYTES: Final = 4
CHECKSUM_BYTES: Final = 4
NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32
COMPRESS_FROM_BYTES: Final = 64
DICTIONARY_BELOW_BYTES: Final = 65_536  # what is longer holds more of its own than a dictionary could tell
MAX_BYTES: Final = 256 * 1024 * 1024


class Envelope:
    """Seals and opens stored bytes.

    Args:
        level: zstd level.
        compress_from: shorter data is stored as it is, where to read it fast is worth more than its bytes.
        keys: AES-256 keys (32 bytes each) by key id; needs the `encryption` extra.
        key_id: the key that seals; all keys open, so a key can be rotated. With keys given, plaintext is refused.
        dictionary: a zstd dictionary for short data; what was sealed with it needs it to be opened.
        find_key: asked for a key by its id when `keys` has none of that id; only to open.
    """

    def __init__(
        self,
        *,
        level: int = 3,
        compress_from: int = COMPRESS_FROM_BYTES,
        keys: Mapping[str, bytes] | None = None,
        key_id: str | None = None,
        dictionary: bytes | None = None,
        find_key: Callable[[str], bytes | None] | None = None,
    ) -> None:
        self._dictionary = dictionary
        self._plain = _zstd(level)
        self._short = _zstd(level, dictionary)
        self._compress_from = compress_from
        self._ciphers = {name: _cipher(name, key) for name, key in (keys or {}).items()}
        self._find_key = find_key
        self._seals: tuple[bytes, AESGCM] | None = None
        name = key_id or next(iter(self._ciphers), None)
        if name is not None:
            if name not in self._ciphers:
                raise ConfigurationError(f"encryption key id {name!r} has no key; add it to the keys")
            self._seals = (name.encode(), self._ciphers[name])

    def sealing_with(self, key_id: str, key: bytes) -> Envelope:
        """One that seals with another key, and opens what this one does."""
        made = copy.copy(self)
        made._seals = (key_id.encode(), _cipher(key_id, key))  # noqa: SLF001 - a copy of this one
        return made

    def seal(self, data: bytes, context: bytes = b"", *, level: int | None = None) -> bytes:
        """The stored form of `data`; `context` must be given again to open an encrypted value.

        `level` is another than the envelope's, for data that is read seldom; the dictionary then serves any length.
        """
        flags, body = (0, data) if len(data) < self._compress_from else self._packed(data, level)
        if self._seals is None:
            return MAGIC + bytes((VERSION, flags)) + _checksum(flags, body) + body
        header = MAGIC + bytes((VERSION, flags | ENCRYPTED))
        name, cipher = self._seals
        nonce = os.urandom(NONCE_BYTES)
        sealed = cipher.encrypt(nonce, body, header + context)
        return header + bytes((len(name),)) + name + nonce + sealed

    def open(self, stored: bytes, context: bytes = b"") -> bytes:
        """The bytes sealed in `stored`; raises `EnvelopeError` on anything foreign, damaged or unreadable."""
        if len(stored) < HEADER_BYTES or stored[:2] != MAGIC:
            raise EnvelopeError("stored bytes are not an llmops envelope")
        if stored[2] != VERSION:
            raise EnvelopeError(f"envelope version {stored[2]} is not readable by this library (it reads {VERSION})")
        flags = stored[3]
        if flags & ~FLAGS:
            raise EnvelopeError("envelope flags are not readable by this library; upgrade it")
        body = stored[HEADER_BYTES:]
        if flags & ENCRYPTED:
            body = self._decrypt(stored[:HEADER_BYTES], body, context)
        elif self._ciphers:
            raise EnvelopeError(
                "stored bytes are plaintext, and this store is configured to hold ciphertext only;"
                " use keys with a new store, or none with this one"
            )
        else:
            body = _proven(flags, body)
        return self._unpacked(flags, body) if flags & COMPRESSED else bytes(body)

    def _packed(self, data: bytes, level: int | None) -> tuple[int, bytes]:
        if level is not None:
            zstd = _zstd(level, self._dictionary)
        else:
            zstd = self._short if len(data) < DICTIONARY_BELOW_BYTES else self._plain
        packed = zstd.compressor().compress(data)
        return (zstd.flag, packed) if len(packed) < len(data) else (0, data)

    def _unpacked(self, flags: int, body: bytes) -> bytes:
        zstd = self._short if flags & WITH_DICTIONARY else self._plain
        try:
            frame = zstandard.get_frame_parameters(body)
            if frame.dict_id != zstd.dictionary_id:
                raise EnvelopeError(f"stored bytes need compression dictionary {frame.dict_id}, which is not given")
            if frame.content_size > MAX_BYTES:
                raise EnvelopeError(f"stored bytes expand beyond {MAX_BYTES} bytes")
            return zstd.decompressor().decompress(body, max_output_size=MAX_BYTES)
        except zstandard.ZstdError as error:
            raise EnvelopeError("stored bytes are damaged (decompression failed)") from error

    def _decrypt(self, header: bytes, body: bytes, context: bytes) -> bytes:
        size = body[0] if body else 0
        name = body[1 : 1 + size].decode(errors="replace")
        cipher = self._ciphers.get(name) or self._found(name)
        if cipher is None:
            raise EnvelopeError(f"stored bytes need encryption key {name!r}, which is not configured or was destroyed")
        nonce, sealed = body[1 + size : 1 + size + NONCE_BYTES], body[1 + size + NONCE_BYTES :]
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - present whenever a cipher is

        try:
            return cipher.decrypt(nonce, sealed, header + context)
        except (InvalidTag, ValueError) as error:
            raise EnvelopeError("stored bytes failed authentication (damaged, forged or moved)") from error

    def _found(self, name: str) -> AESGCM | None:
        key = self._find_key(name) if self._find_key is not None else None
        return None if key is None else _cipher(name, key)


def _checksum(flags: int, body: bytes) -> bytes:
    return zlib.crc32(body, flags).to_bytes(CHECKSUM_BYTES, "big")


def _proven(flags: int, body: bytes) -> bytes:
    content = body[CHECKSUM_BYTES:]
    if body[:CHECKSUM_BYTES] != _checksum(flags, content):
        raise EnvelopeError("stored bytes are damaged (checksum)")
    return content


class _Zstd:
    """Compressors and decompressors of one kind, one for each thread.

    Threads cannot share one, and making one takes longer than using it on a short value.
    """

    def __init__(self, level: int, dictionary: bytes | None) -> None:
        self._made_of = (level, dictionary)
        self._level = level
        self._dictionary = None if dictionary is None else _dictionary(dictionary, level)
        self._of_thread = threading.local()
        self.dictionary_id = 0 if self._dictionary is None else self._dictionary.dict_id()
        self.flag = ZSTD if dictionary is None else WITH_DICTIONARY

    def __reduce__(self) -> tuple[Callable[..., _Zstd], tuple[int, bytes | None]]:
        """A copy of an envelope, in another process too, has the same kind."""
        return _zstd, self._made_of

    def compressor(self) -> zstandard.ZstdCompressor:
        found: zstandard.ZstdCompressor | None = getattr(self._of_thread, "compressor", None)
        if found is None:
            found = zstandard.ZstdCompressor(self._level, dict_data=self._dictionary)
            self._of_thread.compressor = found
        return found

    def decompressor(self) -> zstandard.ZstdDecompressor:
        found: zstandard.ZstdDecompressor | None = getattr(self._of_thread, "decompressor", None)
        if found is None:
            found = self._of_thread.decompressor = zstandard.ZstdDecompressor(dict_data=self._dictionary)
        return found


@lru_cache(maxsize=32)
def _zstd(level: int, dictionary: bytes | None = None) -> _Zstd:
    """Shared by all envelopes."""
    return _Zstd(level, dictionary)


def _dictionary(data: bytes, level: int) -> zstandard.ZstdCompressionDict:
    """Made ready once for all threads."""
    made = zstandard.ZstdCompressionDict(data)
    if not made.dict_id():
        raise ConfigurationError("the compression dictionary is no zstd dictionary; make one with zstd --train")
    made.precompute_compress(level)
    return made


def _cipher(name: str, key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES or len(name.encode()) > 255:  # noqa: PLR2004 - the length is one byte
        raise ConfigurationError(f"encryption key {name!r} must be {KEY_BYTES} bytes")
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("encryption at rest", "encryption") from error
    return AESGCM(key)
