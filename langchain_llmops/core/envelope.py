"""Bytes at rest: versioned, compressed, optionally encrypted.

Layout: magic `LO`, version (1 byte), flags (1 byte: 1 = zstd, 2 = AES-256-GCM), then the body. A plain body begins with
the CRC-32 of flags and content (4 bytes, big-endian): damage is found, forgery is not. An encrypted body is key-id
length (1 byte), key id, 12-byte nonce, ciphertext; the header and the caller's `context` are authenticated, so a value
moved to another place does not open there.
"""

from __future__ import annotations

import os
import threading
import zlib
from typing import TYPE_CHECKING, Final

import zstandard

from langchain_llmops.core.errors import ConfigurationError, EnvelopeError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = ["Envelope"]

MAGIC: Final = b"LO"
VERSION: Final = 1
ZSTD: Final = 1
ENCRYPTED: Final = 2
HEADER_BYTES: Final = 4
CHECKSUM_BYTES: Final = 4
NONCE_BYTES: Final = 12
KEY_BYTES: Final = 32
COMPRESS_FROM_BYTES: Final = 64
_OF_THREAD: Final = threading.local()
MAX_BYTES: Final = 256 * 1024 * 1024


class Envelope:
    """Seals and opens stored bytes.

    Args:
        level: zstd level.
        compress_from: shorter data is stored as it is, where to read it fast is worth more than its bytes.
        keys: AES-256 keys (32 bytes each) by key id; needs the `encryption` extra.
        key_id: the key that seals; all keys open, so a key can be rotated. With keys given, plaintext is refused.
    """

    def __init__(
        self,
        *,
        level: int = 3,
        compress_from: int = COMPRESS_FROM_BYTES,
        keys: Mapping[str, bytes] | None = None,
        key_id: str | None = None,
    ) -> None:
        self._level = level
        self._compress_from = compress_from
        self._ciphers = {name: _cipher(name, key) for name, key in (keys or {}).items()}
        self._key_id = key_id or next(iter(self._ciphers), None)
        if self._key_id is not None and self._key_id not in self._ciphers:
            raise ConfigurationError(f"encryption key id {self._key_id!r} has no key; add it to the keys")

    def seal(self, data: bytes, context: bytes = b"") -> bytes:
        """The stored form of `data`; `context` must be given again to open an encrypted value."""
        packed = zstandard.compress(data, self._level) if len(data) >= self._compress_from else data
        flags = ZSTD if len(packed) < len(data) else 0
        body = packed if flags else data
        if self._key_id is None:
            return MAGIC + bytes((VERSION, flags)) + _checksum(flags, body) + body
        header = MAGIC + bytes((VERSION, flags | ENCRYPTED))
        name = self._key_id.encode()
        nonce = os.urandom(NONCE_BYTES)
        sealed = self._ciphers[self._key_id].encrypt(nonce, body, header + context)
        return header + bytes((len(name),)) + name + nonce + sealed

    def open(self, stored: bytes, context: bytes = b"") -> bytes:
        """The bytes sealed in `stored`; raises `EnvelopeError` on anything foreign, damaged or unreadable."""
        if len(stored) < HEADER_BYTES or stored[:2] != MAGIC:
            raise EnvelopeError("stored bytes are not an llmops envelope")
        if stored[2] != VERSION:
            raise EnvelopeError(f"envelope version {stored[2]} is not readable by this library (it reads {VERSION})")
        flags = stored[3]
        if flags & ~(ZSTD | ENCRYPTED):
            raise EnvelopeError("envelope flags are not readable by this library; upgrade it")
        body = stored[HEADER_BYTES:]
        if flags & ENCRYPTED:
            body = self._decrypt(stored[:HEADER_BYTES], body, context)
        elif self._ciphers:
            raise EnvelopeError("stored bytes are plaintext, and this store is configured to hold ciphertext only")
        else:
            body = _proven(flags, body)
        return _decompress(body) if flags & ZSTD else bytes(body)

    def _decrypt(self, header: bytes, body: bytes, context: bytes) -> bytes:
        size = body[0] if body else 0
        name = body[1 : 1 + size].decode(errors="replace")
        cipher = self._ciphers.get(name)
        if cipher is None:
            raise EnvelopeError(f"stored bytes need encryption key {name!r}, which is not configured")
        nonce, sealed = body[1 + size : 1 + size + NONCE_BYTES], body[1 + size + NONCE_BYTES :]
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - present whenever a cipher is

        try:
            return cipher.decrypt(nonce, sealed, header + context)
        except (InvalidTag, ValueError) as error:
            raise EnvelopeError("stored bytes failed authentication (damaged, forged or moved)") from error


def _checksum(flags: int, body: bytes) -> bytes:
    return zlib.crc32(body, flags).to_bytes(CHECKSUM_BYTES, "big")


def _proven(flags: int, body: bytes) -> bytes:
    content = body[CHECKSUM_BYTES:]
    if body[:CHECKSUM_BYTES] != _checksum(flags, content):
        raise EnvelopeError("stored bytes are damaged (checksum)")
    return content


def _decompress(body: bytes) -> bytes:
    try:
        if zstandard.get_frame_parameters(body).content_size > MAX_BYTES:
            raise EnvelopeError(f"stored bytes expand beyond {MAX_BYTES} bytes")
        return _decompressor().decompress(body, max_output_size=MAX_BYTES)
    except zstandard.ZstdError as error:
        raise EnvelopeError("stored bytes are damaged (decompression failed)") from error


def _decompressor() -> zstandard.ZstdDecompressor:
    """One for each thread: making one takes longer than unpacking a small value, and threads cannot share one."""
    found: zstandard.ZstdDecompressor | None = getattr(_OF_THREAD, "decompressor", None)
    if found is None:
        found = _OF_THREAD.decompressor = zstandard.ZstdDecompressor()
    return found


def _cipher(name: str, key: bytes) -> AESGCM:
    if len(key) != KEY_BYTES or len(name.encode()) > 255:  # noqa: PLR2004 - the length is one byte
        raise ConfigurationError(f"encryption key {name!r} must be {KEY_BYTES} bytes")
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError("encryption at rest", "encryption") from error
    return AESGCM(key)
