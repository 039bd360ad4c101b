"""Where fault tests run: servers of their own behind proxies, one place for each run, and what a run counts."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import psycopg

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.concurrency import drive
from langchain_llmops.stores.base import open_store
from tests.support import servers
from tests.support.acknowledged import Ledger, expected
from tests.support.load import Load
from tests.support.proxy import Proxy, proxied, through
from tests.support.readback import Checked, check
from tests.support.talking import Client

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

    from tests.support.forked import Child, Forge

__all__ = ["KINDS", "Run", "Servers", "paths_of"]

KINDS = ("embedded", "rclone", "moto")
TIMEOUT_S = 2.0
LONG_S = 1e7
TABLES = ("thread", "step", "chunk", "write", "object", "cold_run")


class Servers:
    """Servers that are started when first asked for and may be killed; each has a proxy before it."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._stack.close()

    @cached_property
    def postgres(self) -> servers.Server:
        return self._stack.enter_context(servers.postgres_server())

    @cached_property
    def redis(self) -> servers.Server:
        return self._stack.enter_context(servers.redis_server())

    @cached_property
    def rclone(self) -> servers.Server:
        return self._stack.enter_context(servers.rclone_s3())

    @cached_property
    def moto(self) -> servers.Server:
        return self._stack.enter_context(servers.moto_s3())

    @cached_property
    def proxies(self) -> dict[str, Proxy]:
        """By the name of their server."""
        return {}

    def query(self, statement: str) -> list[Any]:
        """Of PostgreSQL, as soon as it answers."""
        found: list[Any] = []

        def answered() -> bool:
            try:
                with psycopg.connect(self.postgres.url, autocommit=True, options="-clock_timeout=20s") as connection:
                    cursor = connection.execute(statement)
                    found[:] = cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError as error:
                if error.sqlstate is not None:
                    raise
                return False
            return True

        servers.wait_until(answered, "PostgreSQL")
        return found

    def proxy(self, name: str) -> Proxy:
        if name not in self.proxies:
            self.proxies[name] = self._stack.enter_context(proxied(getattr(self, name).port))
        return self.proxies[name]

    def heal(self) -> None:
        for proxy in self.proxies.values():
            proxy.heal()


@dataclass
class Run:
    """One run of one fault: its draw, its place, its ledger, and what it counted.

    Args:
        kind: `embedded` is SQLite, memory and a folder; `rclone` and `moto` are PostgreSQL, Redis and that S3.
        proxies: tiers reached through their proxy.
        clients: how many talk at once, where a fault is met under load.
        size: how many times its usual length it has.
    """

    servers: Servers
    folder: Path
    forge: Forge
    seed: int
    kind: str = "rclone"
    proxies: tuple[str, ...] = ()
    clients: int = 16
    size: int = 1
    counts: Counter[str] = field(default_factory=Counter)
    checked: Checked = field(default_factory=Checked)

    def __post_init__(self) -> None:
        self.draw = Random(self.seed)
        self.name = uuid.uuid4().hex[:12]
        self.ledger_path = self.folder / f"ledger-{self.name}"
        self.ledger_path.touch()

    @cached_property
    def direct(self) -> dict[str, str]:
        """URLs that no proxy stands before."""
        if self.kind == "embedded":
            folder = self.folder / self.name
            return {"warm": f"sqlite:///{folder}/ck.db", "hot": "memory://", "cold": f"file://{folder}/cold"}
        head, _, query = getattr(self.servers, self.kind).url.partition("?")
        self.servers.query(f"CREATE SCHEMA IF NOT EXISTS run_{self.name}")
        return {
            "warm": f"{self.servers.postgres.url}?options=-csearch_path%3Drun_{self.name}",
            "hot": self.servers.redis.url,
            "cold": f"{head}/{self.name}?{query}",
        }

    @cached_property
    def urls(self) -> dict[str, str]:
        """URLs for the clients."""
        server = {"warm": "postgres", "hot": "redis", "cold": self.kind}
        return {
            tier: through(url, self.servers.proxy(server[tier])) if tier in self.proxies else url
            for tier, url in self.direct.items()
        }

    @cached_property
    def ledger(self) -> Ledger:
        return Ledger(self.ledger_path)

    def saver(self, urls: dict[str, str] | None = None, **options: Any) -> TieredCheckpointSaver:
        return TieredCheckpointSaver.from_urls(**{"timeout_s": TIMEOUT_S, **(urls or self.urls), **options})

    def client(self, saver: Any, **options: Any) -> Client:
        return Client(saver, self.ledger, Random(self.draw.random()), **options)

    def load(self, saver: Any, **options: Any) -> Load:
        return Load(lambda colour: self.client(saver, colour=colour), self.ledger, self.clients, **options)

    def start(self, role: str, **plan: Any) -> Child:
        """A client process of its own, which ends when `self.ended` is there."""
        given = {"urls": self.urls, "ledger": str(self.ledger_path), "seed": self.draw.randrange(2**31), **plan}
        if role != "one":
            given["until"] = str(self.ended)
        return self.forge.start(role=role, **given)

    @property
    def ended(self) -> Path:
        return self.folder / f"ended-{self.name}"

    def finish(self, *children: Child) -> None:
        """Let client processes come to their end; one that fails has said why."""
        self.ended.touch()
        codes = [child.wait() for child in children]
        self.ended.unlink()
        if any(codes):
            raise AssertionError(f"client processes ended with {codes}: {self.forge.said()}")

    async def check(self, **options: Any) -> Checked:
        """Read everything back through a fresh saver that no proxy harms."""
        self.servers.heal()
        async with self.saver(self.direct, timeout_s=20.0) as saver:
            done = await check(saver, self.ledger_path, **options)
        self.checked += done
        return done

    async def nothing_is_left(self) -> None:
        """Once every thread is deleted and swept up, no row and no object stays behind; what does is wrong."""
        async with self.saver(self.direct, timeout_s=20.0, clock=lambda: time.time() + LONG_S) as saver:
            for thread in sorted(expected(self.ledger_path).threads):
                await saver.adelete_thread(thread)
            if hasattr(saver, "asweep"):
                await saver.asweep()
        store = open_store(self.direct["warm"], blocking=True)
        rows = {table: drive(store.sql.fetch(f"SELECT COUNT(*) FROM llmops_ck_{table}"))[0][0] for table in TABLES}
        self.checked.wrong += [f"{count} rows left in {table}" for table, count in rows.items() if count]
        drive(store.aclose())
        self.checked.wrong += [f"{path} left" for path in paths_of(self.direct["cold"])]

    @contextlib.contextmanager
    def over(self) -> Iterator[Run]:
        """Everything it used is whole again, closed or removed at the end."""
        try:
            yield self
        finally:
            self.servers.heal()
            if "ledger" in self.__dict__:
                self.ledger.close()
            if "direct" in self.__dict__ and self.kind != "embedded":
                self.servers.query(f"DROP SCHEMA IF EXISTS run_{self.name} CASCADE")


def paths_of(url: str) -> list[str]:
    """Every object of a store."""

    async def all_of() -> list[str]:
        return [path async for path, _ in open_store(url, blocking=True).objects.list("")]

    return drive(all_of())
