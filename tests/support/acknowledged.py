"""What clients began and what they were told is stored: a file that outlives them, and what follows from it.

A client notes an operation before it begins and, synced to the disk, once it was acknowledged. The place of a line is
its time, for all processes that write to the file. From the lines follows what must be stored, what may be (begun and
never acknowledged) and what must be gone; what one unacknowledged operation may have done, it did as a whole.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import WRITES_IDX_MAP

from tests.support.canonical import digest_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Expected", "Item", "Ledger", "Operation", "expected", "operations", "writes_of"]

NEVER = math.inf
DESTRUCTIVE = ("delete_thread", "prune", "delete_user")


class Ledger:
    """Appends lines; `acknowledge` returns when they are on the disk."""

    def __init__(self, path: Path | str, who: str = "") -> None:
        self.path = str(path)
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._who = f"{who}{os.getpid()}"
        self._lock = threading.Lock()
        self._begun = 0
        self.acknowledged = 0

    def begin(self, op: str, **facts: Any) -> str:
        """Note what is about to be asked for; the name under which its end is noted."""
        with self._lock:
            self._begun += 1
            name = f"{self._who}-{self._begun}"
        self._write({"n": name, "op": op, **facts})
        return name

    def acknowledge(self, name: str) -> None:
        self._write({"ack": name})
        os.fsync(self._file)
        with self._lock:
            self.acknowledged += 1

    def fail(self, name: str, error: BaseException) -> None:
        self._write({"fail": name, "error": type(error).__name__, "text": str(error)[:300]})

    def wrong(self, text: str) -> None:
        """Something a client saw that must never happen."""
        self._write({"wrong": text})

    def close(self) -> None:
        os.close(self._file)

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


@dataclass
class Operation:
    """One operation of a client, by the places of its lines."""

    what: str
    begun: int
    facts: dict[str, Any]
    acked: float = NEVER

    def covers(self, thread: str) -> bool:
        return thread == self.facts.get("thread") or thread in self.facts.get("threads", ())


@dataclass
class Item:
    """A checkpoint, or one write (`task` is set), with what may be read there."""

    thread: str
    ns: str
    id: str
    begun: int
    acked: float
    digest: str
    task: str | None = None
    idx: int = 0
    path: str = ""
    channel: str = ""
    groups: set[int] = field(default_factory=set)
    verdict: str = "must"  # or "may", or "gone"
    there: bool | None = None  # once it was looked for

    @property
    def place(self) -> tuple[str, str, str]:
        return (self.thread, self.ns, self.id)


@dataclass
class Expected:
    """Everything that follows from a ledger."""

    checkpoints: dict[tuple[str, str, str], list[Item]]
    writes: dict[tuple[str, str, str], list[Item]]
    threads: set[str]
    acknowledged: int
    wrong: list[str]
    failures: dict[str, int]


def operations(path: Path | str) -> tuple[list[Operation], list[str], dict[str, int]]:
    """The operations of a ledger in the order they began, what clients saw go wrong, and their errors by kind."""
    found: dict[str, Operation] = {}
    wrong: list[str] = []
    failures: dict[str, int] = defaultdict(int)
    with open(path, "rb") as file:
        lines = file.read().split(b"\n")[:-1]  # the last one may have been cut by a kill, and was not acknowledged then
    for at, raw in enumerate(lines):
        line = json.loads(raw)
        if "op" in line:
            name, what = line.pop("n"), line.pop("op")
            found[name] = Operation(what, at, line)
        elif "ack" in line:
            found[line["ack"]].acked = at
        elif "fail" in line:
            failures[line["error"]] += 1
        else:
            wrong.append(line["wrong"])
    return list(found.values()), wrong, dict(failures)


def writes_of(writes: list[tuple[str, Any]]) -> list[list[Any]]:
    """`[idx, channel, digest]` of each write of a task, as the ledger keeps them."""
    return [[WRITES_IDX_MAP.get(channel, at), channel, digest_of(value)] for at, (channel, value) in enumerate(writes)]


def expected(path: Path | str) -> Expected:
    """What must, may and must not be read after what a ledger says."""
    ops, wrong, failures = operations(path)
    items = [item for at, op in enumerate(ops) for item in _items(at, op)]
    ends = [op for op in ops if op.what in DESTRUCTIVE]
    for at, op in enumerate(ops):
        if op.what == "copy_thread":
            items += _copied(at, op, items, ends)
    for at, op in enumerate(ops):
        if op.what in DESTRUCTIVE:
            _judge(at, op, items)
    for item in items:
        if item.verdict == "must" and item.acked == NEVER:
            item.verdict = "may"
    checkpoints, writes = defaultdict(list), defaultdict(list)
    for item in items:
        (checkpoints if item.task is None else writes)[item.place].append(item)
    acknowledged = sum(op.acked < NEVER for op in ops)
    return Expected(checkpoints, writes, {item.thread for item in items}, acknowledged, wrong, failures)


def _items(at: int, op: Operation) -> list[Item]:
    facts = op.facts
    if op.what == "put":
        own = Item(facts["thread"], facts["ns"], facts["id"], op.begun, op.acked, facts["digest"])
        return [own]
    if op.what == "put_writes":
        groups = {at} if op.acked == NEVER else set()
        return [
            Item(
                facts["thread"],
                facts["ns"],
                facts["id"],
                op.begun,
                op.acked,
                digest,
                task=facts["task"],
                idx=idx,
                path=facts["path"],
                channel=channel,
                groups=set(groups),
            )
            for idx, channel, digest in facts["items"]
        ]
    return []


def _copied(at: int, op: Operation, items: list[Item], ends: list[Operation]) -> list[Item]:
    """What a copy made of what was there when it began."""
    source, target = op.facts["thread"], op.facts["target"]
    doubt = any(end.covers(source) and end.begun < op.acked for end in ends)
    made = []
    for item in items:
        if item.thread != source or item.begun > op.acked:
            continue
        sure = item.acked < op.begun and not doubt
        groups = {at} if sure and op.acked == NEVER else set()
        acked = op.acked if sure else NEVER
        made.append(replace(item, thread=target, begun=op.begun, acked=acked, groups=groups, verdict="must"))
    return made


def _judge(at: int, op: Operation, items: list[Item]) -> None:
    """What one destructive operation means for each item."""
    own = [item for item in items if op.covers(item.thread)]
    heads = _heads(op, own) if op.what == "prune" else {}
    put = {item.place for item in own if item.task is None and item.acked < op.begun}
    for item in own:
        if op.acked < item.begun:
            continue
        if item.acked > op.begun or (op.what == "prune" and item.place not in put):
            _weaken(item)
        elif heads and item.id == heads.get((item.thread, item.ns), ("",))[0]:
            if not heads[(item.thread, item.ns)][1]:
                _weaken(item)
        elif op.acked < NEVER:
            item.verdict = "gone"
        elif item.verdict == "must":
            item.groups.add(at)
            item.verdict = "may"


def _heads(op: Operation, items: list[Item]) -> dict[tuple[str, str], tuple[str, bool]]:
    """Each namespace's newest checkpoint when a prune began, and whether nothing newer may have been there."""
    heads: dict[tuple[str, str], tuple[str, bool]] = {}
    puts = [item for item in items if item.task is None and item.verdict != "gone"]
    for item in puts:
        key = (item.thread, item.ns)
        if item.acked < op.begun and item.id > heads.get(key, ("",))[0]:
            heads[key] = (item.id, True)
    for item in puts:
        key = (item.thread, item.ns)
        if item.acked > op.begun and item.begun < op.acked and item.id > heads.get(key, ("",))[0]:
            heads[key] = (heads.get(key, ("",))[0], False)
    return heads


def _weaken(item: Item) -> None:
    if item.verdict == "must":
        item.verdict = "may"
