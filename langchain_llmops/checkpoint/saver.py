"""`TieredCheckpointSaver`: LangGraph's checkpointer interface over the three tiers."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final, cast

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_llmops.checkpoint.engine import Engine
from langchain_llmops.checkpoint.names import run_key
from langchain_llmops.checkpoint.options import Options
from langchain_llmops.checkpoint.saver_figures import FigureMethods
from langchain_llmops.checkpoint.saver_tiers import TierMethods
from langchain_llmops.checkpoint.upkeep import Keep, several
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.stores.base import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from langchain_core.runnables import RunnableConfig
    from langgraph.checkpoint.base import (
        ChannelVersions,
        Checkpoint,
        CheckpointMetadata,
        CheckpointTuple,
        DeltaChannelHistory,
    )
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from langchain_llmops.checkpoint.receipt import ErasureReceipt
    from langchain_llmops.stores.base import Store

__all__ = ["TieredCheckpointSaver"]

HOT_TIMEOUT_S: Final = 0.5


class TieredCheckpointSaver(TierMethods, FigureMethods, BaseCheckpointSaver[str]):
    """Conversations in three tiers: hot (a copy), warm (the authority), cold (closed ones, as objects).

    `compile(checkpointer=TieredCheckpointSaver.from_urls(...))`; sync and async, opened on first use. A write returns
    after the warm tier has committed it. The first user id seen at a write (`user_id` in the config's metadata or
    configurable) owns the thread: another user's read or write raises `ThreadOwnerMismatch`.

    Args:
        warm, hot, cold: stores opened with `blocking=True`: SQL (SQLite or PostgreSQL), maps (Redis or memory) for the
            newest checkpoints, whose errors are counted and cost only speed, and objects for `archive`.
        serde: serializer of channel values. The default refuses types outside LangGraph's safe list and
            `allowed_types`: they come back as plain data, with a logged warning.
        allowed_types: classes, or (module, name) pairs, that values may hold (see also `with_allowlist`).
        options: see `Options`.
    """

    def __init__(
        self,
        warm: Store,
        hot: Store | None = None,
        cold: Store | None = None,
        *,
        serde: SerializerProtocol | None = None,
        allowed_types: Iterable[type | tuple[str, ...]] = (),
        **options: Any,
    ) -> None:
        super().__init__(serde=serde or JsonPlusSerializer(allowed_msgpack_modules=tuple(allowed_types) or None))
        self._engine = Engine(warm, hot, cold, Options(**options))

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

        `settings` are the names by which errors call the three URLs; see the class for options. A copy that is late
        is a miss: unless Redis acknowledges writes, it is waited for half a second at most.
        """
        is_durable = options.get("ack", "durable") == "durable"
        if not is_durable and (hot or "memory:").startswith("memory:"):
            raise ConfigurationError(f"ack={options['ack']!r} keeps writes in Redis; give hot='redis://host:6379/0'")
        hot_s = min(timeout_s, HOT_TIMEOUT_S) if is_durable else timeout_s
        stores = [
            None if url is None else open_store(url, setting=setting, timeout_s=wait_s, blocking=True)
            for url, setting, wait_s in zip((warm, hot, cold), settings, (timeout_s, hot_s, timeout_s), strict=True)
        ]
        return cls(cast("Store", stores[0]), stores[1], stores[2], **options)

    # BaseCheckpointSaver: the same coroutine behind both colours

    def get_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, or the thread's newest."""
        return drive(self._engine.get(config, self.serde, blocking=True))

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, or the thread's newest."""
        return await self._engine.get(config, self.serde, blocking=False)

    def list(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> Iterator[CheckpointTuple]:
        """Checkpoints, newest first; of the whole store without a config. `filter` values must be equal, key by key."""
        listing, convert = self._engine.listing(config, filter, before, limit), self._engine.converter(self.serde)
        while page := drive(self._engine.page(listing, blocking=True)):
            yield from map(convert.tuple, page)

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 - LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, newest first; of the whole store without a config. `filter` values must be equal, key by key."""
        listing, convert = self._engine.listing(config, filter, before, limit), self._engine.converter(self.serde)
        while page := await self._engine.page(listing, blocking=False):
            for found in page:
                yield convert.tuple(found)

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint below the one the config names; the config that names the new one."""
        return drive(self._engine.put(config, checkpoint, metadata, new_versions, self.serde, blocking=True))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint below the one the config names; the config that names the new one."""
        return await self._engine.put(config, checkpoint, metadata, new_versions, self.serde, blocking=False)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store a task's writes; stored ones stay as they are, but for errors, interrupts and resumes."""
        drive(self._engine.put_writes(config, writes, task_id, task_path, self.serde, blocking=True))

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store a task's writes; stored ones stay as they are, but for errors, interrupts and resumes."""
        await self._engine.put_writes(config, writes, task_id, task_path, self.serde, blocking=False)

    def delete_thread(self, thread_id: str) -> None:
        """Remove a thread from every tier."""
        engine = self._engine
        self._now(lambda: engine.upkeep.delete(engine.place(thread_id)))

    async def adelete_thread(self, thread_id: str) -> None:
        """Remove a thread from every tier."""
        engine = self._engine
        await self._later(lambda: engine.upkeep.delete(engine.place(thread_id)))

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints of some runs; raises `CheckpointError` if a delta channel that stays needs them."""
        self._now(lambda: self._engine.upkeep.delete_runs({run_key(str(run_id)) for run_id in run_ids}))

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Remove the checkpoints of some runs; raises `CheckpointError` if a delta channel that stays needs them."""
        await self._later(lambda: self._engine.upkeep.delete_runs({run_key(str(run_id)) for run_id in run_ids}))

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread's whole history, and its owner."""
        engine = self._engine
        self._now(lambda: engine.upkeep.copy(engine.place(source_thread_id), engine.place(target_thread_id)))

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy a thread's whole history, and its owner."""
        engine = self._engine
        await self._later(lambda: engine.upkeep.copy(engine.place(source_thread_id), engine.place(target_thread_id)))

    def prune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: str = "keep_latest",
        keep_last: int | None = None,
        max_age_s: float | None = None,
    ) -> None:
        """Keep of each namespace the newest checkpoint (`keep_latest`), `keep_last` of them, or those of `max_age_s`.

        What delta channels of a kept one need stays too. `delete` removes the threads.
        """
        keep = Keep(strategy, keep_last, max_age_s)
        for thread_id in several(thread_ids):
            self._now(lambda: self._engine.upkeep.prune(self._engine.place(thread_id), keep))  # noqa: B023 - ends here

    async def aprune(
        self,
        thread_ids: Sequence[str],
        *,
        strategy: str = "keep_latest",
        keep_last: int | None = None,
        max_age_s: float | None = None,
    ) -> None:
        """The same; see `prune`."""
        keep = Keep(strategy, keep_last, max_age_s)
        for thread_id in several(thread_ids):
            await self._later(lambda: self._engine.upkeep.prune(self._engine.place(thread_id), keep))  # noqa: B023 - awaited here

    def get_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What a checkpoint's delta channels are made of: the writes of its ancestors, and the stored value below."""
        return drive(self._engine.history(config, channels, self.serde, blocking=True))

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What a checkpoint's delta channels are made of: the writes of its ancestors, and the stored value below."""
        return await self._engine.history(config, channels, self.serde, blocking=False)

    def delete_user(self, user: str) -> ErasureReceipt:
        """Erase a user: all threads they own, from every tier, and their key; what was erased, and what disks may hold.

        From now on, and until `erase_grace_s` after the end, their writes raise `UserErased`. It may be called again.
        Raises `ErasureIncomplete` when a tier refuses: it names what is left, and the next call continues.
        """
        engine = self._engine
        receipt: ErasureReceipt = self._now(lambda: engine.eraser.erase(engine.owner(user)))
        return receipt

    async def adelete_user(self, user: str) -> ErasureReceipt:
        """The same; see `delete_user`."""
        engine = self._engine
        receipt: ErasureReceipt = await self._later(lambda: engine.eraser.erase(engine.owner(user)))
        return receipt

    def get_next_version(self, current: str | None, channel: None) -> str:  # noqa: ARG002 - deprecated upstream
        """A version after `current`; its random end keeps two forks of one checkpoint apart."""
        step = 0 if current is None else int(str(current).split(".", maxsplit=1)[0])
        return f"{step + 1:010}.{secrets.token_hex(4)}"

    # opening and closing

    def close(self) -> None:
        """Close the stores; copies made by `with_allowlist` close with it."""
        self._now(self._engine.close)

    async def aclose(self) -> None:
        """Close the stores; copies made by `with_allowlist` close with it."""
        await self._later(self._engine.close)

    async def aping(self) -> float:
        """Reach every tier once; seconds in all. Raises the store's typed error, which names the setting."""
        taken: float = await self._later(self._engine.ping)
        return taken

    def __enter__(self) -> Self:
        self._engine.open()
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

    def _now(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return drive(self._engine.run(work, blocking=True))

    async def _later(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return await self._engine.run(work, blocking=False)
