"""A ledger on each database, and records to give it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from langchain_llmops.core.concurrency import run_sync
from langchain_llmops.core.events import CallFinished
from langchain_llmops.core.types import CallRecord, Identity
from langchain_llmops.ledger.writer import Ledger
from langchain_llmops.stores.base import open_store

_numbers = itertools.count()


class Clock:
    """Seconds that pass only when told."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Kept:
    """A ledger with the clock it reads, and a look into its tables."""

    def __init__(self, url: str, **options: Any) -> None:
        self.url = url
        self.clock = Clock()
        self.timer = Clock(0.0)
        self.ledger = Ledger(
            open_store(url, setting="LLMOPS_TEST_URL"), **{"clock": self.clock, "timer": self.timer, **options}
        )

    def tell(self, count: int = 1, **fields: Any) -> None:
        for _ in range(count):
            self.ledger(CallFinished(call(**{"started_at": self.clock.now, **fields})))

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        async def fetch():
            return await (await self.ledger.sql()).fetch(statement, parameters)

        return run_sync(fetch())

    def count(self, table: str = "calls") -> int:
        return self.rows(f"SELECT COUNT(*) FROM llmops_{table}")[0][0]

    def close(self) -> None:
        run_sync(self.ledger.aclose())


def call(user: str | None = "u", session: str | None = "s", tenant: str | None = "t", **fields: Any) -> CallRecord:
    number = next(_numbers)
    given = {"kind": "tool", "run_id": f"run-{number}", "trace_id": f"trace-{number}", "name": "lookup"}
    who = Identity(tenant=tenant, user=user, session=session)
    return CallRecord(**{**given, "started_at": 0.0, "latency_s": 0.1, "identity": who, **fields})


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}?synchronous=normal"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def open_kept(url):
    opened: list[Kept] = []

    def opener(**options: Any) -> Kept:
        opened.append(Kept(url, **options))
        return opened[-1]

    yield opener
    for kept in opened:
        kept.close()


@pytest.fixture
def kept(open_kept) -> Kept:
    return open_kept()
