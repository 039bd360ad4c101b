"""LangGraph's conformance suite and our clauses for the capability that its wheel leaves out, as one run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from tests.conformance.delta_history import CLAUSES, NAME, run_delta_history_clauses

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

__all__ = ["CAPABILITIES", "TESTS", "Score", "conform"]

CAPABILITIES = tuple(dict.fromkeys([capability.value for capability in Capability] + [NAME]))
TESTS = 89  # of the suite's version 0.0.2, and our 8; later versions have more


@dataclass
class Score:
    """Passed and all tests by capability; one that the saver does not have is absent."""

    name: str
    passed: dict[str, int] = field(default_factory=dict)
    total: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def count(self, capability: str, total: int, failures: list[str]) -> None:
        self.passed[capability] = self.passed.get(capability, 0) + total - len(failures)
        self.total[capability] = self.total.get(capability, 0) + total
        self.failures += [f"{capability}: {failure}" for failure in failures]


async def conform(name: str, opened: Callable[[], AbstractAsyncContextManager[Any]]) -> Score:
    """Every test over the savers that `opened` gives, a new one for each capability."""

    @checkpointer_test(name=name)
    async def made():
        async with opened() as saver:
            yield saver

    score = Score(name)
    report = await validate(made)
    for capability, result in report.results.items():
        if result.detected:
            score.count(capability, result.tests_passed + result.tests_failed, result.failures)
    async with opened() as saver:
        score.count(NAME, len(CLAUSES), await run_delta_history_clauses(saver))
    return score
