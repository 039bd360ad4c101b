"""The cold tier: objects that hold a thread's rows, below the thread's own prefix and named by their digest.

`<tenant>/<thread>/<sha256>.head` holds the newest checkpoints with all they need, `….rest` everything else. An object
is a sealed list: format, a random mark, thread, then the columns of steps, chunks and writes with their bodies open, so
that they compress together. The mark makes every attempt's path its own, so that who lost a race may delete its own.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_llmops.checkpoint.names import digest, shown
from langchain_llmops.checkpoint.rows import Rows
from langchain_llmops.checkpoint.schema import Step, Write
from langchain_llmops.core.errors import CheckpointError, EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.stores.base import Objects

__all__ = ["HEAD", "REST", "Cold", "Made"]

FORMAT: Final = 1
MARK_BYTES: Final = 8
LEVEL: Final = 15  # 19 takes three times as long for half a percent
HEAD: Final = "head"
REST: Final = "rest"


class Made(NamedTuple):
    """An object that is not written yet."""

    path: str
    data: bytes
    rows: Rows


class Cold:
    """Objects of one tenant's threads; coroutines over a blocking store."""

    def __init__(self, objects: Objects, codec: Codec, tenant: bytes) -> None:
        self._objects = objects
        self._codec = codec
        self._tenant = tenant

    def made(self, place: Place, owner: bytes | None, kind: str, rows: Rows) -> Made:
        """Rows as an object."""
        content = [FORMAT, secrets.token_bytes(MARK_BYTES), place.thread, *_columns(self._codec, rows)]
        codec = self._codec.of(owner)
        data = codec.seal_object(_context(place, kind), codec.pack(content), level=LEVEL)
        path = f"{self._tenant.hex()}/{place.thread.hex()}/{hashlib.sha256(data).hexdigest()}.{kind}"
        return Made(path, data, rows)

    async def store(self, place: Place, made: Made) -> None:
        """Write an object and read it back; raises `CheckpointError` when that is not what was written."""
        await self._objects.put(made.path, made.data)
        if not made.rows.same(await self.load(place, made.path)):
            raise _damaged(
                place, made.path, "does not hold the rows it was made of", "keep the warm tier and report this"
            )

    async def load(self, place: Place, path: str) -> Rows:
        """The rows in an object; raises `CheckpointError` unless it is whole and this thread's own."""
        stored = await self._objects.get(path)
        if stored is None:
            raise _damaged(place, path, "is missing", RECOVER)
        if f"/{hashlib.sha256(stored).hexdigest()}." not in path:
            raise _damaged(place, path, "is damaged (its digest differs)", RECOVER)
        try:
            opened = self._codec.open_object(_context(place, _kind(path)), stored)
            return _rows(self._codec, place, self._codec.unpack(opened))
        except (
            EnvelopeError,
            ValueError,
            TypeError,
            LookupError,
        ) as error:  # digests agree, so another wrote it or with another key
            raise _damaged(place, path, f"cannot be read ({error})", "give the keys it was written with") from error

    async def remove(self, path: str) -> None:
        """Delete an object, present or not."""
        await self._objects.delete(path)


RECOVER: Final = "bring the object back from a copy of the bucket, or delete the thread"


def _damaged(place: Place, path: str, what: str, remedy: str) -> CheckpointError:
    return CheckpointError(f"the archive of thread {shown(place.thread_id)} at {path} {what}; {remedy}")


def _kind(path: str) -> str:
    return path.rpartition(".")[2]


def _context(place: Place, kind: str) -> bytes:
    return b"archive" + kind.encode() + place.thread


def _columns(codec: Codec, rows: Rows) -> list[Any]:
    """What can be told from the rest is left out: a checkpoint is named by its place, a task's digest by its id."""
    steps = sorted(rows.steps)
    at = {(step.ns, step.id): place for place, step in enumerate(steps)}
    parents = [at.get((step.ns, step.parent or b""), step.parent) for step in steps]
    keys = [at.get((write.ns, write.id), [write.ns, write.id]) for write in rows.writes]
    tasks = [None if _task(codec, write.body) == write.task else write.task for write in rows.writes]
    return [
        _turned([(*step[:2], parent, *step[3:]) for step, parent in zip(steps, parents, strict=True)]),
        [list(rows.chunks), list(rows.chunks.values())],
        [keys, tasks, [write.idx for write in rows.writes], [write.body for write in rows.writes]],
    ]


def _turned(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]


def _task(codec: Codec, body: bytes) -> bytes:
    return digest(codec.unpack(body)[1])


def _rows(codec: Codec, place: Place, content: Any) -> Rows:
    version, _, thread, columns, (names, bodies), writes = content
    if version != FORMAT:
        raise ValueError(f"format {version}, this library reads {FORMAT}; upgrade it")
    if thread != place.thread:
        raise ValueError("it is another thread's")
    steps = [Step(*values) for values in zip(*columns, strict=True)]
    ids = [step.id for step in steps]
    steps = [step._replace(parent=ids[step.parent]) if isinstance(step.parent, int) else step for step in steps]
    found = []
    for key, task, idx, body in zip(*writes, strict=True):
        ns, checkpoint_id = key if isinstance(key, list) else (steps[key].ns, steps[key].id)
        found.append(Write(ns, checkpoint_id, _task(codec, body) if task is None else task, idx, body))
    return Rows(steps, dict(zip(names, bodies, strict=True)), found)
