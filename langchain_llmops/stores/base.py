"""What a store can do: small Protocols by capability, and `open_store(url)`.

Every method is a coroutine. A store opened with `blocking=True` runs them on a blocking driver and never
suspends, so that `core.concurrency.drive(coroutine)` finishes it with no event loop: that is how a sync caller
on a hot path uses the same code. Keys are `str`, values `bytes`; times are seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

__all__ = [
    "Channels",
    "Dialect",
    "KeyValue",
    "Line",
    "Objects",
    "Patient",
    "Row",
    "Sql",
    "Store",
    "Transaction",
    "open_store",
]

Dialect = Literal["sqlite", "postgresql"]
Row = tuple[Any, ...]


@runtime_checkable
class KeyValue(Protocol):
    """Bytes by key with a time to live."""

    async def get(self, key: str) -> bytes | None:
        """The value, or None where absent or expired."""
        ...

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """Values in the order of `keys`, `None` where absent or expired; one round trip."""
        ...

    async def set(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        """Store one value; without `ttl_s` it stays."""
        ...

    async def set_many(self, items: Mapping[str, bytes], ttl_s: float | None = None) -> None:
        """All items in one round trip; a reader may see some before others."""
        ...

    async def add(self, key: str, value: bytes, ttl_s: float | None = None) -> bool:
        """Set only if absent; whether this caller was the one."""
        ...

    async def increment(self, key: str, by: int = 1, ttl_s: float | None = None) -> int:
        """Add atomically to a decimal counter (absent counts as 0); the result. `ttl_s` starts when it is made."""
        ...

    async def delete(self, *keys: str) -> int:
        """Remove keys; how many existed."""
        ...


@runtime_checkable
class Patient(KeyValue, Protocol):
    """A `KeyValue` that can be given more or less time for an answer than `timeout_s`, and adds many at once."""

    timeout_s: float

    def within(self, timeout_s: float) -> Patient:
        """The same, over the same connections, with that timeout."""
        ...

    async def add_many(self, items: Mapping[str, bytes], ttl_s: float | None = None) -> list[bool]:
        """`add` for each item, in one round trip."""
        ...


class Transaction(Protocol):
    """Statements in SQL with `?` placeholders in every dialect; a literal `?` is not allowed in the text."""

    async def fetch(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Run one statement and return its rows (empty for one that returns none)."""
        ...

    async def execute(self, statement: str, parameters: Sequence[Any] = ()) -> int:
        """Run one statement and return how many rows it touched."""
        ...

    async def execute_many(self, statement: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run one statement for every row."""
        ...

    async def insert_rows(self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Append rows of many columns the fastest way the database has; all or none of them.

        `table` and `columns` become part of the statement: names of the program, never input.
        """
        ...


@runtime_checkable
class Sql(Transaction, Protocol):
    """A relational database; a single statement outside `transaction()` commits by itself."""

    dialect: Dialect

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Commit on a clean exit, roll back on any exception (cancellation too). SQLite begins IMMEDIATE."""
        ...

    async def migrate(self, component: str, steps: Sequence[str]) -> int:
        """Bring a component's tables to `len(steps)`; safe with several processes at once. Returns the steps run.

        A step is one or more statements separated by `;` + newline; `{BLOB}`, `{JSON}`, `{REAL}`, `{AUTOKEY}` stand for
        the dialect's types. Raises `StoreError` when the database is newer than this library.
        """
        ...


@runtime_checkable
class Objects(Protocol):
    """Whole objects by path in a bucket or a folder."""

    async def put(self, path: str, data: bytes) -> None:
        """Write a whole object, over an old one."""
        ...

    async def get(self, path: str) -> bytes | None:
        """Read a whole object; None when there is none."""
        ...

    async def delete(self, *paths: str) -> None:
        """Remove objects; absent ones are no error."""
        ...

    def list(self, prefix: str) -> AsyncIterator[tuple[str, int]]:
        """`(path, size in bytes)` of every object whose path begins with the whole segments of `prefix`."""
        ...


class Line(Protocol):
    """A subscription to one channel, for as long as its connection lives; it is never made anew."""

    async def receive(self) -> bytes | None:
        """Wait for the next message, or for the answer to a `ping`, which is None; raises `StoreUnavailableError`."""
        ...

    async def ping(self) -> None:
        """Ask the other side for an answer on this very connection; raises `StoreUnavailableError`."""
        ...


@runtime_checkable
class Channels(Protocol):
    """A `Store` whose processes can speak to each other; a message is heard by who listens now, and kept by nobody."""

    async def publish(self, channel: str, message: bytes) -> None:
        """Tell all who listen."""
        ...

    def listen(self, channel: str) -> AbstractAsyncContextManager[Line]:
        """Open a connection of its own; what is published once the block is entered is heard. Async callers only."""
        ...


class Store(Protocol):
    """One opened URL. A capability that the backend does not have raises `ConfigurationError` naming those that do."""

    url: str  # redacted

    @property
    def kv(self) -> KeyValue:
        """Keys and values."""
        ...

    @property
    def sql(self) -> Sql:
        """The relational database."""
        ...

    @property
    def objects(self) -> Objects:
        """Objects by path."""
        ...

    async def ping(self) -> float:
        """Reach the backend once and return the seconds it took; raises the typed error otherwise."""
        ...

    async def aclose(self) -> None:
        """Close the connections of this process (async: those of the running loop)."""
        ...


def open_store(url: str, *, setting: str = "url", blocking: bool = False, timeout_s: float = 5.0) -> Store:
    """Open a store by URL; its driver is imported here, and nothing is connected before the first use.

    `memory://`, `sqlite:///path`, `redis://`, `rediss://`, `redis+cluster://`, `postgresql://`, `file:///path`,
    `s3://bucket/prefix`, `gs://…`, `az://…`. Raises `ConfigurationError` naming `setting`, and `MissingExtraError`.
    """
    from langchain_llmops.stores.open import open_url  # noqa: PLC0415 - drivers are loaded by who opens, not by who types

    return open_url(url, setting=setting, blocking=blocking, timeout_s=timeout_s)
