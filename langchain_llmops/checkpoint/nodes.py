"""Channel values as nodes: lists and dicts item by item, so that what stays the same is stored once.

A node is what msgpack can carry: a chunk's hash (16 bytes), or a list that begins with its kind:
`[LEAF, bytes]` or `[LEAF, bytes, serializer's type]`, `[LIST, [node…]]`, `[DICT, {key: node}]`, `[SNAPSHOT, node]`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import ormsgpack
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from langchain_llmops.checkpoint.msgpack import array, binary, mapping
from langchain_llmops.core.errors import EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from langgraph.checkpoint.serde.base import SerializerProtocol

__all__ = ["HASH_BYTES", "LIST", "Joiner", "Node", "Splitter", "equal", "refs"]

Node = Any

LEAF: Final = 0
LIST: Final = 1
DICT: Final = 2
SNAPSHOT: Final = 3
HASH_BYTES: Final = 16
CHUNK_FROM_BYTES: Final = 128  # below, a hash and a row cost more than the value
PACKED: Final = "msgpack"
PLAIN_ONLY: Final = (
    ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_TUPLE
    | ormsgpack.OPT_PASSTHROUGH_UUID
)
NUMBERS: Final = (int, float, bool, type(None))


class Splitter:
    """Values to nodes; the serialized chunks are collected in `chunks` by their hash.

    A message that has been serialized before is known by the digest of what it holds, several times cheaper; such
    digests are collected in `marks`.

    Args:
        key: of the hash, so that equal values of two tenants have nothing in common.
        marked: hashes of chunks that are stored, by digest.
    """

    def __init__(self, serde: SerializerProtocol, key: bytes, marked: Mapping[bytes, bytes] | None = None) -> None:
        self._dumps = serde.dumps_typed
        self._key = key
        self._marked = marked or {}
        self.chunks: dict[bytes, bytes] = {}
        self.marks: dict[bytes, bytes] = {}

    def split(self, value: Any) -> Node:
        """The node of a channel's value."""
        kind = type(value)
        if kind is _DeltaSnapshot:
            return [SNAPSHOT, self.split(value.value)]
        if kind is dict and value and all(type(key) is str for key in value):
            return [DICT, {key: self._items(item) for key, item in value.items()}]
        return self._items(value)

    def _items(self, value: Any) -> Node:
        if type(value) is list and value and type(value[0]) not in NUMBERS:
            return [
                LIST,
                [self._message(item) if isinstance(item, BaseMessage) else self._leaf(item) for item in value],
            ]
        return self._message(value) if isinstance(value, BaseMessage) else self._leaf(value)

    def _message(self, value: BaseMessage) -> Node:
        mark = _mark(value)
        name = self._marked.get(mark)
        if name is not None:
            return name
        node = self._leaf(value)
        if mark and isinstance(node, bytes):
            self.marks[mark] = node
        return node

    def _leaf(self, value: Any) -> Node:
        kind, data = self._dumps(value)
        if len(data) < CHUNK_FROM_BYTES:
            return [LEAF, data] if kind == PACKED else [LEAF, data, kind]
        chunk = kind.encode() + b"\0" + data
        name = hashlib.blake2b(chunk, digest_size=HASH_BYTES, key=self._key).digest()
        self.chunks[name] = chunk
        return name


class Joiner:
    """Nodes to values; `chunk` gives a chunk's bytes by hash.

    What LangGraph's own serializer packed is joined as bytes first and unpacked once, all channels together.
    """

    def __init__(self, serde: SerializerProtocol, chunk: Callable[[bytes], bytes]) -> None:
        self._loads = serde.loads_typed
        self._chunk = chunk
        self._joins = isinstance(serde, JsonPlusSerializer)

    def values(self, nodes: Mapping[str, Node]) -> dict[str, Any]:
        """Values by channel."""
        packed, rest = {}, {}
        for channel, node in nodes.items():
            joined = self._packed(node) if self._joins else None
            if joined is None:
                rest[channel] = self.value(node)
            else:
                packed[channel] = joined
        found: dict[str, Any] = self._loads((PACKED, mapping(packed))) if packed else {}
        if found.keys() != packed.keys():
            raise EnvelopeError("stored channel values do not fit together")
        return {channel: found[channel] if channel in packed else rest[channel] for channel in nodes}

    def value(self, node: Node) -> Any:
        """The value of one node."""
        joined = self._packed(node) if self._joins else None
        if joined is not None:
            return self._loads((PACKED, joined))
        if isinstance(node, bytes):
            kind, _, data = self._chunk(node).partition(b"\0")
            return self._loads((kind.decode(), data))
        if node[0] == LIST:
            return [self.value(item) for item in node[1]]
        if node[0] == DICT:
            return {key: self.value(item) for key, item in node[1].items()}
        if node[0] == SNAPSHOT:
            return _DeltaSnapshot(self.value(node[1]))
        return self._loads((node[2] if len(node) > 2 else PACKED, node[1]))  # noqa: PLR2004 - the type, when it is another

    def _packed(self, node: Node) -> bytes | None:
        """The node as msgpack; None where a part of it is of another kind."""
        if isinstance(node, bytes):
            kind, _, data = self._chunk(node).partition(b"\0")
            return _of_kind(kind, data)
        if node[0] == LEAF:
            return node[1] if len(node) == 2 else _of_kind(node[2].encode(), node[1])  # noqa: PLR2004 - as above
        if node[0] == LIST:
            items = [self._packed(item) for item in node[1]]
            return None if None in items else array(items)  # type: ignore[arg-type] # none of them is None
        if node[0] == DICT:
            pairs = {key: self._packed(item) for key, item in node[1].items()}
            return None if None in pairs.values() else mapping(pairs)  # type: ignore[arg-type] # none of them is None
        return None


def refs(node: Node) -> Iterator[bytes]:
    """The hashes of every chunk below a node."""
    if isinstance(node, bytes):
        yield node
    elif node[0] == LIST:
        for item in node[1]:
            if isinstance(item, bytes):
                yield item
            else:
                yield from refs(item)
    elif node[0] == DICT:
        for item in node[1].values():
            yield from refs(item)
    elif node[0] == SNAPSHOT:
        yield from refs(node[1])


def _mark(message: BaseMessage) -> bytes:
    """A digest of all that a message holds; empty for one that holds more than plain values."""
    kind = type(message)
    try:
        held = (kind.__module__, kind.__qualname__, message.__dict__, message.__pydantic_extra__)
        packed = ormsgpack.packb(list(held), option=PLAIN_ONLY)
    except (TypeError, ValueError):  # what msgpack cannot pack by itself
        return b""
    return hashlib.blake2b(packed, digest_size=HASH_BYTES).digest()


def equal(node: Node, other: Node) -> bool:
    """Whether two nodes stand for one value, down to the order of a dict's keys."""
    if node != other:
        return False
    if isinstance(node, bytes) or node[0] in (LEAF, LIST):
        return True
    return equal(node[1], other[1]) if node[0] == SNAPSHOT else list(node[1]) == list(other[1])


def _of_kind(kind: bytes, data: bytes) -> bytes | None:
    if kind == b"msgpack":
        return data
    if kind == b"null":
        return b"\xc0"
    return binary(data) if kind == b"bytes" else None
