"""Values of other savers, read by LangGraph's strict serializer, and what of them it would not rebuild."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_llmops.core.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from langgraph.checkpoint.serde.base import SerializerProtocol

__all__ = ["Unpacker", "Unreadable", "Value", "alike"]

# extension codes of LangGraph's msgpack
NUMPY_ARRAY: Final = 6
DELTA_SNAPSHOT: Final = 7
# of msgpack, of JSON, and of classes that are built of what was stored
READ_ERRORS: Final = (ValueError, TypeError, KeyError, IndexError, AttributeError)


class Unreadable(CheckpointError):  # noqa: N818 - what a value is
    """A stored value that cannot be read; the message says why, in words that follow "channel 'x' "."""


@dataclass(frozen=True, eq=False, slots=True)
class _Named:
    """An object within stored data: the class it names, and what else it names."""

    name: str
    inner: Any


@dataclass(frozen=True, slots=True)
class _Raw:
    """What a value, or one that it is a part of, was read from."""

    kind: str
    data: bytes
    value: Any


@dataclass(frozen=True, slots=True)
class Value:
    """A value, and what it was read from and where in it; one that nothing was lost of has none."""

    value: Any
    raw: _Raw | None = None
    path: tuple[str, ...] = ()

    def part(self, key: str) -> Value:
        """One item of a dictionary."""
        return Value(self.value[key], self.raw, (*self.path, key))


class Unpacker:
    """Reads stored values; `allowed` are (module, name) pairs beside LangGraph's own list of safe types."""

    def __init__(self, allowed: Collection[tuple[str, str]] = ()) -> None:
        self._allowed = {f"{module}.{name}" for module, name in allowed}
        self._strict = JsonPlusSerializer(
            allowed_msgpack_modules=tuple(allowed) or None,
            allowed_json_modules=[(*module.split("."), name) for module, name in allowed] or None,
        )
        self._seen: tuple[_Raw, bool] | None = None
        self._naming = JsonPlusSerializer(allowed_msgpack_modules=None, __unpack_ext_hook__=self._name)

    def unpack(self, kind: str, data: bytes) -> Value:
        """What `dumps_typed` of LangGraph's serializers wrote; raises `Unreadable`."""
        try:
            value = self._strict.loads_typed((kind, data))
        except NotImplementedError as error:
            raise Unreadable(_strange(kind)) from error
        except READ_ERRORS as error:
            raise Unreadable(f"cannot be read as {kind} ({type(error).__name__})") from error
        return Value(value, _Raw(kind, data, value))

    def packed(self, value: Any) -> tuple[str, bytes]:
        """The value as it would be stored; raises `Unreadable` where it cannot be."""
        try:
            return self._strict.dumps_typed(value)
        except (TypeError, ValueError) as error:
            raise Unreadable(f"cannot be stored ({type(error).__name__}: {error})") from error

    def lost(self, value: Value) -> list[str]:
        """Classes of the stored form that the value has lost, sorted: it holds plain data in their place."""
        if value.raw is None or self._is_whole(value.raw):
            return []
        there = self._tree(value.raw.kind, value.raw.data)
        for key in value.path:
            there = there[key]
        here = self._tree(*self.packed(value.value))
        before, after = Counter(_names(there)), Counter(_names(here))
        kept_as_data = set(_left_over(here)) - set(_left_over(there))
        missing = before - after if after.total() < before.total() else Counter()
        return sorted({*missing, *kept_as_data})

    def is_allowed(self, name: str) -> bool:
        """Whether the user allowed a class, so that it must have failed to be built."""
        return name in self._allowed

    def _is_whole(self, raw: _Raw) -> bool:
        """Whether it would be stored byte for byte as it was: what is usual, and quickly seen."""
        if self._seen is None or self._seen[0] is not raw:
            self._seen = raw, self.packed(raw.value) == (raw.kind, raw.data)
        return self._seen[1]

    def _tree(self, kind: str, data: bytes) -> Any:
        """Stored data with every object as the name of its class."""
        return json.loads(data, object_hook=_named) if kind == "json" else self._naming.loads_typed((kind, data))

    def _name(self, code: int, data: bytes) -> Any:
        inner = self._naming.loads_typed(("msgpack", data))
        if code == DELTA_SNAPSHOT:
            return inner
        if code == NUMPY_ARRAY:
            return _Named("numpy.ndarray", None)
        module, name, payload, *_ = inner
        return _Named(f"{module}.{name}", payload)


def alike(one: Any, other: Any, serde: SerializerProtocol) -> bool:
    """Whether two values are stored the same, whatever the order of their sets' and dictionaries' items."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(value, other[key], serde) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(alike(*pair, serde) for pair in zip(one, other, strict=True))
    if isinstance(one, set | frozenset):
        return bool(one == other)
    return serde.dumps_typed(one) == serde.dumps_typed(other)


def _named(found: dict[str, Any]) -> Any:
    """What JSON has in place of an object; of the objects within it, the outer one's class speaks."""
    if _is_object(found):
        return _Named(".".join(map(str, found["id"])), None)
    return found


def _is_object(found: dict[Any, Any]) -> bool:
    return found.get("lc") in (1, 2) and found.get("type") == "constructor" and isinstance(found.get("id"), list)


def _names(tree: Any) -> Iterator[str]:
    if isinstance(tree, _Named):
        yield tree.name
        yield from _names(tree.inner)
    elif isinstance(tree, dict):
        for key, item in tree.items():
            yield from _names(key)
            yield from _names(item)
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _names(item)


def _left_over(tree: Any) -> Iterator[str]:
    """Objects of JSON that nobody built."""
    if isinstance(tree, _Named):
        yield from _left_over(tree.inner)
    elif isinstance(tree, dict):
        if _is_object(tree):
            yield ".".join(map(str, tree["id"]))
        for item in tree.values():
            yield from _left_over(item)
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _left_over(item)


def _strange(kind: str) -> str:
    if kind == "pickle":
        return "is pickled, which can run code; save it again without pickle_fallback"
    if "+" in kind:
        return f"is encrypted ({kind[:40]}); save it again without EncryptedSerializer"
    return f"has a form that LangGraph's serializer does not know ({kind[:40]!r})"
