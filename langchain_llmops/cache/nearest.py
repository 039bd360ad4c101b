"""Unit vectors by name, and which of them are nearest: with NumPy where it is installed, else in plain Python."""

from __future__ import annotations

import heapq
import math
from array import array
from operator import mul
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

try:  # the `semantic` extra; without it 1,000 comparisons take some 22 ms instead of 0.1
    import numpy as np  # type: ignore[import-not-found,unused-ignore] # an extra, there or not where mypy runs
except ImportError:
    np = None  # type: ignore[assignment,unused-ignore] # a module's name, for none

__all__ = ["NumpyRows", "PlainRows", "Rows", "new_rows", "unit"]


class Rows(Protocol):
    """A set of named vectors of one length."""

    def put(self, name: str, vector: Sequence[float]) -> None:
        """Add or replace one."""
        ...

    def drop(self, name: str) -> None:
        """Remove one that is there."""
        ...

    def nearest(self, vector: Sequence[float], count: int) -> list[tuple[float, str]]:
        """The `count` names of the highest cosine, best first."""
        ...


def new_rows() -> Rows:
    """An empty set, of the fastest kind that runs here."""
    return PlainRows() if np is None else NumpyRows()


def unit(vector: Sequence[float]) -> array[float]:
    """The vector at length 1; raises `ValueError` for one that has no direction."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    if not 0 < length < math.inf:
        raise ValueError("an embedding must be finite and not all zero")
    return array("f", (x / length for x in vector))


class PlainRows:
    """In plain Python."""

    def __init__(self) -> None:
        self._rows: dict[str, Sequence[float]] = {}

    def put(self, name: str, vector: Sequence[float]) -> None:
        """Add or replace one."""
        self._rows[name] = vector

    def drop(self, name: str) -> None:
        """Remove one that is there."""
        del self._rows[name]

    def nearest(self, vector: Sequence[float], count: int) -> list[tuple[float, str]]:
        """The `count` names of the highest cosine, best first."""
        return heapq.nlargest(count, ((sum(map(mul, row, vector)), name) for name, row in self._rows.items()))


class NumpyRows:
    """In one matrix that doubles; a removed row's place is taken by the last."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._places: dict[str, int] = {}
        self._matrix: Any = None

    def put(self, name: str, vector: Sequence[float]) -> None:
        """Add or replace one."""
        row = np.asarray(vector, dtype=np.float32)
        place = self._places.setdefault(name, len(self._names))
        if place == len(self._names):
            self._names.append(name)
        if self._matrix is None:
            self._matrix = np.zeros((1, len(row)), dtype=np.float32)
        if place == len(self._matrix):
            self._matrix = np.concatenate([self._matrix, np.zeros_like(self._matrix)])
        self._matrix[place] = row

    def drop(self, name: str) -> None:
        """Remove one that is there."""
        place, last = self._places.pop(name), self._names.pop()
        if last != name:
            self._names[place], self._places[last] = last, place
            self._matrix[place] = self._matrix[len(self._names)]

    def nearest(self, vector: Sequence[float], count: int) -> list[tuple[float, str]]:
        """The `count` names of the highest cosine, best first."""
        if not self._names:
            return []
        cosines = self._matrix[: len(self._names)] @ np.asarray(vector, dtype=np.float32)
        best = np.argpartition(-cosines, min(count, len(cosines)) - 1)[:count]
        return sorted(((float(cosines[place]), self._names[place]) for place in best), reverse=True)
