"""What tests of commands share: a filled ledger, and the output taken apart."""

from __future__ import annotations

import asyncio

from tests.support.recorded import ledger, url_of


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
