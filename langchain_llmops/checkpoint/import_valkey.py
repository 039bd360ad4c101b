"""Threads of langgraph-checkpoint-aws' Valkey savers (`ValkeySaver`, `AsyncValkeySaver`): JSON in plain strings."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.checkpoint.import_source import Name, Stored, StoredWrite, oldest_first
from langchain_llmops.checkpoint.import_values import Unreadable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_llmops.checkpoint.import_values import Unpacker, Value
    from langchain_llmops.stores.base import Documents, Store

__all__ = ["ValkeySource"]

TEXT: Final = "string"
BATCH: Final = 64


class ValkeySource:
    """The strings below `checkpoint:{` and `writes:{`, learnt by one SCAN."""

    def __init__(self, store: Store, documents: Documents, unpacker: Unpacker) -> None:
        self._store = store
        self._documents = documents
        self._unpacker = unpacker
        self._threads: dict[str, dict[Name, str | None]] | None = None
        self._sizes: dict[str, dict[str, int]] = {}

    async def threads(self) -> list[str]:
        """Every thread id."""
        return sorted(await self._index())

    async def names(self, thread: str) -> list[Name]:
        """A thread's checkpoints."""
        return oldest_first((await self._index()).get(thread, {}))

    async def read(self, thread: str, name: Name) -> Stored | None:
        """One checkpoint."""
        found = await self._get(thread, f"checkpoint:{_rest(thread, name)}")
        if found is None:
            return None
        whole = self._unpack(found, "checkpoint")
        if not isinstance(whole.value, dict) or not isinstance(whole.value.get("channel_values"), dict):
            raise Unreadable("is no checkpoint")
        values = whole.part("channel_values")
        return Stored(
            parent=found.get("parent_checkpoint_id"),
            body={key: part for key, part in whole.value.items() if key != "channel_values"},
            values={channel: values.part(channel) for channel in values.value},
            metadata=json.loads(base64.b64decode(found["metadata"]) or b"{}"),
            writes=await self.writes(thread, name),
        )

    async def writes(self, thread: str, name: Name) -> list[StoredWrite]:
        """Pending writes of one checkpoint; that saver keeps no task paths."""
        found = await self._get(thread, f"writes:{_rest(thread, name)}") or []
        return [
            StoredWrite(one["task_id"], "", one["idx"], one["channel"], self._unpack(one, "value")) for one in found
        ]

    async def size(self, thread: str) -> int:
        """The bytes of its strings, those that have been read."""
        return sum(self._sizes.get(thread, {}).values())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._store.aclose()

    async def _index(self) -> Mapping[str, dict[Name, str | None]]:
        """The parent of every checkpoint; where a key ends the thread's id is said by its value alone."""
        if self._threads is None:
            keys = [key for key, kind in await self._documents.scan("checkpoint:{*") if kind == TEXT]
            threads: dict[str, dict[Name, str | None]] = {}
            for start in range(0, len(keys), BATCH):
                batch = keys[start : start + BATCH]
                for key, text in zip(batch, await self._store.kv.get_many(batch), strict=True):
                    found = _object(text)
                    thread, checkpoint_id = str(found.get("thread_id")), str(found.get("checkpoint_id"))
                    begin, end = f"checkpoint:{{{thread}}}:", f":{checkpoint_id}"
                    if "checkpoint" in found and key.startswith(begin) and key.endswith(end):
                        name = Name(key[len(begin) : -len(end)], checkpoint_id)
                        threads.setdefault(thread, {})[name] = found.get("parent_checkpoint_id")
            self._threads = threads
        return self._threads

    async def _get(self, thread: str, key: str) -> Any:
        text = await self._store.kv.get(key)
        self._sizes.setdefault(thread, {})[key] = len(text or b"")
        return None if text is None else json.loads(text)

    def _unpack(self, found: Mapping[str, Any], field: str) -> Value:
        return self._unpacker.unpack(found["type"], base64.b64decode(found[field]))


def _rest(thread: str, name: Name) -> str:
    return f"{{{thread}}}:{name.ns}:{name.id}"


def _object(text: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(text or b"{}")
    except ValueError:  # another program's string
        return {}
    return found if isinstance(found, dict) else {}
