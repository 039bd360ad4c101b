"""A proxy that passes requests on to a provider and keeps the conversations, ready to replay."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx

from langchain_llmops.simulator.assemble import StreamedMessage, message_of
from langchain_llmops.simulator.book import Book, without_keys
from langchain_llmops.simulator.http1 import ConnectionCut, HttpRequest, HttpResponse, HttpServer
from langchain_llmops.simulator.messages import check_message
from langchain_llmops.simulator.recordings import read_recordings, write_recordings
from langchain_llmops.simulator.running import on_thread
from langchain_llmops.simulator.types import ApiError, SimulatorError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

    from langchain_llmops.simulator.types import Message

__all__ = ["Recorder", "recording"]

WRITE_EVERY_S: Final = 1.0
TIMEOUT: Final = httpx.Timeout(600.0, connect=15.0)
_HOP_BY_HOP: Final = frozenset(
    [
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
        "content-encoding",
        "accept-encoding",
        "expect",
    ]
)
logger = logging.getLogger(__name__)


class Recorder:
    """Serves `url` as the provider at `upstream` would, and writes its chat conversations to `path`.

    An existing file is gone on with. It is rewritten whole, at most once a second while running and at the stop.
    Keys never reach it: headers are not recorded, and in texts the caller's own key and whatever looks like one
    become "[key removed]". Answers that are errors, cut or not chat completions are passed on only.
    """

    def __init__(self, path: str | Path, upstream: str, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._path = Path(path)
        self._upstream = _base_of(upstream)
        self._book = Book(read_recordings(path) if self._path.exists() and self._path.stat().st_size else ())
        self._http = HttpServer(self._handle, host, port)
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._client: httpx.AsyncClient
        self._writer: asyncio.Task[None]
        if not self._path.parent.is_dir():
            raise SimulatorError(f"{path}: the folder {self._path.parent} does not exist; make it first")
        try:  # paid answers must not be passed on that cannot be kept
            tempfile.TemporaryFile(dir=self._path.parent).close()
        except OSError as error:
            raise SimulatorError(f"{path}: cannot be written: {error.strerror}; name a file elsewhere") from error

    @property
    def url(self) -> str:
        """`http://host:port`."""
        return self._http.url

    @property
    def conversations(self) -> int:
        """How many conversations the file has, or will have at the stop."""
        return len(self._book.recordings)

    async def start(self) -> None:
        """Listen."""
        await self._http.start()
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=50)
        self._client = httpx.AsyncClient(timeout=TIMEOUT, limits=limits)
        self._writer = asyncio.get_running_loop().create_task(self._write_changes())

    async def stop(self) -> None:
        """Close everything and write the file."""
        await self._http.stop()
        await self._client.aclose()
        self._stopping.set()
        self._changed.set()
        await self._writer  # not cancelled: its thread would go on and could put an older state over the last one
        if self._book.recordings:
            write_recordings(self._path, self._book.recordings)

    async def _write_changes(self) -> None:
        while await self._changed.wait() and not self._stopping.is_set():
            self._changed.clear()
            try:
                await asyncio.to_thread(write_recordings, self._path, self._book.recordings)
            except SimulatorError as error:
                logger.warning("%s; the conversations are kept and written at the stop", error)
            with suppress(TimeoutError):  # a pause that the stop cuts short
                await asyncio.wait_for(self._stopping.wait(), WRITE_EVERY_S)

    async def _handle(self, http: HttpRequest) -> HttpResponse:
        request = self._client.build_request(
            http.method, self._target(http), headers=_forwarded(http), content=http.body or None
        )
        try:
            answer = await self._client.send(request, stream=True)
        except httpx.HTTPError as error:
            text = f"The upstream {self._upstream} did not answer: {type(error).__name__}: {error}"
            return HttpResponse.of_error(ApiError(502, text, kind="upstream_error", code="upstream_unreachable"))
        headers = tuple((k, v) for k, v in answer.headers.items() if k not in _HOP_BY_HOP)
        if answer.headers.get("content-type", "").startswith("text/event-stream"):
            return HttpResponse(answer.status_code, self._pass_on(http, answer), headers)
        try:
            body = await answer.aread()
        except httpx.HTTPError as error:
            raise ConnectionCut from error
        finally:
            await answer.aclose()
        if answer.status_code == httpx.codes.OK:
            self._note(http, message_of(body))
        return HttpResponse(answer.status_code, body, headers)

    async def _pass_on(self, http: HttpRequest, answer: httpx.Response) -> AsyncGenerator[bytes, None]:
        streamed = StreamedMessage()
        try:
            async for data in answer.aiter_bytes():
                streamed.feed(data)
                yield data
        except httpx.HTTPError as error:
            raise ConnectionCut from error
        finally:  # also when the client leaves, as clients do at `[DONE]`, before the stream has quite ended
            self._note(http, streamed.message)
            await answer.aclose()

    def _note(self, http: HttpRequest, message: Message | None) -> None:
        asked = _messages_of(http) if http.path.endswith("/chat/completions") else None
        if message is None or asked is None:
            return
        key = http.headers.get("authorization", "").rpartition(" ")[2]
        secrets = tuple(text for text in (key, http.headers.get("api-key", "")) if text)
        if self._book.add(without_keys([*asked, message], secrets)):
            self._changed.set()

    def _target(self, http: HttpRequest) -> str:
        query = f"?{http.query}" if http.query else ""
        return f"{self._upstream}{http.path.removeprefix('/v1')}{query}"


@contextmanager
def recording(path: str | Path, upstream: str, *, host: str = "127.0.0.1", port: int = 0) -> Iterator[Recorder]:
    """Run a recorder for the length of a `with` block.

    Raises:
        SimulatorError: wrong upstream or file, or the address cannot be listened on.
    """
    recorder = Recorder(path, upstream, host=host, port=port)
    with on_thread(recorder, "recorder"):
        yield recorder


def _base_of(upstream: str) -> str:
    """The provider's base URL as a client takes it; a bare host gets its `/v1`."""
    parts = urlsplit(upstream)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SimulatorError(f"--upstream must be a URL like https://api.openai.com/v1, not {upstream!r}")
    return upstream.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


def _forwarded(http: HttpRequest) -> dict[str, str]:
    kept = {name: value for name, value in http.headers.items() if name not in _HOP_BY_HOP}
    return {**kept, "accept-encoding": "identity"}  # the answer is read on its way


def _messages_of(http: HttpRequest) -> list[dict[str, Any]] | None:
    try:
        messages = json.loads(http.body)["messages"]
        return [check_message(message, f"messages[{i}]") for i, message in enumerate(messages)]
    except (ValueError, LookupError, TypeError, ApiError):  # not recorded: the provider's own checks decide
        return None
