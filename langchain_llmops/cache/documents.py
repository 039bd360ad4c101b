"""Retrieved documents as bytes: plain JSON in an envelope, rebuilt field by field."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from langchain_core.documents import Document

from langchain_llmops.core.errors import EnvelopeError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_llmops.core.envelope import Envelope

__all__ = ["decode", "encode"]

VERSION: Final = 1
MARK: Final = "$"  # {"$": [kind, text]} is a value that JSON has no word for
# what bytes of another making do to code that expects ours
DAMAGE: Final = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)
READERS: Final[dict[str, Callable[[str], Any]]] = {
    "datetime": datetime.fromisoformat,
    "date": date.fromisoformat,
    "decimal": Decimal,
    "uuid": UUID,
}


def encode(documents: Sequence[Document], key: str, envelope: Envelope) -> bytes:
    """The documents as stored bytes; raises `TypeError` or `ValueError` unless `decode` would give the same again."""
    body = {"v": VERSION, "d": [_plain(document) for document in documents]}
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return envelope.seal(text.encode("utf-8", "surrogatepass"), key.encode())


def decode(stored: bytes, key: str, envelope: Envelope) -> list[Document]:
    """New documents from stored bytes; raises `EnvelopeError` on anything foreign, damaged or of another version."""
    data = envelope.open(stored, key.encode())
    try:
        body = json.loads(data.decode("utf-8", "surrogatepass"))
        if body["v"] != VERSION:
            raise EnvelopeError("cached documents are of a version that this library does not read")
        return [_document(*fields) for fields in body["d"]]
    except DAMAGE as error:
        raise EnvelopeError("cached documents are damaged") from error


def _document(text: Any, metadata: Any, number: Any) -> Document:
    if type(text) is not str or type(metadata) is not dict or not isinstance(number, str | None):
        raise EnvelopeError("cached documents are damaged")
    return Document(page_content=text, metadata=_value(metadata), id=number)


def _plain(document: Document) -> list[Any]:
    if type(document) is not Document:  # whose class would be lost
        raise TypeError(f"cannot cache a {type(document).__name__}")
    return [document.page_content, _spelled(document.metadata), document.id]


def _spelled(value: Any) -> Any:
    if value is None or type(value) in (str, bool, int, float):
        return value
    if type(value) is list:
        return [_spelled(item) for item in value]
    if type(value) is dict:
        if MARK in value or not all(type(name) is str for name in value):
            raise TypeError("cannot cache a mapping with such keys")
        return {name: _spelled(item) for name, item in value.items()}
    if type(value) in (datetime, date, Decimal, UUID):
        return {MARK: _marked(value)}
    return _number(value)


def _marked(value: datetime | date | Decimal | UUID) -> list[str]:
    kind, text = type(value).__name__.lower(), value.isoformat() if isinstance(value, date) else str(value)
    if repr(READERS[kind](text)) != repr(value):  # the name of a time zone, for one
        raise TypeError(f"cannot cache {value!r}")
    return [kind, text]


def _number(value: Any) -> int | float:
    """The score that a vector store took out of an array."""
    if isinstance(value, Real):
        number = int(value) if isinstance(value, Integral) else float(value)
        if number == value:
            return number
    raise TypeError(f"cannot cache a {type(value).__name__}")


def _value(spelled: Any) -> Any:
    if type(spelled) is list:
        return [_value(item) for item in spelled]
    if type(spelled) is not dict:
        return spelled
    if MARK in spelled:
        kind, text = spelled[MARK]
        return READERS[kind](text)
    return {name: _value(item) for name, item in spelled.items()}
