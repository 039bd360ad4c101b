"""The recorder as a server on a thread of its own, for the command, for tests and for notebooks."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.recorder.api import RecorderApp
from langchain_llmops.recorder.storage import TraceStore
from langchain_llmops.stores.base import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["RunningRecorder", "running"]

MAX_BODY_BYTES: Final = 128 * 1024 * 1024
STOP_WITHIN_S: Final = 3
OWN_NAMES: Final = frozenset(("localhost", "127.0.0.1", "::1"))


@dataclass(frozen=True, slots=True)
class RunningRecorder:
    """A recorder that listens at `url`, the value for `LANGSMITH_ENDPOINT`."""

    url: str
    _app: RecorderApp = field(repr=False)
    _traces: TraceStore = field(repr=False)
    _loop: asyncio.AbstractEventLoop = field(repr=False)

    @property
    def encodings(self) -> Mapping[str, int]:
        """How many bodies came in which Content-Encoding."""
        return self._app.encodings

    @property
    def problems(self) -> Sequence[str]:
        """The latest requests that were refused or failed, one line each."""
        return list(self._app.problems)

    def runs(self, **query: Any) -> list[dict[str, Any]]:
        """Every run that has been received, oldest first, in the fields of LangSmith's `POST /runs/query`."""
        found, body = list[dict[str, Any]](), {**query, "order": "asc"}
        while True:
            answer = asyncio.run_coroutine_threadsafe(self._traces.query(body), self._loop).result()
            found += answer["runs"]
            body["cursor"] = answer["cursors"]["next"]
            if body["cursor"] is None:
                return found


@contextmanager
def running(
    url: str = "memory://",
    *,
    setting: str = "url",
    timeout_s: float = 5.0,
    host: str = "127.0.0.1",
    port: int = 0,
    max_body_bytes: int = MAX_BODY_BYTES,
    clock: Callable[[], float] = time.time,
) -> Iterator[RunningRecorder]:
    """Record for the length of a `with` block into the store at `url`; port 0 takes a free one.

    `timeout_s` is of one operation on the store.
    Raises `ConfigurationError` when the address cannot be listened on, and `StoreError` when the store cannot be used.
    """
    store = open_store(url, setting=setting, timeout_s=timeout_s)
    traces = TraceStore(store, clock)
    app = RecorderApp(traces, max_body_bytes=max_body_bytes, hosts=_names(host))
    server, started, ended = _server(app), Future[asyncio.AbstractEventLoop](), Future[None]()

    async def serve() -> None:
        try:
            await traces.prepare()
            started.set_result(asyncio.get_running_loop())
            await server.serve(sockets=[listener])
        finally:
            await store.aclose()

    def work() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits, which raises it
            (ended if started.done() else started).set_exception(error)
        else:
            ended.set_result(None)

    with _listening(host, port) as listener:
        thread = threading.Thread(target=work, name="recorder", daemon=True)
        thread.start()
        try:
            yield RunningRecorder(_url(host, listener), app, traces, started.result())
        finally:
            server.should_exit = True
            thread.join()
            if ended.done():
                ended.result()


def _server(app: RecorderApp) -> uvicorn.Server:
    return uvicorn.Server(
        uvicorn.Config(
            app.asgi,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=STOP_WITHIN_S,
        )
    )


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server((str(address[0]), port), family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not an address"
        raise ConfigurationError(
            f"cannot listen on {host} port {port} ({reason}); choose another with --port or --host"
        ) from error
    # asyncio sets it only on sockets it made itself; without it each answer on a kept connection waits 40 ms
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _names(host: str) -> frozenset[str] | None:
    """A server on all addresses has names that it cannot know."""
    try:
        everywhere = ipaddress.ip_address(host).is_unspecified
    except ValueError:
        everywhere = False
    return None if everywhere else OWN_NAMES | {host.lower()}


def _url(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
