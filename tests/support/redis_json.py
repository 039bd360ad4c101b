"""A stand-in for Redis with RedisJSON, which no wheel carries: what langgraph-checkpoint-redis needs to write and read.

Documents are kept whole; paths are `$` and `$.field`; an index is made, and never there.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import socketserver
import threading
from typing import Any

__all__ = ["redis_with_json"]


@contextlib.contextmanager
def redis_with_json():
    """The URL of a server that lives as long as the block."""
    with _Server(("127.0.0.1", 0), _Connection) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield f"redis://127.0.0.1:{server.server_address[1]}/0"
        finally:
            server.shutdown()
            thread.join()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lock = threading.Lock()
        self.items: dict[bytes, Any] = {}


class _Error(Exception):
    pass


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        while command := self._command():
            try:
                with self.server.lock:
                    answer = _encoded(_answer(self.server, command))
            except _Error as error:
                answer = b"-ERR %s\r\n" % str(error).encode()
            self.wfile.write(answer)

    def _command(self) -> list[bytes]:
        head = self.rfile.readline()
        if not head.startswith(b"*"):
            return []
        parts = []
        for _ in range(int(head[1:])):
            size = int(self.rfile.readline()[1:])
            parts.append(self.rfile.read(size + 2)[:-2])
        return parts


class _Document:
    def __init__(self, content: Any) -> None:
        self.content = content


def _encoded(answer: Any) -> bytes:
    match answer:
        case None:
            return b"$-1\r\n"
        case bool() | int():
            return b":%d\r\n" % answer
        case str():
            return b"+%s\r\n" % answer.encode()
        case bytes():
            return b"$%d\r\n%s\r\n" % (len(answer), answer)
    return b"*%d\r\n%s" % (len(answer), b"".join(map(_encoded, answer)))


def _answer(server: _Server, command: list[bytes]) -> Any:
    name, arguments = command[0].upper().decode(), command[1:]
    if name in ("CLIENT", "SELECT", "JSON.SET", "JSON.MERGE", "SET", "FT.CREATE"):
        _change(server, name, arguments)
        return "OK"
    return _ask(server, name, arguments)


def _change(server: _Server, name: str, arguments: list[bytes]) -> None:
    items = server.items
    match name, arguments:
        case "SET", [key, value]:
            items[key] = value
        case "JSON.SET", [key, b"$" | b".", text]:
            items[key] = _Document(json.loads(text))
        case "JSON.SET", [key, path, text] if path.startswith(b"$."):
            items[key].content[path[2:].decode()] = json.loads(text)
        case "JSON.MERGE", [key, b"$", text]:
            old = items[key].content if key in items else {}
            items[key] = _Document(old | json.loads(text))
        case (("CLIENT" | "SELECT" | "FT.CREATE"), _):
            pass
        case _:
            raise _Error(f"the stand-in has no {name} {arguments[:3]}")


def _ask(server: _Server, name: str, arguments: list[bytes]) -> Any:
    if name not in ANSWERS:
        raise _Error(f"the stand-in has no {name} {arguments[:3]}")
    return ANSWERS[name](server.items, *arguments)


def _add(items: dict[bytes, Any], key: bytes, *pairs: bytes) -> int:
    own = items.setdefault(key, {})
    own.update({member: float(score) for score, member in zip(pairs[::2], pairs[1::2], strict=True)})
    return len(pairs) // 2


def _range(items: dict[bytes, Any], key: bytes, first: bytes, last: bytes) -> list[bytes]:
    if (first, last) != (b"0", b"-1"):
        raise _Error("the stand-in gives whole sets only")
    own = items.get(key, {})
    return sorted(own, key=lambda member: (own[member], member))


def _scan(items: dict[bytes, Any], cursor: bytes, match: bytes, pattern: bytes, *_: bytes) -> list[Any]:
    """Half of the keys at a time, the one in the middle twice, as a real server may."""
    found = [key for key in items if fnmatch.fnmatchcase(key.decode(), pattern.decode())]
    middle = len(found) // 2
    return [b"7", found[: middle + 1]] if cursor == b"0" else [b"0", found[middle:]]


def _type(items: dict[bytes, Any], key: bytes) -> str:
    return {_Document: "ReJSON-RL", bytes: "string", dict: "zset"}.get(type(items.get(key)), "none")


def _no_index(items: dict[bytes, Any], index: bytes) -> None:
    raise _Error(f"{index.decode()}: no such index")


ANSWERS = {
    "PING": lambda items: "PONG",
    "ECHO": lambda items, text: text,
    "FT._LIST": lambda items: [],
    "FT.INFO": _no_index,
    "MODULE": lambda items, *_: [[b"name", module, b"ver", 20_000] for module in (b"ReJSON", b"search")],
    "GET": lambda items, key: items.get(key),
    "JSON.GET": lambda items, key, *paths: _part(items[key].content, [*paths]) if key in items else None,
    "EXISTS": lambda items, *keys: sum(key in items for key in keys),
    "ZADD": _add,
    "ZCARD": lambda items, key: len(items.get(key, {})),
    "ZRANGE": _range,
    "SCAN": _scan,
    "TYPE": _type,
}


def _part(content: Any, paths: list[bytes]) -> bytes:
    """All of a document, or an object of parts by path."""
    if not paths or paths in ([b"."], [b"$"]):
        return json.dumps([content] if paths == [b"$"] else content).encode()
    names = [path.decode() for path in paths]
    return json.dumps({name: [content[name[2:]]] if name[2:] in content else [] for name in names}).encode()
