"""Who owns a driver's client: one per event loop for async callers, one per process for blocking ones."""

from __future__ import annotations

import asyncio
import os
import threading
from inspect import isawaitable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from langchain_llmops.core.concurrency import PerLoop

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["BlockingClient", "Clients", "LoopClients", "settled"]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


async def settled(value: Awaitable[T] | T) -> T:
    """What an async driver promises or a blocking one has returned: the place where the two colours meet."""
    return await value if isawaitable(value) else value


class Clients(Protocol[T_co]):
    """The client for whoever asks."""

    async def get(self) -> T_co:
        """The client, made on first use."""
        ...

    async def aclose(self) -> None:
        """Close it; the next use makes another."""
        ...


class BlockingClient(Generic[T]):
    """One client of a process, made on first use and made anew after a fork; `make` and `close` never suspend."""

    def __init__(self, make: Callable[[], Awaitable[T]], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._client: T | None = None
        self._inherited: list[T | None] = []

    async def get(self) -> T:
        """The client."""
        if self._pid != os.getpid():
            # the parent's sockets: kept, as closing or collecting them here could talk to its servers
            self._inherited.append(self._client)
            self._client, self._lock, self._pid = None, threading.Lock(), os.getpid()
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = await self._make()
        return self._client

    async def aclose(self) -> None:
        """Close the client; the next use makes another."""
        if self._pid == os.getpid():
            client, self._client = self._client, None
            if client is not None:
                await self._close(client)


class LoopClients(Generic[T]):
    """One client per event loop, closed on `aclose` or when its loop ends (see `PerLoop`)."""

    def __init__(self, make: Callable[[], Awaitable[T]], close: Callable[[T], Awaitable[None]]) -> None:
        self._clients: PerLoop[_Late[T]] = PerLoop(lambda: _Late(make, close), _Late.aclose)

    async def get(self) -> T:
        """The running loop's client."""
        return await (await self._clients.get()).get()

    async def aclose(self) -> None:
        """Close this loop's client; the next use makes another."""
        await self._clients.aclose()


class _Late(Generic[T]):
    """A client whose making may wait and fail, and is then tried again."""

    def __init__(self, make: Callable[[], Awaitable[T]], close: Callable[[T], Awaitable[None]]) -> None:
        self._make = make
        self._close = close
        self._lock = asyncio.Lock()
        self._client: T | None = None

    async def get(self) -> T:
        if self._client is None:
            async with self._lock:
                if self._client is None:
                    self._client = await self._make()
        return self._client

    async def aclose(self) -> None:
        async with self._lock:
            client, self._client = self._client, None
            if client is not None:
                await self._close(client)
