"""The walk over a chain's rungs as a value: no I/O, so sync and async callers share it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from langchain_llmops.core.classify import Verdict, classify
from langchain_llmops.core.errors import FallbackExhaustedError
from langchain_llmops.core.types import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_llmops.resilience.retry import RetryPolicy

__all__ = ["Plan", "Step"]

# Failures that another model may not share. A request that is wrong, or a bug of the caller, fails everywhere alike.
NEXT_RUNG: Final = frozenset(
    {
        ErrorKind.RATE_LIMIT,
        ErrorKind.TIMEOUT,
        ErrorKind.UNAVAILABLE,
        ErrorKind.MALFORMED,
        ErrorKind.TRUNCATED,
        ErrorKind.AUTH,
        ErrorKind.NOT_FOUND,
        ErrorKind.CONTEXT_OVERFLOW,
        ErrorKind.REFUSAL,
    }
)


@dataclass(frozen=True, slots=True)
class Step:
    """Ask rung `rung` (from 0) for the `attempt`-th time (from 1) after `pause_s` seconds."""

    rung: int
    attempt: int
    pause_s: float = 0.0


class Plan:
    """Which rung to ask next, given how the last attempt failed."""

    def __init__(self, names: Sequence[str], policy: RetryPolicy) -> None:
        self._names = names
        self._policy = policy
        self._kinds: list[ErrorKind] = []
        self.step = Step(0, 1)

    def after(self, error: Exception) -> tuple[Step, Verdict]:
        """The next step; raises the error itself when no model can help, `FallbackExhaustedError` when none is left."""
        verdict = classify(error)
        last = self.step
        pause_s = self._policy.pause_s(last.attempt, verdict)
        if pause_s is not None:
            self.step = Step(last.rung, last.attempt + 1, pause_s)
            return self.step, verdict
        if verdict.kind not in NEXT_RUNG:
            raise error
        self._kinds.append(verdict.kind)
        if last.rung + 1 == len(self._names):
            raise FallbackExhaustedError(self._epitaph()) from error
        self.step = Step(last.rung + 1, 1)
        return self.step, verdict

    def _epitaph(self) -> str:
        tried = ", ".join(f"{name} ({kind})" for name, kind in zip(self._names, self._kinds, strict=False))
        return f"no model answered: {tried}"
