"""What a checkpointer must answer: LangGraph's `InMemorySaver`, with the methods that it lacks, and how to compare."""

from __future__ import annotations

import math
import reprlib
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.base import get_serializable_checkpoint_metadata
from langgraph.checkpoint.memory import InMemorySaver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Model", "assert_history", "assert_listed", "assert_same"]

Key = tuple[str, str, str]  # thread, namespace, checkpoint


class Model(InMemorySaver):
    """The reference. Beyond `InMemorySaver`, from the contract:

    A put holds every value of its checkpoint, so a checkpoint read is the checkpoint put, whatever was deleted between.
    Listings are newest first over all threads and namespaces. Writes whose checkpoint has not come yet stay until their
    thread is deleted.
    """

    def put(self, config, checkpoint, metadata, new_versions):
        versions = checkpoint["channel_versions"]
        held = {channel: versions[channel] for channel in checkpoint["channel_values"]}
        kept = get_serializable_checkpoint_metadata(config, metadata)
        return super().put(config, checkpoint, kept, held | new_versions)

    def list(self, config, *, filter=None, before=None, limit=None) -> Iterator:  # noqa: A002 - LangGraph's name
        found = sorted(super().list(config, filter=filter, before=before), key=_id, reverse=True)
        yield from found[:limit]

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        source, target = source_thread_id, target_thread_id
        for ns, rows in list(self.storage[source].items()):
            self.storage[target][ns].update(rows)
        for thread, ns, checkpoint_id in [key for key in self.writes if key[0] == source]:
            self.writes[target, ns, checkpoint_id].update(self.writes[thread, ns, checkpoint_id])
        self.blobs.update({(target, *key[1:]): value for key, value in self.blobs.items() if key[0] == source})

    def delete_for_runs(self, run_ids: Sequence[str]) -> None:
        self._remove(key for key, run in self._runs() if run in run_ids)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest", keep_last: int = 1) -> None:
        for thread in thread_ids:
            if strategy == "delete":
                self.delete_thread(thread)
                continue
            count = 1 if strategy == "keep_latest" else keep_last
            for ns, rows in self.storage[thread].items():
                self._remove([(thread, ns, one) for one in sorted(rows)[:-count]])

    def ids(self, thread: str, ns: str) -> list[str]:
        """The checkpoints of a place, newest first."""
        return sorted(self.storage[thread][ns], reverse=True)

    def threads(self) -> list[str]:
        """Threads that hold anything."""
        held = {thread for thread, spaces in self.storage.items() if any(spaces.values())}
        return sorted(held | {key[0] for key, writes in self.writes.items() if writes})

    def _runs(self) -> Iterator[tuple[Key, Any]]:
        for thread, spaces in self.storage.items():
            for ns, rows in spaces.items():
                for one, (_, metadata, _) in rows.items():
                    yield (thread, ns, one), self.serde.loads_typed(metadata).get("run_id")

    def _remove(self, gone: Iterable[Key]) -> None:
        for thread, ns, one in list(gone):
            del self.storage[thread][ns][one]
            self.writes.pop((thread, ns, one), None)


def assert_same(ours: Any, model: Any) -> None:
    """One checkpoint, or none, equal in every part."""
    differences = _differences(_facts(ours), _facts(model))
    assert not differences, "\n".join(differences)


def assert_listed(ours: Sequence[Any], everything: Sequence[Any], limit: int | None) -> None:
    """The newest `limit` of everything, newest first; which of two with one id comes first is open."""
    known = {_key(one): one for one in everything}
    keys = [_key(one) for one in ours]
    assert len(set(keys)) == len(keys)
    assert [_id(one) for one in ours] == [_id(one) for one in everything][:limit]
    for one, key in zip(ours, keys, strict=True):
        assert_same(one, known[key])


def assert_history(ours: dict[str, Any], model: dict[str, Any]) -> None:
    """What delta channels are built from."""
    assert _strict(dict(ours)) == _strict(dict(model))


def _id(found: Any) -> str:
    return found.config["configurable"]["checkpoint_id"]


def _key(found: Any) -> Key:
    place = found.config["configurable"]
    return place["thread_id"], place["checkpoint_ns"], place["checkpoint_id"]


def _differences(ours: dict[str, Any], model: dict[str, Any]) -> list[str]:
    found = []
    for name in sorted({*ours, *model}):
        mine, wanted = ours.get(name), model.get(name)
        if isinstance(mine, dict) and isinstance(wanted, dict):
            found += [f"{name}: {one}" for one in _differences(mine, wanted)]
        elif name not in ours or name not in model or mine != wanted:
            mine, wanted = (SHORT.repr(side.get(name, "missing")) for side in (ours, model))
            found.append(f"{name!r} is {mine}, and should be {wanted}")
    return found


def _facts(found: Any) -> dict[str, Any]:
    if found is None:
        return {}
    told = dict(found.checkpoint)
    unordered = {part: told.pop(part) for part in ("channel_values", "channel_versions", "versions_seen")}
    return {
        "key": _key(found),
        "parent": found.parent_config and found.parent_config["configurable"],
        "checkpoint": {name: _strict(value) for name, value in told.items()},
        "metadata": {name: _strict(value) for name, value in found.metadata.items()},
        "writes": _strict([tuple(write) for write in found.pending_writes or []]),
        **{part: {name: _strict(value) for name, value in values.items()} for part, values in unordered.items()},
    }


def _strict(value: Any) -> Any:
    """A value with its types and the order of its keys, so that 1, True and 1.0 are three things."""
    show = SHOWN[type(value)] if type(value) in SHOWN else _message if isinstance(value, BaseMessage) else _plain
    return show(value)


def _mapping(value: dict) -> Any:
    return (type(value), [(_strict(key), _strict(item)) for key, item in value.items()])


def _sequence(value: Sequence) -> Any:
    return (type(value), [_strict(item) for item in value])


def _message(value: BaseMessage) -> Any:
    return (type(value), value)


def _number(value: float) -> Any:
    return (float, "nan" if math.isnan(value) else value.hex())


def _plain(value: Any) -> Any:
    return (type(value), value)


SHORT = reprlib.Repr()
SHORT.maxlevel, SHORT.maxlist, SHORT.maxtuple, SHORT.maxdict, SHORT.maxother = 8, 20, 20, 20, 80
SHOWN: dict[type, Callable[[Any], Any]] = {
    dict: _mapping,
    defaultdict: _mapping,
    list: _sequence,
    tuple: _sequence,
    float: _number,
    str: lambda text: text,
}
