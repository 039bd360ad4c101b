"""The one callback handler: LangChain's run events in, one `CallRecord` per call out."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage

from langchain_llmops.core.context import text_from
from langchain_llmops.core.delegate import DELEGATE_PROVIDER
from langchain_llmops.core.events import Bus, CallFinished
from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.redaction import redact
from langchain_llmops.core.tokens import TokenCounter, default_token_counter
from langchain_llmops.core.types import CallKind, CallRecord, ErrorKind
from langchain_llmops.telemetry.records import RecordMaker
from langchain_llmops.telemetry.runs import OpenRun, OpenRuns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from uuid import UUID

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

__all__ = ["OpsCallbackHandler"]

_log = logging.getLogger(__name__)


class OpsCallbackHandler(BaseCallbackHandler):
    """Turns every model call, tool call, retrieval and turn (root run) into one frozen `CallRecord` on the bus.

    Works alone: `chain.invoke(..., {"callbacks": [OpsCallbackHandler(bus)]})`. Does no I/O; identity comes from the
    run's metadata (`user_id`, `session_id` or `thread_id`, `request_id`, `tenant_id`).

    Args:
        bus: where records go; a private one (`handler.bus`) when None.
        prices: usage to money.
        counter: estimates tokens when a provider reports none; such records are flagged `estimated`.
        tenant: whose the runs are that name no tenant.
        keep_content: put prompts and answers, with secrets masked, into the records.
        clock: Unix seconds. `timer`: monotonic seconds.
    """

    hears_prefetches = True  # requests that the cache asks ahead are paid, too
    # plain attributes: LangChain asks for them at every event and every token
    run_inline = True
    ignore_llm = ignore_chain = ignore_agent = ignore_retriever = False
    ignore_retry = ignore_chat_model = ignore_custom_event = False

    def __init__(
        self,
        bus: Bus | None = None,
        *,
        prices: PriceBook | None = None,
        counter: TokenCounter | None = None,
        keep_content: bool = False,
        tenant: str | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.bus = bus or Bus()
        self._make = RecordMaker(
            prices or PriceBook(),
            counter or default_token_counter(),
            keep_content=keep_content,
            tenant=tenant,
            timer=timer,
        )
        self._timer = timer
        self._runs = OpenRuns(timer, clock)
        self.failures = 0  # records that could not be made as they should, and are made without what broke them
        self.given_up: list[Callable[[str], object]] = []  # told the id of a run that no end event will come for

    @property
    def cut(self) -> int:
        """Contents of which a text was too long to be kept whole."""
        return self._make.cut

    @property
    def open_runs(self) -> int:
        """Runs that have started and not ended."""
        self._give_up()
        return len(self._runs)

    def place_of(self, run_id: UUID) -> tuple[str, str | None] | None:
        """The trace of an open run, and the nearest run at or above it that becomes a record, if any is open."""
        run = self._runs.find(run_id)
        if run is None:
            return None
        nearest = run.above if run.kind is None else run
        return run.root.id, nearest.id if nearest is not None else None

    # starts

    def on_chat_model_start(
        self, serialized: dict[str, Any] | None, messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A chat model is asked; the cache may want to know for whom."""
        run = self._start("model", _model_name(serialized, kwargs), run_id, kwargs)
        # a router or chain asked by `generate()` makes a run of its own; the model below it is the call that counts
        if run.metadata.get("ls_provider") == DELEGATE_PROVIDER:
            run.kind = None
        run.messages = messages[0] if messages else ()

    def on_llm_start(
        self, serialized: dict[str, Any] | None, prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A text model is asked."""
        run = self._start("model", _model_name(serialized, kwargs), run_id, kwargs)
        run.messages = [HumanMessage(text) for text in prompts[:1]]

    def on_tool_start(self, serialized: dict[str, Any] | None, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool is called."""
        self._start("tool", (serialized or {}).get("name") or kwargs.get("name") or "tool", run_id, kwargs)

    def on_retriever_start(self, serialized: dict[str, Any] | None, query: str, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever is asked."""
        self._start("retriever", kwargs.get("name") or "retriever", run_id, kwargs)

    def on_chain_start(self, serialized: dict[str, Any] | None, inputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain or graph begins; only a root becomes a record, the others are links between parent and child."""
        run = self._start(None, kwargs.get("name") or "chain", run_id, kwargs)
        if run.parent is None:
            run.kind = "turn"

    # progress

    def on_llm_new_token(
        self,
        token: Any,
        *,
        run_id: UUID,
        chunk: Any = None,
        parent_run_id: UUID | None = None,
        tags: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """A streamed piece arrived; the first one sets the time to first token."""
        # what every piece comes with is named above, as Python then makes no dict of it
        run = self._runs.get(run_id.int)
        if run is not None:
            run.pieces += 1
            if run.first_piece_at is None:
                run.first_piece_at = self._timer()

    def on_stream_event(self, event: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The same for `stream_events(version="v3")`, which sends these instead of tokens."""
        if event.get("event") == "content-block-delta":
            self.on_llm_new_token("", run_id=run_id)

    # ends

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """A model answered."""
        run = self._runs.close(run_id)
        if run is not None and run.kind is not None:
            record = self._made(run, self._make.answered, response)
            if not run.passes_on(record.usage, reported=not record.estimated):
                run.tell_answer(record.usage)
                self._publish(record)

    def on_llm_error(
        self, error: BaseException, *, run_id: UUID, response: LLMResult | None = None, **kwargs: Any
    ) -> None:
        """A model call failed or was cancelled."""
        self._fail(run_id, error, response)

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool returned; a `ToolMessage` with status `error` is a failed call."""
        failed: dict[str, Any] = {}
        if getattr(output, "status", None) == "error":
            failed = {"error_kind": ErrorKind.OTHER, "error_class": "ToolMessage"}
        self._end(run_id, **failed)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever returned."""
        self._end(run_id)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain or graph returned."""
        self._end(run_id)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool raised."""
        self._fail(run_id, error)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever raised."""
        self._fail(run_id, error)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain or graph raised."""
        self._fail(run_id, error)

    # the way of every run

    def _start(self, kind: CallKind | None, name: str, run_id: UUID, kwargs: Mapping[str, Any]) -> OpenRun:
        if self._runs.must_look:
            self._give_up()
        return self._runs.open(kind, name, run_id, kwargs)

    def _end(self, run_id: UUID, **more: Any) -> None:
        run = self._runs.close(run_id)
        if run is not None and run.kind is not None:
            self._publish(self._made(run, self._make.plain, **more))

    def _fail(self, run_id: UUID, error: BaseException, response: LLMResult | None = None) -> None:
        run = self._runs.close(run_id)
        if run is None:
            return
        if isinstance(error, asyncio.CancelledError | GeneratorExit | KeyboardInterrupt):
            self._cut_off(self._runs.below(run))
        if run.kind is not None:
            record = self._made(run, self._make.failed, error, response)
            if record.error_kind is not None:  # an interrupt is no failure
                run.count_failure(record.prompt_hash, self._timer())
            self._publish(record)

    def close(self) -> None:
        """Record what is still open as cut off: nothing of it would be told later."""
        self._cut_off(self._runs.all())

    def _give_up(self) -> None:
        self._cut_off(self._runs.given_up())

    def _cut_off(self, runs: Iterator[OpenRun]) -> None:
        for run in runs:
            if run.kind is not None:
                self._publish(self._made(run, self._make.cut_off))
            for tell in self.given_up:
                tell(run.id)

    def _made(self, run: OpenRun, make: Callable[..., CallRecord], *said: Any, **more: Any) -> CallRecord:
        """A record whatever strangers put into a run: a paid call is never lost to it."""
        try:
            return make(run, *said, **more)
        except Exception as error:  # noqa: BLE001 - a stranger's value may raise anything; it is counted and told
            self.failures += 1
            if self.failures == 1:
                what = redact(" ".join(f"{type(error).__name__}: {text_from(error)}".split()))
                _log.error("a record was made without its figures, the next are only counted: %s", what)
            return self._make.bare(run)

    def _publish(self, record: CallRecord) -> None:
        self.bus.publish(CallFinished(record))


def _model_name(serialized: Mapping[str, Any] | None, kwargs: Mapping[str, Any]) -> str:
    invocation = kwargs.get("invocation_params") or {}
    return (
        invocation.get("model")
        or invocation.get("model_name")
        or kwargs.get("name")
        or (serialized or {}).get("name")
        or "model"
    )
