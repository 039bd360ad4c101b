"""LangGraph's checkpoints to rows, and back. Runs on the caller's own thread, so the private loop only moves bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    CheckpointTuple,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.types import TASKS

from langchain_llmops.checkpoint.codec import (
    blob_key,
    blob_place,
    body_place,
    digest,
    metadata_place,
    name_bytes,
    text,
    untext,
    write_place,
)
from langchain_llmops.checkpoint.schema import Place, Row, Write
from langchain_llmops.core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, PendingWrite
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.schema import Snapshot

__all__ = ["Asked", "Converter", "Put", "PutWrites", "asked", "checkpoint_id_of", "config_of", "thread_place"]


class Asked(NamedTuple):
    """What a config names."""

    place: Place
    checkpoint_id: bytes | None
    user: str | None


class Put(NamedTuple):
    """What a put stores; `new` maps the keys of changed channels to their sealed value, None for an empty one."""

    place: Place
    user: str | None
    row: Row
    keys: Sequence[bytes]
    new: Mapping[bytes, bytes | None]


class PutWrites(NamedTuple):
    """What a put_writes stores, by what happens to a write that is there already."""

    place: Place
    user: str | None
    first_wins: Sequence[Write]
    last_wins: Sequence[Write]


class Converter:
    """Seals what comes in and opens what comes out; `serde` is for channel values."""

    def __init__(self, codec: Codec, serde: SerializerProtocol) -> None:
        self._codec = codec
        self._serde = serde

    def put(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> Put:
        """A checkpoint below the one that the config names."""
        place, parent, user = asked(config)
        checkpoint_id = name_bytes("checkpoint_id", checkpoint["id"])
        body = {name: part for name, part in checkpoint.items() if name != "channel_values"}
        keys = self._codec.keys(body)
        merged = get_serializable_checkpoint_metadata(config, metadata)
        run_id = merged.get("run_id")
        own = (place.thread, place.ns, checkpoint_id)
        row = Row(
            ns=place.ns,
            id=checkpoint_id,
            parent=parent,
            run=None if run_id is None else digest(str(run_id)),
            metadata=self._codec.seal(merged, *metadata_place(*own)),
            body=self._codec.seal(body, *body_place(*own)),
        )
        new = self._values(place, checkpoint["channel_values"], new_versions)
        return Put(place, user, row, keys, new)

    def put_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str
    ) -> PutWrites:
        """A task's writes to the checkpoint that the config names."""
        place, checkpoint_id, user = asked(config)
        if checkpoint_id is None:
            raise CheckpointError("put_writes needs config['configurable']['checkpoint_id']")
        task, path = name_bytes("task_id", task_id), text(task_path)
        rows = []
        for position, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, position)
            at = write_place(place.thread, place.ns, checkpoint_id, task, idx)
            body = self._codec.seal(value, *at, serde=self._serde)
            rows.append(Write(place.ns, checkpoint_id, task, idx, path, text(channel), body))
        return PutWrites(place, user, [row for row in rows if row.idx >= 0], [row for row in rows if row.idx < 0])

    def tuple(self, snapshot: Snapshot) -> CheckpointTuple:
        """A stored checkpoint as LangGraph wants it."""
        place, row = snapshot.place, snapshot.row
        versions = dict(snapshot.checkpoint["channel_versions"])
        values: dict[str, Any] = {}
        for channel, version in versions.items():
            key = blob_key(channel, version)
            if key in snapshot.blobs:
                at = blob_place(place.thread, place.ns, key)
                values[channel] = self._codec.open(snapshot.blobs[key], *at, serde=self._serde)
        if snapshot.sends:
            values[TASKS] = [value for _, _, value in self._pending(place, snapshot.sends)]
            versions[TASKS] = max(versions.values(), default="1")
        checkpoint = {
            **snapshot.checkpoint,
            "id": untext(row.id),
            "channel_values": values,
            "channel_versions": versions,
        }
        return CheckpointTuple(
            config=config_of(place, row.id),
            checkpoint=cast("Checkpoint", checkpoint),
            metadata=self._codec.open(row.metadata, *metadata_place(place.thread, place.ns, row.id)),
            parent_config=None if row.parent is None else config_of(place, row.parent),
            pending_writes=self._pending(place, snapshot.writes),
        )

    def _values(self, place: Place, values: Mapping[str, Any], versions: ChannelVersions) -> dict[bytes, bytes | None]:
        sealed: dict[bytes, bytes | None] = {}
        for channel, version in versions.items():
            key = blob_key(channel, version)
            at = blob_place(place.thread, place.ns, key)
            sealed[key] = self._codec.seal(values[channel], *at, serde=self._serde) if channel in values else None
        return sealed

    def _pending(self, place: Place, writes: Iterable[Write]) -> list[PendingWrite]:
        found = []
        for write in writes:
            at = write_place(place.thread, place.ns, write.id, write.task_id, write.idx)
            value = self._codec.open(write.body, *at, serde=self._serde)
            order = writes_sort_key(untext(write.task_path), untext(write.task_id), write.idx)
            found.append((order, (untext(write.task_id), untext(write.channel), value)))
        return [pending for _, pending in sorted(found, key=lambda one: one[0])]


def thread_place(thread_id: object, ns: bytes = b"") -> Place:
    """Where a thread's checkpoints live."""
    name = str(thread_id)
    return Place(name, digest(name), ns)


def asked(config: RunnableConfig) -> Asked:
    """Thread, namespace, checkpoint and user of a config; raises `CheckpointError` without a thread id."""
    configurable = config.get("configurable", {})
    if configurable.get("thread_id") is None:
        raise CheckpointError("config['configurable'] needs a thread_id; LLMOps.config(session_id=…) sets it")
    ns = name_bytes("checkpoint_ns", configurable.get("checkpoint_ns") or "")
    return Asked(thread_place(configurable["thread_id"], ns), checkpoint_id_of(config), _user(config))


def checkpoint_id_of(config: RunnableConfig) -> bytes | None:
    """The checkpoint that a config names, if it names one."""
    found = get_checkpoint_id(config) if "configurable" in config else None
    return name_bytes("checkpoint_id", found) if found else None


def config_of(place: Place, checkpoint_id: bytes) -> RunnableConfig:
    """The config that names a checkpoint."""
    return {
        "configurable": {
            "thread_id": place.thread_id,
            "checkpoint_ns": untext(place.ns),
            "checkpoint_id": untext(checkpoint_id),
        }
    }


def _user(config: RunnableConfig) -> str | None:
    for part in (config.get("metadata"), config.get("configurable")):
        if part and part.get("user_id") is not None:
            return str(part["user_id"])
    return None
