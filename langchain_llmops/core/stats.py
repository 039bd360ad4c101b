"""Pure arithmetic on observations."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["quantile"]


def quantile(ordered: Sequence[float], q: float) -> float | None:
    """The nearest-rank quantile of values in ascending order (`q` in 0..1); None when there are none."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(q * len(ordered)) - 1)]
