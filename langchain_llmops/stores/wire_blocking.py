"""Connections of the threads of a process to a Redis server: each is one caller's while it waits for its answers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import redis

from langchain_llmops.stores.wire import CONNECT_S, NOTHING_YET, packed, raised, reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_llmops.stores.wire import Command, Endpoint

__all__ = ["BlockingWires"]

MAX_CONNECTIONS: Final = 64
IDLE_CHECK_S: Final = 30.0
SILENT_S: Final = 1.0
READ_BYTES: Final = 65_536
KERNEL_KEEPS_TIME: Final = sys.platform != "win32"  # there a timeout has another form
PING: Final[tuple[Command, ...]] = (("PING",),)


class BlockingWires:
    """A pool whose last used connection is the next; when all are in use, callers wait for one."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._idle: list[_Wire] = []
        self._made = 0
        self._wanted = 0
        self._silent_until = float("-inf")
        self._changed = threading.Condition()

    def ask(self, commands: Sequence[Command], timeout_s: float, *, again: bool) -> list[Any]:
        """Their answers, errors among them; raises `redis.ConnectionError` and `redis.TimeoutError`.

        A connection that the server has closed meanwhile is noticed before, unless the caller asks `again` by itself.
        """
        data = packed(commands)
        wire = self._take(timeout_s, prove=not again)
        try:
            answers = wire.ask(data, len(commands), timeout_s)
        except BaseException as error:  # interrupted, too: an answer is still to come
            if isinstance(error, redis.TimeoutError):
                self._silent_until = time.monotonic() + SILENT_S
            self._lose(wire)
            raise
        self._idle.append(wire)
        if self._wanted:
            with self._changed:
                self._changed.notify()
        return answers

    def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            with contextlib.suppress(IndexError):  # another thread was first
                self._lose(self._idle.pop())

    def _take(self, timeout_s: float, *, prove: bool) -> _Wire:
        while True:
            try:
                wire = self._idle.pop()
            except IndexError:
                found = self._another(timeout_s)
                if found is None:
                    return self._connect(timeout_s)
                wire = found
            if wire.is_good(timeout_s, prove=prove):
                return wire
            self._lose(wire)

    def _another(self, timeout_s: float) -> _Wire | None:
        """One that was given back; None when a new one may be made."""
        with self._changed:
            self._wanted += 1
            try:
                if not self._changed.wait_for(self._may_go_on, max(timeout_s, CONNECT_S)):
                    raise redis.TimeoutError(f"all {MAX_CONNECTIONS} connections are in use")
            finally:
                self._wanted -= 1
            with contextlib.suppress(IndexError):  # a thread that need not wait took it
                return self._idle.pop()
            self._made += 1
            return None

    def _may_go_on(self) -> bool:
        return bool(self._idle) or self._made < MAX_CONNECTIONS

    def _connect(self, timeout_s: float) -> _Wire:
        """A server that was silent a moment ago accepts connections all the same, and greets nobody."""
        silent = time.monotonic() < self._silent_until
        try:
            return _Wire(self._endpoint, timeout_s if silent else max(timeout_s, CONNECT_S))
        except BaseException as error:
            if isinstance(error, redis.TimeoutError) and not silent:  # whose connections take long is given time again
                self._silent_until = time.monotonic() + SILENT_S
            self._gone()
            raise

    def _lose(self, wire: _Wire) -> None:
        wire.close()
        self._gone()

    def _gone(self) -> None:
        with self._changed:
            self._made -= 1
            self._changed.notify()


class _Wire:
    def __init__(self, endpoint: Endpoint, timeout_s: float) -> None:
        at = f"{endpoint.host}:{endpoint.port}"
        try:
            self._socket = _opened(endpoint, timeout_s)
        except TimeoutError as error:
            raise redis.TimeoutError(f"Timeout connecting to {at}") from error
        except OSError as error:
            raise redis.ConnectionError(f"Error connecting to {at}. {error}") from error
        self._give(timeout_s)
        self._reader = reader()
        self._used = time.monotonic()
        try:
            greeting = endpoint.greeting()
            raised(self.ask(packed(greeting), len(greeting), timeout_s))
        except BaseException:
            self.close()
            raise

    def is_good(self, timeout_s: float, *, prove: bool) -> bool:
        """Whether the server has not closed it; asked of the server itself after a long silence."""
        if time.monotonic() - self._used > IDLE_CHECK_S:
            try:
                raised(self.ask(packed(PING), 1, timeout_s))
            except redis.RedisError:
                return False
        return not prove or not self._has_news()

    def ask(self, data: bytes, count: int, timeout_s: float) -> list[Any]:
        try:
            if timeout_s != self._timeout_s:
                self._give(timeout_s)
            self._socket.sendall(data)
            answers = [self._answer() for _ in range(count)]
        except (TimeoutError, BlockingIOError) as error:
            raise redis.TimeoutError("Timeout reading from socket") from error
        except OSError as error:
            raise redis.ConnectionError(f"Connection closed by server. {error}") from error
        except redis.InvalidResponse as error:
            raise redis.ConnectionError("no Redis answers there") from error
        self._used = time.monotonic()
        return answers

    def close(self) -> None:
        self._socket.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # it was not opened
            self._socket.close()

    def _answer(self) -> Any:
        answer = self._reader.gets()
        while answer is NOTHING_YET:
            data = self._socket.recv(READ_BYTES)
            if not data:
                raise redis.ConnectionError("Connection closed by server.")
            self._reader.feed(data)
            answer = self._reader.gets()
        return answer

    def _give(self, timeout_s: float) -> None:
        """A timeout that the kernel keeps saves half of the system calls, as Python polls for its own."""
        self._timeout_s = timeout_s
        if isinstance(self._socket, ssl.SSLSocket) or not KERNEL_KEEPS_TIME or not timeout_s:
            self._socket.settimeout(timeout_s)
            return
        time_value = struct.pack("@ll", *divmod(max(1, round(timeout_s * 1e6)), 1_000_000))
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, time_value)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, time_value)

    def _has_news(self) -> bool:
        """Nothing was asked, so whatever is there to read is the connection's end."""
        self._give(0.0)
        try:
            self._socket.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return False
        except OSError:
            return True
        return True


def _opened(endpoint: Endpoint, timeout_s: float) -> socket.socket:
    plain = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        context = endpoint.context()
        return plain if context is None else context.wrap_socket(plain, server_hostname=endpoint.host)
    except BaseException:
        plain.close()
        raise
