"""Everything that listens to the bus, and what a user says afterwards about what it heard."""

from __future__ import annotations

import logging
import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.cache.figures import watch_cache
from langchain_llmops.checkpoint.watching import watch_checkpointer
from langchain_llmops.ledger.filters import Filter
from langchain_llmops.ledger.tree import records_of
from langchain_llmops.parts import build_ledger
from langchain_llmops.telemetry.conversations import ConversationMetrics
from langchain_llmops.telemetry.logs import CallLog
from langchain_llmops.telemetry.prometheus import PrometheusReader
from langchain_llmops.telemetry.scoreboard import Scoreboard
from langchain_llmops.tracing import Tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from prometheus_client import CollectorRegistry

    from langchain_llmops.core.events import Bus
    from langchain_llmops.core.settings import Settings
    from langchain_llmops.telemetry.handler import OpsCallbackHandler

__all__ = ["Observers"]

_log = logging.getLogger(__name__)

# LangChain gives an answer its run's id, dressed
MESSAGE_ID: Final = re.compile(r"(?:lc_run--|run--?)([0-9a-f-]{36})(?:-\d+)?")


class Observers:
    """The readers: ledger, Prometheus, scoreboard, call log, LangSmith, and OpenTelemetry when it is asked for.

    Args:
        registry: where the Prometheus series live; a private one when None.
        redact: what the fields of a log line become before they are written.
    """

    def __init__(
        self,
        settings: Settings,
        bus: Bus,
        handler: OpsCallbackHandler,
        *,
        registry: CollectorRegistry | None = None,
        redact: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.cache_stats: Callable[[], Mapping[str, Any]] = dict  # of a cache that is not in use, and may come to be
        self.checkpoint_counts: Callable[[], Mapping[str, float]] = dict  # the same
        self._tenant = settings.tenant
        self._handler = handler
        self.ledger = build_ledger(settings)
        self.metrics = PrometheusReader(registry)
        self.scoreboard = Scoreboard()
        self.tracing = Tracing(settings, handler, bus)
        self._call_log = None if settings.log_calls == "off" else CallLog(settings.log_calls, redact=redact)
        conversations = ConversationMetrics(self.metrics.registry)
        for reader in (self.ledger, self.metrics, conversations, self.scoreboard, self._call_log):
            if reader is not None:
                bus.subscribe(reader)
        if settings.otel:
            bus.subscribe(_opentelemetry())
        self._watch(bus, handler)

    async def feedback(self, wanted: str, score: float, key: str, comment: str | None) -> None:
        """Into the ledger, and then to LangSmith."""
        run_id, trace_id, tenant = await self._find(wanted)
        await self.ledger.afeedback(run_id, score, key=key, tenant=tenant or self._tenant, comment=comment)
        if trace_id is None:
            _log.warning("feedback on %r, which the ledger does not know (yet): it is kept under that id", wanted)
        await self.tracing.feedback(run_id, trace_id, key, score, comment)

    async def share_link(self, wanted: str) -> str:
        """A public address of the run's trace."""
        run_id, trace_id, _ = await self._find(wanted)
        return await self.tracing.share_link(run_id, trace_id)

    async def close(self) -> None:
        """Write and send what is buffered, what is still open included."""
        self._handler.close()
        try:
            await self.ledger.aclose()
        finally:
            try:
                await self.tracing.close()
            finally:
                self.metrics.refresh()
                if self._call_log is not None:
                    self._call_log.close()

    async def _find(self, wanted: str) -> tuple[str, str | None, str | None]:
        """Run, trace and tenant of a run id, of an answer's message id, or of a request or trace (then its root run).

        Other tenants may have requests of the same name: of theirs, only what LangChain made the id of is found.
        """
        named = MESSAGE_ID.fullmatch(wanted) if isinstance(wanted, str) else None
        wanted = named[1] if named else wanted
        await self.ledger.aflush()
        sql, columns = await self.ledger.sql(), "run_id, trace_id, tenant, parent_run_id"
        rows = await records_of(sql, columns, wanted, Filter(tenant=self._tenant))
        rows = rows or [row for row in await records_of(sql, columns, wanted) if wanted in row[:2]]
        own = [row for row in rows if row[0] == wanted] or [row for row in rows if row[3] is None] or rows
        return (own[0][0], own[0][1], own[0][2]) if own else (wanted, None, None)

    def _watch(self, bus: Bus, handler: OpsCallbackHandler) -> None:
        watch, count = self.metrics.watch, partial(self.metrics.watch, counter=True)
        ledger, board, tracing, log = self.ledger, self.scoreboard, self.tracing, self._call_log
        count("llmops_bare_records", "Records made without figures.", lambda: handler.failures)
        watch("llmops_open_runs", "Runs that have started and not ended.", lambda: handler.open_runs)
        count("llmops_cut_contents", "Contents too long to be kept whole.", lambda: handler.cut + ledger.cut)
        watch("llmops_ledger_buffered_rows", "Records that wait to be written.", lambda: ledger.buffered)
        count("llmops_ledger_dropped_rows", "Records that the ledger lost.", lambda: ledger.dropped)
        count("llmops_ledger_failures", "Writes of the ledger that failed.", lambda: ledger.failures)
        count("llmops_reader_failures", "Events that a reader failed on.", lambda: bus.failures, label="reader")
        count("llmops_unscored_calls", "Calls the scoreboard could not count.", lambda: board.failures)
        losses = "Runs and feedback that LangSmith did not take."
        count("llmops_trace_losses", losses, lambda: tracing.losses, label="what")
        watch_cache(watch, lambda: dict(self.cache_stats()))
        watch_checkpointer(watch, lambda: dict(self.checkpoint_counts()))
        if log is not None:
            count("llmops_log_dropped_lines", "Log lines that were dropped.", lambda: log.failures)


def _opentelemetry() -> Any:
    from langchain_llmops.telemetry.otel import OpenTelemetryReader  # noqa: PLC0415 - an extra

    return OpenTelemetryReader()
