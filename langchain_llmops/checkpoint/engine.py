"""The parts of a checkpointer joined, and its calls, written once for both colours.

A blocking caller drives a call in its own thread. Of another caller, what reads runs on the workers, what writes waits
for the committer, and values are coded on the caller's own thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, TypeVar

from langchain_llmops.checkpoint.archive import Archive
from langchain_llmops.checkpoint.codec import Codec, readable
from langchain_llmops.checkpoint.cold import Cold
from langchain_llmops.checkpoint.committer import Committer
from langchain_llmops.checkpoint.convert import Converter, asked, checkpoint_id_of, config_of, needs_parent, owner_of
from langchain_llmops.checkpoint.dictionary import checkpoint_dictionary
from langchain_llmops.checkpoint.erase import Eraser
from langchain_llmops.checkpoint.figures import Figures
from langchain_llmops.checkpoint.history import chunks_of, contributions
from langchain_llmops.checkpoint.hot import Hot
from langchain_llmops.checkpoint.journaled import Journaled
from langchain_llmops.checkpoint.length import admitted
from langchain_llmops.checkpoint.listing import Listing, Query
from langchain_llmops.checkpoint.mover import Background, Mover
from langchain_llmops.checkpoint.names import digest, id_bytes, place_of, shown
from langchain_llmops.checkpoint.nodes import Joiner
from langchain_llmops.checkpoint.observing import Observer
from langchain_llmops.checkpoint.recent import Recent
from langchain_llmops.checkpoint.refusals import refuse
from langchain_llmops.checkpoint.schema import Status
from langchain_llmops.checkpoint.tiers import Tiers
from langchain_llmops.checkpoint.upkeep import Upkeep
from langchain_llmops.checkpoint.user_keys import user_keys_of
from langchain_llmops.checkpoint.warm import Warm, check_owner
from langchain_llmops.checkpoint.watching import Standing
from langchain_llmops.checkpoint.workers import Workers
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import (
    CheckpointError,
    ConfigurationError,
    LLMOpsError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
        DeltaChannelHistory,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from langchain_llmops.checkpoint.committer import Op
    from langchain_llmops.checkpoint.convert import Asked
    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.checkpoint.options import Options
    from langchain_llmops.checkpoint.recent import Basis
    from langchain_llmops.checkpoint.tiers import Found
    from langchain_llmops.stores.base import Store

__all__ = ["Engine"]

T = TypeVar("T")

READERS: Final = 4
MAX_FORKS: Final = 10_000
TRIES: Final = 20  # of a write that others get in front of


class Engine:
    """Shared by every copy of a saver."""

    def __init__(self, warm: Store, hot: Store | None, cold: Store | None, options: Options) -> None:
        self.options = options
        self.stores = list({id(store): store for store in (warm, hot, cold) if store is not None}.values())
        secret = b"".join(options.keys[name] for name in [options.key_id or next(iter(options.keys), "")] if name)
        self.warm = Warm(warm, clock=options.clock, timeout_s=options.conversation_timeout_s)
        self.keys = user_keys_of(self.warm, options, self.stores)
        envelope = Envelope(
            keys=options.keys or None,
            key_id=options.key_id,
            dictionary=checkpoint_dictionary(),
            find_key=self.keys.find if self.keys is not None else None,
        )
        self.codec = Codec(envelope, options.tenant, secret, self.keys.of if self.keys is not None else None)
        self.tenant = digest(options.tenant)
        self.recent = Recent()
        copies = hot if options.ack == "durable" else None
        self.hot = None
        if copies is not None:
            self.hot = Hot(copies, self.codec, self.recent, rows=self.warm.threads, ttl_s=options.hot_s)
        self.tiers = Tiers(self.warm, self.codec, self.recent, self.hot, self._archive(cold))
        if options.ack == "cached":
            self.tiers.without_cold = "ack='cached' archives nothing, choose another ack"
        self.upkeep = Upkeep(self.tiers, self.tenant)
        self.eraser = Eraser(self.tiers, self.tenant, cold, self.keys, grace_s=options.erase_grace_s)
        self.mover = Mover(self.tiers, self.upkeep, options, resume=self.eraser.resume)
        has_work = cold is not None or options.retention_s is not None
        self.background = Background(self.mover, options.mover_interval_s if has_work else None)
        self.figures = Figures(self.tiers, self.tenant)
        self.standing = Standing(self.figures.standing)
        self.observer = Observer(options, self.tiers.place_of)
        self.journaled = self.tiers.journaled = self._journaled(hot) if options.ack != "durable" else None
        if self.tiers.archive is not None:
            self.tiers.archive.journaled = self.journaled
            self.tiers.archive.moved = self.observer.archived
        apply = self.warm.apply if self.journaled is None else self.journaled.apply
        told = self.hot.note_all if self.hot is not None else lambda _: None
        self.committer = Committer(apply, self.recent, told, self.observer.committed)
        self.workers = Workers(READERS, "llmops-checkpoints")
        self._forks: OrderedDict[tuple[bytes, bytes, bytes], None] = OrderedDict()
        self._lock = threading.Lock()

    def _archive(self, cold: Store | None) -> Archive | None:
        """Of scratch threads, which no database keeps, there is none."""
        if cold is None or self.options.ack == "cached":
            return None
        objects = Cold(cold.objects, self.codec, self.tenant)
        return Archive(self.warm, self.codec, self.recent, objects, self.tenant)

    async def run(self, work: Callable[[], Coroutine[Any, Any, T]], *, blocking: bool) -> T:
        """Finish blocking work: here, or on the workers."""
        if not self.warm.is_closed:
            self.background.start()
        with readable():
            if blocking:
                return await work()
            return await self.workers.run(lambda: drive(work()))

    # LangGraph's calls

    async def get(self, config: RunnableConfig, serde: SerializerProtocol, *, blocking: bool) -> CheckpointTuple | None:
        """The checkpoint that the config names, or the thread's newest."""
        at = asked(self.options.tenant, config)
        found = await self.run(lambda: self.tiers.get(*at), blocking=blocking)
        if found is not None and at.checkpoint_id is not None:
            self._may_fork(at)
        return None if found is None else self.converter(serde).tuple(found)

    async def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
        serde: SerializerProtocol,
        *,
        blocking: bool,
    ) -> RunnableConfig:
        """Store a checkpoint below the one the config names; the config that names the new one."""
        at = asked(self.options.tenant, config)
        strict = self.options.fencing == "strict" and not self._is_fork(at)
        convert = self.converter(serde, strict=strict)
        trims = self.options.on_max_length == "trim"
        checkpoint = admitted(checkpoint, self.options.max_length, trims=trims)

        def encoded(at: Asked, basis: Basis | None) -> Op:
            return convert.put(at, config, checkpoint, metadata, new_versions, basis)

        inherits = at.checkpoint_id is not None and needs_parent(checkpoint, new_versions, None)
        await self._write(at, encoded, inherits=inherits, blocking=blocking)
        return config_of(at.place, at.place.namespace, id_bytes(checkpoint["id"]))

    async def put_writes(
        self,
        config: RunnableConfig,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
        serde: SerializerProtocol,
        *,
        blocking: bool,
    ) -> None:
        """Store a task's writes; stored ones stay as they are, but for errors, interrupts and resumes."""
        at = asked(self.options.tenant, config)
        convert = self.converter(serde)
        await self._write(
            at, lambda at, basis: convert.put_writes(at, writes, task_id, task_path, basis), blocking=blocking
        )

    async def _write(
        self, at: Asked, encoded: Callable[[Asked, Basis | None], Op], *, inherits: bool = False, blocking: bool
    ) -> None:
        self.warm.admit()
        alone = False
        for _ in range(TRIES):
            basis = await self._basis(at, blocking=blocking)
            if inherits and (basis is None or basis.parent is None):
                await self.run(lambda: self.tiers.get(at.place, at.checkpoint_id, at.owner), blocking=blocking)
                basis = self.recent.basis(at.place, at.checkpoint_id)
            if alone:
                basis = basis.for_values() if inherits and basis is not None else None
            op = encoded(await self._with_key(at, basis, blocking=blocking), basis)
            status = await self.committer.commit(op, blocking=blocking)
            if status is Status.DONE:
                return
            refuse(at.place.thread_id, status, self.options.conversation_timeout_s)
            if status is Status.COLD:
                await self.run(lambda: self.tiers.restore_head(at.place), blocking=blocking)
            elif status is Status.REPLACES and alone:
                if await self.run(lambda: self.upkeep.replace(at.place, op.group), blocking=blocking):  # noqa: B023 - awaited here
                    return
            elif status is Status.STALE:
                self.recent.forget(at.place.thread)
            alone = self.journaled is None
        raise CheckpointError(f"thread {shown(at.place.thread_id)} is changed by others all the time; try again")

    async def _basis(self, at: Asked, *, blocking: bool) -> Basis | None:
        """What a write may count on; journaled ones know their thread first, as Redis knows nothing of it."""
        basis = self.recent.basis(at.place, at.checkpoint_id)
        if self.journaled is None:
            return basis
        if basis is None:
            if await self.run(lambda: self.tiers.get(at.place, None, at.owner), blocking=blocking) is None:
                await self.run(lambda: self._begun(at), blocking=blocking)
            basis = self.recent.basis(at.place, at.checkpoint_id)
        if basis is not None:
            check_owner(at.place.thread_id, basis.owner, at.owner)
        return basis

    async def _begun(self, at: Asked) -> None:
        if self.journaled is not None and self.recent.known(at.place.thread) is None:
            await self.journaled.begin(at.place.thread)

    def _journaled(self, hot: Store | None) -> Journaled:
        options = self.options
        if hot is None:
            raise ConfigurationError(f"ack={options.ack!r} needs the hot tier; give hot='redis://…'")
        return Journaled(
            hot,
            self.warm,
            self.codec,
            self.recent,
            tenant=self.tenant,
            stays=options.ack == "cached",
            replicas=options.replicas if options.ack == "replicated" else 0,
            ttl_s=options.warm_s,
            restore=lambda group: self.tiers.restore_head(self.tiers.place_of(group.thread, group.label)),
            replace=lambda group: self.upkeep.replace(self.tiers.place_of(group.thread, group.label), group),
            heard=self.observer.settled,
        )

    async def _with_key(self, at: Asked, basis: Basis | None, *, blocking: bool) -> Asked:
        """With the thread's owner, whose key is ready to seal; encoding must not wait for a database."""
        keys = self.keys
        if keys is None:
            return at
        known = at.owner or (basis.owner if basis is not None else None)
        if known is not None and keys.is_ready(known):
            return at._replace(owner=known)
        return at._replace(owner=await self.run(lambda: keys.ready_for(at.place.thread, known), blocking=blocking))

    async def history(
        self, config: RunnableConfig, channels: Sequence[str], serde: SerializerProtocol, *, blocking: bool
    ) -> Mapping[str, DeltaChannelHistory]:
        """What delta channels are made of, along the parents of a checkpoint."""
        at = asked(self.options.tenant, config)
        made = await self.run(lambda: self._history(at, list(channels)), blocking=blocking) if channels else ({}, {})
        found, chunks = made
        join = Joiner(serde, chunks.__getitem__)
        convert = self.converter(serde)
        history: dict[str, DeltaChannelHistory] = {}
        for channel in channels:
            one = found.get(channel)
            history[channel] = {"writes": convert.pending(one.writes, join) if one else []}
            if one is not None and one.seed is not None:
                with readable():
                    history[channel]["seed"] = join.value(one.seed)
        return history

    async def _history(self, at: Asked, channels: list[str]) -> tuple[dict[str, Any], dict[bytes, bytes]]:
        thread = await self.tiers.admitted(at.place, at.owner)
        chain = await self.warm.chain(at.place.thread, at.place.ns, at.checkpoint_id) if thread is not None else []
        if not chain:
            return {}, {}
        found = await contributions(self.tiers, at.place, chain[0], channels)
        names = chunks_of(found.values())
        chunks = self.recent.chunks(at.place.thread, names)
        missing = [name for name in names if name not in chunks]
        return found, chunks | (await self.tiers.opened_chunks(at.place.thread, missing) if missing else {})

    def listing(
        self,
        config: RunnableConfig | None,
        wanted: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Listing:
        """A listing, to be read page by page."""
        earliest = None if before is None else checkpoint_id_of(before)
        plain = self.codec.plain(dict(wanted or {}))
        if config is None:
            return Listing(self.tiers, Query(self.tenant, before=earliest, filter=plain, limit=limit))
        place, checkpoint_id, owner = asked(self.options.tenant, config)
        one_ns = config["configurable"].get("checkpoint_ns") is not None
        return Listing(self.tiers, Query(self.tenant, place, one_ns, checkpoint_id, earliest, plain, limit, owner))

    async def page(self, listing: Listing, *, blocking: bool) -> list[Found]:
        """The next checkpoints of a listing."""
        return await self.run(listing.page, blocking=blocking)

    def converter(self, serde: SerializerProtocol, *, strict: bool = False) -> Converter:
        """Between LangGraph's values and stored ones."""
        return Converter(self.codec, serde, self.options.tenant, strict=strict)

    def place(self, thread_id: str) -> Place:
        """A thread of this tenant, at the root namespace."""
        return place_of(self.options.tenant, thread_id)

    def owner(self, user: str) -> bytes:
        """A user of this tenant."""
        found = owner_of(self.options.tenant, str(user)) if user not in (None, "") else None
        if found is None:
            raise CheckpointError("name the user by the user_id that their configs carry")
        return found

    # with strict fencing, who reads a checkpoint by its id may continue from it

    def _may_fork(self, at: Asked) -> None:
        if self.options.fencing == "strict" and at.checkpoint_id is not None:
            with self._lock:
                self._forks[at.place.thread, at.place.ns, at.checkpoint_id] = None
                while len(self._forks) > MAX_FORKS:
                    self._forks.popitem(last=False)

    def _is_fork(self, at: Asked) -> bool:
        with self._lock:
            return (at.place.thread, at.place.ns, at.checkpoint_id or b"") in self._forks

    # between tiers

    async def archive_thread(self, thread_id: str) -> bool:
        """See `TierMethods.archive`."""
        place = self.place(thread_id)
        return await self.tiers.cold(place).archive(place)

    async def archive_idle(self, older_than_s: float) -> int:
        """See `TierMethods.archive_idle`."""
        found = await self.tiers.cold(self.place("")).archive_idle(self.options.clock() - older_than_s)
        if found.failures:
            raise found.failures[0]
        return found.archived

    async def restore_thread(self, thread_id: str) -> bool:
        """See `TierMethods.restore`."""
        place = self.place(thread_id)
        return await self.tiers.cold(place).restore(place)

    # opening and closing

    def open(self) -> None:
        """Serve, again if it was closed."""
        self.warm.open()
        self.standing.open()

    async def ping(self) -> float:
        """Reach every store once; seconds in all."""
        return sum([await store.ping() for store in self.stores])

    async def close(self) -> None:
        """Close the stores; the first failure is raised once all are closed."""
        self.background.close()
        failures: list[Exception] = []
        self.standing.close()
        if self.journaled is not None:
            self.journaled.close()
            try:
                await self.journaled.settle_all()
            except LLMOpsError as error:  # what waits stays in the journal; raised below, after the stores are closed
                failures.append(error)
        self.warm.close()
        if self.hot is not None:
            self.hot.close()
        self.recent.clear()
        if self.keys is not None:
            self.keys.clear()
        for store in self.stores:
            try:
                await store.aclose()
            except Exception as error:  # noqa: BLE001 - raised below, after the others are closed
                failures.append(error)
        if failures:
            raise failures[0]
