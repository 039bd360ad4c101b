"""How many connections a saver's databases have, counted by the databases themselves."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import psycopg
import redis

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Connections", "connections"]

OTHERS = "datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"


class Connections(NamedTuple):
    """Open ones to the warm and the hot tier, and those of the warm one that hold a transaction open."""

    warm: int = 0
    hot: int = 0
    in_transaction: int = 0

    def within(self, before: Connections) -> bool:
        """Whether there are no more of any kind; those that an earlier test left may have ended meanwhile."""
        return all(now <= then for now, then in zip(self, before, strict=True))


def connections(urls: Mapping[str, str]) -> Connections:
    """As of now, of every process of this machine that uses these databases; SQLite's are this process's own."""
    hot = _redis(urls["hot"]) if urls["hot"].startswith("redis") else 0
    if urls["warm"].startswith("postgresql"):
        warm, open_ones = _postgres(urls["warm"])
        return Connections(warm, hot, open_ones)
    return Connections(_open_files("/" + urls["warm"].removeprefix("sqlite:").lstrip("/")), hot)


def _postgres(url: str) -> tuple[int, int]:
    counted = "count(*), count(*) FILTER (WHERE starts_with(state, 'idle in transaction'))"
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(f"SELECT {counted} FROM pg_stat_activity WHERE {OTHERS}").fetchone()


def _redis(url: str) -> int:
    with contextlib.closing(redis.Redis.from_url(url)) as client:
        return len(client.client_list()) - 1


def _open_files(path: str) -> int:
    """Descriptors of the database file itself; what lies beside it follows them."""
    found = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += os.readlink(descriptor) == path
    return found
