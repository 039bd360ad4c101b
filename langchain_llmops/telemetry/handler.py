"""The one callback handler: LangChain's run events in, one `CallRecord` per call out."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage

from langchain_llmops.core.classify import classify
from langchain_llmops.core.context import ATTEMPT, CURRENT_IDENTITY, ROUTE, RUNG, identity_from
from langchain_llmops.core.delegate import DELEGATE_PROVIDER
from langchain_llmops.core.events import Bus, CallFinished
from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.redaction import redact
from langchain_llmops.core.tokens import TokenCounter, default_token_counter
from langchain_llmops.core.types import CallKind, CallRecord, ErrorKind, Money, Unpriced, Usage
from langchain_llmops.telemetry.usage import answer_of, estimate_prompt, text_of, usage_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from uuid import UUID

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

__all__ = ["OpsCallbackHandler"]

STALE_AFTER_S = 3600.0
SWEEP_EVERY_S = 60.0


@dataclass(slots=True)
class _Open:
    """A run that has started; `root` is whether nobody above it is known to us."""

    kind: CallKind | None
    run_id: UUID
    parent: UUID | None
    trace: UUID
    name: str
    began: float
    started_at: float
    metadata: Mapping[str, Any]
    tags: tuple[str, ...]
    root: bool
    messages: Sequence[BaseMessage] = ()
    first_token: float | None = None
    partial: int = 0
    children: dict[UUID, None] = field(default_factory=dict)


class OpsCallbackHandler(BaseCallbackHandler):
    """Turns every model call, tool call and turn (root run) into one frozen `CallRecord` on the bus.

    Works alone: `chain.invoke(..., {"callbacks": [OpsCallbackHandler(bus)]})`. Does no I/O; identity comes from the
    run's metadata (`user_id`, `session_id` or `thread_id`, `request_id`, `tenant_id`).

    Args:
        bus: where records go; a private one (`handler.bus`) when None.
        prices: usage to money.
        counter: estimates tokens when a provider reports none; such records are flagged `estimated`.
        keep_content: put prompts and answers, with secrets masked, into the records.
        clock: Unix seconds. `timer`: monotonic seconds.
    """

    run_inline = True

    def __init__(
        self,
        bus: Bus | None = None,
        *,
        prices: PriceBook | None = None,
        counter: TokenCounter | None = None,
        keep_content: bool = False,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.bus = bus or Bus()
        self._prices = prices or PriceBook()
        self._counter = counter or default_token_counter()
        self._keep_content = keep_content
        self._clock = clock
        self._timer = timer
        self._runs: dict[UUID, _Open] = {}
        self._swept = timer()

    @property
    def open_runs(self) -> int:
        """Runs that have started and not ended."""
        return len(self._runs)

    # starts

    def on_chat_model_start(
        self, serialized: dict[str, Any] | None, messages: list[list[BaseMessage]], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A chat model is asked; the cache may want to know for whom."""
        # a router or chain asked by `generate()` makes a run of its own; the model below it is the call that counts
        wraps = (kwargs.get("metadata") or {}).get("ls_provider") == DELEGATE_PROVIDER
        run = self._start(None if wraps else "model", _model_name(serialized, kwargs), run_id, kwargs)
        run.messages = messages[0] if messages else ()
        CURRENT_IDENTITY.set(identity_from(run.metadata))

    def on_llm_start(
        self, serialized: dict[str, Any] | None, prompts: list[str], *, run_id: UUID, **kwargs: Any
    ) -> None:
        """A text model is asked."""
        run = self._start("model", _model_name(serialized, kwargs), run_id, kwargs)
        run.messages = [HumanMessage(text) for text in prompts[:1]]
        CURRENT_IDENTITY.set(identity_from(run.metadata))

    def on_tool_start(self, serialized: dict[str, Any] | None, input_str: str, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool is called."""
        self._start("tool", (serialized or {}).get("name") or kwargs.get("name") or "tool", run_id, kwargs)

    def on_retriever_start(self, serialized: dict[str, Any] | None, query: str, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever is asked."""
        self._start("retriever", kwargs.get("name") or "retriever", run_id, kwargs)

    def on_chain_start(self, serialized: dict[str, Any] | None, inputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain or graph begins; only a root becomes a record, the others are links between parent and child."""
        run = self._start(None, kwargs.get("name") or "chain", run_id, kwargs)
        if run.root:
            run.kind = "turn"

    # progress

    def on_llm_new_token(self, token: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A streamed piece arrived; the first one sets the time to first token."""
        run = self._runs.get(run_id)
        if run is None:
            return
        if run.first_token is None:
            run.first_token = self._timer()
        run.partial += len(token) if isinstance(token, str) else 0

    def on_stream_event(self, event: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """The same for `stream_events(version="v3")`, which sends these instead of tokens."""
        self.on_llm_new_token("", run_id=run_id)

    # ends

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """A model answered."""
        CURRENT_IDENTITY.set(None)
        run = self._end(run_id)
        if run is not None and run.kind is not None:
            self._publish(self._answered(run, self._record(run), response))

    def on_llm_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A model call failed or was cancelled."""
        CURRENT_IDENTITY.set(None)
        run = self._end(run_id)
        if run is not None and run.kind is not None:
            self._publish(self._failed_call(run, self._failed(self._record(run), error), error))

    def on_tool_end(self, output: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool returned; a `ToolMessage` with status `error` is a failed call."""
        run = self._end(run_id)
        if run is None:
            return
        record = self._record(run)
        if getattr(output, "status", None) == "error":
            record = replace(record, error_kind=ErrorKind.OTHER, error_class="ToolMessage")
        self._publish(record)

    def on_retriever_end(self, documents: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever returned."""
        self._plain_end(run_id, None)

    def on_chain_end(self, outputs: Any, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain or graph returned."""
        self._plain_end(run_id, None)

    def on_tool_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A tool raised."""
        self._plain_end(run_id, error)

    def on_retriever_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A retriever raised."""
        self._plain_end(run_id, error)

    def on_chain_error(self, error: BaseException, *, run_id: UUID, **kwargs: Any) -> None:
        """A chain or graph raised."""
        self._plain_end(run_id, error)

    # the table of open runs

    def _start(self, kind: CallKind | None, name: str, run_id: UUID, kwargs: Mapping[str, Any]) -> _Open:
        parent_id = kwargs.get("parent_run_id")
        parent = self._runs.get(parent_id) if parent_id is not None else None
        run = _Open(
            kind=kind,
            run_id=run_id,
            parent=parent_id,
            trace=parent.trace if parent is not None else run_id,
            name=name,
            began=self._timer(),
            started_at=self._clock(),
            metadata=kwargs.get("metadata") or {},
            tags=tuple(kwargs.get("tags") or ()),
            root=parent is None,
        )
        self._runs[run_id] = run
        if parent is not None:
            parent.children[run_id] = None
        if run.began - self._swept > SWEEP_EVERY_S:
            self._sweep(run.began)
        return run

    def _end(self, run_id: UUID) -> _Open | None:
        run = self._runs.pop(run_id, None)
        if run is None:
            return None
        parent = self._runs.get(run.parent) if run.parent is not None else None
        if parent is not None:
            parent.children.pop(run_id, None)
        for orphan in list(run.children):
            self._abandon(orphan)
        return run

    def _plain_end(self, run_id: UUID, error: BaseException | None) -> None:
        run = self._end(run_id)
        if run is not None and run.kind is not None:
            record = self._record(run)
            self._publish(record if error is None else self._failed(record, error))

    def _abandon(self, run_id: UUID) -> None:
        """A cancelled `ainvoke` sends no end event for its model run: whoever outlives the parent was cancelled."""
        run = self._end(run_id)
        if run is not None and run.kind is not None:
            record = replace(self._record(run), error_kind=ErrorKind.CANCELLED, error_class="CancelledError")
            self._publish(self._charge_estimate(run, record) if run.kind == "model" else record)

    def _sweep(self, now: float) -> None:
        self._swept = now
        for run_id in [run.run_id for run in list(self._runs.values()) if now - run.began > STALE_AFTER_S]:
            self._abandon(run_id)

    # records

    def _record(self, run: _Open) -> CallRecord:
        metadata = run.metadata
        ended = self._timer()
        return CallRecord(
            kind=run.kind or "turn",
            run_id=str(run.run_id),
            trace_id=str(run.trace),
            parent_run_id=str(run.parent) if run.parent else None,
            name=run.name,
            started_at=run.started_at,
            latency_s=ended - run.began,
            identity=identity_from(metadata),
            provider=metadata.get("ls_provider"),
            model=metadata.get("ls_model_name") or (run.name if run.kind == "model" else None),
            ttft_s=run.first_token - run.began if run.first_token is not None else None,
            streamed=run.first_token is not None,
            route=metadata.get(ROUTE),
            rung=metadata.get(RUNG),
            attempt=metadata.get(ATTEMPT),
            prompt_hash=_hash(run.messages) if run.messages else None,
            tags=run.tags,
        )

    def _answered(self, run: _Open, record: CallRecord, response: LLMResult) -> CallRecord:
        message = answer_of(response)
        told = dict(getattr(message, "response_metadata", None) or {})
        metadata = getattr(message, "usage_metadata", None)
        usage, estimated = usage_of(metadata), False
        if usage is None:
            usage, estimated = self._estimate(run, text_of(response)), True
        record = replace(
            record,
            model=told.get("model_name") or record.model,
            finish_reason=told.get("finish_reason"),
            content=self._content(run, message),
        )
        hit = told.get("llmops_cache")
        if isinstance(hit, dict):
            return self._hit(record, usage_of(hit.get("saved")) or Usage(), hit.get("level"))
        if (metadata or {}).get("total_cost") == 0:
            return self._hit(record, usage, "other")
        return self._priced(replace(record, usage=usage, estimated=estimated))

    def _hit(self, record: CallRecord, saved: Usage, level: str | None) -> CallRecord:
        price = self._price(record, saved)
        saved_usd = price.total_usd if isinstance(price, Money) else None
        return replace(record, cache_level=level, saved=saved, saved_usd=saved_usd, money=Money())

    def _priced(self, record: CallRecord) -> CallRecord:
        price = self._price(record, record.usage)
        return replace(record, unpriced=True) if isinstance(price, Unpriced) else replace(record, money=price)

    def _price(self, record: CallRecord, usage: Usage) -> Money | Unpriced:
        return self._prices.price(record.model or "unknown", usage, provider=record.provider)

    def _failed(self, record: CallRecord, error: BaseException) -> CallRecord:
        return replace(record, error_kind=classify(error).kind, error_class=type(error).__name__)

    def _failed_call(self, run: _Open, record: CallRecord, error: BaseException) -> CallRecord:
        return self._charge_estimate(run, record) if classify(error).may_be_billed else record

    def _charge_estimate(self, run: _Open, record: CallRecord) -> CallRecord:
        usage = replace(self._estimate(run, ""), output_tokens=run.partial // 4)
        return self._priced(replace(record, usage=usage, estimated=True))

    def _estimate(self, run: _Open, answer: str) -> Usage:
        return Usage(estimate_prompt(run.messages, self._counter), self._counter.count(answer))

    def _content(self, run: _Open, message: BaseMessage | None) -> str | None:
        if not self._keep_content:
            return None
        prompt = [{"role": m.type, "content": m.text} for m in run.messages]
        calls = getattr(message, "tool_calls", None) or []
        answer = {"content": message.text if message is not None else "", "tool_calls": calls}
        return redact(json.dumps({"prompt": prompt, "answer": answer}, ensure_ascii=False, default=str))

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


def _hash(messages: Sequence[BaseMessage]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        digest.update(f"{message.type}\x00{message.content}\x01".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
