"""`llmops checkpoints` that change something: between tiers, and shorter histories."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from langchain_llmops.cli.checkpoint_place import (
    NOTHING_FOUND,
    AsJson,
    Objects,
    Place,
    Postgres,
    Redis,
    State,
    Tenant,
    agree,
    say,
)
from langchain_llmops.cli.scope import duration_s, plain
from langchain_llmops.cli.tables import Column, Sheet, count, emit
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.redaction import redact
from langchain_llmops.ledger.report import counted

if TYPE_CHECKING:
    from langchain_llmops.checkpoint.saver import TieredCheckpointSaver

__all__ = ["archive", "prune", "restore", "sweep"]

Thread = Annotated[str, typer.Argument(metavar="THREAD", help="Its thread (session) id.")]
SWEPT: Final = {
    "archived": "moved to the cold tier",
    "finished": "of these, begun by a process that is gone",
    "deleted": "past their retention, deleted",
    "objects_deleted": "objects that nothing needed, deleted",
    "objects_refused": "objects that the store did not delete",
}


def archive(
    thread: Annotated[str | None, typer.Argument(metavar="[THREAD]", help="Its thread (session) id.")] = None,
    *,
    idle: Annotated[str | None, typer.Option(help="All that nobody has used for so long: 3600, 12h, 7d.")] = None,
    state: State = None,
    redis: Redis = None,
    postgres: Postgres = None,
    objects: Objects = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Move a conversation, or all idle ones, to the cold tier; the next read brings the newest checkpoint back.

    Exit code 1 when the conversation is not there, is pinned, or is being written.
    Example: llmops checkpoints archive --idle 7d
    """
    if (thread is None) == (idle is None):
        raise ConfigurationError("archive takes a THREAD, or --idle with seconds or a length like 7d")
    place = Place(state, redis, postgres, objects, tenant)
    older_than_s = None if idle is None else _seconds(idle, "--idle")
    with place.opened() as saver:
        if thread is None:
            archived = saver.archive_idle(older_than_s or 0.0)
            _tell(as_json, f"{counted(archived, 'conversation', 'conversations')} archived", archived=archived)
            return
        done = saver.archive(plain(thread, "THREAD"))
        tier = _tier(place, saver, thread)
    if tier != "cold":
        say(f"{thread!r} stays {tier}: it is pinned, or was written meanwhile")
        raise typer.Exit(1)
    _tell(as_json, f"archived {thread}" if done else f"{thread} is cold already", archived=int(done), tier=tier)


def restore(
    thread: Thread,
    *,
    state: State = None,
    redis: Redis = None,
    postgres: Postgres = None,
    objects: Objects = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Bring all of a conversation back from the cold tier to the warm one.

    Exit code 1 when there is no such conversation.
    Example: llmops checkpoints restore s1
    """
    place = Place(state, redis, postgres, objects, tenant)
    with place.opened() as saver:
        done = saver.restore(plain(thread, "THREAD"))
        tier = _tier(place, saver, thread)
    _tell(as_json, f"restored {thread}" if done else f"{thread} is {tier} already", restored=int(done), tier=tier)


def prune(
    thread: Annotated[list[str], typer.Argument(metavar="THREAD...", help="Thread (session) ids.")],
    *,
    strategy: Annotated[str | None, typer.Option(help="keep_latest, keep_last, max_age or delete.")] = None,
    keep_last: Annotated[int | None, typer.Option(min=1, help="Checkpoints to keep of each namespace.")] = None,
    max_age: Annotated[str | None, typer.Option(help="Keep what is younger: 3600, 12h, 30d.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before conversations are deleted.")] = False,
    state: State = None,
    redis: Redis = None,
    postgres: Postgres = None,
    objects: Objects = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Shorten histories: the newest checkpoint of each namespace stays, and all that it or an open interrupt needs.

    --keep-last N and --max-age 30d keep more; --strategy delete removes the conversations. Exit code 1 when one is not
    there.
    Example: llmops checkpoints prune s1 s2 --keep-last 10
    """
    chosen = strategy or ("keep_last" if keep_last else "max_age" if max_age else "keep_latest")
    age_s = None if max_age is None else _seconds(max_age, "--max-age")
    threads = [plain(one, "THREAD") for one in thread]
    place = Place(state, redis, postgres, objects, tenant)
    if chosen == "delete" and not yes:
        agree(f"Delete {counted(len(threads), 'conversation', 'conversations')} of {place.tenant}?", "deleted")
    with place.opened() as saver:
        rows = [_pruned(saver, one, chosen, keep_last, age_s) for one in threads]
    columns = {"thread": Column("conversation"), "before": Column("before", count), "after": Column("after", count)}
    emit("json" if as_json else "table", [Sheet("pruned", "Checkpoints", columns, rows)], notes=[])
    absent = [row["thread"] for row in rows if row["before"] is None]
    for one in absent:
        say(place.missing(one))
    if absent:
        raise typer.Exit(NOTHING_FOUND)


def _pruned(
    saver: TieredCheckpointSaver, thread: str, strategy: str, keep_last: int | None, age_s: float | None
) -> dict[str, Any]:
    before = _checkpoints(saver, thread)
    saver.prune([thread], strategy=strategy, keep_last=keep_last, max_age_s=age_s)
    return {"thread": thread, "before": before, "after": _checkpoints(saver, thread)}


def _checkpoints(saver: TieredCheckpointSaver, thread: str) -> int | None:
    found = saver.explain(thread)
    return None if found is None else len(found.checkpoints) + found.cold_checkpoints


def sweep(
    *,
    state: State = None,
    redis: Redis = None,
    postgres: Postgres = None,
    objects: Objects = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """One pass of what running processes do in the background: archive, retention, and the end of what crashes left.

    The times are LLMOPS_CHECKPOINT_WARM_S and LLMOPS_CHECKPOINT_RETENTION_DAYS. Exit code 1 when something failed.
    Example: llmops checkpoints sweep
    """
    with Place(state, redis, postgres, objects, tenant).opened() as saver:
        swept = saver.sweep()
    rows = [{"what": name, "number": getattr(swept, name), "about": about} for name, about in SWEPT.items()]
    failures = [{"failure": redact(" ".join(str(one).split()))} for one in swept.failures]
    columns = {"what": Column(""), "number": Column("number", count), "about": Column("")}
    sheets = [
        Sheet("swept", "Swept", columns, rows),
        Sheet("failures", "Failed; tried again by the next sweep", {"failure": Column("")}, failures),
    ]
    emit("json" if as_json else "table", sheets, notes=[])
    if failures:
        raise typer.Exit(1)


def _tier(place: Place, saver: TieredCheckpointSaver, thread: str) -> str:
    found = saver.explain(thread)
    if found is None:
        say(place.missing(thread))
        raise typer.Exit(NOTHING_FOUND)
    return found.tier


def _tell(as_json: bool, line: str, **facts: Any) -> None:
    emit("json" if as_json else "table", [], facts=facts, notes=[line])


def _seconds(words: str, option: str) -> float:
    """Of a number, or of a length like 7d."""
    try:
        found = float(words)
    except ValueError:
        return duration_s(words, option)
    if not 0 <= found < float("inf"):
        raise ConfigurationError(f"{option} takes seconds, or a length like 7d, not {words!r}")
    return found
