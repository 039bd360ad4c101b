"""A proxy that forwards bytes unchanged and counts the HTTP requests in them."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ENDS = b"\r\n\r\n"


class Requests:
    """Counts requests in a stream of HTTP/1.1; bodies have a Content-Length."""

    def __init__(self, seen: list[str]) -> None:
        self._seen = seen
        self._buffer = b""
        self._body_left = 0

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream."""
        while data:
            taken = min(self._body_left, len(data))
            self._body_left -= taken
            self._buffer += data[taken:]
            head, ended, data = self._buffer.partition(ENDS)
            if not ended:
                return
            self._buffer = b""
            self._begin(head.decode("latin-1").split("\r\n"))

    def _begin(self, lines: list[str]) -> None:
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        if "transfer-encoding" in fields:
            raise NotImplementedError(f"a request with Transfer-Encoding: {fields['transfer-encoding']}")
        self._body_left = int(fields.get("content-length", 0))
        self._seen.append(lines[0])


@contextlib.contextmanager
def counting_proxy(port: int) -> Iterator[tuple[int, list[str]]]:
    """In front of 127.0.0.1:`port`; yields its own port and the request lines it has seen."""
    seen: list[str] = []
    listener = socket.create_server(("127.0.0.1", 0))
    pairs: list[socket.socket] = []
    accepting = threading.Thread(target=_accept, args=(listener, port, seen, pairs), daemon=True)
    accepting.start()
    try:
        yield listener.getsockname()[1], seen
    finally:
        for opened in (listener, *pairs):
            with contextlib.suppress(OSError):  # it may be closed already
                opened.shutdown(socket.SHUT_RDWR)
            opened.close()


def _accept(listener: socket.socket, port: int, seen: list[str], pairs: list[socket.socket]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:  # closed: the measurement is over
            return
        server = socket.create_connection(("127.0.0.1", port))
        pairs += [client, server]
        for ends, look in (((client, server), Requests(seen).feed), ((server, client), None)):
            threading.Thread(target=_pump, args=(*ends, look), daemon=True).start()


def _pump(source: socket.socket, sink: socket.socket, look: Callable[[bytes], None] | None) -> None:
    with contextlib.suppress(OSError):  # either side may hang up
        while data := source.recv(65536):
            if look is not None:
                look(data)
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
