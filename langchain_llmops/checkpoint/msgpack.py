"""Packed values joined without unpacking them (https://github.com/msgpack/msgpack/blob/master/spec.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["array", "binary", "mapping"]


def array(items: Sequence[bytes]) -> bytes:
    """An array of packed items."""
    return _head(len(items), 0x90, 0xDC) + b"".join(items)


def mapping(items: Mapping[str, bytes]) -> bytes:
    """A map of text keys to packed items."""
    parts = [_head(len(items), 0x80, 0xDE)]
    for key, item in items.items():
        parts += (_text(key), item)
    return b"".join(parts)


def binary(data: bytes) -> bytes:
    """A byte string."""
    return _sized(len(data), 0xC4) + data


def _text(value: str) -> bytes:
    data = value.encode()
    return (bytes((0xA0 | len(data),)) if len(data) < 32 else _sized(len(data), 0xD9)) + data  # noqa: PLR2004 - "fixstr"


def _head(count: int, short: int, long: int) -> bytes:
    if count < 16:  # noqa: PLR2004 - the count is part of the byte
        return bytes((short | count,))
    return bytes((long,)) + count.to_bytes(2) if count < 1 << 16 else bytes((long + 1,)) + count.to_bytes(4)


def _sized(size: int, kind: int) -> bytes:
    for step, width in enumerate((1, 2, 4)):
        if size < 1 << 8 * width:
            return bytes((kind + step,)) + size.to_bytes(width)
    raise ValueError("a value above 4 GiB cannot be packed")
