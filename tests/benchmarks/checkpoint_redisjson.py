"""AsyncRedisSaver's own code over a Redis without RedisJSON and RediSearch, which that saver needs.

Its Python, its client and its pipelines run unchanged down to the socket; what goes onto the wire is translated there:
JSON.SET of a document becomes SET of the same text, JSON.GET becomes GET (of one member: a script that cuts it out of
the text), and JSON.MERGE, which sets a flag that neither put nor get reads, is answered OK and not done. No index is
made or kept. The server thereby does less than the modules would: the figures flatter that saver.
"""

from __future__ import annotations

from typing import Any

import redis.asyncio
from redis.asyncio.connection import Connection, ConnectionPool

CONNECTIONS = 1024  # with redis-py's default of 100 it fails at 64 clients
ANSWERED = "return redis.status_reply('OK')"
MEMBER = """local text = redis.call('GET', KEYS[1])
if not text then return false end
local first = string.find(text, '"checkpoint": {', 1, true) or string.find(text, '"checkpoint":{', 1, true)
local found, last = first, nil
while found do
  last = found
  found = string.find(text, ARGV[1], found + 1, true)
end
return '[' .. string.sub(text, string.find(text, '{', first, true), last - 1) .. ']'"""
BEHIND = ', "metadata": "'  # metadata is a string with its own quotes escaped, so the last of these is no part of it


class WithoutModules(Connection):
    """A connection that says the same with the commands of plain Redis."""

    def pack_command(self, *args: Any) -> list[bytes]:
        return super().pack_command(*plain(args))


def plain(command: tuple[Any, ...]) -> tuple[Any, ...]:
    """A command of RedisJSON as plain Redis has it; any other as it is."""
    match command:
        case ("JSON.SET", key, "$", text):
            return ("SET", key, text)
        case ("JSON.GET", key) | ("JSON.GET", key, "$" | "."):
            return ("GET", key)
        case ("JSON.GET", key, "$.checkpoint"):
            return ("EVAL", MEMBER, 1, key, BEHIND)
        case ("JSON.MERGE", key, "$", _):
            return ("EVAL", ANSWERED, 1, key)
        case (str() as name, *_) if name.startswith(("JSON.", "FT.")):
            raise NotImplementedError(f"{name} has no stand-in: {command[:3]}")
    return command


def client(url: str) -> redis.asyncio.Redis:
    """A client whose connections translate."""
    pool = ConnectionPool.from_url(url, connection_class=WithoutModules, max_connections=CONNECTIONS)
    return redis.asyncio.Redis.from_pool(pool)


def saver(url: str) -> Any:
    """That saver, asking for no index; use it with `async with`."""
    from langgraph.checkpoint.redis.aio import AsyncRedisSaver

    class WithoutIndexes(AsyncRedisSaver):
        def create_indexes(self) -> None:
            super().create_indexes()
            for index in (self.checkpoints_index, self.checkpoint_writes_index):
                index.create = _made

    return WithoutIndexes(redis_client=client(url))


async def _made(**_: Any) -> None:
    """An index that nothing here asks."""
