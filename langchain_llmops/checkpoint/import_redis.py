"""Threads of langgraph-checkpoint-redis (`RedisSaver`, `AsyncRedisSaver` and the shallow ones): RedisJSON documents.

Objects are JSON constructors and marks of that saver's own; they become the constructors that LangGraph's strict
serializer knows, so that its list of safe types decides here as elsewhere.
"""

from __future__ import annotations

import base64
import binascii
import json
from bisect import bisect_left
from typing import TYPE_CHECKING, Any, Final

from langgraph.checkpoint.serde.types import ERROR, _DeltaSnapshot

from langchain_llmops.checkpoint.import_source import Name, Stored, StoredWrite, oldest_first
from langchain_llmops.checkpoint.import_values import Unreadable, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_llmops.checkpoint.import_values import Unpacker
    from langchain_llmops.stores.base import Documents, Store

__all__ = ["RedisSource"]

DOCUMENT: Final = "ReJSON-RL"
NO_TEXT, NO_ID = "__empty__", "00000000-0000-0000-0000-000000000000"
FIELDS: Final = ("$.thread_id", "$.checkpoint_ns", "$.checkpoint_id", "$.parent_checkpoint_id")
NOT_OF_THE_BODY: Final = frozenset(("type", "channel_values", "pending_sends"))
INTERRUPT_FIELDS: Final = ("value", "id", "resumable", "ns", "when")


class RedisSource:
    """The documents below `checkpoint:` and `checkpoint_write:`, whose keys are learnt by one SCAN each."""

    def __init__(self, store: Store, documents: Documents, unpacker: Unpacker) -> None:
        self._store = store
        self._documents = documents
        self._unpacker = unpacker
        self._threads: dict[str, dict[Name, tuple[str, str | None]]] | None = None
        self._writes: list[str] = []
        self._sizes: dict[str, dict[str, int]] = {}

    async def threads(self) -> list[str]:
        """Every thread id."""
        return sorted(await self._index())

    async def names(self, thread: str) -> list[Name]:
        """A thread's checkpoints."""
        found = (await self._index()).get(thread, {})
        return oldest_first({name: parent for name, (_, parent) in found.items()})

    async def read(self, thread: str, name: Name) -> Stored | None:
        """One checkpoint."""
        key, parent = (await self._index())[thread][name]
        (document,) = await self._read(thread, [key])
        if document is None:
            return None
        checkpoint, metadata = (_parsed(document.get(field)) for field in ("checkpoint", "metadata"))
        if not isinstance(checkpoint.get("channel_values"), dict):
            raise Unreadable("has its values apart, as langgraph-checkpoint-redis wrote them before 0.1; read it there")
        return Stored(
            parent=parent,
            body={key: part for key, part in checkpoint.items() if key not in NOT_OF_THE_BODY},
            values={channel: self._value(tree) for channel, tree in checkpoint["channel_values"].items()},
            metadata=metadata,
            writes=await self.writes(thread, name),
        )

    async def writes(self, thread: str, name: Name) -> list[StoredWrite]:
        """Pending writes of one checkpoint."""
        await self._index()
        own = (thread or NO_ID, name.ns or NO_TEXT, name.id)
        keys = _below(self._writes, f"checkpoint_write:{':'.join(own)}:")
        found = [one for one in await self._read(thread, keys) if one is not None and _place(one) == own]
        return [
            StoredWrite(one["task_id"], one.get("task_path") or "", one["idx"], one["channel"], self._write(one))
            for one in found
        ]

    async def size(self, thread: str) -> int:
        """The bytes of its documents, those that have been read, as text."""
        return sum(self._sizes.get(thread, {}).values())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._store.aclose()

    async def _index(self) -> Mapping[str, Mapping[Name, tuple[str, str | None]]]:
        """Key and parent of every checkpoint; keys alone are ambiguous, as names may hold colons."""
        if self._threads is None:
            keys = [key for key, kind in await self._documents.scan("checkpoint:*") if kind == DOCUMENT]
            threads: dict[str, dict[Name, tuple[str, str | None]]] = {}
            for key, found in zip(keys, await self._documents.documents(keys, *FIELDS), strict=True):
                fields = {field: (values or [None])[0] for field, values in json.loads(found or b"{}").items()}
                thread, ns, checkpoint_id, parent = (fields.get(field) for field in FIELDS)
                if thread is None or checkpoint_id is None:  # a mark left by writes that came before their checkpoint
                    continue
                name = Name("" if ns in (None, NO_TEXT) else ns, checkpoint_id)
                none = parent in (None, "", "None", NO_ID)
                threads.setdefault("" if thread == NO_ID else thread, {})[name] = key, None if none else parent
            self._writes = sorted(
                key for key, kind in await self._documents.scan("checkpoint_write:*") if kind == DOCUMENT
            )
            self._threads = threads
        return self._threads

    async def _read(self, thread: str, keys: Sequence[str]) -> list[dict[str, Any] | None]:
        texts = await self._documents.documents(keys)
        sizes = self._sizes.setdefault(thread, {})
        sizes.update({key: len(text or b"") for key, text in zip(keys, texts, strict=True)})
        return [None if text is None else json.loads(text) for text in texts]

    def _write(self, document: Mapping[str, Any]) -> Value:
        try:
            data = base64.b64decode(document["blob"], validate=True)
        except (binascii.Error, ValueError):  # as that saver does for what is not encoded
            data = str(document["blob"]).encode()
        if document["type"] != "json":
            return self._unpacker.unpack(document["type"], data)
        tree = _parsed(data)
        if document["channel"] == ERROR and isinstance(tree, dict) and isinstance(tree.get("id"), list):
            return Value(f"{tree['id'][-1]}()")  # other savers keep an error's text, this one its class alone
        return self._value(tree)

    def _value(self, tree: Any) -> Value:
        read = self._unpacker.unpack("json", json.dumps(_as_constructors(tree)).encode())
        return Value(_without_marks(read.value), read.raw)


