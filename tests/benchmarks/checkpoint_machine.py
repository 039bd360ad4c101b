"""The servers of the checkpoint benchmark, and what can be read off them: bytes, WAL, commands, objects.

PostgreSQL commits to a real disk (fsync, full_page_writes and synchronous_commit on, checked) and makes no checkpoint
of its own during a run, so that none falls into one side's round. Redis appends to a file, synced every
second, and has a replica, which `ack="replicated"` waits for and every other side's writes go to as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import psycopg
import redis

from langchain_llmops.stores.base import open_store
from tests.benchmarks.checkpoint_proxy import counting_proxy
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = {"checkpoint_timeout": "1h", "max_wal_size": "8GB"}
REAL = ("fsync", "full_page_writes", "synchronous_commit")
IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs")
SIZE = """select coalesce(sum(pg_total_relation_size(c.oid)), 0) from pg_class c join pg_namespace n
 on n.oid = c.relnamespace where n.nspname = 'public' and c.relkind = 'r' and c.relname not like '%%migration%%'"""
TABLES = "select tablename from pg_tables where schemaname = 'public' and tablename not like '%%migration%%'"
SETTLED_S = 0.3
DEADLINE_S = 30.0
LAZY_S = 6.0  # within which whatever is made behind an ack has been made


class NotMeasuredError(Exception):
    """A side without which there is no figure could not be measured."""


@dataclass
class Machine:
    """Servers by URL; every saver gets a database of its own."""

    postgres: str
    redis: str
    s3: str
    s3_counted: str
    requests: list[str]
    postgres_process: int
    _names: itertools.count = field(default_factory=itertools.count)
    _wal: psycopg.Connection | None = None

    def database(self) -> str:
        """A new PostgreSQL database."""
        name = f"bench_{next(self._names)}"
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            connection.execute(f"create database {name}")
        return self.postgres.rpartition("/")[0] + "/" + name

    def redis_database(self, number: int) -> str:
        """A Redis database, emptied."""
        url = self.redis.rpartition("/")[0] + f"/{number}"
        with contextlib.closing(redis.Redis.from_url(url)) as client:
            client.flushdb()
        return url

    def cold(self) -> str:
        """A new prefix in the bucket."""
        return self.s3.replace("?", f"/{next(self._names)}?", 1)

    def counted(self, url: str) -> str:
        """The same place in the bucket, by way of the proxy that counts requests."""
        return url.replace(urlparse(self.s3).query, urlparse(self.s3_counted).query)

    def wal_bytes(self) -> int:
        """What PostgreSQL has written to its log, of all databases."""
        if self._wal is None:
            self._wal = psycopg.connect(self.postgres, autocommit=True)
        return int(self._wal.execute("select pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()[0])

    def postgres_cpu(self) -> float:
        """CPU seconds of the server and all that it has started; 0 where there is no /proc."""
        ids = [self.postgres_process, *servers._children_of(self.postgres_process)]
        ticks = [_ticks(process, reaped=process == self.postgres_process) for process in ids]
        return sum(ticks) / os.sysconf("SC_CLK_TCK")

    def checkpoint(self) -> None:
        """After it PostgreSQL logs the first change of every page with the whole page."""
        with psycopg.connect(self.postgres, autocommit=True) as connection:
            connection.execute("checkpoint")

    def close(self) -> None:
        if self._wal is not None:
            self._wal.close()


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """PostgreSQL, Redis and rclone's S3 on this machine."""
    with contextlib.ExitStack() as stack:
        postgres = stack.enter_context(servers.postgres_server(fsync=True))
        _tuned(postgres.url)
        options = ("--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")
        kept = stack.enter_context(servers.redis_server(*options))
        stack.enter_context(servers.redis_server(*options, "--replicaof", "127.0.0.1", str(kept.port)))
        _followed(kept.url)
        objects = stack.enter_context(servers.rclone_s3())
        port, seen = stack.enter_context(counting_proxy(objects.port))
        counted = objects.url.replace(f":{objects.port}", f":{port}")
        made = Machine(postgres.url, kept.url, objects.url, counted, seen, postgres.process.pid)
        yield stack.enter_context(contextlib.closing(made))


