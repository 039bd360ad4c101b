"""Everything that three tiers hold, raw and opened, to be searched for what must not be in there."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import ormsgpack
import zstandard

from langchain_llmops.checkpoint.dictionary import checkpoint_dictionary
from langchain_llmops.checkpoint.hot import HEAD, PREFIX
from langchain_llmops.checkpoint.schema import Step, Write
from langchain_llmops.checkpoint.state import pending_of
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import StoreError
from langchain_llmops.stores.base import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_llmops.checkpoint.engine import Engine

__all__ = ["Remains"]

HEADER_BYTES, CHECKSUM_BYTES = 4, 4
ZSTD, ENCRYPTED, WITH_DICTIONARY = 1, 2, 4
WITH_OWN_DICTIONARY = zstandard.ZstdDecompressor(
    dict_data=zstandard.ZstdCompressionDict(checkpoint_dictionary()), max_window_size=1 << 27
)


class Remains:
    """Of the stores of an engine that may read all of it; `urls` name its hot and cold stores."""

    def __init__(self, engine: Engine, urls: dict[str, str | None]) -> None:
        self._engine = engine
        self._urls = urls

    def words(self, *words: str) -> set[str]:
        """Those of the words that any row, key, value, object, name or time holds, as it is stored or opened."""
        readings = [reading for raw in self.raw() for reading in _readings(raw)]
        readings += self._opened()
        return {word for word in words if any(word.encode() in reading for reading in readings)}

    def raw(self) -> list[bytes]:
        """All bytes there are."""
        cells = [cell for table in self.tables() for row in self.rows(table) for cell in row]
        stored = [cell if isinstance(cell, bytes) else str(cell).encode() for cell in cells]
        hot = [part for key, fields in self.hot().items() for part in (key, *fields, *fields.values())]
        return stored + hot + [part for path, data in self.objects().items() for part in (path.encode(), data)]

    def tables(self) -> list[str]:
        sql = drive(self._engine.warm.sql())
        of_sqlite = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        of_postgres = "SELECT table_name FROM information_schema.tables WHERE table_schema = current_schema()"
        rows = drive(sql.fetch(of_sqlite if sql.dialect == "sqlite" else of_postgres))
        assert {"llmops_ck_thread", "llmops_ck_chunk", "llmops_ck_erasure"} <= {table for (table,) in rows}
        return [table for (table,) in rows]

    def rows(self, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
        return [
            tuple(bytes(cell) if isinstance(cell, memoryview) else cell for cell in row)
            for row in drive(drive(self._engine.warm.sql()).fetch(f"SELECT {columns} FROM {table}"))
        ]

    def hot(self) -> dict[bytes, dict[bytes, bytes]]:
        """Maps of the hot tier by key."""
        url = self._urls["hot"]
        if url is None or self._engine.hot is None:
            return {}
        if url.startswith("memory"):
            return {key.encode(): dict(kept[0]) for key, kept in self._engine.hot._maps._maps.items()}
        import redis

        with closing(redis.Redis.from_url(url)) as client:
            return {key: client.hgetall(key) for key in client.scan_iter()}

    def objects(self) -> dict[str, bytes]:
        """Objects of the cold tier by path."""
        if self._urls["cold"] is None:
            return {}
        objects = open_store(self._urls["cold"], blocking=True).objects
        return {path: drive(objects.get(path)) or b"" for path in drive(_listed(objects))}

    def _opened(self) -> Iterator[bytes]:
        """What the codec gives back, which must be all of it."""
        codec = self._engine.codec
        for thread, label in self.rows("llmops_ck_thread", "thread, label"):
            yield repr(codec.open_label(thread, label)).encode()
        for thread, *cells in self.rows("llmops_ck_step", f"thread, {', '.join(Step._fields)}"):
            step = codec.open_step(thread, Step(*cells))
            yield from (*_parts(step.metadata), *_parts(step.body))
        for thread, name, body in self.rows("llmops_ck_chunk", "thread, name, body"):
            yield from _parts(codec.open_chunk(thread, name, body).partition(b"\0")[2])
        for thread, *cells in self.rows("llmops_ck_write", f"thread, {', '.join(Write._fields)}"):
            yield repr(pending_of(codec, thread, Write(*cells))).encode()
        for key, fields in self.hot().items():
            thread = bytes.fromhex(key.decode().removeprefix(PREFIX).strip("{}"))
            for name, body in fields.items():
                if name.startswith(HEAD) and len(name) in (1, 17):
                    yield from _parts(codec.open_object(b"hot" + thread + name[1:], body))
                else:
                    yield from _parts(codec.open_chunk(thread, name, body).partition(b"\0")[2])


async def _listed(objects: Any) -> list[str]:
    try:
        return [path async for path, _ in objects.list("")]
    except StoreError:  # a folder that nothing was written to
        return []


def _readings(raw: bytes) -> Iterator[bytes]:
    """The bytes, what is compressed in them, and what is packed in that."""
    yield raw
    if raw[:2] != b"LO" or raw[3] & ENCRYPTED:
        return
    body = raw[HEADER_BYTES + CHECKSUM_BYTES :]
    if raw[3] & (ZSTD | WITH_DICTIONARY):
        body = (WITH_OWN_DICTIONARY if raw[3] & WITH_DICTIONARY else zstandard.ZstdDecompressor()).decompress(body)
    yield from _parts(body)


def _parts(body: bytes) -> Iterator[bytes]:
    yield body
    try:
        yield repr(ormsgpack.unpackb(body, ext_hook=lambda _, data: data)).encode()
    except ValueError:  # it is not packed
        return
