"""LangGraph's calls to operations, and states to its tuples. Runs on the caller's own thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    CheckpointTuple,
    get_checkpoint_id,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.serde.types import TASKS

from langchain_llmops.checkpoint.codec import readable
from langchain_llmops.checkpoint.committer import Op
from langchain_llmops.checkpoint.manifest import Manifest, encoded
from langchain_llmops.checkpoint.names import Place, digest, id_bytes, place_of, run_key, shown, stored_name, untext
from langchain_llmops.checkpoint.nodes import Joiner, Splitter
from langchain_llmops.checkpoint.recent import News
from langchain_llmops.checkpoint.schema import Group, Step, Write
from langchain_llmops.checkpoint.state import Pending, State, ordered
from langchain_llmops.core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from langgraph.checkpoint.base import ChannelVersions, Checkpoint, CheckpointMetadata, PendingWrite
    from langgraph.checkpoint.serde.base import SerializerProtocol

    from langchain_llmops.checkpoint.codec import Codec
    from langchain_llmops.checkpoint.nodes import Node
    from langchain_llmops.checkpoint.recent import Basis
    from langchain_llmops.checkpoint.tiers import Found

__all__ = ["Asked", "Converter", "asked", "checkpoint_id_of", "config_of", "needs_parent", "owner_of", "user_of"]

OWN_PARTS = frozenset(("id", "channel_values", "channel_versions", "versions_seen"))


class Asked(NamedTuple):
    """What a config names; `owner` is the digest of its user."""

    place: Place
    checkpoint_id: bytes | None
    owner: bytes | None


class Converter:
    """For one tenant; `serde` is for channel values."""

    def __init__(self, codec: Codec, serde: SerializerProtocol, tenant: str, *, strict: bool) -> None:
        self._codec = codec
        self._serde = serde
        self._tenant = digest(tenant)
        self._strict = strict

    def put(
        self,
        asked_for: Asked,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
        basis: Basis | None,
    ) -> Op:
        """A checkpoint below the one that the config names, as far as `basis` goes a delta."""
        place, parent_id, owner = asked_for
        _check_names(checkpoint["channel_versions"])
        checkpoint_id = id_bytes(checkpoint["id"])
        parent = basis.parent if basis is not None else None
        splitter = Splitter(self._serde, self._codec.hash_key, basis.marked if basis is not None else None)
        manifest = Manifest(
            {name: part for name, part in checkpoint.items() if name not in OWN_PARTS},
            dict(checkpoint["channel_versions"]),
            {node: dict(seen) for node, seen in checkpoint["versions_seen"].items()},
            _nodes(checkpoint, new_versions, parent, splitter),
        )
        is_delta = basis is not None and not basis.in_full and parent is not None and parent.id < checkpoint_id
        older = parent.manifest if parent is not None and is_delta else None
        made = encoded(manifest, older, self._codec.pack)
        merged = self._codec.plain(get_serializable_checkpoint_metadata(config, metadata))
        codec = self._codec.of(owner or (basis.owner if basis is not None else None))
        run_id = merged.get("run_id")
        step = Step(
            ns=place.ns,
            id=checkpoint_id,
            parent=parent_id,
            run=None if run_id is None else run_key(str(run_id)),
            base=int(made.base),
            metadata=codec.pack([stored_name(place.namespace), merged]),
            body=made.body,
        )
        state = State(place.namespace, place.ns, checkpoint_id, parent_id, merged, made.manifest, None)
        news = News(place.ns, checkpoint_id, state, [], splitter.chunks, splitter.marks)
        return self._op(place, owner, basis, codec, news, step=codec.seal_step(place.thread, step))

    def put_writes(
        self,
        asked_for: Asked,
        writes: Sequence[tuple[str, Any]],
        task_id: str,
        task_path: str,
        basis: Basis | None,
    ) -> Op:
        """A task's writes to the checkpoint that the config names."""
        place, checkpoint_id, owner = asked_for
        if checkpoint_id is None:
            raise CheckpointError("put_writes needs config['configurable']['checkpoint_id']")
        codec = self._codec.of(owner or (basis.owner if basis is not None else None))
        splitter = Splitter(self._serde, self._codec.hash_key, basis.marked if basis is not None else None)
        task = digest(task_id)
        rows: list[Write] = []
        pendings: list[tuple[Pending, bool]] = []
        for position, (channel, value) in enumerate(writes):
            idx = WRITES_IDX_MAP.get(channel, position)
            pending = Pending((task, idx), task_path, task_id, channel, splitter.split(value))
            body = codec.seal_write(place, checkpoint_id, task, idx, list(pending[1:]))
            rows.append(Write(place.ns, checkpoint_id, task, idx, body))
            pendings.append((pending, idx >= 0))
        news = News(place.ns, checkpoint_id, None, pendings, splitter.chunks, splitter.marks)
        return self._op(place, owner, basis, codec, news, writes=rows)

    def tuple(self, found: Found) -> CheckpointTuple:
        """A checkpoint as LangGraph wants it."""
        with readable():
            return self._tuple(found)

    def _tuple(self, found: Found) -> CheckpointTuple:
        state, place = found.state, found.place
        join = Joiner(self._serde, found.chunks.__getitem__)
        manifest = state.manifest
        versions = dict(manifest.versions)
        values = join.values(manifest.values)
        if found.sends:
            values[TASKS] = [join.value(write.node) for write in ordered(found.sends)]
            versions[TASKS] = max(versions.values(), default="1")
        checkpoint = {
            **manifest.fields,
            "id": untext(state.id),
            "channel_values": values,
            "channel_versions": versions,
            "versions_seen": {node: dict(seen) for node, seen in manifest.seen.items()},
        }
        return CheckpointTuple(
            config=config_of(place, state.namespace, state.id),
            checkpoint=cast("Checkpoint", checkpoint),
            metadata=cast("CheckpointMetadata", self._codec.plain(state.metadata)),
            parent_config=None if state.parent is None else config_of(place, state.namespace, state.parent),
            pending_writes=self.pending(ordered((state.writes or {}).values()), join),
        )

    def pending(self, writes: Iterable[Pending], join: Joiner) -> list[PendingWrite]:
        """Pending writes with their values."""
        with readable():
            return [(write.task_id, write.channel, join.value(write.node)) for write in writes]

    def _op(
        self,
        place: Place,
        owner: bytes | None,
        basis: Basis | None,
        codec: Codec,
        news: News,
        *,
        step: Step | None = None,
        writes: Sequence[Write] = (),
    ) -> Op:
        stored = basis.stored if basis is not None else ()
        sent = {
            name: codec.seal_chunk(place.thread, name, chunk)
            for name, chunk in news.chunks.items()
            if name not in stored
        }
        group = Group(
            thread=place.thread,
            label=codec.seal_label(place.thread, [self._tenant, place.thread_id]),
            tenant=self._tenant,
            owner=owner,
            epoch=basis.epoch if basis is not None else None,
            strict=self._strict and step is not None,
            chunks=sent,
            steps=[step] if step is not None else [],
            keeps=[write for write in writes if write.idx >= 0],
            puts=[write for write in writes if write.idx < 0],
        )
        return Op(group, news)


