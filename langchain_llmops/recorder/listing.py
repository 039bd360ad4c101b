"""What the pages show: traces, the runs of one, threads, the turns of one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.recorder.storage import after_key, among, select

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_llmops.stores.base import Sql

__all__ = ["FILTERS", "MOST_CHARACTERS", "PREVIEWED", "Listing", "Page", "in_order"]

PAGE_ROWS: Final = 50
MOST_SHOWN: Final = 1000
MOST_CHARACTERS: Final = 200_000  # of one field; what is longer is cut in the database, before it is carried here
PREVIEWED: Final = 20_000
SEARCHED: Final = ("name", "inputs", "outputs", "error")
SPECIAL: Final = re.compile("[!%_]")
ESCAPED: Final = "ESCAPE '!'"
SOME_RUN: Final = "EXISTS (SELECT 1 FROM llmops_recorder_runs r WHERE r.trace_id = t.id"
FILTERS: Final = {
    "user": "t.user_id = ?",
    "session": "t.thread = ?",
    "project": "t.project = ?",
    "errors": f"{SOME_RUN} AND r.error IS NOT NULL)",
    "text": f"{SOME_RUN} AND ({' OR '.join(f'LOWER(r.{name}) LIKE ? {ESCAPED}' for name in SEARCHED)}))",
}
TOTALS: Final = (
    "COUNT(*) AS runs",
    "SUM(CASE WHEN r.run_type = 'llm' THEN r.total_tokens END) AS total_tokens",
    "SUM(CASE WHEN r.run_type = 'llm' THEN r.cost_pico END) AS cost_pico",
    "SUM(CASE WHEN r.error IS NOT NULL THEN 1 ELSE 0 END) AS errors",
)
SHOWN: Final = (
    "id", "trace_id", "parent_run_id", "dotted_order", "name", "run_type", "started_us", "ended_us", "total_tokens",
    "cost_pico", "tags", "attachments",
    *(f"SUBSTR({name}, 1, {MOST_CHARACTERS + 1}) AS {name}" for name in ("error", "inputs", "outputs", "extra")),
)  # fmt: skip
ROOT: Final = ("trace_id", "name", "started_us", "ended_us", "error", f"SUBSTR(inputs, 1, {PREVIEWED + 1}) AS inputs")


@dataclass(frozen=True)
class Page:
    """Some rows, and the key at which the next page begins."""

    rows: list[dict[str, Any]]
    after: str | None


class Listing:
    """Reads what `TraceStore` wrote."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql

    async def traces(self, filters: Mapping[str, str], after: str | None = None) -> Page:
        """Traces that pass all filters, newest first, with the totals of their runs and their root's name and end."""
        where, values = _where(filters)
        if after:
            where.append("(t.started_us, t.id) < (?, ?)")
            values += after_key(after)
        tail = (
            f"FROM llmops_recorder_traces t WHERE {' AND '.join(where)} ORDER BY t.started_us DESC, t.id DESC LIMIT ?"
        )
        columns = ("t.id", "t.started_us", "t.project", "t.user_id", "t.thread")
        rows = await select(self._sql, columns, tail, (*values, PAGE_ROWS + 1))
        ids = [row["id"] for row in rows[:PAGE_ROWS]]
        totals = await self._totals("r.trace_id", ids)
        tail = f"FROM llmops_recorder_runs WHERE parent_run_id IS NULL AND {among('trace_id', ids)}"
        roots = {root["trace_id"]: root for root in await select(self._sql, ROOT, tail, ids)}
        return _page([{**row, **totals.get(row["id"], {}), "root": roots.get(row["id"])} for row in rows], "id")

    async def runs(self, trace_id: str) -> list[dict[str, Any]]:
        """The runs of one trace, cut to what a page can show; at most `MOST_SHOWN`."""
        return await self._shown("trace_id = ?", trace_id)

    async def threads(self, after: str | None = None) -> Page:
        """Threads, the one with the newest trace first, with the totals of all their runs."""
        having, values = ("HAVING (MAX(started_us), thread) < (?, ?)", after_key(after)) if after else ("", [])
        tail = f"GROUP BY thread {having} ORDER BY MAX(started_us) DESC, thread DESC LIMIT ?"
        rows = await select(
            self._sql,
            ("thread", "MAX(started_us) AS started_us", "COUNT(*) AS traces", "MAX(user_id) AS user_id"),
            f"FROM llmops_recorder_traces WHERE thread IS NOT NULL {tail}",
            (*values, PAGE_ROWS + 1),
        )
        totals = await self._totals("t.thread", [row["thread"] for row in rows])
        return _page([{**row, **totals.get(row["thread"], {})} for row in rows], "thread")

    async def turns(self, thread: str) -> list[dict[str, Any]]:
        """The root runs of a thread's traces, oldest first, each with the totals of its trace; at most `MOST_SHOWN`."""
        within = "trace_id IN (SELECT id FROM llmops_recorder_traces WHERE thread = ?) AND parent_run_id IS NULL"
        roots = await self._shown(within, thread)
        totals = await self._totals("r.trace_id", [root["trace_id"] for root in roots])
        return [{**root, **totals[root["trace_id"]]} for root in roots]

    async def _shown(self, where: str, value: str) -> list[dict[str, Any]]:
        tail = f"FROM llmops_recorder_runs WHERE {where} ORDER BY started_us, id LIMIT {MOST_SHOWN}"
        return await select(self._sql, SHOWN, tail, (value,))

    async def _totals(self, group: str, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        tail = f"JOIN llmops_recorder_traces t ON t.id = r.trace_id WHERE {among(group, keys)} GROUP BY {group}"
        columns = (f"{group} AS grouped", *TOTALS)
        rows = await select(self._sql, columns, f"FROM llmops_recorder_runs r {tail}", keys)
        return {row.pop("grouped"): row for row in rows}


def in_order(runs: Sequence[Mapping[str, Any]]) -> list[tuple[int, Mapping[str, Any]]]:
    """`(depth, run)` as LangSmith's `dotted_order` has them; by parent and start for runs that carry none."""
    by_id = {run["id"]: run for run in runs}
    places = {run["id"]: _place(run, by_id) for run in runs}
    top = min((len(place) for place in places.values()), default=0)
    return [(len(places[run["id"]]) - top, run) for run in sorted(runs, key=lambda run: places[run["id"]])]


def _where(filters: Mapping[str, str]) -> tuple[list[str], list[Any]]:
    where, values = ["1 = 1"], list[Any]()
    for name, condition in FILTERS.items():
        if wanted := filters.get(name):
            where.append(condition)
            values += _text_values(wanted) if name == "text" else [wanted] * condition.count("?")
    return where, values


def _text_values(wanted: str) -> list[str]:
    """The words in any case; within JSON as JSON writes them."""
    plain = wanted.lower()
    within = json.dumps(plain, ensure_ascii=False)[1:-1]
    return ["%" + SPECIAL.sub(r"!\g<0>", words) + "%" for words in (plain, within, within, plain)]


def _page(rows: list[dict[str, Any]], key: str) -> Page:
    shown = rows[:PAGE_ROWS]
    return Page(shown, f"{shown[-1]['started_us']}.{shown[-1][key]}" if len(rows) > PAGE_ROWS else None)


def _place(run: Mapping[str, Any], by_id: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    if run["dotted_order"]:
        return tuple(run["dotted_order"].split("."))
    path, seen = list[str](), set[str]()
    at: Mapping[str, Any] | None = run
    while at is not None and at["id"] not in seen:
        seen.add(at["id"])
        if at["dotted_order"]:
            return (*at["dotted_order"].split("."), *reversed(path))
        path.append(f"{at['started_us'] or 0:020d}{at['id']}")
        at = by_id.get(at["parent_run_id"])
    return tuple(reversed(path))
