"""Three tiers as one store of checkpoints: the warm one decides, the hot one is a copy, the cold one is restored.

Coroutines over blocking stores: a sync caller drives them in its thread, an async one hands them to the workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from langchain_llmops.checkpoint.names import shown
from langchain_llmops.checkpoint.nodes import refs
from langchain_llmops.checkpoint.recent import Held
from langchain_llmops.checkpoint.schema import COLD, MIXED, WARM, Counted
from langchain_llmops.checkpoint.state import State, manifest_of, pending_of
from langchain_llmops.checkpoint.warm import ColdThread, check_owner
from langchain_llmops.core.errors import CheckpointError
from langchain_llmops.stores.base import idempotent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from langchain_llmops.checkpoint.archive import Archive
    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.hot import Hot
    from langchain_llmops.checkpoint.journaled import Journaled
    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.checkpoint.recent import Recent
    from langchain_llmops.checkpoint.schema import Step, Thread, Write
    from langchain_llmops.checkpoint.state import Pending
    from langchain_llmops.checkpoint.warm import Warm

__all__ = ["Found", "Tiers", "incomplete"]

T = TypeVar("T")

SENDS: Final = "__pregel_tasks"
SENDS_IN_CHANNEL_SINCE: Final = 4


class Found(NamedTuple):
    """A checkpoint with all it takes to give it back; `sends` are its parent's, of formats before 4."""

    place: Place
    state: State
    chunks: dict[bytes, bytes]
    sends: list[Pending]


