"""`Maps` in Redis: a hash for each key."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

from langchain_llmops.stores.keys import key_bytes, milliseconds
from langchain_llmops.stores.wire import EXEC, MULTI

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from langchain_llmops.stores.base import MapChange
    from langchain_llmops.stores.wire import Command

    class Ask(Protocol):
        """Answers to commands; the first error among them is raised as ours."""

        async def __call__(self, *commands: Command, again: bool) -> list[Any]:
            """`again`: they may be sent twice, if the connection was lost."""
            ...


__all__ = ["RedisMaps"]


class RedisMaps:
    """HGETALL, and blocks of MULTI or a script; what is written twice is there once."""

    def __init__(self, ask: Ask, *, cluster: bool) -> None:
        self._ask = ask
        self._written = _by_script() if cluster else _by_blocks

    async def read_map(self, key: str) -> dict[bytes, bytes]:
        """HGETALL."""
        (found,) = await self._ask(("HGETALL", key_bytes(key)), again=True)
        # a cluster's client makes the dictionary itself
        return found if isinstance(found, dict) else dict(zip(found[::2], found[1::2], strict=True))

    async def write_maps(self, changes: Sequence[MapChange]) -> None:
        """One pipeline; on a cluster one for each node."""
        commands = [command for change in changes for command in self._written(change)]
        if commands:
            await self._ask(*commands, again=True)

    async def drop_maps(self, *keys: str) -> None:
        """UNLINK, one for each key, as on a cluster they live on several nodes."""
        commands: list[Command] = [("UNLINK", key_bytes(key)) for key in keys]
        if commands:
            await self._ask(*commands, again=True)


def _by_blocks(change: MapChange) -> list[Command]:
    """MULTI, what one key changes, EXEC; fields are set before others go, as a hash without fields forgets its time."""
    key = key_bytes(change.key)
    said: list[Command] = [("DEL", key)] if change.whole else []
    if change.fields:
        said.append(("HSET", key, *(part for pair in change.fields.items() for part in pair)))
    if change.gone:
        said.append(("HDEL", key, *change.gone))
    if change.ttl_s is not None:
        said.append(("PEXPIRE", key, milliseconds(change.ttl_s)))
    return [MULTI, *said, EXEC] if said else []


def _by_script() -> Callable[[MapChange], list[Command]]:
    script = files("langchain_llmops.stores").joinpath("lua/write_map.lua").read_text("utf-8")

    def written(change: MapChange) -> list[Command]:
        """Always the text of the script, as it cannot be known which nodes have seen it."""
        ttl = 0 if change.ttl_s is None else milliseconds(change.ttl_s)
        if not (change.fields or change.gone or change.whole or ttl):
            return []
        fields = [part for pair in change.fields.items() for part in pair]
        numbers = (int(change.whole), ttl, len(change.fields))
        return [("EVAL", script, 1, key_bytes(change.key), *numbers, *fields, *change.gone)]

    return written