def _check_names(channels: Iterable[str]) -> None:
    try:
        "".join(channels).encode()
    except UnicodeEncodeError as error:
        name = next(channel for channel in channels if any("\ud800" <= one <= "\udfff" for one in channel))
        raise CheckpointError(f"channel name {shown(name)} holds a lone surrogate; use valid Unicode") from error


def needs_parent(checkpoint: Checkpoint, new_versions: ChannelVersions, basis: Basis | None) -> bool:
    """Whether channels keep their parent's value that is not at hand."""
    if basis is not None and basis.parent is not None:
        return False
    values = checkpoint["channel_values"]
    return any(name not in new_versions and name not in values for name in checkpoint["channel_versions"])


def asked(tenant: str, config: RunnableConfig) -> Asked:
    """Thread, namespace, checkpoint and user of a config; raises `CheckpointError` without a thread id."""
    configurable = config.get("configurable", {})
    if configurable.get("thread_id") is None:
        raise CheckpointError("config['configurable'] needs a thread_id; LLMOps.config(session_id=…) sets it")
    place = place_of(tenant, configurable["thread_id"], str(configurable.get("checkpoint_ns") or ""))
    return Asked(place, checkpoint_id_of(config), owner_of(tenant, user_of(config)))


def checkpoint_id_of(config: RunnableConfig) -> bytes | None:
    """The checkpoint that a config names, if it names one."""
    found = get_checkpoint_id(config) if "configurable" in config else None
    return id_bytes(found) if found else None


def config_of(place: Place, namespace: str, checkpoint_id: bytes) -> RunnableConfig:
    """The config that names a checkpoint."""
    return {
        "configurable": {
            "thread_id": place.thread_id,
            "checkpoint_ns": namespace,
            "checkpoint_id": untext(checkpoint_id),
        }
    }


def user_of(config: RunnableConfig) -> str | None:
    """The user that a config names, if it names one."""
    for part in (config.get("metadata"), config.get("configurable")):
        if part and part.get("user_id") is not None:
            return str(part["user_id"])
    return None


def owner_of(tenant: str, user: str | None) -> bytes | None:
    """16 bytes that stand for a tenant's user."""
    return None if user is None else digest(tenant, user)


def _nodes(
    checkpoint: Checkpoint, new_versions: ChannelVersions, parent: State | None, splitter: Splitter
) -> dict[str, Node]:
    """Every channel's value: the parent's where the version is the parent's, else the one given, if one is."""
    values: Mapping[str, Any] = checkpoint["channel_values"]
    nodes: dict[str, Node] = {}
    for channel, version in checkpoint["channel_versions"].items():
        if channel not in new_versions and parent is not None and parent.manifest.versions.get(channel) == version:
            if channel in parent.manifest.values:
                nodes[channel] = parent.manifest.values[channel]
        elif channel in values:
            nodes[channel] = splitter.split(values[channel])
    return nodes
