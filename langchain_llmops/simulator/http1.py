"""A small HTTP/1.1 server on asyncio and h11, with what a simulator needs from one.

A whole answer leaves in one write (header and body apart cost 40 ms a call when acknowledgements are delayed), a
connection can be cut at any byte, and a handler is cancelled as soon as its client leaves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from http.client import responses
from typing import Final, cast

import h11

from langchain_llmops.simulator.types import ApiError, SimulatorError

__all__ = ["ConnectionCut", "Handler", "HttpRequest", "HttpResponse", "HttpServer"]

MAX_BODY_BYTES: Final = 20 * 1024 * 1024
MAX_HEADER_BYTES: Final = 64 * 1024
BACKLOG: Final = 1024
Headers = tuple[tuple[str, str], ...]
logger = logging.getLogger(__name__)


class ConnectionCut(Exception):  # noqa: N818 - an event to act on, not a failure to report
    """Raised by a handler or a streamed body: close the connection now, with the answer unfinished."""


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as read whole. Header names are lower case; `path` has no query."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer: a body in bytes leaves in one write, an async generator leaves chunk by chunk.

    With `cut_at` only so many bytes of a body are sent under its full Content-Length, then the connection closes.
    """

    status: int
    body: bytes | AsyncGenerator[bytes, None] = b""
    headers: Headers = ()
    cut_at: int | None = None

    @classmethod
    def of_error(cls, error: ApiError) -> HttpResponse:
        """The JSON answer of an API error."""
        return cls(error.status, error.body(), (("content-type", "application/json"), *error.headers))


Handler = Callable[[HttpRequest], Awaitable[HttpResponse]]


