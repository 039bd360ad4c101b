"""Traces in SQLite or PostgreSQL: one transaction for each request that brings runs."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from langchain_llmops.recorder.runs import as_document, feedback_row, iso, microseconds, project_id, text
from langchain_llmops.recorder.schema import (
    COLUMNS,
    INSERT_PROJECT,
    MIGRATIONS,
    UPSERT_FEEDBACK,
    UPSERT_RUN,
    UPSERT_TRACE,
)
from langchain_llmops.recorder.wire import RefusedRequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_llmops.recorder.intake import Intake
    from langchain_llmops.recorder.runs import RunRow
    from langchain_llmops.stores.base import Sql, Store, Transaction

__all__ = ["TraceStore", "after_key", "among", "select"]

MOST_RUNS: Final = 100
TIME: Final = re.compile(r"-?[0-9]{1,17}")
NOBODY: Final = "00000000-0000-0000-0000-000000000000"  # LangSmith's client asks for a tenant
# filters of `POST /runs/query` that ask for any of some values, and those that are yes or no
COMPARED: Final = {"id": "id", "trace": "trace_id", "parent_run": "parent_run_id", "run_type": "run_type"}
FLAGS: Final = {
    ("is_root", True): "parent_run_id IS NULL",
    ("is_root", False): "parent_run_id IS NOT NULL",
    ("error", True): "error IS NOT NULL",
    ("error", False): "error IS NULL",
}
UNSUPPORTED: Final = ("filter", "trace_filter", "tree_filter", "query", "reference_example")


class TraceStore:
    """What the API writes and reads. `clock` gives Unix seconds, for what says no time of its own.

    A store of `sqlite://`, `postgresql://` or `memory://`; what `take` returned from is committed.
    """

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self.sql = store.sql
        self._clock = clock

    def now_us(self) -> int:
        """The time, in microseconds."""
        return int(self._clock() * 1e6)

    async def prepare(self) -> None:
        """Bring the tables up to date."""
        await self.sql.migrate("recorder", MIGRATIONS)

    async def take(self, intake: Intake) -> None:
        """Store all of a request or nothing; rows go in one order, so that writers do not deadlock."""
        runs = sorted(intake.runs, key=lambda run: (run["id"], run["patched"]))
        names = {run["project"] for run in runs if run["project"] is not None}
        async with self.sql.transaction() as transaction:
            for run in runs:
                if run["trace_id"] is None and run["parent_run_id"] is not None:
                    run["trace_id"] = await _trace_of(transaction, run["parent_run_id"])
            await transaction.execute_many(INSERT_PROJECT, [self._project(name) for name in sorted(names)])
            await transaction.execute_many(UPSERT_TRACE, self._traces(runs))
            await transaction.execute_many(UPSERT_RUN, [tuple(run[name] for name in COLUMNS) for run in runs])
            await transaction.execute_many(UPSERT_FEEDBACK, sorted(intake.feedback, key=lambda row: row[0]))

    async def query(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Answer `POST /runs/query`, with runs whose start is known: newest first, or oldest if `order` is `asc`."""
        where, values = _conditions(body)
        order, beyond = ("ASC", ">") if body.get("order") == "asc" else ("DESC", "<")
        limit = min(max(asked, 1), MOST_RUNS) if isinstance(asked := body.get("limit"), int) else MOST_RUNS
        if body.get("cursor"):
            where.append(f"(started_us, id) {beyond} (?, ?)")
            values += after_key(str(body["cursor"]))
        tail = f"WHERE {' AND '.join(where)} ORDER BY started_us {order}, id {order} LIMIT ?"
        rows = await select(self.sql, COLUMNS, f"FROM llmops_recorder_runs {tail}", (*values, limit + 1))
        last = rows[limit - 1] if len(rows) > limit else None
        cursor = None if last is None else f"{last['started_us']}.{last['id']}"
        return {"runs": [as_document(row) for row in rows[:limit]], "cursors": {"next": cursor}}

    async def projects(self, **wanted: str) -> list[dict[str, Any]]:
        """Projects as LangSmith's sessions, by name; those whose `id` or `name` is the wanted one."""
        where = " AND ".join(f"{column} = ?" for column in wanted) or "1 = 1"
        tail = f"FROM llmops_recorder_projects WHERE {where} ORDER BY name"
        rows = await select(self.sql, ("id", "name", "created_us"), tail, tuple(wanted.values()))
        more = {"tenant_id": NOBODY, "reference_dataset_id": None}
        return [{"id": row["id"], "name": row["name"], "start_time": iso(row["created_us"]), **more} for row in rows]

    async def add_project(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Make a project, or find it."""
        name = text(fields.get("name"))
        if name is None:
            raise RefusedRequestError(422, "a project needs a name")
        await self.sql.execute(INSERT_PROJECT, self._project(name))
        return (await self.projects(name=name))[0]

    async def add_feedback(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Store one feedback; its document."""
        row = feedback_row({"id": str(uuid4()), **fields}, self.now_us())
        await self.sql.execute(UPSERT_FEEDBACK, row)
        document: dict[str, Any] = json.loads(row[-1])
        return document

    async def feedback(self, where: str, values: Sequence[Any], page: tuple[int, int] = (100, 0)) -> list[Any]:
        """Feedback documents, oldest first; `page` is `(limit, offset)`."""
        tail = f"FROM llmops_recorder_feedback WHERE {where} ORDER BY created_us, id LIMIT ? OFFSET ?"
        return [json.loads(row["body"]) for row in await select(self.sql, ("body",), tail, (*values, *page))]

    async def drop_feedback(self, feedback_id: str) -> None:
        """Remove one feedback."""
        await self.sql.execute("DELETE FROM llmops_recorder_feedback WHERE id = ?", (feedback_id,))

    def _traces(self, runs: list[RunRow]) -> list[tuple[Any, ...]]:
        now = self.now_us()
        rows = [
            (
                run["trace_id"],
                now if run["started_us"] is None else run["started_us"],
                run["project"],
                run["user_id"],
                run["session_id"] or run["thread_id"],
                int(run["id"] == run["trace_id"] and run["started_us"] is not None),
            )
            for run in runs
            if run["trace_id"] is not None
        ]
        return sorted(rows, key=lambda row: row[0])

    def _project(self, name: str) -> tuple[str, str, int]:
        return project_id(name), name, self.now_us()


async def select(sql: Sql, columns: Sequence[str], tail: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows by the last word of each column: `t.id` is `id`, and `MAX(x) AS most` is `most`."""
    names = [column.replace(".", " ").rpartition(" ")[2] for column in columns]
    rows = await sql.fetch(f"SELECT {', '.join(columns)} {tail}", values)
    return [dict(zip(names, row, strict=True)) for row in rows]


def among(column: str, values: Sequence[Any]) -> str:
    """The condition that a column has one of these values, with a placeholder for each."""
    return f"{column} IN ({', '.join('?' * len(values)) or 'NULL'})"


def after_key(cursor: str) -> list[Any]:
    """`(time, id)` at which the next page begins."""
    started, _, key = cursor.partition(".")
    if TIME.fullmatch(started) is None:
        raise RefusedRequestError(422, "the cursor is not one that was given out here; begin with the first page")
    return [int(started), key]


async def _trace_of(transaction: Transaction, parent_id: str) -> str:
    """The parent's trace; a parent that is not here yet is taken for the root."""
    rows = await transaction.fetch("SELECT trace_id FROM llmops_recorder_runs WHERE id = ?", (parent_id,))
    return str(rows[0][0]) if rows and rows[0][0] is not None else parent_id


def _conditions(body: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
    for name in UNSUPPORTED:
        if body.get(name):
            raise RefusedRequestError(422, f"this local recorder does not know {name!r}; filter the runs it lists")
    where, values = ["started_us IS NOT NULL", "name IS NOT NULL"], list[Any]()
    for name, column in {**COMPARED, "session": "id"}.items():
        if given := body.get(name):
            wanted = [str(value) for value in (given if isinstance(given, list) else [given])]
            condition = among(column, wanted)
            named = f"project IN (SELECT name FROM llmops_recorder_projects WHERE {condition})"
            where.append(named if name == "session" else condition)
            values += wanted
    if body.get("start_time"):
        where.append("started_us >= ?")
        values.append(microseconds(body["start_time"], "start_time"))
    where += [condition for (name, wanted), condition in FLAGS.items() if body.get(name) is wanted]
    return where, values
