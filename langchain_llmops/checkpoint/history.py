"""A namespace's checkpoints beyond the newest: manifests by id, whatever they are built on, and delta channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from langchain_llmops.checkpoint.manifest import applied
from langchain_llmops.checkpoint.nodes import refs
from langchain_llmops.checkpoint.state import ordered, pending_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_llmops.checkpoint.manifest import Manifest
    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.checkpoint.nodes import Node
    from langchain_llmops.checkpoint.schema import Step
    from langchain_llmops.checkpoint.state import Pending
    from langchain_llmops.checkpoint.tiers import Tiers

__all__ = ["Contribution", "Manifests", "contributions"]

WINDOW: Final = 128
DELTA_COUNTERS: Final = "counters_since_delta_snapshot"


class Manifests:
    """Of one thread and namespace; a checkpoint's step may be given, or is read with those it is built on."""

    def __init__(self, tiers: Tiers, thread: bytes, ns: bytes, steps: Iterable[Step] = ()) -> None:
        self._tiers = tiers
        self._thread = thread
        self._ns = ns
        self._steps = {step.id: step for step in steps}
        self._made: dict[bytes, Manifest] = {}

    async def of(self, step: Step) -> Manifest:
        """A step's manifest."""
        self._steps[step.id] = step
        chain = [step]
        while chain[-1].base == 0 and chain[-1].parent is not None and chain[-1].parent not in self._made:
            parent = self._steps.get(chain[-1].parent)
            if parent is None:
                more = await self._tiers.warm.chain(self._thread, self._ns, chain[-1].parent)
                if not more:
                    break
                self._steps.update((one.id, one) for one in more)
                parent = more[0]
            chain.append(parent)
        for one in reversed(chain):
            self._made[one.id] = self._opened(one)
        return self._made[step.id]

    def _opened(self, step: Step) -> Manifest:
        codec = self._tiers.codec
        body = codec.open_body(self._thread, step)
        below = self._made.get(step.parent) if step.base == 0 and step.parent is not None else None
        return applied(codec.unpack(body), len(body), below)


class Contribution(NamedTuple):
    """What a delta channel's value is made of, oldest write first; `seed` is None where nothing was stored."""

    writes: list[Pending]
    seed: Node | None


async def contributions(tiers: Tiers, place: Place, target: Step, channels: Sequence[str]) -> dict[str, Contribution]:
    """Of each channel, the writes of the target's ancestors down to the nearest one with a stored value."""
    manifests = Manifests(tiers, place.thread, place.ns)
    writes: dict[str, list[Pending]] = {channel: [] for channel in channels}
    seeds: dict[str, Any] = {}
    window: dict[bytes, Step] = {}
    cursor = target.parent
    while cursor is not None and len(seeds) < len(writes):
        if cursor not in window:
            window = await _window(tiers, place, cursor)
            pending = await _pending(tiers, place, list(window))
        step = window.get(cursor)
        if step is None:
            break
        values = (await manifests.of(step)).values
        open_channels = [channel for channel in writes if channel not in seeds]
        for write in reversed(pending.get(step.id, [])):
            if write.channel in open_channels:
                writes[write.channel].append(write)
        seeds.update((channel, values[channel]) for channel in open_channels if channel in values)
        cursor = step.parent
    return {channel: Contribution(found[::-1], seeds.get(channel)) for channel, found in writes.items()}


async def _window(tiers: Tiers, place: Place, newest: bytes) -> dict[bytes, Step]:
    """A checkpoint and the ones before it, with a forked one's own ancestors among them or not."""
    listed = await tiers.warm.page(
        [("s.thread = ?", (place.thread,)), ("s.ns = ?", (place.ns,)), ("s.id <= ?", (newest,))], WINDOW
    )
    return {one.step.id: one.step for one in listed}


async def _pending(tiers: Tiers, place: Place, ids: Sequence[bytes]) -> dict[bytes, list[Pending]]:
    found: dict[bytes, list[Pending]] = {}
    for write in await tiers.warm.writes(place.thread, place.ns, ids) if ids else ():
        found.setdefault(bytes(write.id), []).append(pending_of(tiers.codec, place.thread, write))
    return {checkpoint_id: ordered(writes) for checkpoint_id, writes in found.items()}


def chunks_of(contributions: Iterable[Contribution]) -> set[bytes]:
    """The chunks that delta channels need."""
    nodes = [node for one in contributions for node in (*(w.node for w in one.writes), one.seed) if node is not None]
    return {name for node in nodes for name in refs(node)}