class HttpServer:
    """Serves `handler` until stopped. The handler answers for its own errors; what escapes it cuts the connection."""

    def __init__(
        self, handler: Handler, host: str = "127.0.0.1", port: int = 0, *, max_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        self.handler = handler
        self.host = host
        self.port = port
        self.max_body_bytes = max_body_bytes
        self.connections: set[_Connection] = set()
        self.tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._all_closed = asyncio.Event()

    @property
    def stopping(self) -> bool:
        """No longer listening."""
        return self._server is not None and not self._server.is_serving()

    @property
    def url(self) -> str:
        """`http://host:port`, with the port that was taken."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            SimulatorError: the address cannot be listened on.
        """
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(lambda: _Connection(self), self.host, self.port, backlog=BACKLOG)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise SimulatorError(
                f"cannot listen on {self.host}:{self.port}: {reason}; choose another address (port 0 takes a free port)"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self, grace_s: float = 0.5) -> None:
        """Stop listening, let running answers end within `grace_s`, cancel the rest and close every connection."""
        if self._server is None:
            return
        self._server.close()
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=grace_s)
        for connection in list(self.connections):
            connection.abort()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.connections:
            await self._all_closed.wait()
        await self._server.wait_closed()

    def forget(self, connection: _Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        if not self.connections and self.stopping:
            self._all_closed.set()


class _Connection(asyncio.Protocol):
    """One client: requests are read whole and answered one after the other."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._too_large = False
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)
        if self._server.stopping:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._writable.set()
        if self._task is not None:
            self._task.cancel()
        self._server.forget(self)

    def abort(self) -> None:
        """Drop the connection at once."""
        self._transport.abort()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._h11.receive_data(data)
        if self._task is None:
            self._read()
        elif len(self._h11.trailing_data[0]) > self._server.max_body_bytes:
            self._transport.pause_reading()  # a client that pipelines without end waits for its answers

    def _read(self) -> None:
        """Take events until a request is whole or more bytes are needed."""
        try:
            while self._task is None and not self._transport.is_closing():
                event = self._h11.next_event()
                if event is h11.NEED_DATA:
                    self._continue_if_asked()
                    return
                if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    return
                self._take(event)
        except h11.RemoteProtocolError as error:
            self._refuse(ApiError(error.error_status_hint, f"The request is not valid HTTP/1.1: {error}."))

    def _take(self, event: object) -> None:
        if isinstance(event, h11.Request):
            self._head, self._body, self._too_large = event, bytearray(), False
        elif isinstance(event, h11.Data):
            self._too_large = self._too_large or len(self._body) + len(event.data) > self._server.max_body_bytes
            if self._too_large:
                self._body.clear()  # read on without keeping: a client still sending would not see an answer
            else:
                self._body += event.data
        elif isinstance(event, h11.EndOfMessage) and self._head is not None:
            self._task = asyncio.get_running_loop().create_task(self._answer(self._head))
            self._server.tasks.add(self._task)
            self._task.add_done_callback(self._server.tasks.discard)

    def _continue_if_asked(self) -> None:
        if not self._h11.they_are_waiting_for_100_continue or self._head is None:
            return
        declared = dict(self._head.headers).get(b"content-length", b"0")
        if int(declared) > self._server.max_body_bytes:
            self._refuse(_too_large(self._server.max_body_bytes))
        else:
            self._transport.write(self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")

    def _refuse(self, error: ApiError) -> None:
        """Answer without having read the request, and close."""
        if self._h11.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            response = HttpResponse.of_error(error)
            self._transport.write(self._whole(response, error.body(), (("connection", "close"),)))
        self._transport.close()

    async def _answer(self, head: h11.Request) -> None:
        """Run the handler for the request just read, send its answer, and turn to the next request."""
        try:
            await self._send(await self._respond(head))
        except ConnectionCut:
            self._transport.close()
        except Exception:  # a defect in a handler must not take the server down: it is logged, the client sees a cut
            logger.exception("the simulator failed to answer")
            self._transport.close()
        self._task = None
        self._next_request()

    async def _respond(self, head: h11.Request) -> HttpResponse:
        if self._too_large:
            return HttpResponse.of_error(_too_large(self._server.max_body_bytes))
        path, _, query = head.target.decode("latin-1").partition("?")
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
        request = HttpRequest(head.method.decode("latin-1"), path, query, headers, bytes(self._body))
        self._body = bytearray()
        return await self._server.handler(request)

    async def _send(self, response: HttpResponse) -> None:
        if not isinstance(response.body, bytes):
            async with aclosing(response.body) as chunks:
                await self._send_stream(response, chunks)
        elif response.cut_at is None:
            self._transport.write(self._whole(response, response.body))
        else:
            self._transport.write(self._start(response, response.body) + self._data(response.body[: response.cut_at]))
            raise ConnectionCut

    async def _send_stream(self, response: HttpResponse, chunks: AsyncGenerator[bytes, None]) -> None:
        unsent = self._event(_response_event(response.status, response.headers))
        async for chunk in chunks:
            self._transport.write(unsent + self._data(chunk))
            unsent = b""
            await self._writable.wait()
        self._transport.write(unsent + self._event(h11.EndOfMessage()))

    def _whole(self, response: HttpResponse, body: bytes, extra: Headers = ()) -> bytes:
        start = self._start(response, body, extra)
        data = b"" if self._is_head_request() else self._data(body)
        return start + data + self._event(h11.EndOfMessage())

    def _start(self, response: HttpResponse, body: bytes, extra: Headers = ()) -> bytes:
        headers = (*response.headers, ("content-length", str(len(body))), *extra)
        return self._event(_response_event(response.status, headers))

    def _data(self, data: bytes) -> bytes:
        return self._event(h11.Data(data=data))

    def _event(self, event: h11.Event) -> bytes:
        return self._h11.send(event) or b""

    def _is_head_request(self) -> bool:
        return self._head is not None and self._head.method == b"HEAD"

    def _next_request(self) -> None:
        if self._transport.is_closing():
            return
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
            self._transport.resume_reading()
            self._read()
        else:
            self._transport.close()


def _response_event(status: int, headers: Headers) -> h11.Response:
    return h11.Response(status_code=status, headers=list(headers), reason=responses.get(status, ""))


def _too_large(max_bytes: int) -> ApiError:
    return ApiError(413, f"The request body is larger than {max_bytes} bytes.", code="request_too_large")
