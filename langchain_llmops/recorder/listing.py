"""What the pages show: traces, the runs of one, threads, the turns of one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.recorder.storage import holes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_llmops.stores.base import Sql

__all__ = ["FILTERS", "MOST_CHARACTERS", "PREVIEWED", "Listing", "Page"]

PAGE_ROWS: Final = 50
MOST_SHOWN: Final = 1000
MOST_CHARACTERS: Final = 200_000  # of one field; what is longer is cut in the database, before it is carried here
PREVIEWED: Final = 20_000
FILTERS: Final = {
    "user": "t.user_id = ?",
    "session": "t.thread = ?",
    "project": "t.project = ?",
    "errors": "EXISTS (SELECT 1 FROM llmops_recorder_runs r WHERE r.trace_id = t.id AND r.error IS NOT NULL)",
    "text": (
        "EXISTS (SELECT 1 FROM llmops_recorder_runs r WHERE r.trace_id = t.id AND (LOWER(r.name) LIKE ? ESCAPE '!'"
        " OR LOWER(r.inputs) LIKE ? ESCAPE '!' OR LOWER(r.outputs) LIKE ? ESCAPE '!'"
        " OR LOWER(r.error) LIKE ? ESCAPE '!'))"
    ),
}
TOTALS: Final = (
    "COUNT(*) AS runs, SUM(CASE WHEN r.run_type = 'llm' THEN r.total_tokens END) AS total_tokens,"
    " SUM(CASE WHEN r.run_type = 'llm' THEN r.cost_pico END) AS cost_pico, MIN(r.started_us) AS first_us,"
    " MAX(r.ended_us) AS last_us, SUM(CASE WHEN r.error IS NOT NULL THEN 1 ELSE 0 END) AS errors"
)
TOTAL_NAMES: Final = ("runs", "total_tokens", "cost_pico", "first_us", "last_us", "errors")
SHOWN: Final = (
    "id", "trace_id", "parent_run_id", "dotted_order", "name", "run_type", "started_us", "ended_us", "total_tokens",
    "cost_pico", "tags", "attachments", "error", "inputs", "outputs", "extra",
)  # fmt: skip
LONGEST_TIME: Final = 18
CUT: Final = frozenset(("error", "inputs", "outputs", "extra"))


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
            values += _key(after)
        names = ("id", "started_us", "project", "user_id", "thread")
        rows = await self._rows(
            names,
            f"SELECT {', '.join(f't.{name}' for name in names)} FROM llmops_recorder_traces t"  # noqa: S608 - our words
            f" WHERE {' AND '.join(where)} ORDER BY t.started_us DESC, t.id DESC LIMIT ?",
            (*values, PAGE_ROWS + 1),
        )
        page = _page(rows, "started_us", "id")
        ids = [row["id"] for row in page.rows]
        totals, roots = await self._totals("r.trace_id", ids), await self._roots(ids)
        return Page(
            [{**row, **totals.get(row["id"], {}), "root": roots.get(row["id"])} for row in page.rows], page.after
        )

    async def runs(self, trace_id: str) -> list[dict[str, Any]]:
        """The runs of one trace, cut to what a page can show; at most `MOST_SHOWN`."""
        return await self._shown("trace_id = ?", (trace_id,))

    async def threads(self, after: str | None = None) -> Page:
        """Threads, the one with the newest trace first, with the totals of all their runs."""
        having, values = ("HAVING (MAX(started_us), thread) < (?, ?)", _key(after)) if after else ("", [])
        rows = await self._rows(
            ("thread", "started_us", "traces", "user_id"),
            "SELECT thread, MAX(started_us), COUNT(*), MAX(user_id) FROM llmops_recorder_traces"  # noqa: S608 - ours
            f" WHERE thread IS NOT NULL GROUP BY thread {having} ORDER BY MAX(started_us) DESC, thread DESC LIMIT ?",
            (*values, PAGE_ROWS + 1),
        )
        page = _page(rows, "started_us", "thread")
        totals = await self._totals("t.thread", [row["thread"] for row in page.rows])
        return Page([{**row, **totals.get(row["thread"], {})} for row in page.rows], page.after)

    async def turns(self, thread: str) -> list[dict[str, Any]]:
        """The root runs of a thread's traces, oldest first, each with the totals of its trace; at most `MOST_SHOWN`."""
        among = "trace_id IN (SELECT id FROM llmops_recorder_traces WHERE thread = ?) AND parent_run_id IS NULL"
        roots = await self._shown(among, (thread,))
        totals = await self._totals("r.trace_id", [root["trace_id"] for root in roots])
        return [{**root, **totals[root["trace_id"]]} for root in roots]

    async def _shown(self, where: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        columns = [f"SUBSTR({name}, 1, {MOST_CHARACTERS + 1})" if name in CUT else name for name in SHOWN]
        return await self._rows(
            SHOWN,
            f"SELECT {', '.join(columns)} FROM llmops_recorder_runs WHERE {where}"  # noqa: S608 - ours
            f" ORDER BY started_us, id LIMIT {MOST_SHOWN}",
            values,
        )

    async def _totals(self, group: str, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
        rows = (
            await self._rows(
                ("key", *TOTAL_NAMES),
                f"SELECT {group}, {TOTALS} FROM llmops_recorder_runs r"  # noqa: S608 - ours
                " JOIN llmops_recorder_traces t ON t.id = r.trace_id"
                f" WHERE {group} IN ({holes(keys)}) GROUP BY {group}",
                keys,
            )
            if keys
            else []
        )
        return {row.pop("key"): row for row in rows}

    async def _roots(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        names = ("trace_id", "name", "started_us", "ended_us", "error", f"SUBSTR(inputs, 1, {PREVIEWED + 1})")
        rows = (
            await self._rows(
                names,
                f"SELECT {', '.join(names)} FROM llmops_recorder_runs"  # noqa: S608 - ours
                f" WHERE parent_run_id IS NULL AND trace_id IN ({holes(ids)})",
                ids,
            )
            if ids
            else []
        )
        return {row["trace_id"]: {**row, "inputs": row.pop(names[-1])} for row in rows}

    async def _rows(self, names: Sequence[str], statement: str, values: Sequence[Any]) -> list[dict[str, Any]]:
        return [dict(zip(names, row, strict=True)) for row in await self._sql.fetch(statement, values)]


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
    return [_like(plain), _like(within), _like(within), _like(plain)]


def _like(words: str) -> str:
    for special in "!%_":
        words = words.replace(special, f"!{special}")
    return f"%{words}%"


def _page(rows: list[dict[str, Any]], *key: str) -> Page:
    shown = rows[:PAGE_ROWS]
    return Page(shown, ".".join(str(shown[-1][name]) for name in key) if len(rows) > PAGE_ROWS else None)


def _key(after: str) -> list[Any]:
    started, _, rest = after.partition(".")
    if not started.lstrip("-").isdigit() or len(started) > LONGEST_TIME:
        raise ConfigurationError("this page address is damaged; go back to the first page")
    return [int(started), rest]
