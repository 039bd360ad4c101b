"""What every opened store has in common: capabilities that are there, and a clear word about those that are not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NoReturn

from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from langchain_llmops.stores.base import Journal, KeyValue, Maps, Objects, Sql

__all__ = ["OpenedStore"]

CAPABLE: Final = {
    "keys and values": "memory://, sqlite://, redis:// or postgresql://",
    "maps": "memory://, redis:// or redis+cluster://",
    "journals": "memory://, redis:// or redis+cluster://",
    "SQL tables": "memory://, sqlite:// or postgresql://",
    "objects": "memory://, file://, s3://, gs:// or az://",
}


class OpenedStore:
    """Base of the stores; a subclass passes the capabilities it has, and its ways to reach and to close the backend."""

    def __init__(
        self,
        url: str,
        setting: str,
        *,
        reach: Callable[[], Awaitable[object]],
        close: Callable[[], Awaitable[object]],
        kv: KeyValue | None = None,
        maps: Maps | None = None,
        journal: Journal | None = None,
        sql: Sql | None = None,
        objects: Objects | None = None,
    ) -> None:
        self.url = url
        self._setting = setting
        self._reach = reach
        self._close = close
        self._kv = kv
        self._maps = maps
        self._journal = journal
        self._sql = sql
        self._objects = objects

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    @property
    def kv(self) -> KeyValue:
        """Bytes by key."""
        return self._kv if self._kv is not None else self._lacks("keys and values")

    @property
    def maps(self) -> Maps:
        """Fields by key."""
        return self._maps if self._maps is not None else self._lacks("maps")

    @property
    def journal(self) -> Journal:
        """Records in order."""
        return self._journal if self._journal is not None else self._lacks("journals")

    @property
    def sql(self) -> Sql:
        """Tables."""
        return self._sql if self._sql is not None else self._lacks("SQL tables")

    @property
    def objects(self) -> Objects:
        """Whole objects by path."""
        return self._objects if self._objects is not None else self._lacks("objects")

    async def ping(self) -> float:
        """Reach the backend once, writing where a wrong setting would only show in a write; the seconds it took."""
        began = time.perf_counter()
        await self._reach()
        return time.perf_counter() - began

    async def aclose(self) -> None:
        """Give back connections and threads; the next use opens them again."""
        await self._close()

    def _lacks(self, capability: str) -> NoReturn:
        scheme = self.url.partition(":")[0]
        own = {
            "keys and values": self._kv,
            "maps": self._maps,
            "journals": self._journal,
            "SQL tables": self._sql,
            "objects": self._objects,
        }
        kept = " and ".join(name for name, part in own.items() if part is not None)
        raise ConfigurationError(
            f"{self._setting}: {scheme}:// keeps {kept} only; use {CAPABLE[capability]} for {capability}"
        )
