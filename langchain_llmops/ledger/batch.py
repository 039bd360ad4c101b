"""Rows that are written in one transaction."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from langchain_llmops.core.events import Retried
from langchain_llmops.core.types import CallRecord, ErrorKind
from langchain_llmops.ledger.schema import CALL_COLUMNS, EVENT_COLUMNS, call_row, event_row, mended

if TYPE_CHECKING:
    from langchain_llmops.ledger.buffer import Entry
    from langchain_llmops.stores.base import Sql, Transaction

__all__ = ["Batch", "probe"]

Rows: TypeAlias = "list[tuple[Any, ...]]"


@dataclass
class Batch:
    """Calls and events as rows; `doubtful` when the connection broke, so that it may have been committed."""

    calls: Rows = field(default_factory=list)
    events: Rows = field(default_factory=list)
    doubtful: bool = False

    def __len__(self) -> int:
        return len(self.calls) + len(self.events)

    @property
    def characters(self) -> int:
        """Of content."""
        return sum(len(row[-1] or "") for row in self.calls if len(row) == len(CALL_COLUMNS))

    def add(self, entry: Entry) -> None:
        """One more row; raises whatever a record that is none raises."""
        if isinstance(entry, CallRecord):
            self.calls.append(call_row(entry))
        else:
            self.events.append(event_row(*entry))

    def halves(self) -> tuple[Batch, Batch]:
        """The same rows in two batches."""
        if self.calls and self.events:
            return Batch(self.calls), Batch(events=self.events)
        calls, events = len(self.calls) // 2, len(self.events) // 2
        return Batch(self.calls[:calls], self.events[:events]), Batch(self.calls[calls:], self.events[events:])

    def mended(self) -> Batch:
        """Every value brought into the range of its column."""
        return Batch(
            [mended(CALL_COLUMNS, row) for row in self.calls], [mended(EVENT_COLUMNS, row) for row in self.events]
        )

    async def insert(self, transaction: Transaction) -> None:
        """Write the rows, unless an earlier attempt turns out to have been committed."""
        if self.doubtful and await self._is_there(transaction):
            return
        alike: dict[int, Rows] = defaultdict(list)
        for row in self.calls:
            alike[len(row)].append(row)
        for columns, rows in alike.items():
            await transaction.insert_rows("llmops_calls", CALL_COLUMNS[:columns], rows)
        if self.events:
            await transaction.insert_rows("llmops_events", EVENT_COLUMNS, self.events)

    async def _is_there(self, transaction: Transaction) -> bool:
        """By its first call: a transaction is there whole or not at all. Events alone cannot be told apart."""
        if not self.calls:
            return False
        first = dict(zip(CALL_COLUMNS, self.calls[0], strict=False))
        question = "SELECT 1 FROM llmops_calls WHERE run_id = ? AND started_at = ?"
        return bool(await transaction.fetch(question, (first["run_id"], first["started_at"])))


async def probe(sql: Sql) -> None:
    """Raise what a row without fault meets when the tables themselves refuse; leaves nothing behind."""
    batch = Batch()
    batch.add(CallRecord(kind="turn", run_id="-", trace_id="-", name="probe", started_at=0.0, latency_s=0.0))
    batch.add((Retried("probe", ErrorKind.OTHER, 0, 0.0), 0.0))
    with contextlib.suppress(_UndoneError):
        async with sql.transaction() as transaction:
            await batch.insert(transaction)
            raise _UndoneError


class _UndoneError(Exception):
    """Rolls a transaction back."""
