"""`TieredCheckpointSaver`: LangGraph's checkpointer interface over the three tiers."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any, cast

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_llmops.checkpoint.codec import Codec, digest
from langchain_llmops.checkpoint.cold import Cold
from langchain_llmops.checkpoint.convert import Converter, asked, checkpoint_id_of, config_of, thread_place
from langchain_llmops.checkpoint.hot import Hot, Recent
from langchain_llmops.checkpoint.listing import Listing, Query
from langchain_llmops.checkpoint.tiers import Tiers
from langchain_llmops.checkpoint.warm import Warm
from langchain_llmops.core.concurrency import DOOR, run_sync
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.stores.base import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, CheckpointTuple
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from langchain_llmops.checkpoint.tiers import CheckpointStats
    from langchain_llmops.stores.base import Store

__all__ = ["TieredCheckpointSaver"]


class TieredCheckpointSaver(BaseCheckpointSaver[str]):
    """Conversations in three tiers: hot (a copy), warm (the authority), cold (closed ones, as objects).

    `compile(checkpointer=TieredCheckpointSaver.from_urls(...))`; sync and async, opened on first use. A write returns
    after the warm tier has committed it. The first user id seen at a write (`user_id` in the config's metadata or
    configurable) owns the thread: another user's read or write raises `ThreadOwnerMismatch`.

    Args:
        warm: a store with SQL: SQLite or PostgreSQL.
        hot: a key-value store for the newest checkpoints. Its errors are counted and cost only speed.
        cold: an object store for `archive`.
        envelope: compresses and, with keys, encrypts everything stored but names and ids.
        hot_ttl_s, hot_timeout_s: how long a copy stays, and how long the hot tier may take before it is left alone.
        serde: serializer of channel values. The default refuses types outside LangGraph's safe list and
            `allowed_types`: they come back as plain data, with a logged warning.
        allowed_types: classes, or (module, name) pairs, that values may hold (see also `with_allowlist`).
    """

    def __init__(
        self,
        warm: Store,
        hot: Store | None = None,
        cold: Store | None = None,
        *,
        envelope: Envelope | None = None,
        hot_ttl_s: float = 300.0,
        hot_timeout_s: float = 0.5,
        serde: SerializerProtocol | None = None,
        allowed_types: Iterable[type | tuple[str, ...]] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(serde=serde or JsonPlusSerializer(allowed_msgpack_modules=tuple(allowed_types) or None))
        self._stores = list({id(store): store for store in (warm, hot, cold) if store is not None}.values())
        self._clock = clock
        self._codec = Codec(envelope or Envelope())
        self._tiers = Tiers(
            Warm(warm, clock=clock),
            Hot(hot.kv, self._codec, ttl_s=hot_ttl_s, timeout_s=hot_timeout_s) if hot is not None else None,
            Cold(cold.objects, self._codec) if cold is not None else None,
            self._codec,
            Recent(),
        )

    @classmethod
    def from_urls(
        cls,
        *,
        warm: str,
        hot: str | None = "memory://",
        cold: str | None = None,
        timeout_s: float = 5.0,
        settings: tuple[str, str, str] = ("warm", "hot", "cold"),
        **options: Any,
    ) -> TieredCheckpointSaver:
        """A checkpointer over `sqlite:///…` or `postgresql://…`, with `redis://…` or memory, and `s3://…` or `file:///…`.

        `settings` are the names by which errors call the three URLs; see the class for options.
        """
        stores = [
            None if url is None else open_store(url, setting=setting, timeout_s=timeout_s)
            for url, setting in zip((warm, hot, cold), settings, strict=True)
        ]
        return cls(cast("Store", stores[0]), stores[1], stores[2], **options)

    # BaseCheckpointSaver: the same coroutine behind both colours; values are coded on the caller's own thread

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, or the thread's newest."""
        found = run_sync(self._tiers.get(*asked(config)))
        return None if found is None else self._convert.tuple(found)

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, or the thread's newest."""
        found = await DOOR.cross(self._tiers.get(*asked(config)))
        return None if found is None else self._convert.tuple(found)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first; of the whole store without a config. `filter` values must be equal, key by key."""
        listing = self._listing(config, filter, before, limit)
        while page := run_sync(listing.page()):
            yield from map(self._convert.tuple, page)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, newest first; of the whole store without a config. `filter` values must be equal, key by key."""
        listing = self._listing(config, filter, before, limit)
        while page := await DOOR.cross(listing.page()):
            for snapshot in page:
                yield self._convert.tuple(snapshot)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint below the one the config names; the config that names the new one."""
        put = self._convert.put(config, checkpoint, metadata, new_versions)
        run_sync(self._tiers.put(*put))
        return config_of(put.place, put.row.id)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint below the one the config names; the config that names the new one."""
        put = self._convert.put(config, checkpoint, metadata, new_versions)
        await DOOR.cross(self._tiers.put(*put))
        return config_of(put.place, put.row.id)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store a task's writes; stored ones stay as they are, but for errors, interrupts and resumes."""
        run_sync(self._tiers.put_writes(*self._convert.put_writes(config, writes, task_id, task_path)))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store a task's writes; stored ones stay as they are, but for errors, interrupts and resumes."""
        await DOOR.cross(self._tiers.put_writes(*self._convert.put_writes(config, writes, task_id, task_path)))

    def delete_thread(self, thread_id: str) -> None:
        """Remove a thread from every tier."""
        run_sync(self._tiers.delete(thread_place(thread_id)))

    async def adelete_thread(self, thread_id: str) -> None:
        """Remove a thread from every tier."""
        await DOOR.cross(self._tiers.delete(thread_place(thread_id)))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints of some runs; raises `CheckpointError` if a delta channel that stays needs them."""
        run_sync(self._tiers.delete_runs({digest(str(run_id)) for run_id in run_ids}))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints of some runs; raises `CheckpointError` if a delta channel that stays needs them."""
        await DOOR.cross(self._tiers.delete_runs({digest(str(run_id)) for run_id in run_ids}))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread's whole history, and its owner."""
        run_sync(self._tiers.copy(thread_place(source_thread_id), thread_place(target_thread_id)))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread's whole history, and its owner."""
        await DOOR.cross(self._tiers.copy(thread_place(source_thread_id), thread_place(target_thread_id)))

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep the newest checkpoint per namespace (and what its delta channels need), or `delete` all."""
        run_sync(self._tiers.prune([thread_place(thread_id) for thread_id in thread_ids], strategy))

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Keep the newest checkpoint per namespace (and what its delta channels need), or `delete` all."""
        await DOOR.cross(self._tiers.prune([thread_place(thread_id) for thread_id in thread_ids], strategy))

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002 - deprecated upstream
        """A version after `current`; its random end keeps two forks of one checkpoint apart."""
        step = 0 if current is None else int(str(current).split(".", maxsplit=1)[0])
        return f"{step + 1:032}.{random.random():016}"  # noqa: S311 - uniqueness, not secrecy

    # the tiers

    def archive(self, thread_id: str) -> bool:
        """Move a closed thread to the cold tier; False if there is none, or it was written meanwhile."""
        return run_sync(self._tiers.archive(thread_place(thread_id)))

    async def aarchive(self, thread_id: str) -> bool:
        """Move a closed thread to the cold tier; False if there is none, or it was written meanwhile."""
        return await DOOR.cross(self._tiers.archive(thread_place(thread_id)))

    def archive_idle(self, older_than_s: float) -> int:
        """Archive every thread not written for so long; how many. Their next use brings them back."""
        return run_sync(self._tiers.archive_idle(self._clock() - older_than_s))

    async def aarchive_idle(self, older_than_s: float) -> int:
        """Archive every thread not written for so long; how many. Their next use brings them back."""
        return await DOOR.cross(self._tiers.archive_idle(self._clock() - older_than_s))

    def restore(self, thread_id: str) -> bool:
        """Bring a thread back from the cold tier; False if it is not there.

        Raises `CheckpointError` when its object is missing or damaged, as any use of the thread does.
        """
        return run_sync(self._tiers.restore(thread_place(thread_id)))

    async def arestore(self, thread_id: str) -> bool:
        """Bring a thread back from the cold tier; see `restore`."""
        return await DOOR.cross(self._tiers.restore(thread_place(thread_id)))

    def stats(self) -> CheckpointStats:
        """Checkpoints, threads and bytes by tier."""
        return run_sync(self._tiers.stats())

    async def astats(self) -> CheckpointStats:
        """Checkpoints, threads and bytes by tier."""
        return await DOOR.cross(self._tiers.stats())

    # opening and closing

    def close(self) -> None:
        """Close the stores; copies made by `with_allowlist` close with it."""
        run_sync(self._close())

    async def aping(self) -> float:
        """Reach every tier once; seconds in all. Raises the store's typed error, which names the setting."""
        return await DOOR.cross(self._ping())

    async def _ping(self) -> float:
        return sum([await store.ping() for store in self._stores])

    async def aclose(self) -> None:
        """Close the stores; copies made by `with_allowlist` close with it."""
        await DOOR.cross(self._close())

    def __enter__(self) -> Self:
        self._tiers.warm.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _close(self) -> None:
        self._tiers.warm.close()
        closed = await asyncio.gather(*(store.aclose() for store in self._stores), return_exceptions=True)
        for failure in closed:
            if failure is not None:
                raise failure

    @property
    def _convert(self) -> Converter:
        return Converter(self._codec, self.serde)

    def _listing(
        self,
        config: RunnableConfig | None,
        wanted: Mapping[str, Any] | None,
        before: RunnableConfig | None,
        limit: int | None,
    ) -> Listing:
        earliest = None if before is None else checkpoint_id_of(before)
        plain = self._codec.plain(dict(wanted or {}))
        if config is None:
            return Listing(self._tiers, Query(before=earliest, filter=plain, limit=limit))
        place, checkpoint_id, user = asked(config)
        one_ns = config["configurable"].get("checkpoint_ns") is not None
        return Listing(self._tiers, Query(place, one_ns, checkpoint_id, earliest, plain, limit, user))
