"""Conversations to archive, what lies in the cold store, and a mover that dies at a point of its work."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from langchain_llmops.core.concurrency import drive
from tests.support.checkpoints import checkpoint, config, facts

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Killed", "conversation", "killed", "listed", "objects", "rows", "tier"]


async def conversation(caller: Any, thread: str = "t", turns: int = 4, *, user: str | None = None) -> list[Any]:
    """Turns with large and small values, tasks' writes, runs and a subgraph; what a listing gives."""
    parent = None
    for turn in range(turns):
        log = [f"{thread} said {item} " * 20 for item in range(turn + 1)]
        made = checkpoint({"log": log, "profile": "p" * 300}, {"log": str(turn), "profile": "1"})
        more = {"metadata": {"user_id": user}} if user else {}
        told = {"source": "loop", "step": turn, "run_id": f"r{turn}"}
        new = {"log": str(turn)} if turn else made["channel_versions"]
        await caller.call("put", config(thread, "", parent, **more), made, told, new)
        await caller.write(
            thread, made["id"], ("log", f"new {turn} " * 30), ("log", turn), task=f"task{turn}", path="~1"
        )
        await caller.put(thread, {"inner": turn}, ns="child:1")
        parent = made["id"]
    return await listed(caller, thread)


async def listed(caller: Any, thread: str = "t") -> list[Any]:
    """Every checkpoint of a thread, as facts."""
    return [facts(found) for found in await caller.list(config(thread, None))]


def objects(folder: Path, kind: str = "*") -> list[Path]:
    """Files of a cold store in a folder."""
    return sorted(folder.rglob(f"*.{kind}"))


def rows(saver: Any, table: str, columns: str = "*") -> list[tuple[Any, ...]]:
    """Of a table of the warm tier."""
    sql = drive(saver._engine.warm.sql())
    return [tuple(row) for row in drive(sql.fetch(f"SELECT {columns} FROM llmops_ck_{table}"))]


def tier(saver: Any, thread: str = "t") -> str | None:
    """Where a thread is."""
    engine = saver._engine
    found = drive(engine.warm.thread(engine.place(thread).thread))
    return None if found is None else found.tier


class Killed(BaseException):
    """Nothing of ours handles it, as nothing does when the process is killed."""


@contextmanager
def killed(owner: Any, name: str, when: str, *, at: int = 1):
    """The process dies in the block at the n-th call of a method, `before` or `after` it did its work."""
    inner, calls = getattr(owner, name), []

    async def dies(*args: Any, **kwargs: Any) -> Any:
        calls.append(name)
        if len(calls) == at and when == "before":
            raise Killed
        found = await inner(*args, **kwargs)
        if len(calls) == at:
            raise Killed
        return found

    setattr(owner, name, dies)
    try:
        yield
    except Killed:
        pass
    else:
        raise AssertionError(f"{name} was not called {at} times")
    finally:
        setattr(owner, name, inner)
