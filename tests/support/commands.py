"""What tests of commands share: a filled ledger, and the output taken apart."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from langchain_llmops.core.types import ErrorKind
from tests.support.recorded import NOON, call, hit, ledger, url_of

WHO = ("ada", "s1", "request-1")
STEP = {"trace_id": "turn-1", "who": WHO}
RECORDS = [
    call("turn", run_id="turn-1", name="LangGraph", started_at=NOON, latency_s=2.5, **STEP),
    call(run_id="model-1", parent_run_id="turn-1", started_at=NOON + 1, cost="0.01", latency_s=1.5, **STEP),
    call("tool", run_id="tool-1", parent_run_id="turn-1", started_at=NOON + 2, name="lookup", latency_s=0.002, **STEP),
    replace(
        call(run_id="model-2", parent_run_id="turn-1", started_at=NOON + 3, cost="0.002", **STEP),
        error_kind=ErrorKind.TIMEOUT, error_class="ReadTimeout",
    ),
    hit(who=("bob", "s2", "request-2"), started_at=NOON + 4, tags=("demo",)),
    call(who=("bob", "s2", "request-2"), started_at=NOON + 90_000, cost="0.03", route="complex", model="gpt-4o-mini"),
    call(who=("bob", "s3", "request-3"), started_at=NOON + 90_001, cost=None, model="own-13b"),
]  # fmt: skip


def fill(url, records, **rows) -> None:
    """Add rows to a ledger; for tests that run no event loop."""

    async def filled() -> None:
        async with ledger(url, records, **rows):
            pass

    asyncio.run(filled())


def filled(request, tmp_path, records) -> tuple:
    """The option that names a ledger with these records, in the database that is the fixture's parameter."""
    url = url_of(request.param, request, tmp_path)
    fill(url, records)
    return ("--state", tmp_path) if request.param == "sqlite" else ("--postgres", url)


def asked(llmops, *arguments):
    """The output of a command that must not fail."""
    code, out, err = llmops(*arguments)
    assert (code, err) == (0, "")
    return out


def table(out: str) -> dict[str, list[str]]:
    """Cells by the first one, of lines that have several."""
    rows = [[cell for cell in line.split("  ") if cell.strip()] for line in out.splitlines()]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows if len(row) > 1}
