"""Names from outside, made fit for labels."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.context import text_from

if TYPE_CHECKING:
    from langchain_llmops.core.types import CallRecord

__all__ = ["MAX_NAME", "MAX_NAMES", "OTHER", "BoundedNames", "plain", "shown_name", "storable"]

MAX_NAMES: Final = 200
MAX_NAME: Final = 128
OTHER: Final = "other"
TEXTS: Final = ("name", "provider", "model", "node", "cache_level", "route", "experiment", "arm")
NUMBERS: Final = ("rung", "attempt")
_texts, _numbers = attrgetter(*TEXTS), attrgetter(*NUMBERS)
_TEXT_OR_NONE: Final = frozenset({str, type(None)})
_NUMBER_OR_NONE: Final = frozenset({int, type(None)})
_TEXT: Final = frozenset({str})


class BoundedNames:
    """The first 200 names met stay what they are, long ones cut to 128 characters; later ones become `other`.

    A model name is text from outside: without a bound, series without end.
    """

    def __init__(self) -> None:
        self._met: set[str] = set()

    def __call__(self, name: str) -> str:
        """The name to use as a label."""
        name = storable(name[:MAX_NAME])
        if name in self._met:
            return name
        if len(self._met) >= MAX_NAMES:
            return OTHER
        self._met.add(name)
        return name


def plain(record: CallRecord) -> CallRecord:
    """The record with nothing in it that has a will of its own: metadata and tags may be objects of any class.

    What should be a text becomes one; what should be a number and is none is passed over.
    """
    if (
        _TEXT_OR_NONE.issuperset(map(type, _texts(record)))
        and _NUMBER_OR_NONE.issuperset(map(type, _numbers(record)))
        and _TEXT.issuperset(map(type, record.tags))
    ):
        return record
    changes: dict[str, Any] = {name: _text_or_none(getattr(record, name)) for name in TEXTS}
    changes |= {name: number if type(number := getattr(record, name)) is int else None for name in NUMBERS}
    return replace(record, **changes, tags=tuple(map(text_from, record.tags)))


def shown_name(record: CallRecord) -> str:
    """The name a call is counted under, as text: its model's, or else its own."""
    return text_from(record.name if record.model is None else record.model)


def _text_or_none(value: object) -> str | None:
    return None if value is None else text_from(value)


def storable(text: str) -> str:
    """Text that UTF-8 can hold: one lone surrogate would make a whole page or batch unreadable."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
