"""How long an answer takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

from langchain_llmops.simulator.types import SimulatorError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_llmops.simulator.draws import Occasion

__all__ = ["Latency"]


@dataclass(frozen=True, slots=True)
class Latency:
    """Time to the first token and between tokens, lognormal by median and sigma (of the logarithm).

    A sigma of 0 makes the time constant. The draws depend on the seed and the request, not on the order of arrival.
    """

    ttft_s: float = 0.3
    ttft_sigma: float = 0.4
    token_s: float = 0.02
    token_sigma: float = 0.3

    def __post_init__(self) -> None:
        for name in ("ttft_s", "ttft_sigma", "token_s", "token_sigma"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise SimulatorError(f"{name} must be a number of at least 0, not {value}")

    def delays(self, seed: int, occasion: Occasion, speed: float) -> Iterator[float]:
        """Seconds before the first token, then before each further one, without end; `speed` multiplies all."""
        if not speed:
            while True:
                yield 0.0
        random = Random(occasion.seed(seed, "latency"))  # noqa: S311 - simulated waiting is no secret
        yield speed * _lognormal(random, self.ttft_s, self.ttft_sigma)
        while True:
            yield speed * _lognormal(random, self.token_s, self.token_sigma)


def _lognormal(random: Random, median: float, sigma: float) -> float:
    return median * math.exp(random.gauss(0.0, sigma))
