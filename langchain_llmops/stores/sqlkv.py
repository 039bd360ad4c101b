"""Bytes by key in a relational database: one body for SQLite and PostgreSQL, async and blocking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_llmops.stores.base import Dialect, Sql

__all__ = ["SqlKeyValue"]

MIGRATIONS: Final = (
    """CREATE TABLE llmops_kv (key {BLOB} PRIMARY KEY, value {BLOB} NOT NULL, expires_at {REAL});
    CREATE INDEX llmops_kv_expires ON llmops_kv (expires_at)""",
)
SWEEP_EVERY: Final = 256
SWEEP_ROWS: Final = 1000
UPSERT: Final = (
    "INSERT INTO llmops_kv (key, value, expires_at) VALUES (?, ?, ?)"
    " ON CONFLICT (key) DO UPDATE SET value = excluded.value, expires_at = excluded.expires_at"
)
READ_TO_CHANGE: Final[Mapping[Dialect, str]] = {
    "sqlite": "SELECT value FROM llmops_kv WHERE key = ?",
    "postgresql": "SELECT value FROM llmops_kv WHERE key = ? FOR UPDATE",
}


class _Clock(Protocol):
    async def now(self) -> float: ...


class SqlKeyValue:
    """A `KeyValue` over an `Sql`; `now` gives Unix seconds by the clock that all writers share.

    Expired rows are invisible at once and are removed some at a time as new ones are written. Keys are stored as UTF-8
    bytes, so any text is a key.
    """

    def __init__(self, sql: Sql, clock: _Clock) -> None:
        self._sql = sql
        self._clock = clock
        self._ready = False
        self._writes = 0

    async def get(self, key: str) -> bytes | None:
        """The value, or None."""
        return (await self.get_many((key,)))[0]

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values in the order of the keys."""
        if not keys:
            return []
        sql = await self._prepared()
        names = [_name(key) for key in keys]
        marks = ", ".join("?" * len(names))
        rows = await sql.fetch(
            f"SELECT key, value FROM llmops_kv WHERE key IN ({marks}) AND (expires_at IS NULL OR expires_at > ?)",  # noqa: S608
            (*names, await self._clock.now()),
        )
        found = {bytes(row[0]): bytes(row[1]) for row in rows}
        return [found.get(name) for name in names]

    async def set(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        """Store one value."""
        await self.set_many({key: value}, ttl_s)

    async def set_many(self, items: Mapping[str, bytes], ttl_s: float | None = None) -> None:
        """Store values."""
        sql = await self._prepared()
        now = await self._clock.now()
        expires = None if ttl_s is None else now + ttl_s
        await sql.execute_many(UPSERT, [(_name(key), value, expires) for key, value in sorted(items.items())])
        await self._sweep(sql, now)

    async def add(self, key: str, value: bytes, ttl_s: float | None = None) -> bool:
        """Store a value only if there is none."""
        sql = await self._prepared()
        now = await self._clock.now()
        changed = await sql.execute(
            UPSERT + " WHERE llmops_kv.expires_at IS NOT NULL AND llmops_kv.expires_at <= ?",
            (_name(key), value, None if ttl_s is None else now + ttl_s, now),
        )
        return changed == 1

    async def increment(self, key: str, by: int = 1, ttl_s: float | None = None) -> int:
        """Add to a counter; an expired one begins anew."""
        sql = await self._prepared()
        now = await self._clock.now()
        expires = None if ttl_s is None else now + ttl_s
        name = _name(key)
        async with sql.transaction() as transaction:
            # the row is made (or found expired and made anew) first, so that two counters cannot both begin
            await transaction.execute(
                UPSERT + " WHERE llmops_kv.expires_at IS NOT NULL AND llmops_kv.expires_at <= ?",
                (name, b"0", expires, now),
            )
            rows = await transaction.fetch(READ_TO_CHANGE[sql.dialect], (name,))
            total = int(bytes(rows[0][0])) + by
            await transaction.execute("UPDATE llmops_kv SET value = ? WHERE key = ?", (str(total).encode(), name))
        return total

    async def delete(self, *keys: str) -> int:
        """Remove keys; how many there were."""
        if not keys:
            return 0
        sql = await self._prepared()
        marks = ", ".join("?" * len(keys))
        return await sql.execute(
            f"DELETE FROM llmops_kv WHERE key IN ({marks}) AND (expires_at IS NULL OR expires_at > ?)",  # noqa: S608
            (*(_name(key) for key in keys), await self._clock.now()),
        )

    async def _prepared(self) -> Sql:
        if not self._ready:
            await self._sql.migrate("kv", MIGRATIONS)
            self._ready = True
        return self._sql

    async def _sweep(self, sql: Sql, now: float) -> None:
        self._writes += 1
        if self._writes % SWEEP_EVERY == 0:
            await sql.execute(
                "DELETE FROM llmops_kv WHERE key IN"
                " (SELECT key FROM llmops_kv WHERE expires_at IS NOT NULL AND expires_at <= ? LIMIT ?)",
                (now, SWEEP_ROWS),
            )


def _name(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")
