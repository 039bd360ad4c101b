"""Which requests fail, and how: by rate, by schedule or by header."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, get_args

from langchain_llmops.simulator.types import ApiError, Reply, SimulatorError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_llmops.simulator.draws import Occasion

__all__ = ["FAULT_KINDS", "REFUSAL", "FaultKind", "FaultPlan", "fault_error"]

FaultKind = Literal[
    "rate_limit", "server_error", "unavailable", "slow", "hang", "cut", "malformed", "refusal", "context_overflow"
]
FAULT_KINDS: Final[tuple[FaultKind, ...]] = get_args(FaultKind)
REFUSAL: Final = Reply(refusal="I'm sorry, but I can't assist with that request.")
TRANSIENT_MIX: Final[dict[str, float]] = {
    "rate_limit": 0.4,
    "server_error": 0.2,
    "unavailable": 0.2,
    "cut": 0.1,
    "malformed": 0.1,
}
"""The shares of `FaultPlan.mixed`: failures that a retry can mend."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Faults of chat and embeddings requests; kinds are the words of `FAULT_KINDS`.

    `rates` gives each kind a probability; the draw depends on the seed, the messages and how often they were asked,
    so a concurrent run repeats exactly and a retry draws anew. `schedule` gives the n-th request (from 1) a kind and
    goes before the rates; the header `X-Simulate-Fault` goes before both. A refusal or context overflow drawn for an
    embeddings request is passed over.
    """

    rates: Mapping[str, float] = field(default_factory=dict)
    schedule: Mapping[int, str] = field(default_factory=dict)
    seed: int = 0
    retry_after_s: float = 0.05
    slow_s: float = 1.0
    hang_s: float = 600.0

    def __post_init__(self) -> None:
        for kind in (*self.rates, *self.schedule.values()):
            if kind not in FAULT_KINDS:
                raise SimulatorError(f"unknown fault {kind!r}; the kinds are {', '.join(FAULT_KINDS)}")
        wrong = next((kind for kind, rate in self.rates.items() if not 0 <= rate <= 1), None)
        if wrong is not None:
            raise SimulatorError(f"the rate of {wrong} must be between 0 and 1, not {self.rates[wrong]}")
        if sum(self.rates.values()) > 1 + 1e-9:
            raise SimulatorError(f"the fault rates add up to {sum(self.rates.values()):g}, which is more than 1")
        for name in ("retry_after_s", "slow_s", "hang_s"):
            if not getattr(self, name) >= 0:
                raise SimulatorError(f"{name} must not be negative: {getattr(self, name)}")

    @classmethod
    def mixed(cls, rate: float, seed: int = 0) -> FaultPlan:
        """Faults that a retry can mend, `rate` in all, in the shares of `TRANSIENT_MIX`."""
        if not 0 <= rate <= 1:
            raise SimulatorError(f"the fault rate must be between 0 and 1, not {rate}")
        return cls(rates={kind: rate * share for kind, share in TRANSIENT_MIX.items()}, seed=seed)

    def pick(self, occasion: Occasion, header: str | None = None) -> str | None:
        """The fault of this request, or None."""
        if header is not None:
            if header in FAULT_KINDS:
                return header
            text = f"Invalid value: '{header}'. Supported values are: {', '.join(FAULT_KINDS)}."
            raise ApiError(400, text, param="X-Simulate-Fault", code="invalid_value")
        scheduled = self.schedule.get(occasion.ordinal)
        return scheduled if scheduled is not None else self._drawn(occasion)

    def _drawn(self, occasion: Occasion) -> str | None:
        left = occasion.uniform(self.seed, "fault")
        for kind in FAULT_KINDS:
            left -= self.rates.get(kind, 0.0)
            if left < 0:
                return kind
        return None


def fault_error(kind: str, model: str, plan: FaultPlan) -> ApiError | None:
    """The error answer of a kind that has one, in the words of the real API."""
    match kind:
        case "rate_limit":
            wait = f"{plan.retry_after_s:g}"
            text = f"Rate limit reached for {model} on requests per min (RPM). Please try again in {wait}s."
            headers = (("retry-after", wait),)
            return ApiError(429, text, kind="requests", code="rate_limit_exceeded", headers=headers)
        case "server_error":
            text = "The server had an error while processing your request. Sorry about that!"
            return ApiError(500, text, kind="server_error")
        case "unavailable":
            text = "The engine is currently overloaded, please try again later."
            return ApiError(503, text, kind="server_error", code="service_unavailable")
        case "context_overflow":
            # The wording counts: openai 3 leaves the code out of `str(error)`, and LangChain looks for these words.
            text = (
                "Input tokens exceed the configured limit of 128000 tokens. Please reduce the length of the messages."
            )
            return ApiError(400, text, param="messages", code="context_length_exceeded")
        case _:
            return None