class Tiers:
    """One checkpoint at a time; whole threads are the matter of `Upkeep` and `Archive`."""

    def __init__(self, warm: Warm, codec: Codec, recent: Recent, hot: Hot | None, archive: Archive | None) -> None:
        self.warm = warm
        self.codec = codec
        self.recent = recent
        self.hot = hot
        self.archive = archive
        self.journaled: Journaled | None = None
        self.without_cold = "give cold='s3://…' or 'file:///…'"

    async def row(self, thread: bytes) -> Thread | None:
        """A thread's row."""
        return await (self.journaled.row(thread) if self.journaled is not None else self.warm.thread(thread))

    async def settled(self, thread: bytes) -> None:
        """See that all of a thread is in its rows."""
        if self.journaled is not None:
            await self.journaled.settle(thread)

    async def settled_all(self) -> None:
        """See that all of the tenant's threads are in their rows."""
        if self.journaled is not None:
            await self.journaled.settle_all()

    async def get(self, place: Place, checkpoint_id: bytes | None, owner: bytes | None) -> Found | None:
        """A checkpoint, the newest unless an id is given."""
        if checkpoint_id is not None:
            await self.settled(place.thread)
        while True:
            thread = await self.row(place.thread)
            if thread is None:
                return None
            check_owner(place.thread_id, thread.owner, owner)
            if thread.tier == COLD:
                await self.restore_head(place)
                continue
            held = await self._held(place, checkpoint_id, thread)
            if (
                held is not None
                and thread.tier == MIXED
                and checkpoint_id is not None
                and not await self._is_newest(place, held)
            ):
                await self.restore_rest(place)  # one that was put again may have its writes in the archive
                continue
            if held is not None:
                return await self._found(place, held)
            now = await self.row(place.thread)
            if now is not None and (now.epoch != thread.epoch or now.tier != thread.tier):
                continue
            if thread.tier == MIXED and now is not None and checkpoint_id is not None:
                await self.restore_rest(place)
                continue
            if now is not None and now.stamp == thread.stamp and checkpoint_id is None:
                self.recent.adopt_empty(place, thread)
            return None

    async def _is_newest(self, place: Place, held: Held) -> bool:
        newest = await self.warm.chain(place.thread, place.ns, None)
        return bool(newest) and newest[0].id == held.state.id

    async def _held(self, place: Place, checkpoint_id: bytes | None, thread: Thread) -> Held | None:
        """From memory or the hot tier if they hold the row's very state, else from the warm rows."""
        if checkpoint_id is None:
            held = self.recent.head(place, thread)
            if held is None and self.hot is not None:
                held = await self.hot.read(place, thread)
                if held is not None:
                    self.recent.adopt(place, thread, held, newest=True)
            if held is not None:
                return held
        chain = await self.warm.chain(place.thread, place.ns, checkpoint_id)
        if not chain:
            return None
        held = await self.read(place, chain)
        now = await self.row(place.thread)
        if now is None or now.epoch != thread.epoch:
            return None
        if held is None:
            raise incomplete(place)
        if now.stamp == thread.stamp:
            self.recent.adopt(place, thread, held, newest=checkpoint_id is None)
            if self.hot is not None and checkpoint_id is None:
                self.hot.note(place.thread)
        return held

    async def read(self, place: Place, chain: Sequence[Step]) -> Held | None:
        """A checkpoint out of the warm rows; None where one of its chunks is not there."""
        writes = await self.warm.writes(place.thread, place.ns, [chain[0].id])
        state = self.state(place.thread, chain, writes)
        return await self.with_chunks(place.thread, state)

    def state(self, thread: bytes, chain: Sequence[Step], writes: Iterable[Write]) -> State:
        """A checkpoint's step, and those its delta is built on, opened."""
        step = chain[0]
        namespace, metadata = self.codec.told(thread, step)
        manifest = manifest_of(self.codec, thread, chain)
        pending = [pending_of(self.codec, thread, write) for write in writes]
        return State(namespace, step.ns, step.id, step.parent, metadata, manifest, {one.key: one for one in pending})

    async def with_chunks(self, thread: bytes, state: State) -> Held | None:
        """A checkpoint with its chunks; None where one is not there."""
        names = set(state.refs())
        chunks = self.recent.chunks(thread, names)
        missing = [name for name in names if name not in chunks]
        if missing:
            chunks |= await self.opened_chunks(thread, missing)
        return Held(state, chunks) if len(chunks) == len(names) else None

    async def opened_chunks(self, thread: bytes, names: Sequence[bytes]) -> dict[bytes, bytes]:
        """Chunks out of the warm rows."""
        stored = await self.warm.chunks(thread, names)
        return {name: self.codec.open_chunk(thread, name, body) for name, body in stored.items()}

    async def _found(self, place: Place, held: Held) -> Found | None:
        """With the packets that formats before 4 left in the parent's pending writes."""
        state = held.state
        if state.parent is None or state.manifest.fields.get("v", 1) >= SENDS_IN_CHANNEL_SINCE:
            return Found(place, state, held.chunks, [])
        writes = await self.warm.writes(place.thread, place.ns, [state.parent])
        pending = [pending_of(self.codec, place.thread, write) for write in writes]
        sends = [one for one in pending if one.channel == SENDS]
        names = [name for one in sends for name in refs(one.node)]
        chunks = held.chunks | (await self.opened_chunks(place.thread, names) if names else {})
        return Found(place, state, chunks, sends)

    # whole threads

    async def admitted(self, place: Place, owner: bytes | None) -> Thread | None:
        """The thread with its whole history warm; None when there is no such thread."""
        await self.settled(place.thread)
        while True:
            thread = await self.warm.thread(place.thread)
            if thread is None:
                return None
            check_owner(place.thread_id, thread.owner, owner)
            if thread.tier not in (COLD, MIXED):
                return thread
            await self.restore_rest(place)

    async def restored(self, places: Sequence[Place], call: Callable[[], Awaitable[T]]) -> T:
        """A change of whole threads, which are restored first if they must be."""
        for place in places:
            await self.settled(place.thread)
        while True:
            try:
                done = await idempotent(call)
            except ColdThread:
                for place in places:
                    await self.restore_rest(place)
            else:
                if self.journaled is not None:
                    for place in places:
                        await self.journaled.changed(place.thread)
                return done

    async def restore_head(self, place: Place) -> bool:
        """Bring the newest checkpoints of a cold thread back; False if it is not cold."""
        return await self.cold(place).restore_head(place)

    async def restore_rest(self, place: Place) -> bool:
        """Bring all of a cold thread back; False if nothing of it is cold."""
        return await self.cold(place).restore(place)

    async def verify_cold(self, place: Place) -> Counted:
        """Read what of a thread is cold to its last byte."""
        thread = await self.warm.thread(place.thread)
        if thread is None or thread.tier == WARM:
            return Counted(0, 0, 0)
        return await self.cold(place).verify(place)

    def cold(self, place: Place) -> Archive:
        """What moves threads; raises `CheckpointError` where there is no cold tier."""
        if self.archive is None:
            what = f"thread {shown(place.thread_id)}" if place.thread_id else "archive_idle"
            raise CheckpointError(f"{what} needs the cold tier; {self.without_cold}")
        return self.archive

    def place_of(self, thread: bytes, label: bytes) -> Place:
        """Where rows come from, at the root namespace; a thread's id is in its sealed label."""
        return self.codec.place_of(thread, label)


def incomplete(place: Place) -> CheckpointError:
    """What is wrong with a thread that lacks a chunk, though no row of it was removed meanwhile."""
    return CheckpointError(
        f"thread {shown(place.thread_id)} has lost a stored value (a row of llmops_ck_chunk);"
        " restore the database from a backup, or delete the thread"
    )
