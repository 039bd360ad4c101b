"""Pure arithmetic on observations."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Sketch", "quantile", "wilson"]

SMALLEST: Final = 1e-9
LARGEST: Final = sys.float_info.max


def quantile(ordered: Sequence[float], q: float) -> float | None:
    """The nearest-rank quantile of values in ascending order (`q` in 0..1); None when there are none."""
    return ordered[_rank(q, len(ordered))] if ordered else None


def wilson(hits: float, trials: float, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a share, 95 % by default (Wilson, JASA 1927); 0 to 1 when nothing was tried."""
    if not 0 <= hits <= trials:
        raise ValueError(f"{hits} hits in {trials} trials is no share")
    if not trials:
        return 0.0, 1.0
    share, square = hits / trials, z * z
    middle = (share + square / (2 * trials)) / (1 + square / trials)
    half = z / (1 + square / trials) * math.sqrt(share * (1 - share) / trials + square / (4 * trials * trials))
    return max(0.0, middle - half) if hits else 0.0, min(1.0, middle + half) if hits < trials else 1.0


def _rank(q: float, count: int) -> int:
    return max(0, math.ceil(q * count) - 1)


class Sketch:
    """Quantiles of a stream in logarithmic buckets (DDSketch: Masson, Rim and Lee, VLDB 2019); sketches can be merged.

    A quantile is at most `accuracy` (relative) off the nearest-rank one. Values closer to zero than 1e-9 count as zero,
    infinite ones as the largest float; NaN raises `ValueError`. One per thread, or under a lock.
    """

    __slots__ = ("_negative", "_per_log", "_positive", "_zeros", "accuracy", "count", "sum")

    def __init__(self, accuracy: float = 0.01) -> None:
        if not 0 < accuracy < 1:
            raise ValueError(f"accuracy must lie between 0 and 1, not {accuracy}")
        self.accuracy = accuracy
        self._per_log = 1 / math.log((1 + accuracy) / (1 - accuracy))
        self._positive: dict[int, int] = {}
        self._negative: dict[int, int] = {}
        self._zeros = 0
        self.count = 0
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        if SMALLEST <= value <= LARGEST:  # first, because nearly every value passes here
            bucket = math.ceil(math.log(value) * self._per_log)
            self._positive[bucket] = self._positive.get(bucket, 0) + 1
        else:
            value = self._add_unusual(value)
        self.count += 1
        self.sum += value

    def merge(self, other: Sketch) -> None:
        """Count everything that `other` has counted; both must have the same accuracy."""
        if other.accuracy != self.accuracy:
            raise ValueError(f"sketches of accuracy {self.accuracy} and {other.accuracy} cannot be merged")
        for mine, theirs in ((self._positive, other._positive), (self._negative, other._negative)):
            for bucket, count in theirs.items():
                mine[bucket] = mine.get(bucket, 0) + count
        self._zeros += other._zeros
        self.count += other.count
        self.sum += other.sum

    def quantile(self, q: float) -> float | None:
        """The value at quantile `q` (0..1); None when nothing was counted."""
        left = _rank(q, self.count)
        for value, count in self._ascending():
            if left < count:
                return value
            left -= count
        return None

    def copy(self) -> Sketch:
        """A sketch of the same values."""
        copy = Sketch(self.accuracy)
        copy.merge(self)
        return copy

    def _add_unusual(self, value: float) -> float:
        if math.isnan(value):
            raise ValueError("not a number has no place among values")
        value = max(-LARGEST, min(LARGEST, value))
        if abs(value) < SMALLEST:
            self._zeros += 1
            return value
        buckets = self._positive if value > 0 else self._negative
        bucket = math.ceil(math.log(abs(value)) * self._per_log)
        buckets[bucket] = buckets.get(bucket, 0) + 1
        return value

    def _ascending(self) -> Iterator[tuple[float, int]]:
        for bucket in sorted(self._negative, reverse=True):
            yield -self._value(bucket), self._negative[bucket]
        yield 0.0, self._zeros
        for bucket in sorted(self._positive):
            yield self._value(bucket), self._positive[bucket]

    def _value(self, bucket: int) -> float:
        """The point of a bucket (gamma^(n-1), gamma^n] that is equally far, relatively, from both of its ends."""
        log = bucket / self._per_log
        middle = math.exp(log) if log < math.log(LARGEST) else LARGEST
        return middle * (1 - self.accuracy)
