"""The one door between sync and async, and helpers for code that has both colours."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from concurrent.futures import Future
from contextvars import copy_context
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from langchain_llmops.core.errors import LLMOpsError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Hashable

__all__ = ["DOOR", "Door", "PerLoop", "SingleFlight", "drive", "run_sync", "within"]

T = TypeVar("T")


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Finish a coroutine that runs on blocking drivers, without an event loop.

    Raises `LLMOpsError` if it suspends: then it was given an async driver.
    """
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    coroutine.close()
    raise LLMOpsError("a coroutine meant for blocking drivers suspended; open its store with blocking=True")


def within(call: Callable[[], T], timeout_s: float) -> T:
    """The result of a blocking call that may hang, made by a thread that nothing waits for; raises `TimeoutError`."""
    done: Future[T] = Future()

    def make() -> None:
        try:
            done.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is the caller's
            done.set_exception(error)

    threading.Thread(target=copy_context().run, args=(make,), name="llmops-within", daemon=True).start()
    return done.result(timeout_s)


class Door:
    """A private daemon event loop for work that must be one per process.

    Started on first use and made anew after a fork. `run_sync` is for sync callers, also inside a running loop
    (a notebook cell); `cross` is for coroutines of another loop. Context variables travel with the call.
    """

    def __init__(self, name: str = "llmops-door") -> None:
        self._name = name
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        ref = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (reset := ref()) and reset())

    def loop(self) -> asyncio.AbstractEventLoop:
        """The running private loop."""
        return self._loop or self._start()

    def inside(self) -> bool:
        """Whether the caller runs on the private loop's own thread."""
        return self._thread is threading.current_thread()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Start a coroutine on the private loop from any thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop())

    def run_sync(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """Run a coroutine on the private loop and wait; `TimeoutError` cancels it."""
        if self.inside():
            coroutine.close()
            raise LLMOpsError("a sync call was made on the library's own loop thread; await the async method")
        future = self.submit(coroutine)
        try:
            return future.result(timeout_s)
        except BaseException:  # a timeout or Ctrl-C: nobody waits for it any more
            future.cancel()
            raise

    async def cross(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Await a coroutine on the private loop from any loop; cancelling the wait cancels the work."""
        if self.inside():
            return await coroutine
        return await asyncio.wrap_future(self.submit(coroutine))

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=_serve, args=(loop,), name=self._name, daemon=True)
                self._thread.start()
                self._loop = loop
            return self._loop

    def _reset(self) -> None:
        """A forked child has the parent's memory and none of its threads."""
        self._lock, self._loop, self._thread = threading.Lock(), None, None


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


DOOR = Door()


def run_sync(coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
    """`DOOR.run_sync`: the process's one way from sync code into coroutines."""
    return DOOR.run_sync(coroutine, timeout_s)


class PerLoop(Generic[T]):
    """One client per running event loop: asyncio clients cannot be shared between loops, nor across a fork.

    A client is closed by `aclose()` on its loop, or else when its loop ends: `asyncio.run` finishes the async
    generators that are still open, and one of them guards each client.
    """

    def __init__(self, factory: Callable[[], T], close: Callable[[T], Awaitable[None]]) -> None:
        self._factory = factory
        self._close = close
        self._reset()

    async def get(self) -> T:
        """The client of the running loop, made on first use."""
        if self._pid != os.getpid():
            self._reset()
        loop = asyncio.get_running_loop()
        found = self._clients.get(loop)
        if found is None:
            client = self._factory()
            guard = self._guard(client)
            found = self._clients[loop] = (client, guard)
            await anext(guard)
        return found[0]

    async def aclose(self) -> None:
        """Close the running loop's client, if it has one."""
        found = self._clients.get(asyncio.get_running_loop())
        if found is not None:
            await found[1].aclose()

    async def _guard(self, client: T) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._clients.pop(asyncio.get_running_loop(), None)
            await self._close(client)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None, None]]] = (
            weakref.WeakKeyDictionary()
        )


class _Flight:
    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.done: Future[tuple[bool, Any]] = Future()


class SingleFlight:
    """Identical concurrent calls run once; sync and async callers of all threads and loops share the flight.

    A leader that fails or is cancelled raises for itself alone, and the next waiter leads.
    """

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}
        self._lock = threading.Lock()

    async def run(self, key: Hashable, call: Callable[[], Awaitable[T]]) -> T:
        """The result of `call()`, made by this caller or shared from the one in flight."""
        while True:
            flight, leads = self._join(key, asyncio.get_running_loop())
            if leads:
                return await self._lead(key, flight, call)
            landed, value = await asyncio.shield(asyncio.wrap_future(flight.done))
            if landed:
                return value  # type: ignore[no-any-return] # a flight carries its own key's type

    def run_blocking(self, key: Hashable, call: Callable[[], T]) -> T:
        """The same for sync callers; one that would wait on its own loop calls by itself instead."""
        own = _running_loop()
        while True:
            flight, leads = self._join(key, own)
            if leads:
                return self._lead_blocking(key, flight, call)
            if own is not None and flight.loop is own:
                return call()
            landed, value = flight.done.result()
            if landed:
                return value  # type: ignore[no-any-return] # a flight carries its own key's type

    def _join(self, key: Hashable, loop: asyncio.AbstractEventLoop | None) -> tuple[_Flight, bool]:
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = _Flight(loop)
            return flight, True

    async def _lead(self, key: Hashable, flight: _Flight, call: Callable[[], Awaitable[T]]) -> T:
        try:
            value = await call()
        except BaseException:  # cancelled, too: the next waiter leads
            self._land(key, flight, (False, None))
            raise
        self._land(key, flight, (True, value))
        return value

    def _lead_blocking(self, key: Hashable, flight: _Flight, call: Callable[[], T]) -> T:
        try:
            value = call()
        except BaseException:  # interrupted, too: the next waiter leads
            self._land(key, flight, (False, None))
            raise
        self._land(key, flight, (True, value))
        return value

    def _land(self, key: Hashable, flight: _Flight, outcome: tuple[bool, Any]) -> None:
        with self._lock:
            self._flights.pop(key, None)
        flight.done.set_result(outcome)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
