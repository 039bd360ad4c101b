"""Print the conformance table: savers by capabilities, passed tests of all. Exits with 1 when a test of ours fails."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import uuid
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from langgraph.checkpoint.memory import InMemorySaver
from rich.console import Console
from rich.table import Table

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.conformance.suite import CAPABILITIES, TESTS, Score, conform
from tests.support import servers
from tests.support.checkpoints import COLOURS, SyncTwin
from tests.support.combinations import COMBINATIONS, Combination

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 170


class Databases:
    """Servers that start when first asked for; every combination gets a schema, a database or a prefix of its own."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._started: dict[str, str] = {}
        self._taken = 0

    def own(self, kind: str) -> str:
        start = {"postgresql": servers.postgres_server, "redis": servers.redis_server, "s3": servers.rclone_s3}[kind]
        if kind not in self._started:
            self._started[kind] = self._stack.enter_context(start()).url
        return {"postgresql": self._schema, "redis": self._database, "s3": self._prefix}[kind](self._started[kind])

    def _schema(self, url: str) -> str:
        import psycopg

        name = f"llmops_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"CREATE SCHEMA {name}")
        return f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{name}"

    def _database(self, url: str) -> str:
        self._taken += 1
        return f"{url.rpartition('/')[0]}/{self._taken}"

    def _prefix(self, url: str) -> str:
        head, _, query = url.partition("?")
        return f"{head}/{uuid.uuid4().hex[:12]}?{query}"


async def score_of(combination: Combination, colour: str, databases: Databases) -> Score:
    with tempfile.TemporaryDirectory() as folder:
        urls = combination.urls(Path(folder), databases.own)

        @asynccontextmanager
        async def opened():
            async with TieredCheckpointSaver.from_urls(**urls) as saver:
                yield saver if colour == "async" else SyncTwin(saver)

        return await conform(f"{combination}, {colour}", opened)


async def score_of_the_model() -> Score:
    @asynccontextmanager
    async def opened():
        async with AsyncExitStack() as stack:
            yield await stack.enter_async_context(InMemorySaver())

    return await conform("InMemorySaver", opened)


def rows_of(scores: Sequence[Score]) -> list[list[str]]:
    """A cell is `passed/all`, or `-` where the saver does not have the capability."""

    def cell(score: Score, capability: str) -> str:
        return f"{score.passed[capability]}/{score.total[capability]}" if capability in score.total else "-"

    totals = [f"{sum(score.passed.values())}/{max(TESTS, sum(score.total.values()))}" for score in scores]
    return [
        [score.name, *(cell(score, capability) for capability in CAPABILITIES), total]
        for score, total in zip(scores, totals, strict=True)
    ]


def show(scores: Sequence[Score]) -> None:
    table = Table(title="LangGraph checkpointer conformance: passed of all")
    for name in ("saver", *CAPABILITIES, "all"):
        table.add_column(name, justify="left" if name == "saver" else "right", no_wrap=name == "saver")
    for row in rows_of(scores):
        table.add_row(*row)
    console = Console(width=max(WIDTH, Console().width))
    console.print(table)
    for score in scores:
        for failure in score.failures:
            console.print(f"{score.name}: {failure}", markup=False)


async def scores_of(combinations: Sequence[Combination]) -> list[Score]:
    with ExitStack() as stack:
        databases = Databases(stack)
        ours = [await score_of(one, colour, databases) for one in combinations for colour in COLOURS]
    return [*ours, await score_of_the_model()]


def main(arguments: Sequence[str] | None = None) -> int:
    known = {str(one): one for one in COMBINATIONS}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--combinations", nargs="+", choices=known, default=list(known), metavar="WARM+HOT+COLD")
    chosen = parser.parse_args(arguments).combinations
    scores = asyncio.run(scores_of([known[name] for name in chosen]))
    show(scores)
    return int(any(score.failures for score in scores[:-1]))


if __name__ == "__main__":
    sys.exit(main())
