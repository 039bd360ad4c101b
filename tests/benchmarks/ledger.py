"""The ledger beside a bare driver that inserts ready rows: rows a second, and CPU a record.

Usage: python tests/benchmarks/ledger.py [--quick] [--json FILE]

Ours goes from a `CallRecord` handed to the ledger to a committed row. The peer gets the rows ready-made: `executemany`
into SQLite (WAL, synchronous=NORMAL), `COPY` into PostgreSQL; both sides have the same tables and indexes. Rounds are
interleaved, figures are medians. CPU behind the call is that of all other threads, which also build the rows.

Exact percentiles of every component are set beside a plain scan of the same table, which any exact answer needs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import random
import sqlite3
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from langchain_core.utils.uuid import uuid7

from langchain_llmops.core.concurrency import drive, run_sync
from langchain_llmops.core.events import CallFinished
from langchain_llmops.core.types import CallRecord, Identity, Money, Usage
from langchain_llmops.ledger.filters import Filter
from langchain_llmops.ledger.latency import latencies
from langchain_llmops.ledger.schema import CALL_COLUMNS, MIGRATIONS, call_row
from langchain_llmops.ledger.writer import Ledger
from langchain_llmops.stores.base import open_store

ROWS, QUICK_ROWS = 20_000, 6_000
ROUNDS, QUICK_ROUNDS = 7, 3
PEER_BATCH = 2_000
READ_ROWS, QUICK_READ_ROWS = 500_000, 60_000
LEAST_RATIO = 0.5
MOST_SCANS = 20.0
MOST_CPU_US = 8.0
MOST_CALL_US = 1.0


@dataclass(frozen=True)
class Taken:
    """What one run took, in seconds; `calling` is CPU of the thread that tells the ledger."""

    wall: float
    cpu: float
    calling: float = 0.0


def records(count: int) -> list[CallRecord]:
    """Turns of an agent with a tool: two model calls, a tool call, and the turn itself; 200 users, 600 sessions."""
    made: list[CallRecord] = []
    for number in range(count // 4):
        root = str(uuid7())
        who = Identity("default", None, f"user-{number % 200}", f"session-{number % 600}", str(uuid.uuid4()))
        began = 1_760_000_000 + number * 0.9
        for kind in ("model", "tool", "model", "turn"):
            made.append(_record(kind, root, who, began + len(made) % 4 * 0.2, number))
    return made


def _record(kind: str, root: str, who: Identity, began: float, number: int) -> CallRecord:
    turn = kind == "turn"
    common = {
        "kind": kind,
        "run_id": root if turn else str(uuid7()),
        "trace_id": root,
        "parent_run_id": None if turn else root,
        "started_at": began,
        "latency_s": 0.2,
        "identity": who,
        "tags": ("beta",),
    }
    if kind != "model":
        return CallRecord(name="LangGraph" if turn else "lookup_order", node=None if turn else "tools", **common)
    tokens = 900 + number % 300
    return CallRecord(
        name="gpt-4o-mini", provider="openai", model="gpt-4o-mini", usage=Usage(tokens, 80, 512), ttft_s=0.05,
        money=Money(Decimal(tokens) * Decimal("0.00000015"), Decimal("0.000048"), cache_read_usd=Decimal("0.0000384")),
        streamed=True, inter_token_s=0.01, route="simple", rung=0, attempt=1, finish_reason="stop", node="model",
        prompt_hash=f"{number % 5000:032x}", **common,
    )  # fmt: skip


def ours(url: str, made: list[CallRecord]) -> Taken:
    """Records handed over as a busy process would: as fast as the buffer takes them."""
    events = [CallFinished(record) for record in made]
    ledger = Ledger(open_store(url), max_buffered=len(made))
    run_sync(ledger.sql())
    wall, cpu, calling = time.perf_counter(), time.process_time(), time.thread_time()
    for event in events:
        ledger(event)
    calling = time.thread_time() - calling
    ledger.flush()
    taken = Taken(time.perf_counter() - wall, time.process_time() - cpu, calling)
    asyncio.run(ledger.aclose())
    if ledger.dropped:
        raise RuntimeError(f"{ledger.dropped} records were dropped")
    return taken


def bare_sqlite(url: str, rows: list[tuple[Any, ...]]) -> Taken:
    statement = f"INSERT INTO llmops_calls ({', '.join(CALL_COLUMNS)}) VALUES ({', '.join('?' * len(CALL_COLUMNS))})"
    with contextlib.closing(sqlite3.connect(url.partition("///")[2].partition("?")[0], isolation_level=None)) as file:
        file.execute("PRAGMA synchronous = NORMAL")
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(rows), PEER_BATCH):
            file.execute("BEGIN IMMEDIATE")
            file.executemany(statement, rows[start : start + PEER_BATCH])
            file.execute("COMMIT")
        return Taken(time.perf_counter() - wall, time.process_time() - cpu)


def bare_postgres(url: str, rows: list[tuple[Any, ...]]) -> Taken:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, len(rows), PEER_BATCH):
            with (
                connection.transaction(),
                connection.cursor().copy(f"COPY llmops_calls ({', '.join(CALL_COLUMNS)}) FROM STDIN") as copy,
            ):
                for row in rows[start : start + PEER_BATCH]:
                    copy.write_row(row)
        return Taken(time.perf_counter() - wall, time.process_time() - cpu)


async def empty_tables(url: str) -> None:
    store = open_store(url)
    for table in ("calls", "events", "feedback", "outcomes", "schema"):
        await store.sql.execute(f"DROP TABLE IF EXISTS llmops_{table}")
    await store.sql.migrate("ledger", MIGRATIONS)
    await store.aclose()


def complete_rows(made: list[CallRecord]) -> list[tuple[Any, ...]]:
    return [row + (None,) * (len(CALL_COLUMNS) - len(row)) for row in map(call_row, made)]


def measured(url: str, bare: Any, made: list[CallRecord], rounds: int) -> tuple[list[Taken], list[Taken]]:
    rows = complete_rows(made)
    mine, theirs = [], []
    for number in range(rounds):
        sides = [(mine, lambda: ours(url, made)), (theirs, lambda: bare(url, rows))]
        for kept, run in sides if number % 2 else reversed(sides):
            asyncio.run(empty_tables(url))
            kept.append(run())
    return mine, theirs


def figures(name: str, peer: str, count: int, mine: list[Taken], theirs: list[Taken]) -> list[dict[str, Any]]:
    rate, bare_rate = (count / median(taken.wall for taken in side) for side in (mine, theirs))
    cpu, bare_cpu = (1e6 * median(taken.cpu - taken.calling for taken in side) / count for side in (mine, theirs))
    calling = 1e6 * median(taken.calling for taken in mine) / count
    return [
        _row(f"{name}: rows/s beside {peer}", rate, bare_rate, f">= {LEAST_RATIO} x", rate >= LEAST_RATIO * bare_rate),
        _row(f"{name}: CPU us a record, behind the call", cpu, bare_cpu, f"<= {MOST_CPU_US:g} us", cpu <= MOST_CPU_US),
        _row(
            f"{name}: CPU us a record, on its path", calling, None, f"<= {MOST_CALL_US:g} us", calling <= MOST_CALL_US
        ),
    ]


def reading(name: str, url: str, bare: Any, count: int, rounds: int) -> dict[str, Any]:
    """Milliseconds for all percentiles of `count` calls, and for one look at each of them."""
    draw = random.Random(1)
    asyncio.run(empty_tables(url))
    bare(url, complete_rows([replace(record, latency_s=draw.lognormvariate(0, 1)) for record in records(count)]))
    store = open_store(url, blocking=True)
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(rounds):
        for kept, read in (
            (mine, lambda: latencies(store.sql, Filter())),
            (theirs, lambda: store.sql.fetch("SELECT COUNT(*), MAX(latency_s) FROM llmops_calls")),
        ):
            began = time.perf_counter()
            drive(read())
            kept.append(1e3 * (time.perf_counter() - began))
    drive(store.aclose())
    ours_ms, scan_ms = median(mine), median(theirs)
    figure = f"{name}: ms for percentiles of {count:,} rows beside a scan"
    return _row(figure, ours_ms, scan_ms, f"<= {MOST_SCANS:g} x", ours_ms <= MOST_SCANS * scan_ms)


def _row(figure: str, mine: float, peer: float | None, target: str, met: bool) -> dict[str, Any]:
    ratio = None if peer is None else round(mine / peer, 3)
    shown = None if peer is None else round(peer, 2)
    return {"figure": figure, "ours": round(mine, 2), "peer": shown, "ratio": ratio, "target": target, "met": met}


def run(*, quick: bool) -> list[dict[str, Any]]:
    from tests.support import servers

    made = records(QUICK_ROWS if quick else ROWS)
    rounds = QUICK_ROUNDS if quick else ROUNDS
    read_rows = QUICK_READ_ROWS if quick else READ_ROWS
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/ledger.db?synchronous=normal"
        found = figures("SQLite", "executemany", len(made), *measured(url, bare_sqlite, made, rounds))
        found.append(reading("SQLite", url, bare_sqlite, read_rows, rounds))
    try:
        with servers.postgres_server() as server:
            measurement = measured(server.url, bare_postgres, made, rounds)
            found += figures("PostgreSQL", "COPY", len(made), *measurement)
            return [*found, reading("PostgreSQL", server.url, bare_postgres, read_rows, rounds)]
    except (RuntimeError, OSError, ImportError) as error:
        print(f"PostgreSQL was not measured: {error}")
        return found


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    logging.disable(logging.INFO)
    found = run(quick=given.quick)
    columns = ("figure", "ours", "peer", "ratio", "target", "met")
    cells = [columns, *[tuple("-" if row[c] is None else str(row[c]) for c in columns) for row in found]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        print(" | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
