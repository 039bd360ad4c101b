"""Bytes by key in a table: one body for SQLite and PostgreSQL, async and blocking."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Final

from langchain_llmops.core.errors import StoreError, StoreUnavailableError
from langchain_llmops.stores.keys import NOT_A_COUNTER, milliseconds, short_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from langchain_llmops.stores.base import Sql

__all__ = ["Expressions", "SqlKeyValue"]

MIGRATIONS: Final = (
    """CREATE TABLE llmops_kv (key {BLOB} PRIMARY KEY, value {BLOB} NOT NULL, expires_at {REAL});
    CREATE INDEX llmops_kv_expires ON llmops_kv (expires_at) WHERE expires_at IS NOT NULL""",
)
SWEEP_EVERY: Final = 32  # writes; deletes more than they can add
SWEEP_ROWS: Final = 256
MAX_KEYS: Final = 16384  # of one statement; SQLite takes 32766 parameters
MAX_ITEMS: Final = 4096


@dataclass(frozen=True, slots=True)
class Expressions:
    """What differs between the dialects.

    Args:
        now: Unix seconds by the clock that all writers share.
        total: the new value of the counter `llmops_kv.value` after adding `?`; NULL or an error when it is none.
        for_update, skip_locked: how rows are locked in their order, and how a sweep passes those by that others hold.
    """

    now: str
    total: str
    for_update: str = ""
    skip_locked: str = ""


class SqlKeyValue:
    """A `KeyValue` over an `Sql`.

    Expired rows are invisible at once and are removed some at a time as others are written. Keys are kept as bytes,
    long ones as their SHA-512, so that any text is a key.
    """

    def __init__(self, sql: Sql, expressions: Expressions) -> None:
        self._sql = sql
        self._statements = _Statements(expressions)
        self._ready = False
        self._writes = 0

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        return (await self.get_many((key,)))[0]

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values in the order of the keys."""
        await self._prepare()
        names = [short_key(key) for key in keys]
        found: dict[bytes, bytes] = {}
        for portion in _portions(names, MAX_KEYS):
            rows = await self._sql.fetch(self._statements.select(len(portion)), portion)
            found.update((bytes(name), bytes(value)) for name, value in rows)
        return [found.get(name) for name in names]

    async def set(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        """Store one value."""
        await self.set_many({key: value}, ttl_s)

    async def set_many(self, items: Mapping[str, bytes], ttl_s: float | None = None) -> None:
        """Store values, in the order of their keys so that two writers cannot wait for each other."""
        ttl = _seconds(ttl_s)
        await self._prepare()
        await self._sweep(len(items))
        rows = sorted((short_key(key), value) for key, value in items.items())
        for start in range(0, len(rows), MAX_ITEMS):
            portion = rows[start : start + MAX_ITEMS]
            parameters = [part for name, value in portion for part in (name, value, ttl)]
            await self._sql.execute(self._statements.upsert(len(portion)), parameters)

    async def add(self, key: str, value: bytes, ttl_s: float | None = None) -> bool:
        """Store a value only if there is none."""
        ttl = _seconds(ttl_s)
        await self._prepare()
        await self._sweep(1)
        return await self._sql.execute(self._statements.insert, (short_key(key), value, ttl)) == 1

    async def increment(self, key: str, by: int = 1, ttl_s: float | None = None) -> int:
        """Add to a counter; an expired one begins anew."""
        ttl = _seconds(ttl_s)
        await self._prepare()
        await self._sweep(1)
        try:
            rows = await self._sql.fetch(self._statements.count, (short_key(key), str(by).encode(), ttl, by))
        except StoreUnavailableError:
            raise
        except StoreError as error:
            raise StoreError(NOT_A_COUNTER) from error
        return int(bytes(rows[0][0]))

    async def delete(self, *keys: str) -> int:
        """Remove keys; how many there were."""
        await self._prepare()
        names = [short_key(key) for key in set(keys)]
        removed = 0
        for portion in _portions(names, MAX_KEYS):
            removed += await self._sql.execute(self._statements.delete(len(portion)), portion)
        return removed

    async def _prepare(self) -> None:
        if not self._ready:
            await self._sql.migrate("kv", MIGRATIONS)
            self._ready = True

    async def _sweep(self, writes: int) -> None:
        self._writes += writes
        if self._writes >= SWEEP_EVERY:
            self._writes = 0
            await self._sql.execute(self._statements.sweep, (SWEEP_ROWS,))


class _Statements:
    def __init__(self, words: Expressions) -> None:
        self._live = f"(expires_at IS NULL OR expires_at > {words.now})"
        self._for_update = words.for_update
        dead = f"llmops_kv.expires_at <= {words.now}"
        self._row = f"(?, ?, {words.now} + ?)"
        self._insert = "INSERT INTO llmops_kv (key, value, expires_at) VALUES "
        self._update = " ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at"
        self.insert = f"{self._insert}{self._row}{self._update} WHERE {dead}"
        self.count = (
            f"{self._insert}{self._row} ON CONFLICT (key) DO UPDATE SET"
            f" value = CASE WHEN {dead} THEN excluded.value ELSE {words.total} END,"
            f" expires_at = CASE WHEN {dead} THEN excluded.expires_at ELSE llmops_kv.expires_at END RETURNING value"
        )
        self.sweep = (
            f"DELETE FROM llmops_kv WHERE key IN (SELECT key FROM llmops_kv WHERE expires_at <= {words.now}"
            f" ORDER BY expires_at LIMIT ?{words.skip_locked})"
        )

    def select(self, keys: int) -> str:
        return f"SELECT key, value FROM llmops_kv WHERE key IN ({_marks(keys)}) AND {self._live}"

    def delete(self, keys: int) -> str:
        """Locks rows in the order of their keys, as `upsert` does, so that the two never wait for each other."""
        chosen = f"SELECT key FROM llmops_kv WHERE key IN ({_marks(keys)}) AND {self._live}"
        return f"DELETE FROM llmops_kv WHERE key IN ({chosen} ORDER BY key{self._for_update})"

    def upsert(self, rows: int) -> str:
        return self._insert + ", ".join([self._row] * rows) + self._update


@lru_cache(maxsize=32)
def _marks(count: int) -> str:
    return ", ".join("?" * count)


def _portions(names: Sequence[bytes], most: int) -> Iterator[list[bytes]]:
    """Portions filled up to a power of two with the last name, so that few different statements are prepared."""
    remaining = iter(names)
    while portion := list(islice(remaining, most)):
        size = 1 << (len(portion) - 1).bit_length()
        yield portion + portion[-1:] * (size - len(portion))


def _seconds(ttl_s: float | None) -> float | None:
    return None if ttl_s is None else milliseconds(ttl_s) / 1000
