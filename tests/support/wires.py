"""A proxy between a client and a server that loses connections in every way there is."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Self


class Proxy:
    """Forwards connections to a port of this machine.

    `lose_before` and `lose_after` hold words: the next request with one of them in it loses its connection before it
    reaches the server, or once the server has answered it.
    """

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.lose_before: list[bytes] = []
        self.lose_after: list[bytes] = []
        self.made = 0
        self._pairs: list[_Pair] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for pair in self._pairs:
            pair.close()

    def reset(self) -> None:
        """End every connection by a TCP reset."""
        for pair in self._pairs:
            pair.reset()

    def forget(self) -> None:
        """Say nothing more on the connections there are, as a firewall that has forgotten them."""
        for pair in self._pairs:
            pair.forgotten = True

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.made += 1
            pair = _Pair(self, client, socket.create_connection(("127.0.0.1", self._upstream)))
            self._pairs.append(pair)
            pair.start()


class _Pair:
    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self.proxy, self.client, self.server = proxy, client, server
        self.forgotten = False
        self.doomed = False
        self._threads = [threading.Thread(target=way, daemon=True) for way in (self.up, self.down)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def up(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.client.recv(65_536):
                if self.forgotten:
                    continue
                if self._is_named(self.proxy.lose_before, data):
                    break
                self.doomed = self.doomed or self._is_named(self.proxy.lose_after, data)
                self.server.sendall(data)
        self.close()

    def down(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.server.recv(65_536):
                if self.doomed:
                    break
                if not self.forgotten:
                    self.client.sendall(data)
        self.close()

    def reset(self) -> None:
        with contextlib.suppress(OSError):
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()
        for thread in self._threads:  # the system resets the connection once nobody reads from it any more
            thread.join(10)

    def close(self) -> None:
        for one in (self.client, self.server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RD)
            one.close()

    @staticmethod
    def _is_named(words: list[bytes], data: bytes) -> bool:
        for word in words:
            if word in data:
                words.remove(word)
                return True
        return False
