"""What others have written to a Redis, read once and by SCAN: no part of serving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeAlias

    Ask: TypeAlias = "Callable[..., Awaitable[list[Any]]]"

__all__ = ["documents", "scan"]

AT_ONCE: Final = 64


async def scan(ask: Ask, pattern: bytes) -> list[tuple[str, str]]:
    """Keys that match a glob, each once, with their types; keys that are no UTF-8 are left out."""
    keys: dict[bytes, None] = {}
    cursor = b"0"
    while True:
        ((cursor, found),) = await ask(("SCAN", cursor, "MATCH", pattern, "COUNT", 1000))
        keys |= dict.fromkeys(found)
        if cursor == b"0":
            break
    kinds = await _batches(ask, list(keys), lambda key: ("TYPE", key))
    pairs = zip(keys, kinds, strict=True)
    return [(text, kind.decode()) for key, kind in pairs if (text := _text(key)) is not None]


async def documents(ask: Ask, keys: Sequence[bytes], paths: Sequence[str]) -> list[bytes | None]:
    """JSON.GET of each key."""
    return await _batches(ask, keys, lambda key: ("JSON.GET", key, *paths))


async def _batches(ask: Ask, keys: Sequence[bytes], command: Callable[[bytes], tuple[Any, ...]]) -> list[Any]:
    answers: list[Any] = []
    for start in range(0, len(keys), AT_ONCE):
        answers += await ask(*[command(key) for key in keys[start : start + AT_ONCE]])
    return answers


def _text(key: bytes) -> str | None:
    try:
        return key.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
