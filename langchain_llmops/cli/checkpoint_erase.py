"""`llmops checkpoints erase`: a user is forgotten, and the receipt says where."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from langchain_llmops.cli.checkpoint_place import AsJson, Objects, Place, Postgres, Redis, State, Tenant, agree, say
from langchain_llmops.cli.scope import plain
from langchain_llmops.cli.tables import Column, Sheet, count, emit, utc
from langchain_llmops.core.errors import ErasureIncomplete
from langchain_llmops.core.redaction import redact

__all__ = ["erase"]


def erase(
    user: Annotated[str, typer.Argument(metavar="USER", help="The user_id that their runs carried.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    state: State = None,
    redis: Redis = None,
    postgres: Postgres = None,
    objects: Objects = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Erase a user's conversations from every tier, and their key; prints the receipt.

    It may be called again, and continues what was broken off. Exit code 1 while something could not be erased: the
    receipt says what. The ledger and the cache are not meant here: `ops.erase_user` in a program erases there, too.
    Example: llmops checkpoints erase u1 --yes
    """
    place = Place(state, redis, postgres, objects, tenant)
    named = plain(user, "USER")
    if not yes:
        agree(f"Erase all conversations of user {named!r} of {place.tenant}, for ever?", "erased")
    with place.opened() as saver:
        try:
            receipt, failure = saver.delete_user(named).as_dict(), None
        except ErasureIncomplete as error:
            told: Any = error.receipt
            receipt, failure = told.as_dict(), str(error)
    _tell_receipt(receipt, as_json=as_json)
    if failure is not None:
        say(redact(failure))
        raise typer.Exit(1)


def _tell_receipt(receipt: dict[str, Any], *, as_json: bool) -> None:
    moments = {name: receipt[name] for name in ("asked_at", "finished_at", "until")}
    shown = {
        "state": receipt["state"],
        **{name.replace("_", " "): utc(value) for name, value in moments.items() if value is not None},
        **{name: count(receipt[name]) for name in ("threads", "checkpoints", "writes", "chunks")},
        "bytes of the warm tier": count(receipt["warm_bytes"]),
        "objects": f"{count(len(receipt['objects']))}, {count(sum(receipt['objects'].values()))} bytes",
        "hot copies": count(receipt["hot_keys"]),
        "keys destroyed": ", ".join(receipt["keys"]) or "none",
    }
    facts = [{"name": name, "value": value} for name, value in shown.items()]
    residues = [{"where": one["where"], "until": one["until"]} for one in receipt["residues"]]
    sheets = [
        Sheet("erased", f"Erased: {receipt['owner']}", {"name": Column(""), "value": Column("")}, facts),
        Sheet("left", "Not erased yet", {"what": Column("")}, [{"what": one} for one in receipt["left"]]),
        Sheet("residues", "What disks may still hold", {"where": Column("where"), "until": Column("until")}, residues),
    ]
    emit("json" if as_json else "table", [] if as_json else sheets, facts=receipt, notes=[])
