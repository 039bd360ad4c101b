"""A LangSmith tracer that adds our facts to the model runs it sends, and keeps nothing of traces that ended."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.tracers.langchain import LangChainTracer

from langchain_llmops.core.events import CallFinished, Event

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult
    from langchain_core.tracers.schemas import Run

    from langchain_llmops.core.types import CallRecord
    from langchain_llmops.telemetry.anonymize import Anonymizer
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
    """Sends runs as LangChain's own tracer does, model runs with cache level and exact cost.

    LangSmith reads `input_cost`, `output_cost` and `total_cost` in `usage_metadata`; the message itself stays as it is.
    Unlike LangChain's, it forgets a trace when its root has ended, and ends runs that were cancelled without an event.

    Args:
        handler: makes the records. LangSmith's own wrappers may put a tracer before it in the list of callbacks, so the
            tracer passes it the end of a run first; the second time the handler knows nothing of that run any more.
        records: a reader of the handler's bus.
        mask: applied to names, tags and parameters, which LangSmith's own anonymizer leaves out.
    """

    def __init__(
        self,
        *args: Any,
        handler: OpsCallbackHandler | None = None,
        records: RecentRecords | None = None,
        mask: Anonymizer | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("order_map", _Orders())
        super().__init__(*args, **kwargs)
        self._handler = handler
        self._records = records or RecentRecords()
        self._mask = mask
        if handler is not None:
            handler.given_up.append(self._end_cut_off)

    def copy_with_metadata_defaults(self, **kwargs: Any) -> OpsTracer:
        """LangChain copies a tracer for each graph; the copy is the same to its traces and records."""
        copy = super().copy_with_metadata_defaults(**kwargs)
        assert isinstance(copy, OpsTracer)  # noqa: S101 - the base class copies by type(self)
        copy._handler, copy._records, copy._mask = self._handler, self._records, self._mask  # noqa: SLF001 - our own class
        copy.run_has_token_event_map = self.run_has_token_event_map
        return copy

    def on_chat_model_start(
        self, serialized: dict[str, Any], messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> Run:
        """A chat model is asked. A copy of the id is kept: the handler sees by the id itself whether the run lives."""
        return super().on_chat_model_start(serialized, messages, run_id=UUID(int=run_id.int), **kwargs)

    def on_llm_start(self, serialized: dict[str, Any], prompts: list[str], *, run_id: UUID, **kwargs: Any) -> Run:
        """A text model is asked."""
        return super().on_llm_start(serialized, prompts, run_id=UUID(int=run_id.int), **kwargs)

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> Run:
        """A model answered: the record first, then the run."""
        if self._handler is not None:
            self._handler.on_llm_end(response, run_id=run_id)
        return super().on_llm_end(response, run_id=run_id, **kwargs)

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> Run:
        """A model call failed: the record first, then the run."""
        if self._handler is not None:
            self._handler.on_llm_error(error, run_id=run_id, response=kwargs.get("response"))
        return super().on_llm_error(error, run_id=run_id, **kwargs)

    def _start_trace(self, run: Run) -> None:
        super()._start_trace(run)
        if self._mask is not None:
            run.name, run.tags = self._mask.text(run.name), [self._mask.text(tag) for tag in run.tags or []]
            run.serialized = self._mask(run.serialized)
            run.extra = {key: value if key == "metadata" else self._mask(value) for key, value in run.extra.items()}

    def _end_trace(self, run: Run) -> None:
        super()._end_trace(run)
        self.run_has_token_event_map.pop(str(run.id), None)
        if run.id == run.trace_id and isinstance(self.order_map, _Orders):
            self.order_map.forget(run.trace_id)

    def _get_tags(self, run: Run) -> list[str]:
        return list(run.tags or [])  # with the tracer's own since the start, and masked

    def _end_cut_off(self, run_id: str) -> None:
        run = self.run_map.get(run_id)
        if run is not None:
            ends: dict[str, Any] = {
                "llm": super().on_llm_error,
                "tool": super().on_tool_error,
                "retriever": super().on_retriever_error,
            }
            end: Any = ends.get(run.run_type, super().on_chain_error)
            end(CutOff("cancelled: no end event came"), run_id=run.id)

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


class _Orders(dict[UUID, tuple[UUID, str]]):
    """The place of each run in its trace; LangChain and LangSmith write into it, and take nothing out."""

    def __init__(self) -> None:
        super().__init__()
        self._of: defaultdict[UUID, list[UUID]] = defaultdict(list)

    def __setitem__(self, run_id: UUID, place: tuple[UUID, str]) -> None:
        if run_id not in self:
            self._of[place[0]].append(run_id)
        super().__setitem__(run_id, place)

    def forget(self, trace_id: UUID) -> None:
        """Take out the runs of a trace."""
        for run_id in self._of.pop(trace_id, ()):
            self.pop(run_id, None)


class CutOff(Exception):  # noqa: N818 - the error that a trace shows for a run that was cancelled
    """A run was cancelled, and LangChain sent no end event for it."""


def _facts(record: CallRecord) -> dict[str, Any]:
    facts: dict[str, Any] = {"llmops_cache_level": record.cache_level or "miss"}
    if record.route is not None:
        facts["llmops_route"] = record.route
    used = record.usage
    usage: dict[str, Any] = {
        "input_tokens": used.input_tokens,
        "output_tokens": used.output_tokens,
        "total_tokens": used.total_tokens,
        "input_token_details": {"cache_read": used.cache_read_tokens},
        "output_token_details": {"reasoning": used.reasoning_tokens},
    }
    money = record.money
    if money is not None and record.error_kind is not None:
        facts["llmops_failed_cost_usd"] = str(money.total_usd)  # perhaps charged, and never part of what answers cost
    elif money is not None:
        usage["input_cost"] = float(money.input_usd)
        usage["output_cost"] = float(money.output_usd)
        usage["total_cost"] = float(money.total_usd)
        parts = {"cache_read": float(money.cache_read_usd), "cache_creation": float(money.cache_write_usd)}
        if any(parts.values()):
            usage["input_cost_details"] = parts
        facts["llmops_cost_usd"] = str(money.total_usd)
    facts["usage_metadata"] = usage
    return facts
