"""How long rows are kept: by age, and until a user asks to be forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from langchain_llmops.stores.base import Sql

__all__ = ["delete_older", "delete_user"]

ROWS_PER_TRANSACTION: Final = 2000
TABLES: Final = {"calls": "started_at", "events": "at", "feedback": "at", "outcomes": "at"}


async def delete_older(sql: Sql, before: float, tenant: str | None) -> dict[str, int]:
    """Remove what began before a Unix time, of a tenant and of none (of all: None); rows removed by table.

    Others can write in between.
    """
    whose, values = ("", ()) if tenant is None else (" AND (tenant = ? OR tenant IS NULL)", (tenant,))
    return {table: await _delete(sql, table, f"{when} < ?{whose}", (before, *values)) for table, when in TABLES.items()}


async def delete_user(sql: Sql, user: str, tenant: str | None) -> dict[str, int]:
    """Remove a user's calls and events, feedback on their runs and outcomes of their sessions; rows removed by table.

    A tenant of None means rows that name none. Calls go last: they say which runs and sessions are the user's, so that
    what was interrupted can be done again.
    """
    whose, values = ("tenant IS NULL", ()) if tenant is None else ("tenant = ?", (tenant,))
    theirs = f"FROM llmops_calls WHERE user_id = ? AND {whose}"
    own = (user, *values)
    # of step 1, events name no tenant; neither do outcomes that the ledger was told without one
    perhaps = f"({whose} OR tenant IS NULL)"
    return {
        "feedback": await _delete(sql, "feedback", f"run_id IN (SELECT run_id {theirs})", own),
        "outcomes": await _delete(
            sql, "outcomes", f"session_id IN (SELECT session_id {theirs}) AND {perhaps}", (*own, *values)
        ),
        "events": await _delete(sql, "events", f"user_id = ? AND {perhaps}", own),
        "calls": await _delete(sql, "calls", f"user_id = ? AND {whose}", own),
    }


async def _delete(sql: Sql, table: str, condition: str, values: tuple[Any, ...]) -> int:
    statement = (
        f"DELETE FROM llmops_{table} WHERE id IN"  # noqa: S608 - names of this file; values are parameters
        f" (SELECT id FROM llmops_{table} WHERE {condition} LIMIT {ROWS_PER_TRANSACTION})"
    )
    deleted = 0
    while (more := await sql.execute(statement, values)) > 0:
        deleted += more
    return deleted
