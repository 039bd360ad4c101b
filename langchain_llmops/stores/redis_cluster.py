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

from langchain_llmops.stores.clients import BlockingClient, LoopClients, settled

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from langchain_llmops.stores.clients import Clients
    from langchain_llmops.stores.wire import Command

__all__ = ["Cluster"]

MAX_AT_ONCE: Final = 64


class Cluster:
    """The nodes of a cluster, for one colour; `options` are redis-py's."""

    def __init__(self, nodes: Sequence[tuple[str, int]], options: dict[str, Any], *, blocking: bool) -> None:
        self._nodes = nodes
        self._options = options
        self._clients: Clients[_Client] = (
            BlockingClient(self._make_blocking, _close_blocking) if blocking else LoopClients(self._make, _close)
        )
        self.aclose = self._clients.aclose

    async def ask(self, commands: Sequence[Command], timeout_s: float, *, again: bool) -> list[Any]:  # noqa: ARG002 - the clients have their own timeouts, and know what they may repeat
        """Answers to commands, in one pipeline where there are several; raises redis-py's errors."""
        client = await self._clients.get()
        if len(commands) == 1:
            async with client.gate:
                return [await settled(client.driver.execute_command(*commands[0]))]
        pipeline = client.driver.pipeline()
        for command in commands:
            pipeline.execute_command(*command)
        async with client.gate:
            answers: list[Any] = await settled(pipeline.execute())
        return answers

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


async def _close(client: _Client) -> None:
    await client.driver.aclose()


async def _close_blocking(client: _Client) -> None:
    client.driver.close()
