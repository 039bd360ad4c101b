"""A LangSmith tracer that adds our facts to the model runs it sends."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from langchain_core.tracers.langchain import LangChainTracer

from langchain_llmops.core.events import CallFinished, Event

if TYPE_CHECKING:
    from uuid import UUID

    from langchain_core.outputs import LLMResult
    from langchain_core.tracers.schemas import Run

    from langchain_llmops.core.types import CallRecord
    from langchain_llmops.telemetry.handler import OpsCallbackHandler

__all__ = ["OpsTracer", "RecentRecords"]

KEPT_RECORDS = 4096


class RecentRecords:
    """The newest model records by run id, bounded: a reader of the bus that the tracer asks."""

    def __init__(self, kept: int = KEPT_RECORDS) -> None:
        self._kept = kept
        self._records: OrderedDict[str, CallRecord] = OrderedDict()

    def __call__(self, event: Event) -> None:
        """Remember a finished model call."""
        if isinstance(event, CallFinished) and event.record.kind == "model":
            self._records[event.record.run_id] = event.record
            if len(self._records) > self._kept:
                self._records.popitem(last=False)

    def take(self, run_id: str) -> CallRecord | None:
        """The record of a run, once."""
        return self._records.pop(run_id, None)


class OpsTracer(LangChainTracer):
    """Sends runs as LangChain's own tracer does, model runs with route, cache level and exact cost.

    LangSmith reads `input_cost`, `output_cost` and `total_cost` in `usage_metadata`; the message itself stays as it is.

    Args:
        handler: makes the records. LangSmith's own wrappers may put a tracer before it in the list of callbacks, so the
            tracer passes it the end of a run first; the second time the handler knows nothing of that run any more.
        records: a reader of the handler's bus.
    """

    def __init__(
        self,
        *args: Any,
        handler: OpsCallbackHandler | None = None,
        records: RecentRecords | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._handler = handler
        self._records = records or RecentRecords()

    def copy_with_metadata_defaults(self, **kwargs: Any) -> OpsTracer:
        """LangChain copies a tracer for each graph; the copy reads the same records."""
        copy = super().copy_with_metadata_defaults(**kwargs)
        assert isinstance(copy, OpsTracer)  # noqa: S101 - the base class copies by type(self)
        copy._handler, copy._records = self._handler, self._records  # noqa: SLF001 - our own class
        return copy

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> Run:
        """A model answered: the record first, then the run."""
        if self._handler is not None:
            self._handler.on_llm_end(response, run_id=run_id)
        return super().on_llm_end(response, run_id=run_id, **kwargs)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> Run:
        """A model call failed: the record first, then the run."""
        if self._handler is not None:
            self._handler.on_llm_error(error, run_id=run_id)
        return super().on_llm_error(error, run_id=run_id, **kwargs)

    def _on_llm_end(self, run: Run) -> None:
        self._add_facts(run)
        self._update_run_single(run)

    def _on_llm_error(self, run: Run) -> None:
        self._add_facts(run)
        self._update_run_single(run)

    def _add_facts(self, run: Run) -> None:
        record = self._records.take(str(run.id))
        if record is not None:
            run.extra["metadata"] = {**(run.extra.get("metadata") or {}), **_facts(record)}


def _facts(record: CallRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {"llmops_cache_level": record.cache_level or "miss"}
    if record.route is not None:
        facts["llmops_route"] = record.route
    usage: dict[str, Any] = {
        "input_tokens": record.usage.input_tokens,
        "output_tokens": record.usage.output_tokens,
        "total_tokens": record.usage.total_tokens,
        "input_token_details": {"cache_read": record.usage.cache_read_tokens},
        "output_token_details": {"reasoning": record.usage.reasoning_tokens},
    }
    if record.money is not None:
        usage["input_cost"] = float(record.money.input_usd)
        usage["output_cost"] = float(record.money.output_usd)
        usage["total_cost"] = float(record.money.total_usd)
        facts["llmops_cost_usd"] = str(record.money.total_usd)
    facts["usage_metadata"] = usage
    return facts
