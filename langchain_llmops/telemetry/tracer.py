"""A LangSmith tracer that adds our facts to the model runs it sends, and keeps nothing of traces that ended."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.tracers.langchain import LangChainTracer
from langsmith import get_tracing_context

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
    Unlike LangChain's, it forgets a run when the outermost one of its own above it has ended (LangSmith's `@traceable`
    may be above that), and ends runs that were cancelled without an event.

    Args:
        project_name: where traces go, unless `langsmith.tracing_context(project_name=...)` or the parent of the run
            says otherwise.
        handler: makes the records. LangSmith's own wrappers may put a tracer before it in the list of callbacks, so the
            tracer passes it the end of a run first; the second time the handler knows nothing of that run any more.
        records: a reader of the handler's bus.
        mask: applied to names, tags and parameters, which LangSmith's own anonymizer leaves out.
    """

    hears_prefetches = True

    def __init__(
        self,
        *args: Any,
        handler: OpsCallbackHandler | None = None,
        records: RecentRecords | None = None,
        mask: Anonymizer | None = None,
        **kwargs: Any,
    ) -> None:
        self._orders: _Orders = kwargs.setdefault("order_map", _Orders())
        super().__init__(*args, **kwargs)
        self._handler = handler
        self._records = records or RecentRecords()
        self._mask = mask
        if handler is not None:
            handler.given_up.append(self._end_cut_off)

    def __eq__(self, other: object) -> bool:
        """LangChain puts no handler into a run that has an equal one: never a tracer and its copy both."""
        return isinstance(other, OpsTracer) and other.run_map is self.run_map

    def __hash__(self) -> int:
        return id(self.run_map)

    @property
    def project_name(self) -> str | None:
        """Where a trace goes that starts here, as with LangChain's tracers, which are made anew for each trace."""
        context = get_tracing_context()
        parent = context["parent"]
        named = context["project_name"] if parent is None else parent.session_name
        return named or self._project_name

    @project_name.setter
    def project_name(self, name: str | None) -> None:
        self._project_name = name

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
        with self._orders.lock:
            if str(run.id) in self.run_map:  # two lists of callbacks with the tracer in both, which LangChain adds up
                self._orders.again[run.id] += 1
                run.extra["__disabled"] = True  # LangChain's word for a run that is not sent
                return
            above = get_tracing_context()["parent"]
            if above is not None and above.id == run.parent_run_id:
                self._orders.setdefault(above.id, (above.trace_id, above.dotted_order))
            super()._start_trace(run)
            self._orders.started(run.id, run.parent_run_id)
        if self._mask is not None:
            run.name, run.tags = self._mask.text(run.name), [self._mask.text(tag) for tag in run.tags or []]
            run.serialized = self._mask(run.serialized)
            run.extra = {key: value if key == "metadata" else self._mask(value) for key, value in run.extra.items()}

    def _end_trace(self, run: Run) -> None:
        with self._orders.lock:
            if self._orders.again[run.id]:
                self._orders.again[run.id] -= 1
                return
            del self._orders.again[run.id]
            super()._end_trace(run)
            self._orders.ended(run.id, run.parent_run_id)
        self.run_has_token_event_map.pop(str(run.id), None)

    def _get_tags(self, run: Run) -> list[str]:
        return list(run.tags or [])  # with the tracer's own since the start, and masked

    def _end_cut_off(self, run_id: str) -> None:
        run = self.run_map.get(run_id)
        if run is not None:
            del self._orders.again[run.id]
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
    """The place of each run in its trace. LangChain and LangSmith write into it, and take nothing out.

    What was started below a top, the outermost run that a tracer was told of, goes when the top ends; so does what
    LangChain noted of a run of LangSmith's own above the top, which no tracer hears the end of.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.RLock()  # one trace may have runs in many threads
        self.again: Counter[UUID] = Counter()  # how often the start of an open run was told once more
        self._tops: dict[UUID, UUID] = {}
        self._below: dict[UUID, list[UUID]] = {}

    def started(self, run_id: UUID, parent: UUID | None) -> None:
        """Remember which top a run is below."""
        top = run_id if parent is None else self._tops.get(parent, run_id)
        self._tops[run_id] = top
        self._below.setdefault(top, []).append(run_id)

    def ended(self, run_id: UUID, parent: UUID | None) -> None:
        """Take out what is below a top, and what is above it."""
        for below in self._below.pop(run_id, ()):
            self._tops.pop(below, None)
            self.pop(below, None)
        if parent is not None and parent not in self._tops:
            self.pop(parent, None)


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
