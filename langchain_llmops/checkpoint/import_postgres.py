"""Threads of langgraph-checkpoint-postgres (`PostgresSaver`, `AsyncPostgresSaver`).

A checkpoint is a JSONB row; its primitive values stand in it (since 3.0), the others are blobs by channel and version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.checkpoint.import_source import Name, Stored, StoredWrite, oldest_first
from langchain_llmops.checkpoint.import_values import Value
from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from langchain_llmops.checkpoint.import_values import Unpacker
    from langchain_llmops.stores.base import Store

__all__ = ["PostgresSource"]

EMPTY: Final = "empty"
COLUMNS: Final = (
    "SELECT table_name, column_name FROM information_schema.columns"
    " WHERE table_schema = ANY(current_schemas(false)) AND table_name IN"
    " ('checkpoints', 'checkpoint_blobs', 'checkpoint_writes')"
)
TABLES: Final = {
    "checkpoints": {"thread_id", "checkpoint_ns", "checkpoint", "metadata"},
    "checkpoint_blobs": {"thread_id", "checkpoint_ns", "channel", "type", "blob"},
    "checkpoint_writes": {"thread_id", "checkpoint_ns", "checkpoint_id", "task_id", "idx", "channel", "type", "blob"},
}
THREADS: Final = "SELECT DISTINCT thread_id FROM checkpoints ORDER BY thread_id"
NAMES: Final = "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id FROM checkpoints WHERE thread_id = ?"
OWN: Final = "thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
ROW: Final = f"SELECT parent_checkpoint_id, checkpoint, metadata FROM checkpoints WHERE {OWN}"
BLOBS: Final = f"""
    SELECT b.channel, b.type, b.blob
    FROM (SELECT thread_id, checkpoint_ns, checkpoint FROM checkpoints WHERE {OWN}) c
    CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') v
    JOIN checkpoint_blobs b ON b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns
        AND b.channel = v.key AND b.version = v.value
    ORDER BY b.channel"""
WRITES: Final = "SELECT task_id, {path}, idx, channel, type, blob FROM checkpoint_writes WHERE " + OWN
SIZE: Final = """
    SELECT (SELECT COALESCE(SUM(pg_column_size(checkpoint) + pg_column_size(metadata)), 0)
            FROM checkpoints WHERE thread_id = ?)
         + (SELECT COALESCE(SUM(COALESCE(pg_column_size(blob), 0)), 0) FROM checkpoint_blobs WHERE thread_id = ?)
         + (SELECT COALESCE(SUM(pg_column_size(blob)), 0) FROM checkpoint_writes WHERE thread_id = ?)"""


class PostgresSource:
    """Three tables in the schema of the connection; raises `ConfigurationError` where they are not there."""

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
        parent, checkpoint, metadata = rows[0]
        inline: dict[str, Any] = checkpoint.pop("channel_values", None) or {}
        values = {channel: Value(value) for channel, value in inline.items()}
        for channel, kind, blob in await self._store.sql.fetch(BLOBS, (thread, *name)):
            if kind != EMPTY:
                values[channel] = self._unpacker.unpack(kind, bytes(blob or b""))
        return Stored(parent, checkpoint, values, metadata, await self.writes(thread, name))

    async def writes(self, thread: str, name: Name) -> list[StoredWrite]:
        """Pending writes of one checkpoint."""
        statement = WRITES.format(path=await self._columns())
        return [
            StoredWrite(task, path, idx, channel, self._unpacker.unpack(kind or "msgpack", bytes(blob)))
            for task, path, idx, channel, kind, blob in await self._store.sql.fetch(statement, (thread, *name))
        ]

    async def size(self, thread: str) -> int:
        """The bytes its columns take, compressed as they are, without indexes."""
        return int((await self._store.sql.fetch(SIZE, (thread,) * 3))[0][0])

    async def aclose(self) -> None:
        """Close the connections."""
        await self._store.aclose()

    async def _columns(self) -> str:
        """What stands for the task path, which old tables do not have."""
        if self._path is None:
            found = set(await self._store.sql.fetch(COLUMNS))
            if not all((table, column) in found for table, needed in TABLES.items() for column in needed):
                raise ConfigurationError(
                    f"{self._store.url} has no tables of langgraph-checkpoint-postgres ({', '.join(TABLES)}); name "
                    "their database, and their schema with ?options=-csearch_path%3DSCHEMA where it is not the default"
                )
            if ("checkpoints", "checkpoint_id") not in found:
                raise ConfigurationError(
                    f"{self._store.url} has tables of ShallowPostgresSaver, which keep no history and are not read; "
                    "only those of PostgresSaver and AsyncPostgresSaver are"
                )
            self._path = "task_path" if ("checkpoint_writes", "task_path") in found else "''"
        return self._path
