"""One connection of an event loop to a Redis server: commands of all its tasks leave together, answers keep order."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import redis

from langchain_llmops.core.patience import Patience
from langchain_llmops.stores.wire import CONNECT_S, NOTHING_YET, packed, raised, reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_llmops.stores.wire import Command, Endpoint

__all__ = ["LoopWire"]

IDLE_CHECK_S: Final = 30.0
SILENT_S: Final = 1.0  # with commands unanswered: then it is another connection that may work
PING: Final[tuple[Command, ...]] = (("PING",),)


class LoopWire:
    """For the tasks of the running loop.

    Whoever waits longer than its timeout goes on without the answer, which is dropped when it comes. A server that says
    nothing at all for `SILENT_S` loses the connection. What the loop itself is late does not count.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._loop = asyncio.get_running_loop()
        self._patience: dict[float, Patience] = {}
        self._line: _Line | None = None
        self._connecting: asyncio.Task[_Line] | None = None

    async def ask(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """Their answers, errors among them; raises `redis.ConnectionError` and `redis.TimeoutError`."""
        data = packed(commands)
        line = self._line
        if line is None or line.closed:
            line = await self._connected(timeout_s)
        if self._loop.time() - line.heard > IDLE_CHECK_S and not line.waiting:
            line = await self._proven(line, timeout_s)
        return await self._asked(line, data, len(commands), timeout_s)

    async def aclose(self) -> None:
        """Close the connection."""
        if self._connecting is not None:
            self._connecting.cancel()
        line, self._line = self._line, None
        if line is not None:
            await line.aclose()

    def _asked(self, line: _Line, data: bytes, count: int, timeout_s: float) -> asyncio.Future[list[Any]]:
        ask = _Ask(line, self._loop.create_future(), count, timeout_s)
        line.send(data, ask)
        self._watch(ask, timeout_s)
        return ask.answered

    def _watch(self, ask: _Ask | _Patient, timeout_s: float) -> None:
        patience = self._patience.get(timeout_s)
        if patience is None:
            patience = self._patience[timeout_s] = Patience(self._loop, timeout_s)
        patience.watch(ask)

    async def _proven(self, line: _Line, timeout_s: float) -> _Line:
        """After a long silence something between may have forgotten the connection, without a word."""
        try:
            raised(await self._asked(line, packed(PING), 1, timeout_s))
        except redis.ConnectionError:
            return await self._connected(timeout_s)
        except redis.TimeoutError:
            line.lose(redis.TimeoutError("Timeout reading from socket"))
            return await self._connected(timeout_s)
        return line

    async def _connected(self, timeout_s: float) -> _Line:
        """All who ask meanwhile wait for one attempt, each for as long as it has, which goes on without them."""
        if self._connecting is None:
            self._connecting = self._loop.create_task(self._connect(max(timeout_s, CONNECT_S)))
            self._connecting.add_done_callback(self._attempted)
        patient = _Patient(self._loop.create_future())
        self._connecting.add_done_callback(patient.told)
        self._watch(patient, max(timeout_s, CONNECT_S))
        await patient.done
        if self._line is None:
            raise redis.ConnectionError("the connection was lost")
        return self._line

    def _attempted(self, connecting: asyncio.Task[_Line]) -> None:
        self._connecting = None
        if not connecting.cancelled() and connecting.exception() is None:
            self._line = connecting.result()

    async def _connect(self, timeout_s: float) -> _Line:
        end = self._endpoint
        try:
            async with asyncio.timeout(2 * timeout_s):  # a blocked loop is told from a silent server by `_Patient`
                context = end.context()
                _, line = await self._loop.create_connection(_Line, end.host, end.port, ssl=context)
        except TimeoutError as error:
            raise redis.TimeoutError(f"Timeout connecting to {end.host}:{end.port}") from error
        except OSError as error:
            raise redis.ConnectionError(f"Error connecting to {end.host}:{end.port}. {error}") from error
        try:
            greeting = end.greeting()
            raised(await self._asked(line, packed(greeting), len(greeting), timeout_s))
        except BaseException:
            line.lose(redis.ConnectionError("the connection was not made"))
            raise
        return line


class _Ask:
    """Commands under way; what comes for one that has expired is dropped."""

    __slots__ = ("answered", "answers", "left", "line", "sent", "timeout_s")

    def __init__(self, line: _Line, answered: asyncio.Future[list[Any]], left: int, timeout_s: float) -> None:
        self.line: _Line | None = line
        self.answered = answered
        self.answers: list[Any] = []
        self.left = left
        self.sent = line.loop.time()
        self.timeout_s = timeout_s

    def is_over(self) -> bool:
        return self.line is None

    def take(self, answer: Any) -> bool:
        """Whether it was the last one."""
        self.answers.append(answer)
        self.left -= 1
        if self.left:
            return False
        answers, self.answers, self.line = self.answers, [], None
        if not self.answered.done():
            self.answered.set_result(answers)
        return True

    def fail(self, error: Exception) -> None:
        self.line = None
        if not self.answered.done():
            self.answered.set_exception(error)

    def expire(self) -> None:
        line = self.line
        self.fail(redis.TimeoutError("Timeout reading from socket"))
        if line is not None and line.loop.time() - max(line.heard, line.waiting[0].sent) >= SILENT_S:
            line.lose(redis.TimeoutError("Timeout reading from socket"))


class _Patient:
    """One who waits for the connection."""

    __slots__ = ("done",)

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done

    def is_over(self) -> bool:
        return self.done.done()

    def told(self, connecting: asyncio.Task[_Line]) -> None:
        error = None if connecting.cancelled() else connecting.exception()
        if self.done.done():
            return
        if connecting.cancelled():
            self.done.set_exception(redis.ConnectionError("the connection was closed"))
        elif error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)

    def expire(self) -> None:
        self.done.set_exception(redis.TimeoutError("Timeout connecting to server"))


class _Line(asyncio.Protocol):
    """The connection itself."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.waiting: deque[_Ask] = deque()
        self.heard = self.loop.time()
        self.closed = False
        self._reader = reader()
        self._unsent: list[bytes] | None = None
        self._over = self.loop.create_future()

    def send(self, data: bytes, ask: _Ask) -> None:
        """The first of a turn leaves at once, what else is said in it leaves together at its end."""
        if self.closed:
            ask.fail(redis.ConnectionError("Connection closed by server."))
            return
        self.waiting.append(ask)
        if self._unsent is None:
            self._unsent = []
            self.transport.write(data)
            self.loop.call_soon(self._flush)
        else:
            self._unsent.append(data)

    def _flush(self) -> None:
        unsent, self._unsent = self._unsent, None
        if unsent and not self.closed:
            self.transport.write(b"".join(unsent))

    def lose(self, error: Exception) -> None:
        """Give the connection up; whoever waits is told why."""
        self.closed = True
        waiting, self.waiting = self.waiting, deque()
        for ask in waiting:
            ask.fail(error)
        self.transport.abort()

    async def aclose(self) -> None:
        self.closed = True
        self.transport.close()
        await self._over

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment] # what a TCP connection has

    def data_received(self, data: bytes) -> None:
        self.heard = self.loop.time()
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not NOTHING_YET:
                if self.waiting[0].take(answer):
                    self.waiting.popleft()
        except (redis.InvalidResponse, IndexError) as error:
            self.lose(redis.ConnectionError(f"no Redis answers there: {type(error).__name__}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        error = redis.ConnectionError(f"Connection closed by server. {exc or ''}".rstrip())
        waiting, self.waiting = self.waiting, deque()
        for ask in waiting:
            ask.fail(error)
        if not self._over.done():
            self._over.set_result(None)
