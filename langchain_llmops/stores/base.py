"""What a store can do: small Protocols by capability, and `open_store(url)`.

Every method is a coroutine. A store opened with `blocking=True` runs them on a blocking driver and never
suspends, so that `core.concurrency.drive(coroutine)` finishes it with no event loop: that is how a sync caller
on a hot path uses the same code. Keys are `str`, values `bytes`; times are seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar, runtime_checkable

from langchain_llmops.core.errors import StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

__all__ = [
    "Appended",
    "Array",
    "Channels",
    "Dialect",
    "Documents",
    "Durability",
    "Journal",
    "KeyValue",
    "Line",
    "MapChange",
    "Maps",
    "Objects",
    "Patient",
    "Row",
    "Sql",
    "Store",
    "Transaction",
    "idempotent",
    "open_store",
]

Dialect = Literal["sqlite", "postgresql"]
Row = tuple[Any, ...]
T = TypeVar("T")


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


class MapChange(NamedTuple):
    """What is to happen to the map under one key: fields are set, then those of `gone` are removed.

    Args:
        ttl_s: the map's time to live from now on; None leaves the one it has.
        whole: forget what was there before, its time to live too.
    """

    key: str
    fields: Mapping[bytes, bytes]
    gone: Sequence[bytes] = ()
    ttl_s: float | None = None
    whole: bool = False


@runtime_checkable
class Maps(Protocol):
    """Fields by name under a key, with one time to live; a map without fields is absent. `kv` has keys of its own."""

    async def read_map(self, key: str) -> dict[bytes, bytes]:
        """All fields, as they were at one moment; empty where absent or expired; one round trip."""
        ...

    async def write_maps(self, changes: Sequence[MapChange]) -> None:
        """Each key changes all at once, and a refused change holds up no other; one round trip to each server."""
        ...

    async def drop_maps(self, *keys: str) -> None:
        """Remove maps; absent ones are no error."""
        ...


class Array(NamedTuple):
    """A column of values (or None) as one parameter of a PostgreSQL statement, as in `unnest(?::bytea[])`."""

    kind: Literal["bytea", "bigint", "integer"]
    values: Sequence[Any]


class Appended(NamedTuple):
    """Of each record its number and its key's last before it (0: none known), and how many replicas had them all.

    Replicas are those when the call ended, 0 unless asked for.
    """

    numbers: list[int]
    previous: list[int]
    replicas: int


class Durability(NamedTuple):
    """Whether every server keeps an append-only file that it can write, and how many replicas the least of them has."""

    aof: bool
    replicas: int


@runtime_checkable
class Journal(Protocol):
    """Records under a key, in the order of numbers that are never given twice, until they are trimmed.

    For what is acknowledged before its authority has it: every error raises, and no call but those that may happen
    twice is repeated. Keys of all callers of one backend share `pending`.
    """

    async def append(
        self, entries: Sequence[tuple[str, bytes]], replicas: int = 0, *, ttl_s: float | None = None
    ) -> Appended:
        """Add `(key, record)`s; with `replicas`, wait until so many have them, for half of the store's `timeout_s`.

        With `ttl_s`, all records of a key expire so long after the last one, and are never `pending`.

        What raises may be there all the same. In a cluster, records under keys of several servers are added one server
        after the other.
        """
        ...

    async def last(self, key: str) -> int:
        """The number of a key's last record, trimmed or not; 0 where there was none for a day."""
        ...

    async def read(self, key: str, after: int = 0, limit: int = 1000) -> list[tuple[int, bytes]]:
        """`(number, record)` of the records above `after`, oldest first."""
        ...

    async def trim(self, key: str, upto: int) -> None:
        """Forget the records of a key up to that number, which they may exceed; again is as once."""
        ...

    async def pending(self, limit: int = 1000) -> list[str]:
        """Keys that have records: of each shard of keys at most `limit`, those with the oldest records first."""
        ...

    async def durability(self) -> Durability:
        """What the servers say of themselves now."""
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
        the dialect's types, `{CLUSTERED}` after a table says that rows live in its primary key, `{ROOM}` that they are
        often updated. Raises `StoreError` when the database is newer than this library.
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


@runtime_checkable
class Documents(Protocol):
    """A `Store` over a Redis to which others have written, for an import that reads it once; it scans."""

    async def scan(self, pattern: str) -> list[tuple[str, str]]:
        """Every key that matches a glob, and its type."""
        ...

    async def documents(self, keys: Sequence[str], *paths: str) -> list[bytes | None]:
        """RedisJSON documents as text, or an object of their parts by path; None where there is none."""
        ...


class Store(Protocol):
    """One opened URL. A capability that the backend does not have raises `ConfigurationError` naming those that do."""

    url: str  # redacted

    @property
    def kv(self) -> KeyValue:
        """Keys and values."""
        ...

    @property
    def maps(self) -> Maps:
        """Maps of fields."""
        ...

    @property
    def journal(self) -> Journal:
        """Records to be worked off."""
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


async def idempotent(work: Callable[[], Awaitable[T]]) -> T:
    """Do `work`, and once more if its connection was lost or it met a deadlock. For what may happen twice, no more.

    `work` is a statement or a whole transaction, as in `idempotent(lambda: sql.fetch("SELECT 1"))`.
    """
    try:
        return await work()
    except StoreUnavailableError as error:
        if not (error.outcome_unknown or error.rolled_back):
            raise
    return await work()


def open_store(url: str, *, setting: str = "url", blocking: bool = False, timeout_s: float = 5.0) -> Store:
    """Open a store by URL; its driver is imported here, and nothing is connected before the first use.

    `memory://`, `sqlite:///path`, `redis://`, `rediss://`, `redis+cluster://`, `postgresql://`, `file:///path`,
    `s3://bucket/prefix`, `gs://…`, `az://…`. Raises `ConfigurationError` naming `setting`, and `MissingExtraError`.
    """
    from langchain_llmops.stores.open import open_url  # noqa: PLC0415 - drivers are loaded by who opens, not by who types

    return open_url(url, setting=setting, blocking=blocking, timeout_s=timeout_s)
