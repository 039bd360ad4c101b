"""Redis Cluster through redis-py, which knows where keys live and follows them when they move."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.exceptions import RedisError, ResponseError

from langchain_llmops.stores.clients import BlockingClient, LoopClients, settled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Protocol

    from langchain_llmops.stores.clients import Clients
    from langchain_llmops.stores.wire import Command

    class Line(Protocol):
        """A way to one node."""

        async def ask(self, commands: Sequence[Command], timeout_s: float, *, again: bool) -> list[Any]:
            """Answers to commands, errors among them."""
            ...

        async def aclose(self) -> None:
            """Close the connections."""
            ...


__all__ = ["Cluster"]

MAX_AT_ONCE: Final = 64


class Cluster:
    """The nodes of a cluster, for one colour; `options` are redis-py's, `line_to` makes connections to one node."""

    def __init__(
        self,
        nodes: Sequence[tuple[str, int]],
        options: dict[str, Any],
        line_to: Callable[[str, int], Line],
        *,
        blocking: bool,
    ) -> None:
        self._nodes = nodes
        self._options = options
        self._line_to = line_to
        self._lines: dict[tuple[str, int], Line] = {}
        self._clients: Clients[_Client] = (
            BlockingClient(self._make_blocking, _close_blocking) if blocking else LoopClients(self._make, _close)
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._clients.aclose()
        for line in list(self._lines.values()):
            await line.aclose()

    async def ask(
        self, commands: Sequence[Command], timeout_s: float, *, again: bool, at: bytes | None = None
    ) -> list[Any]:
        """Answers to commands, in one pipeline where there are several; raises redis-py's errors.

        Its clients have their own timeouts, and know what they may repeat. `at`: all over one connection to the node of
        that key.
        """
        client = await self._clients.get()
        if at is not None:
            return await self._ask_at(client.driver, commands, timeout_s, again=again, at=at)
        if len(commands) == 1:
            async with client.gate:
                return [await settled(client.driver.execute_command(*commands[0]))]
        pipeline = client.driver.pipeline()
        for command in commands:
            pipeline.execute_command(*command)
        async with client.gate:
            try:
                answers: list[Any] = await settled(pipeline.execute())
            except RedisError as error:
                error.args = tuple(_without_command(part) for part in error.args)
                raise
        return answers

    async def _ask_at(
        self, driver: Any, commands: Sequence[Command], timeout_s: float, *, again: bool, at: bytes
    ) -> list[Any]:
        answers = await self._line_of(driver, at).ask(commands, timeout_s, again=again)
        if isinstance(answers[0], ResponseError) and str(answers[0]).startswith("MOVED"):
            await settled(driver.execute_command("EXISTS", at))  # the client follows, and learns where it is
            answers = await self._line_of(driver, at).ask(commands, timeout_s, again=again)
        return answers

    def _line_of(self, driver: Any, key: bytes) -> Line:
        node = driver.get_node_from_key(key)
        at = (node.host, node.port)
        return self._lines.get(at) or self._lines.setdefault(at, self._line_to(*at))

    async def _make(self) -> _Client:
        nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in self._nodes]
        driver = redis.asyncio.RedisCluster(startup_nodes=nodes, **self._options)
        # the first command of many at once would learn the slots once each, and cut each other's connections
        return _Client(await driver.initialize(), asyncio.Semaphore(MAX_AT_ONCE))

    async def _make_blocking(self) -> _Client:
        nodes = [redis.cluster.ClusterNode(*node) for node in self._nodes]  # type: ignore[no-untyped-call] # redis-py
        return _Client(redis.RedisCluster(startup_nodes=nodes, **self._options), nullcontext())


@dataclass(frozen=True, slots=True)
class _Client:
    """A client and the gate before it, as its pools fail when they are empty."""

    driver: Any
    gate: AbstractAsyncContextManager[Any]


def _without_command(part: Any) -> Any:
    """What the driver puts before an error, the command with what is in it, is for nobody to read."""
    return part.rpartition(" of pipeline caused error: ")[2] if isinstance(part, str) else part


async def _close(client: _Client) -> None:
    await client.driver.aclose()


async def _close_blocking(client: _Client) -> None:
    client.driver.close()
