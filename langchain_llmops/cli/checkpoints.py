"""`llmops checkpoints`: the conversations that the checkpointer keeps, and whether they can be read."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langchain_llmops.cli.checkpoint_care import archive, prune, restore, sweep
from langchain_llmops.cli.checkpoint_erase import erase
from langchain_llmops.cli.checkpoint_import import import_threads
from langchain_llmops.cli.checkpoint_place import (
    NOTHING_FOUND,
    AsJson,
    Objects,
    Place,
    Postgres,
    Redis,
    State,
    Tenant,
    say,
)
from langchain_llmops.cli.scope import plain
from langchain_llmops.cli.tables import Column, Sheet, count, emit, text, utc

if TYPE_CHECKING:
    from langchain_llmops.checkpoint.figures import CheckpointStats, Explained

__all__ = ["checkpoints"]

ABOUT = {
    "warm": "all of it in the database",
    "mixed": "the newest checkpoints in the database, history in objects",
    "cold": "all of it in objects",
}

checkpoints = typer.Typer(
    name="checkpoints", help="Look after the conversations of the checkpointer.", no_args_is_help=True
)
checkpoints.command("import")(import_threads)
for command in (archive, restore, prune, erase, sweep):
    checkpoints.command()(command)


@checkpoints.command()
def stats(
    *,
    state: State = None,
    redis: Redis = None,
    postgres: Postgres = None,
    objects: Objects = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """How many conversations, checkpoints and bytes are in which tier.

    Example: llmops checkpoints stats --json
    """
    place = Place(state, redis, postgres, objects, tenant)
    with place.opened() as saver:
        found = saver.stats()
    columns = {
        "tier": Column("tier"),
        "conversations": Column("conversations", count),
        "bytes": Column("bytes", count),
        "about": Column(""),
    }
    facts = {"checkpoints": found.checkpoints, "orphans": found.orphans, "tenant": place.settings.tenant}
    notes = [f"{count(found.checkpoints)} checkpoints of {place.tenant} in {place}."]
    if found.orphans:
        notes.append(
            f"{count(found.orphans)} archive objects are still to be deleted; `llmops checkpoints sweep` does."
        )
    notes.append("Hot copies are in Redis and in the memory of running processes, and expire by themselves.")
    emit("json" if as_json else "table", [Sheet("tiers", "Tiers", columns, _tiers(found))], facts=facts, notes=notes)


def _tiers(found: CheckpointStats) -> list[dict[str, Any]]:
    return [
        {"tier": tier, "conversations": number, "bytes": found.bytes_by_tier.get(tier), "about": ABOUT.get(tier, "")}
        for tier, number in found.threads_by_tier.items()
    ]


@checkpoints.command()
def show(
    thread: Annotated[str, typer.Argument(metavar="THREAD", help="Its thread (session) id.")],
    *,
    state: State = None,
    redis: Redis = None,
    postgres: Postgres = None,
    objects: Objects = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Where a conversation lives, its sizes, and its checkpoints in the database; nothing of what was said.

    Exit code 1 when there is no such conversation.
    Example: llmops checkpoints show s1
    """
    place = Place(state, redis, postgres, objects, tenant)
    with place.opened() as saver:
        found = saver.explain(plain(thread, "THREAD"))
    if found is None:
        say(place.missing(thread))
        raise typer.Exit(NOTHING_FOUND)
    columns = {
        "checkpoint_id": Column("checkpoint"),
        "namespace": Column("namespace"),
        "parent_id": Column("parent"),
        "is_full": Column("full", _yes),
        "pending_writes": Column("pending writes", count),
        "bytes": Column("bytes", count),
    }
    told = found.as_dict()
    listed = Sheet("checkpoints", "Checkpoints in the database", columns, told.pop("checkpoints"))
    facts = Sheet("", found.thread_id, {"name": Column(""), "value": Column("")}, _facts(found))
    emit("json" if as_json else "table", [listed] if as_json else [facts, listed], facts=told, notes=[])


def _facts(found: Explained) -> list[dict[str, str]]:
    sizes, ended = found.bytes_by_tier, ", ended" if found.is_ended else ""
    told = {
        "tier": f"{found.tier}: {ABOUT.get(found.tier, '')}{ended}",
        "owned by a user": _yes(found.is_owned),
        "created": utc(found.created_at),
        "last written": utc(found.updated_at),
        "kept warm until": None if found.pinned_until is None else utc(found.pinned_until),
        "bytes": ", ".join(f"{tier} {count(size)}" for tier, size in sizes.items()),
        "checkpoints": f"{count(len(found.checkpoints))} warm, {count(found.cold_checkpoints)} cold",
        "chunks": count(found.chunks),
        "objects": "\n".join(found.objects) or None,
    }
    return [{"name": name, "value": text(value)} for name, value in told.items() if value is not None]


def _yes(value: Any) -> str:
    return "yes" if value else "no"


@checkpoints.command()
def verify(
    thread: Annotated[str | None, typer.Argument(metavar="[THREAD]", help="Only this one.")] = None,
    *,
    state: State = None,
    redis: Redis = None,
    postgres: Postgres = None,
    objects: Objects = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Read conversations to the last byte, in the database and in their objects, and say what cannot be read.

    Nothing is moved or changed. Exit code 1 when something cannot be read, or there is no such conversation.
    Example: llmops checkpoints verify
    """
    place = Place(state, redis, postgres, objects, tenant)
    with place.opened() as saver:
        found = saver.verify(None if thread is None else plain(thread, "THREAD"))
    if thread is not None and not found.threads and not found.faults:
        say(place.missing(thread))
        raise typer.Exit(NOTHING_FOUND)
    told = asdict(found)
    faults = Sheet("faults", "Cannot be read", {"fault": Column("")}, [{"fault": one} for one in told.pop("faults")])
    columns = {name: Column(name, count) for name in told}
    read = Sheet("read", "Read to the last byte", columns, [told])
    emit("json" if as_json else "table", [read, faults], facts={}, notes=[])
    if found.faults:
        raise typer.Exit(1)
