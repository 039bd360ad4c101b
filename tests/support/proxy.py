"""A proxy that stands before a server and harms connections: slow, silent, refused, reset, or with the answer lost.

It forwards in threads of its own, so that blocking callers and event loops can both be on its other side.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Proxy", "proxied", "through"]

CHUNK = 65_536
RESET = struct.pack("ii", 1, 0)
REQUEST = re.compile(rb"^(GET|PUT|POST|DELETE|HEAD) ")
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Proxy:
    """What it does to its connections; everything may be changed while they live.

    `lose(word, times)`: when the server's answer holds `word`, the connection is reset instead: the server did it, and
    nobody was told. `answer(status, methods)`: HTTP requests of these methods never reach the server.
    """

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.delay_s = 0.0
        self.silent = False
        self.refusing = False
        self.lost = 0
        self.answered = 0
        self._word, self._times = b"", 0
        self._status, self._methods = "", ()
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]

    def lose(self, word: bytes, times: int = 1) -> None:
        with self._lock:
            self._word, self._times = word, times

    def answer(self, status: str, methods: tuple[str, ...] = ("GET", "PUT", "POST", "DELETE", "HEAD")) -> None:
        self._status, self._methods = status, tuple(method.encode() for method in methods)

    def heal(self) -> None:
        self.delay_s, self.silent, self.refusing = 0.0, False, False
        self._times, self._status = 0, ""

    def cut(self) -> int:
        """Reset every connection; how many."""
        with self._lock:
            found, self._open = list(self._open), set()
        for one in found:
            _reset(one)
        return len(found)

    def close(self) -> None:
        self.silent = False
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                _reset(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.upstream))
            except OSError:
                _reset(client)
                continue
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            threading.Thread(target=self._pump, args=(client, server, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, True), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, down: bool) -> None:
        try:
            while data := source.recv(CHUNK):
                if self.delay_s:
                    time.sleep(self.delay_s)
                while self.silent:
                    time.sleep(0.01)
                if down and self._loses(data):
                    break
                if not down and self._answers(source, data):
                    _close(source)
                    break
                target.sendall(data)
            else:
                with contextlib.suppress(OSError):
                    target.shutdown(socket.SHUT_WR)
                return
        except OSError:
            pass
        with self._lock:
            self._open -= {source, target}
        for one in (source, target):
            _reset(one)

    def _loses(self, data: bytes) -> bool:
        with self._lock:
            if not self._times or self._word not in data:
                return False
            self._times -= 1
            self.lost += 1
            return True

    def _answers(self, client: socket.socket, data: bytes) -> bool:
        found = REQUEST.match(data)
        if not self._status or found is None or found[1] not in self._methods:
            return False
        head, _, body = data.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        missing = int(length[1]) - len(body) if length else 0
        while missing > 0 and (more := client.recv(CHUNK)):
            missing -= len(more)
        client.sendall(f"HTTP/1.1 {self._status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        self.answered += 1
        return True


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    proxy = Proxy(port)
    threading.Thread(target=proxy.serve, daemon=True).start()
    try:
        yield proxy
    finally:
        proxy.close()


def through(url: str, proxy: Proxy) -> str:
    """The URL with the proxy's port instead of the server's."""
    return url.replace(f":{proxy.upstream}", f":{proxy.port}")


def _reset(one: socket.socket) -> None:
    """An RST, as a firewall or a crashed peer sends; who waits to read from it here is woken."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RD)
    one.close()


def _close(one: socket.socket) -> None:
    """What was sent still arrives."""
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_WR)
    one.close()
