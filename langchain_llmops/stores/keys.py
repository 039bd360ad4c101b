"""What a key, a time to live and a counter are, in every key-value store alike."""

from __future__ import annotations

import hashlib
import math
from typing import Final

from langchain_llmops.core.errors import ConfigurationError, StoreError

__all__ = ["NOT_A_COUNTER", "added", "key_bytes", "milliseconds", "short_key"]

LONGEST_KEY: Final = 512
LONGEST_TTL_S: Final = 100 * 366 * 86400.0
COUNTER_LIMIT: Final = 2**63
NOT_A_COUNTER: Final = "the value under this key is no counter (a decimal number of 64 bits)"


def key_bytes(key: str) -> bytes:
    """Any text as bytes, lone surrogates and NUL too."""
    return key.encode("utf-8", "surrogatepass")


def short_key(key: str) -> bytes:
    """`key_bytes`, hashed when longer than an index entry may be; 0xff begins no UTF-8, so the two never meet."""
    data = key_bytes(key)
    return data if len(data) <= LONGEST_KEY else b"\xff" + hashlib.sha512(data).digest()


def milliseconds(ttl_s: float) -> int:
    """A time to live as whole milliseconds, at least 1; raises `ConfigurationError` unless it is above zero."""
    if not (math.isfinite(ttl_s) and ttl_s > 0):
        raise ConfigurationError(f"a time to live must be a number of seconds above 0, not {ttl_s}")
    return max(1, round(min(ttl_s, LONGEST_TTL_S) * 1000))


def added(value: bytes | None, by: int) -> int:
    """A counter's stored value plus `by`; raises `StoreError` for what is no counter."""
    text = value if value is not None else b"0"
    digits = text[1:] if text.startswith(b"-") else text
    if digits.isdigit() and len(digits) <= len(str(COUNTER_LIMIT)):
        total = int(text) + by
        if -COUNTER_LIMIT <= total < COUNTER_LIMIT:
            return total
    raise StoreError(NOT_A_COUNTER)
