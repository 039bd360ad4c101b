"""`Journal` in Redis: a stream for each key, and for each shard of keys a counter and the set of those with records."""

from __future__ import annotations

import zlib
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.stores.base import Appended, Durability
from langchain_llmops.stores.keys import key_bytes, milliseconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol

    from langchain_llmops.stores.wire import Command

    class Ask(Protocol):
        """Answers to commands; the first error among them is raised as ours."""

        async def __call__(self, *commands: Command, again: bool, at: bytes | None = None) -> list[Any]:
            """`at`: over one connection to the server of that key, as WAIT must follow what it waits for."""
            ...


__all__ = ["RedisJournal"]

# part of where records are: with another number those that are there would not be found
CLUSTER_SHARDS: Final = 16
PREFIX: Final = b"llmops:journal:1:"
REMEMBERED_MS: Final = 24 * 3600 * 1000
WAITING_SHARE: Final = 0.5  # of the time for an answer


class RedisJournal:
    """Scripts, each of which touches one hash tag."""

    def __init__(self, ask: Ask, *, cluster: bool, timeout_s: float) -> None:
        self._ask = ask
        self._shards = CLUSTER_SHARDS if cluster else 1
        self._wait_ms = max(1, round(timeout_s * WAITING_SHARE * 1000))
        self._append, self._trim = _script("append_records"), _script("trim_records")

    async def append(
        self, entries: Sequence[tuple[str, bytes]], replicas: int = 0, *, ttl_s: float | None = None
    ) -> Appended:
        """A script for each shard, and WAIT behind it."""
        numbers, previous = [0] * len(entries), [0] * len(entries)
        acknowledged: list[int] = []
        expiry = 0 if ttl_s is None else milliseconds(ttl_s)
        for shard, places in self._by_shard(entries).items():
            names = [key_bytes(entries[place][0]) for place in places]
            keys = [_counter(shard), _open(shard)]
            keys += [*(_stream(shard, name) for name in names), *(_last(shard, name) for name in names)]
            records = [entries[place][1] for place in places]
            remembered = max(REMEMBERED_MS, expiry)
            said: list[Command] = [("EVAL", self._append, len(keys), *keys, remembered, expiry, *names, *records)]
            if replicas:
                said.append(("WAIT", replicas, self._wait_ms))
            answers = await self._ask(*said, again=False, at=keys[0])
            for position, place in enumerate(places):
                numbers[place] = answers[0][position]
                previous[place] = answers[0][len(places) + position]
            acknowledged += answers[1:]
        return Appended(numbers, previous, min(acknowledged, default=0))

    async def last(self, key: str) -> int:
        """GET."""
        name = key_bytes(key)
        at = _last(self._shard(name), name)
        (found,) = await self._ask(("GET", at), again=True, at=at)
        return int(found or 0)

    async def read(self, key: str, after: int = 0, limit: int = 1000) -> list[tuple[int, bytes]]:
        """XRANGE."""
        name = key_bytes(key)
        stream = _stream(self._shard(name), name)
        (found,) = await self._ask(("XRANGE", stream, f"{after + 1}-0", "+", "COUNT", limit), again=True, at=stream)
        return [(int(number.partition(b"-")[0]), fields[1]) for number, fields in found]

    async def trim(self, key: str, upto: int) -> None:
        """One script."""
        name = key_bytes(key)
        shard = self._shard(name)
        keys = (_stream(shard, name), _open(shard))
        await self._ask(("EVAL", self._trim, len(keys), *keys, upto + 1, name), again=True, at=keys[0])

    async def pending(self, limit: int = 1000) -> list[str]:
        """ZRANGE of each shard."""
        names: list[str] = []
        for shard in range(self._shards):
            (found,) = await self._ask(("ZRANGE", _open(shard), 0, limit - 1), again=True, at=_open(shard))
            names += [name.decode("utf-8", "surrogatepass") for name in found]
        return names

    async def durability(self) -> Durability:
        """INFO of every server that has a shard; the weakest counts."""
        told = []
        for shard in range(self._shards):
            sections: list[Command] = [("INFO", "persistence"), ("INFO", "replication")]
            answers = await self._ask(*sections, again=True, at=_counter(shard))
            told.append(dict(line.partition(b":")[::2] for line in b"\n".join(answers).splitlines()))
        return Durability(
            aof=all(one.get(b"aof_enabled") == b"1" and one.get(b"aof_last_write_status") == b"ok" for one in told),
            replicas=min(int(one.get(b"connected_slaves", 0)) for one in told),
        )

    def _shard(self, name: bytes) -> int:
        return zlib.crc32(name) % self._shards

    def _by_shard(self, entries: Sequence[tuple[str, bytes]]) -> dict[int, list[int]]:
        """Places among the entries."""
        shards: dict[int, list[int]] = {}
        for place, (key, _) in enumerate(entries):
            shards.setdefault(self._shard(key_bytes(key)), []).append(place)
        return shards


def _counter(shard: int) -> bytes:
    return b"{%s%d}:next" % (PREFIX, shard)


def _open(shard: int) -> bytes:
    return b"{%s%d}:open" % (PREFIX, shard)


def _stream(shard: int, name: bytes) -> bytes:
    return b"{%s%d}:of:%s" % (PREFIX, shard, name)


def _last(shard: int, name: bytes) -> bytes:
    return b"{%s%d}:last:%s" % (PREFIX, shard, name)


def _script(name: str) -> str:
    return files("langchain_llmops.stores").joinpath(f"lua/{name}.lua").read_text("utf-8")
