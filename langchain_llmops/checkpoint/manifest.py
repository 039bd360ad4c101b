"""What a checkpoint is made of: a full account, or what changed against its parent's.

Full: `[FORMAT, fields, versions, seen, values]`. Delta: `[FORMAT, fields, versions set, versions gone, seen set,
seen gone, values set, values gone, splices]`; a splice is `[items kept in front, items kept behind, new items]` of a
channel that was a list and is one. `seen` changes by node and channel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.checkpoint.nodes import LIST, equal, refs
from langchain_llmops.core.errors import EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from langchain_llmops.checkpoint.nodes import Node

__all__ = ["Encoded", "Manifest", "applied", "encoded", "full"]

FORMAT: Final = 1
FULL_PARTS: Final = 5
DELTA_PARTS: Final = 9


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checkpoint without its id; `values` are nodes.

    `full_bytes` is the size of its full form when that was last made, `debt_bytes` that of the deltas since.
    """

    fields: dict[str, Any]
    versions: dict[str, Any]
    seen: dict[str, dict[str, Any]]
    values: dict[str, Node]
    full_bytes: int = 0
    debt_bytes: int = 0

    def refs(self) -> Iterator[bytes]:
        """The chunks it needs."""
        for node in self.values.values():
            yield from refs(node)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A manifest as bytes; `base` says that they are full ones."""

    manifest: Manifest
    body: bytes
    base: bool


def encoded(manifest: Manifest, parent: Manifest | None, pack: Callable[[Any], bytes]) -> Encoded:
    """As a delta against its parent's, unless the deltas since the last full one together outgrow it."""
    if parent is not None:
        body = pack(_delta(manifest, parent))
        debt = parent.debt_bytes + len(body)
        if debt < parent.full_bytes:
            return Encoded(replace(manifest, full_bytes=parent.full_bytes, debt_bytes=debt), body, base=False)
    return full(manifest, pack)


def full(manifest: Manifest, pack: Callable[[Any], bytes]) -> Encoded:
    """In full."""
    body = pack([FORMAT, manifest.fields, manifest.versions, manifest.seen, manifest.values])
    return Encoded(replace(manifest, full_bytes=len(body), debt_bytes=0), body, base=True)


def applied(content: list[Any], size: int, parent: Manifest | None) -> Manifest:
    """The manifest of an unpacked body of `size` bytes; raises `EnvelopeError` on another format."""
    if not content or content[0] != FORMAT or len(content) not in (FULL_PARTS, DELTA_PARTS):
        raise EnvelopeError(f"a checkpoint's manifest is not of format {FORMAT}; upgrade the library")
    if len(content) == FULL_PARTS:
        _, fields, versions, seen, values = content
        if not all(isinstance(part, dict) for part in content[1:]):
            raise EnvelopeError("a checkpoint's manifest has another shape; it is damaged or forged")
        return Manifest(fields, versions, seen, values, full_bytes=size)
    if parent is None:
        raise EnvelopeError("a checkpoint's manifest needs its parent's, which is missing")
    _, fields, versions, versions_gone, seen, seen_gone, values, values_gone, splices = content
    return Manifest(
        fields,
        _changed(parent.versions, versions, versions_gone),
        _seen_again(parent.seen, seen, seen_gone),
        _changed(parent.values, values | _spliced(parent.values, splices), values_gone),
        full_bytes=parent.full_bytes,
        debt_bytes=parent.debt_bytes + size,
    )


def _changed(old: Mapping[str, Any], new: Mapping[str, Any], gone: list[str]) -> dict[str, Any]:
    kept = {name: one for name, one in old.items() if name not in gone} if gone else old
    return {**kept, **new}


def _seen_again(
    old: Mapping[str, dict[str, Any]], new: Mapping[str, dict[str, Any]], gone: list[str]
) -> dict[str, dict[str, Any]]:
    kept = _changed(old, {}, gone)
    return {**kept, **{node: {**kept.get(node, {}), **versions} for node, versions in new.items()}}


def _spliced(old: Mapping[str, Node], splices: Mapping[str, list[Any]]) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for channel, (front, behind, new) in splices.items():
        items = old[channel][1]
        found[channel] = [LIST, [*items[:front], *new, *items[len(items) - behind :]]]
    return found


def _delta(manifest: Manifest, parent: Manifest) -> list[Any]:
    values, splices = {}, {}
    for channel, node in manifest.values.items():
        old = parent.values.get(channel)
        if node is old or (old is not None and equal(node, old)):
            continue
        if old is not None and _is_list(old) and _is_list(node):
            splices[channel] = _splice(old[1], node[1])
        else:
            values[channel] = node
    seen, seen_gone = _seen(manifest.seen, parent.seen)
    return [
        FORMAT,
        manifest.fields,
        {name: one for name, one in manifest.versions.items() if parent.versions.get(name) != one},
        [name for name in parent.versions if name not in manifest.versions],
        seen,
        seen_gone,
        values,
        [name for name in parent.values if name not in manifest.values],
        splices,
    ]


def _seen(
    new: Mapping[str, Mapping[str, Any]], old: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    changed: dict[str, dict[str, Any]] = {}
    gone = [node for node in old if node not in new]
    for node, versions in new.items():
        known = old.get(node, {})
        if versions == known and node in old:
            continue
        if known.keys() - versions.keys():
            return {name: dict(all_of_it) for name, all_of_it in new.items()}, list(old)
        changed[node] = {name: one for name, one in versions.items() if known.get(name) != one}
    return changed, gone


def _is_list(node: Node) -> bool:
    return not isinstance(node, bytes) and node[0] == LIST


def _splice(old: list[Node], new: list[Node]) -> list[Any]:
    shorter = min(len(old), len(new))
    front = len(old) if new[: len(old)] == old else _same(old, new, shorter)
    behind = _same(old[::-1], new[::-1], shorter - front) if front < shorter else 0
    return [front, behind, new[front : len(new) - behind]]


def _same(old: list[Node], new: list[Node], limit: int) -> int:
    for position in range(limit):
        if old[position] != new[position]:
            return position
    return limit
