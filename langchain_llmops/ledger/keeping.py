"""How long rows are kept: by age, and until a user asks to be forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from langchain_llmops.stores.base import Sql

__all__ = ["delete_older", "delete_user"]

ROWS_PER_TRANSACTION: Final = 2000
ORPHAN_GRACE_S: Final = 86_400.0  # a call is recorded when it ends, which may be after feedback on it
TIMES: Final = {"calls": "started_at", "events": "at"}
SAME_TENANT: Final = "(told.tenant IS NULL OR told.tenant = {0}.tenant)"
# how feedback and outcomes, `told`, name a call; a request's and a session's name may also be another tenant's
LINKS: Final = {
    "feedback": (
        "({0}.run_id = told.run_id OR {0}.trace_id = told.run_id OR ({0}.request_id = told.run_id AND "
        + SAME_TENANT
        + "))"
    ),
    "outcomes": "({0}.session_id = told.session_id AND " + SAME_TENANT + ")",
}


async def delete_older(sql: Sql, now: float, max_age_s: float, tenant: str | None) -> dict[str, int]:
    """Remove what began longer ago, of a tenant and of none (of all: None); rows removed by table.

    Feedback and outcomes go when they are as old, when a user's last call that they belong to goes (`delete_user` would
    not find them any more), and when they belong to no call after `ORPHAN_GRACE_S`. Calls go last, so that what was
    interrupted can be done again. Others can write in between.
    """
    before = now - max_age_s
    orphaned = max(before, now - ORPHAN_GRACE_S)
    told = {table: await _delete_told(sql, table, before, orphaned, tenant) for table in LINKS}
    whose, values = _whose("", tenant)
    rest = {table: await _delete(sql, table, f"{at} < ?{whose}", (before, *values)) for table, at in TIMES.items()}
    return rest | told


async def delete_user(sql: Sql, user: str, tenant: str | None) -> dict[str, int]:
    """Remove a user's calls and events, feedback on them and outcomes of their sessions; rows removed by table.

    A tenant of None means rows that name none. Feedback may name a run, a trace or a request. Calls go last: they say
    what is the user's, so that what was interrupted can be done again.
    """
    whose, values = ("tenant IS NULL", ()) if tenant is None else ("tenant = ?", (tenant,))
    theirs = f"FROM llmops_calls WHERE user_id = ? AND {whose}"
    own = (user, *values)
    # of step 1, events name no tenant; neither do outcomes that the ledger was told without one
    perhaps = f"({whose} OR tenant IS NULL)"
    on_theirs = (
        f"run_id IN (SELECT run_id {theirs} UNION SELECT trace_id {theirs})"
        f" OR (run_id IN (SELECT request_id {theirs}) AND {perhaps})"
    )
    return {
        "feedback": await _delete(sql, "feedback", on_theirs, (*own, *own, *own, *values)),
        "outcomes": await _delete(
            sql, "outcomes", f"session_id IN (SELECT session_id {theirs}) AND {perhaps}", (*own, *values)
        ),
        "events": await _delete(sql, "events", f"user_id = ? AND {perhaps}", own),
        "calls": await _delete(sql, "calls", f"user_id = ? AND {whose}", own),
    }


async def _delete(sql: Sql, table: str, condition: str, values: tuple[Any, ...]) -> int:
    statement = (
        f"DELETE FROM llmops_{table} WHERE id IN"
        f" (SELECT id FROM llmops_{table} WHERE {condition} LIMIT {ROWS_PER_TRANSACTION})"
    )
    deleted = 0
    while (more := await sql.execute(statement, values)) > 0:
        deleted += more
    return deleted


async def _delete_told(sql: Sql, table: str, before: float, orphaned: float, tenant: str | None) -> int:
    """Page by page, as looking for the calls of many rows takes a while, and others wait for the database."""
    condition, values = _outlived(LINKS[table], before, orphaned, tenant)
    page = f"SELECT id FROM llmops_{table} WHERE id > ? ORDER BY id LIMIT {ROWS_PER_TRANSACTION}"
    last_of_page = f"SELECT MAX(id) FROM ({page}) page"
    statement = (
        f"DELETE FROM llmops_{table} WHERE id IN (SELECT told.id FROM llmops_{table} told"
        f" WHERE told.id > ? AND told.id <= ? AND ({condition}))"
    )
    done, deleted = 0, 0
    while (last := (await sql.fetch(last_of_page, (done,)))[0][0]) is not None:
        deleted += await sql.execute(statement, (done, last, *values))
        done = last
    return deleted


def _outlived(link: str, before: float, orphaned: float, tenant: str | None) -> tuple[str, tuple[Any, ...]]:
    """Whether `told` goes; a call without a user needs no other of its own to be found by."""
    whose, owner = _whose("told.", tenant)
    goes, parameters = _going("gone", before, tenant)
    same_user = "kept.user_id = gone.user_id AND COALESCE(kept.tenant, '') = COALESCE(gone.tenant, '')"
    stays = f"NOT ({_going('kept', before, tenant)[0]}) AND (gone.user_id IS NULL OR ({same_user}))"
    condition = (
        f"(told.at < ?{whose})"
        f" OR (told.at < ?{whose} AND NOT EXISTS (SELECT 1 FROM llmops_calls c WHERE {link.format('c')}))"
        f" OR EXISTS (SELECT 1 FROM llmops_calls gone WHERE {link.format('gone')} AND {goes} AND NOT EXISTS"
        f" (SELECT 1 FROM llmops_calls kept WHERE {link.format('kept')} AND {stays}))"
    )
    return condition, (before, *owner, orphaned, *owner, *parameters, *parameters)


def _going(call: str, before: float, tenant: str | None) -> tuple[str, tuple[Any, ...]]:
    whose, values = _whose(f"{call}.", tenant)
    return f"{call}.started_at < ?{whose}", (before, *values)


def _whose(of: str, tenant: str | None) -> tuple[str, tuple[str, ...]]:
    return ("", ()) if tenant is None else (f" AND ({of}tenant = ? OR {of}tenant IS NULL)", (tenant,))