def _place(document: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(document.get(field) for field in ("thread_id", "checkpoint_ns", "checkpoint_id"))


def _parsed(part: Any) -> Any:
    """A part of a document, which some versions keep as text within it."""
    if part is None:
        raise Unreadable("is no checkpoint of langgraph-checkpoint-redis")
    try:
        return json.loads(part) if isinstance(part, str | bytes) else part
    except ValueError as error:
        raise Unreadable("cannot be read as json") from error


def _below(keys: Sequence[str], prefix: str) -> list[str]:
    start = end = bisect_left(keys, prefix)
    while end < len(keys) and keys[end].startswith(prefix):
        end += 1
    return list(keys[start:end])


def _constructor(*path: str, **arguments: Any) -> dict[str, Any]:
    return {"lc": 2, "type": "constructor", "id": list(path), **arguments}


def _as_constructors(tree: Any) -> Any:
    """That saver's marks as constructors of classes on LangGraph's safe list."""
    if isinstance(tree, list):
        return [_as_constructors(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    found = {key: _as_constructors(item) for key, item in tree.items()}
    if found.get("__send__") is True and found.keys() == {"__send__", "node", "arg"}:
        return _constructor("langgraph", "types", "Send", args=[found["node"], found["arg"]])
    if found.get("__interrupt__") is True and "value" in found:
        fields = {field: found[field] for field in INTERRUPT_FIELDS if field in found}
        return _constructor("langgraph", "types", "Interrupt", kwargs=fields)
    if found.get("id") == ["builtins", "set"] and "__set_items__" in (found.get("kwargs") or {}):
        return _constructor("builtins", "set", args=[found["kwargs"]["__set_items__"]])
    return found


def _without_marks(value: Any) -> Any:
    """The marks that stand for no class: bytes, and the snapshot of a delta channel."""
    if isinstance(value, list):
        return [_without_marks(item) for item in value]
    if type(value) is not dict:
        return value
    found = {key: _without_marks(item) for key, item in value.items()}
    if found.keys() == {"__bytes__"} and isinstance(found["__bytes__"], str):
        return _decoded(found["__bytes__"])
    if found.get("__delta_snapshot__") is True and found.keys() == {"__delta_snapshot__", "value"}:
        return _DeltaSnapshot(found["value"])
    return found


def _decoded(text: str) -> bytes:
    decode: Callable[[str], bytes] = base64.b64decode
    try:
        return decode(text)
    except binascii.Error as error:
        raise Unreadable("holds bytes that are no base64") from error
