"""When to try again, and after what pause: values in, decision out."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_llmops.core.classify import Verdict

__all__ = ["RetryPolicy"]

MAX_DOUBLINGS = 64


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter (AWS Architecture Blog, 2015) over the provider's `Retry-After`.

    Args:
        max_attempts: attempts per model, the first included.
        base_s, max_s: the pause before attempt n is uniform in 0..min(max_s, base_s * 2^(n-1)).
        max_retry_after_s: a provider that asks for a longer pause is left for the next rung.
        draw: uniform in 0..1.
    """

    max_attempts: int = 3
    base_s: float = 0.5
    max_s: float = 20.0
    max_retry_after_s: float = 60.0
    draw: Callable[[], float] = field(default=random.random, repr=False)

    def __post_init__(self) -> None:
        if self.max_attempts < 1 or self.base_s < 0 or self.max_s < self.base_s:
            raise ConfigurationError("a retry policy needs max_attempts >= 1 and 0 <= base_s <= max_s")

    def pause_s(self, attempt: int, verdict: Verdict) -> float | None:
        """Seconds to wait after failed attempt number `attempt` (from 1); None when it must not be repeated."""
        if not verdict.is_retryable or attempt >= self.max_attempts:
            return None
        if (verdict.retry_after_s or 0.0) > self.max_retry_after_s:
            return None
        jitter = self.draw() * min(self.max_s, self.base_s * 2.0 ** min(attempt - 1, MAX_DOUBLINGS))
        return max(jitter, verdict.retry_after_s or 0.0)
