"""The trace tree of one request, with tokens, dollars and seconds on every step."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING

from langchain_llmops.ledger.calls import CALL, Call, read_call
from langchain_llmops.ledger.filters import Filter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_llmops.stores.base import Row, Sql

__all__ = ["Step", "records_of", "trace_tree"]

ALL = Filter()


@dataclass(frozen=True, slots=True)
class Step:
    """A call and the calls below it. Each record counts once: the sums of the roots are those of the request."""

    call: Call
    children: list[Step] = field(default_factory=list)

    @property
    def cost_usd(self) -> Decimal:
        """What the answers of this subtree cost."""
        return sum((call.cost_usd for call in self.calls()), Decimal(0))

    @property
    def failed_cost_usd(self) -> Decimal:
        """What the failed attempts of this subtree may have cost."""
        return sum((call.failed_cost_usd for call in self.calls()), Decimal(0))

    @property
    def input_tokens(self) -> int:
        """Of the answers of this subtree."""
        return sum(call.input_tokens for call in self.calls() if call.error_kind is None)

    @property
    def output_tokens(self) -> int:
        """Of the answers of this subtree."""
        return sum(call.output_tokens for call in self.calls() if call.error_kind is None)

    def calls(self) -> Iterator[Call]:
        """This call and all below it."""
        waiting = [self]
        while waiting:
            step = waiting.pop()
            yield step.call
            waiting.extend(step.children)


async def trace_tree(sql: Sql, wanted: str, chosen: Filter = ALL) -> list[Step]:
    """The roots, in order of time, of the request, trace or run called `wanted`; of a run the whole trace.

    Empty when no `chosen` call is of it. A record whose parent is not there hangs below the root of its trace.
    """
    return _grown([read_call(row) for row in await records_of(sql, CALL, wanted, chosen)])


async def records_of(sql: Sql, columns: str, wanted: str, chosen: Filter = ALL) -> list[Row]:
    """Columns of every chosen record of a request, a trace, or the trace of a run, in order of time."""
    traces = "SELECT trace_id FROM llmops_calls WHERE run_id = ?"
    for condition in ("request_id = ?", "trace_id = ?", f"trace_id IN ({traces})"):
        where, parameters = chosen.where(condition)
        statement = f"SELECT {columns} FROM llmops_calls{where} ORDER BY started_at, id"
        rows = await sql.fetch(statement, (*parameters, wanted))
        if rows:
            return rows
    return []


def _grown(calls: list[Call]) -> list[Step]:
    steps: dict[str, Step] = {}
    roots = []
    for call in calls:
        steps.setdefault(call.run_id, Step(call))
    for step in steps.values():
        parent = _parent(step, steps)
        roots.append(step) if parent is None or _hangs_below(parent, step, steps) else parent.children.append(step)
    return roots


def _parent(step: Step, steps: dict[str, Step]) -> Step | None:
    call = step.call
    return steps.get(call.parent_run_id or "") or (None if call.run_id == call.trace_id else steps.get(call.trace_id))


def _hangs_below(step: Step, other: Step, steps: dict[str, Step]) -> bool:
    """Whether a step is below another: records from outside may name each other in a circle."""
    seen: set[str] = set()
    above: Step | None = step
    while above is not None and above.call.run_id not in seen:
        if above is other:
            return True
        seen.add(above.call.run_id)
        above = _parent(above, steps)
    return False