def _tuned(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for name, value in SETTINGS.items():
            connection.execute(f"alter system set {name} = '{value}'")
        connection.execute("select pg_reload_conf()")
        found = {name: connection.execute(f"show {name}").fetchone()[0] for name in REAL}
        folder = connection.execute("show data_directory").fetchone()[0]
    if set(found.values()) != {"on"}:
        raise NotMeasuredError(f"PostgreSQL does not commit to disk: {found}")
    if (kind := _file_system(Path(folder))) in IN_MEMORY:
        raise NotMeasuredError(f"{folder} is a {kind}, where fsync is free; set TMPDIR to a folder on a disk")


def _followed(url: str) -> None:
    """Return when the replica has caught up."""
    deadline = time.monotonic() + DEADLINE_S
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        while client.info("replication").get("slave0", {}).get("state") != "online":
            if time.monotonic() > deadline:
                raise NotMeasuredError("Redis' replica did not come up")
            time.sleep(0.05)


def _file_system(folder: Path) -> str:
    """The type of the mount that holds the folder; empty where there is no /proc."""
    best = ("", "")
    with contextlib.suppress(OSError):
        for line in Path("/proc/mounts").read_text().splitlines():
            _, point, kind, *_ = line.split()
            if folder.is_relative_to(point) and len(point) >= len(best[0]):
                best = (point, kind)
    return best[1]


def _ticks(process: int, *, reaped: bool) -> int:
    """User and system time of a process, perhaps with that of its children that have ended."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11 : 15 if reaped else 13]))
    return 0


@contextlib.contextmanager
def locked(url: str) -> Iterator[None]:
    """Nobody else writes to any table of the database; reads go on."""
    with psycopg.connect(url) as connection:
        connection.execute(f"lock table {', '.join(_tables(connection))} in exclusive mode")
        yield


def _tables(connection: psycopg.Connection) -> list[str]:
    return [name for (name,) in connection.execute(TABLES).fetchall()]


def table_bytes(url: str) -> int:
    """Heap, TOAST and indexes of a database's tables."""
    with psycopg.connect(url) as connection:
        return int(connection.execute(SIZE).fetchone()[0])


def row_bytes(url: str) -> int:
    """What the rows alone hold: for what is too small to be seen in whole pages."""
    with psycopg.connect(url) as connection:
        sums = [f"(select coalesce(sum(pg_column_size(t.*)), 0) from {name} t)" for name in _tables(connection)]
        return int(connection.execute(f"select {' + '.join(sums) or '0'}").fetchone()[0])


def memory_bytes(url: str) -> int:
    """MEMORY USAGE of every key, sampled whole."""
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        return sum(client.memory_usage(key, samples=0) or 0 for key in client.scan_iter(count=1000))


async def object_sizes(url: str) -> dict[str, int]:
    """Every object below the URL, with its bytes."""
    store = open_store(url)
    try:
        return {path: size async for path, size in store.objects.list("")}
    finally:
        await store.aclose()


async def settled(at: Machine, *databases: str, quiet_s: float = SETTLED_S) -> float:
    """Wait until no WAL and no keys have come for so long; when the last came."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(contextlib.closing(redis.Redis.from_url(url))) for url in databases]

        def marks() -> tuple[Any, ...]:
            return at.wal_bytes(), [_writes(client) for client in clients]

        last, before, moved = 0.0, None, time.perf_counter()
        while last < moved + quiet_s:
            if before != (now := marks()):
                before, moved = now, time.perf_counter()
            await asyncio.sleep(SETTLED_S / 6)
            last = time.perf_counter()
        return moved


def sent_bytes(url: str) -> int:
    """What Redis has answered to all its clients."""
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        return int(client.info("stats")["total_net_output_bytes"])


def _writes(client: redis.Redis) -> tuple[int, int]:
    """Keys of the database, and changes of the whole server."""
    return client.dbsize(), int(client.info("persistence")["rdb_changes_since_last_save"])


def shown(error: BaseException) -> str:
    """One line for a note."""
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:200]
