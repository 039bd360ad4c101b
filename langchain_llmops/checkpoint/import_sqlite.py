"""Threads of langgraph-checkpoint-sqlite (`SqliteSaver`, `AsyncSqliteSaver`): a checkpoint is one blob."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from langchain_llmops.checkpoint.import_source import Name, Stored, StoredWrite, oldest_first
from langchain_llmops.checkpoint.import_values import Unreadable
from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_llmops.checkpoint.import_values import Unpacker
    from langchain_llmops.stores.base import Store

__all__ = ["SqliteSource"]

TABLES: Final = {
    "checkpoints": {"thread_id", "checkpoint_ns", "checkpoint_id", "parent_checkpoint_id", "type", "checkpoint"},
    "writes": {"thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "channel", "type", "value"},
}
COLUMNS: Final = "SELECT name FROM pragma_table_info(?)"
THREADS: Final = "SELECT DISTINCT thread_id FROM checkpoints ORDER BY thread_id"
NAMES: Final = "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id FROM checkpoints WHERE thread_id = ?"
OWN: Final = "thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
ROW: Final = f"SELECT parent_checkpoint_id, type, checkpoint, metadata FROM checkpoints WHERE {OWN}"
WRITES: Final = "SELECT task_id, {path}, idx, channel, type, value FROM writes WHERE " + OWN
SIZE: Final = (
    "SELECT (SELECT COALESCE(SUM(LENGTH(checkpoint) + COALESCE(LENGTH(metadata), 0)), 0) FROM checkpoints"
    " WHERE thread_id = ?) + (SELECT COALESCE(SUM(LENGTH(value)), 0) FROM writes WHERE thread_id = ?)"
)


class SqliteSource:
    """The tables `checkpoints` and `writes` of one file; raises `ConfigurationError` where they are not there."""

    def __init__(self, store: Store, unpacker: Unpacker) -> None:
        self._store = store
        self._unpacker = unpacker
        self._path: str | None = None

    async def threads(self) -> list[str]:
        """Every thread id."""
        await self._columns()
        return [row[0] for row in await self._store.sql.fetch(THREADS)]

    async def names(self, thread: str) -> list[Name]:
        """A thread's checkpoints."""
        rows = await self._store.sql.fetch(NAMES, (thread,))
        return oldest_first({Name(ns, checkpoint_id): parent for ns, checkpoint_id, parent in rows})

    async def read(self, thread: str, name: Name) -> Stored | None:
        """One checkpoint."""
        rows = await self._store.sql.fetch(ROW, (thread, *name))
        if not rows:
            return None
        parent, kind, blob, metadata = rows[0]
        whole = self._unpacker.unpack(kind or "msgpack", bytes(blob))
        if not isinstance(whole.value, dict) or not isinstance(whole.value.get("channel_values"), dict):
            raise Unreadable("is no checkpoint")
        values = whole.part("channel_values")
        return Stored(
            parent=parent,
            body={key: part for key, part in whole.value.items() if key != "channel_values"},
            values={channel: values.part(channel) for channel in values.value},
            metadata=json.loads(metadata) if metadata is not None else {},
            writes=await self.writes(thread, name),
        )

    async def writes(self, thread: str, name: Name) -> list[StoredWrite]:
        """Pending writes of one checkpoint."""
        statement = WRITES.format(path=await self._columns())
        rows = await self._store.sql.fetch(statement, (thread, *name))
        return [
            StoredWrite(task, path, idx, channel, self._unpacker.unpack(kind or "msgpack", bytes(blob)))
            for task, path, idx, channel, kind, blob in rows
        ]

    async def size(self, thread: str) -> int:
        """The bytes of its blobs."""
        return int((await self._store.sql.fetch(SIZE, (thread, thread)))[0][0])

    async def aclose(self) -> None:
        """Close the file."""
        await self._store.aclose()

    async def _columns(self) -> str:
        """What stands for the task path, which old files do not have."""
        if self._path is None:
            of = {table: {row[0] for row in await self._store.sql.fetch(COLUMNS, (table,))} for table in TABLES}
            if not all(needed <= of[table] for table, needed in TABLES.items()):
                raise ConfigurationError(
                    f"{self._store.url} has no tables of langgraph-checkpoint-sqlite ({', '.join(TABLES)}); "
                    "name the file that SqliteSaver or AsyncSqliteSaver was given"
                )
            self._path = "task_path" if "task_path" in of["writes"] else "''"
        return self._path
