"""Redis Pub/Sub over a connection that is never made anew behind the listener's back, as redis-py's own `PubSub` does.

What was published while a connection was lost is lost: its listener must know that there was a gap.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import redis
import redis.asyncio
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from contextlib import AbstractContextManager
    from typing import Protocol

    class Server(Protocol):
        """How to connect, and what errors mean."""

        def listening(self) -> Mapping[str, Any]:
            """Keyword arguments of a connection."""
            ...

        def typed(self) -> AbstractContextManager[None]:
            """Driver errors as ours."""
            ...


__all__ = ["RedisLine", "listening"]

LONGEST_READ_S: Final = 3600.0  # redis-py 6 to 8 all take a number for "longer than commands may", and give None then


class RedisLine:
    """A connection that is subscribed to one channel."""

    def __init__(self, connection: redis.asyncio.Connection, server: Server) -> None:
        self._connection = connection
        self._server = server

    async def receive(self) -> bytes | None:
        """The next message; None for the answer to a ping."""
        with self._server.typed():
            while True:
                match await self._connection.read_response(timeout=LONGEST_READ_S):
                    case [b"message", _, bytes(message)]:
                        return message
                    case [b"pong", _]:
                        return None

    async def ping(self) -> None:
        """PING."""
        with self._server.typed():
            if not self._connection.is_connected:  # to send would connect anew, and subscribe to nothing
                raise redis.ConnectionError("the subscription was lost")
            try:
                await self._connection.send_command("PING", check_health=False)
            except AttributeError as error:  # `receive` has found it lost and let go of it meanwhile
                raise redis.ConnectionError("the subscription was lost") from error


@asynccontextmanager
async def listening(server: Server, channel: bytes) -> AsyncIterator[RedisLine]:
    """A line that is subscribed when the block is entered, and closed when it is left."""
    with server.typed():
        options = dict(server.listening())
        kind = redis.asyncio.SSLConnection if options.pop("tls") else redis.asyncio.Connection
        connection = kind(retry=Retry(NoBackoff(), 0), **options)
    try:
        with server.typed():
            await connection.connect()  # type: ignore[no-untyped-call] # redis-py does not say
            await connection.send_command("SUBSCRIBE", channel, check_health=False)
            await connection.read_response()  # its confirmation, or an error
        yield RedisLine(connection, server)
    finally:
        await connection.disconnect(nowait=True)
