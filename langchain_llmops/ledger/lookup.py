"""An id found by how it begins."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.ledger.filters import REQUEST, Filter

if TYPE_CHECKING:
    from langchain_llmops.stores.base import Sql

__all__ = ["Matches", "matches"]

IDS: Final = ("request_id", "trace_id", "run_id")
SHOWN: Final = 3
TO_LAST_DIGIT: Final = re.compile(r"(.*)([0-8])", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Matches:
    """How many requests have an id that begins so, the first few of them, and what to look at where there is one."""

    count: int
    first: list[str]
    only: str | None


async def matches(sql: Sql, prefix: str, chosen: Filter) -> Matches:
    """The requests of `chosen` calls of which a request, trace or run id begins with `prefix`.

    `only` is the trace where all matches are in one, else the request where all are of one.
    """
    having = [_having(name, prefix, chosen) for name in IDS]
    union = " UNION ".join(statement for statement, _ in having)
    parameters = [value for _, values in having for value in values]
    counts = "COUNT(DISTINCT request), COUNT(DISTINCT trace), MIN(request), MIN(trace)"
    ((requests, traces, request, trace),) = await sql.fetch(f"SELECT {counts} FROM ({union}) found", parameters)
    if traces == 1 or requests == 1:
        only = trace if traces == 1 else request
        return Matches(1, [only], only)
    listed = f"SELECT DISTINCT request FROM ({union}) found ORDER BY request LIMIT {SHOWN}"
    return Matches(int(requests), [row[0] for row in await sql.fetch(listed, parameters)] if requests else [], None)


def _having(name: str, prefix: str, chosen: Filter) -> tuple[str, list[Any]]:
    """The requests and traces of calls with such an id in one column, by its index."""
    where, parameters = chosen.where(f"SUBSTR({name}, 1, {len(prefix)}) = ?", *_between(name, prefix))
    statement = f"SELECT {REQUEST} AS request, trace_id AS trace FROM llmops_calls{where}"
    return statement, [*parameters, prefix, *_bounds(prefix)]


def _between(name: str, prefix: str) -> list[str]:
    return [f"{name} >= ?", f"{name} < ?"] if _bounds(prefix) else []


def _bounds(prefix: str) -> tuple[str, ...]:
    """A stretch of the index that has every text with the prefix, and little else; none where it has no 0 to 8.

    PostgreSQL's indexes are in the order of its language, where letters may join (Danish `aa` comes after `z`), look
    alike or count for nothing: only from a digit to the next one do all orders agree.
    """
    upto = TO_LAST_DIGIT.match(prefix)
    return () if upto is None else (upto[0], f"{upto[1]}{int(upto[2]) + 1}")
