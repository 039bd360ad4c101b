"""A run that ended, as one frozen `CallRecord`."""

from __future__ import annotations

import hashlib
import json
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from langchain_core.messages import convert_to_openai_messages

from langchain_llmops.core.classify import classify
from langchain_llmops.core.context import ARM, ATTEMPT, EXPERIMENT, ROUTE, RUNG, identity_from, text_from
from langchain_llmops.core.types import CallRecord, ErrorKind, Money, Unpriced, Usage
from langchain_llmops.core.usage import answer_of, count_bounded, estimate_prompt, read_usage, text_of, usage_of
from langchain_llmops.telemetry.masking import masked

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import LLMResult

    from langchain_llmops.core.pricing import PriceBook
    from langchain_llmops.core.tokens import TokenCounter
    from langchain_llmops.telemetry.runs import OpenRun

__all__ = ["RecordMaker"]

_log = logging.getLogger(__name__)

# langgraph raises these to stop a graph on purpose: for a human, or to hand over to a parent graph
NO_FAILURE: Final = "GraphBubbleUp"
LONGEST_TEXT: Final = 256 * 1024
NOTHING: Final = Usage()
FREE: Final = Money()
MOST_USD: Final = 1e6  # of one call
TOLD: Final = (("route", ROUTE), ("experiment", EXPERIMENT), ("arm", ARM))
COUNTED: Final = (("rung", RUNG), ("attempt", ATTEMPT))


class RecordMaker:
    """Makes records; knows prices and how tokens are counted where no provider does."""

    def __init__(
        self,
        prices: PriceBook,
        counter: TokenCounter,
        *,
        keep_content: bool,
        tenant: str | None,
        timer: Callable[[], float],
    ) -> None:
        self._tenant = tenant
        self._prices = prices
        self._counter = counter
        self._keep_content = keep_content
        self._timer = timer
        self.cut = 0  # contents of which a text was too long to be kept whole

    def plain(self, run: OpenRun, **more: Any) -> CallRecord:
        """A tool, a retriever or a turn; `more` are fields of the record."""
        return CallRecord.of(self._common(run) | more)

    def _common(self, run: OpenRun) -> dict[str, Any]:
        return {
            "kind": run.kind or "turn",
            "run_id": run.id,
            "trace_id": run.root.id,
            "parent_run_id": run.above.id if run.above is not None else None,
            "name": run.name,
            "started_at": run.started_at,
            "latency_s": self._timer() - run.began,
            "identity": identity_from(run.metadata, self._tenant),
            "usage": NOTHING,
            "retries": run.retries(None),
            "node": run.metadata.get("langgraph_node"),
            "tags": tuple(run.tags) if run.tags else (),
        }

    def bare(self, run: OpenRun) -> CallRecord:
        """That a run was, and how long it took: for when nothing more can be read from it."""
        return CallRecord(
            kind=run.kind or "turn",
            run_id=run.id,
            trace_id=run.root.id,
            parent_run_id=run.above.id if run.above is not None else None,
            name=text_from(run.name),
            started_at=run.started_at,
            latency_s=self._timer() - run.began,
            model=_model(run) if run.kind == "model" else None,
            unpriced=run.kind == "model",
        )

    def answered(self, run: OpenRun, response: LLMResult) -> CallRecord:
        """A model call that was answered, by a provider or by a cache."""
        said = read_usage(response, batch_size=run.more.get("batch_size") or 1)
        message = answer_of(response)
        joined = run.pieces > 1  # LangChain strings together what every piece of a stream repeats
        fields = self._asked(run, _once(said.model, joined=joined) or _model(run))
        fields["finish_reason"] = _once(said.finish_reason, joined=joined)
        if said.clamped:
            fields["clamped"] = True
        if self._keep_content:
            fields["content"] = self._content(run, message)
        hit = message.response_metadata.get("llmops_cache") if message is not None else None
        if isinstance(hit, dict):
            self._save(fields, usage_of(hit.get("saved")), hit.get("level"), said.service_tier)
            fields["saved_usd"] = _dollars(hit.get("saved_usd"), fields["saved_usd"])
        elif said.other_cache:
            saved = said.usage or self._guessed(run, text_of(response))
            self._save(fields, saved, "other", said.service_tier)
        elif said.usage is None or (run.pieces and not said.usage.total_tokens):
            self._estimate(fields, run, text_of(response))
        else:
            self._charge(fields, said.usage, said.service_tier)
        return CallRecord.of(fields)

    def failed(self, run: OpenRun, error: BaseException, response: LLMResult | None = None) -> CallRecord:
        """A call that raised; a model call that may have been billed is charged by estimate."""
        if any(kind.__name__ == NO_FAILURE for kind in type(error).__mro__):
            return self.plain(run, outcome="interrupted")
        verdict = classify(error)
        why: dict[str, Any] = {"error_kind": verdict.kind, "error_class": type(error).__name__}
        if run.kind != "model":
            return self.plain(run, **why)
        fields = self._asked(run, _model(run)) | why
        if verdict.may_be_billed:
            self._estimate(fields, run, text_of(response) if response is not None else "")
        return CallRecord.of(fields)

    def cut_off(self, run: OpenRun) -> CallRecord:
        """A run that no end event will come for."""
        why: dict[str, Any] = {"error_kind": ErrorKind.CANCELLED, "error_class": "CancelledError"}
        if run.kind != "model":
            return self.plain(run, **why)
        fields = self._asked(run, _model(run)) | why
        self._estimate(fields, run, "")
        return CallRecord.of(fields)

    def _asked(self, run: OpenRun, model: str) -> dict[str, Any]:
        """The fields of a model call, not priced yet."""
        ask = run.metadata.get
        fields = self._common(run)
        fields["provider"] = _provider(run)
        fields["model"] = model
        if run.messages:
            fields["prompt_hash"] = _hash(run.messages)
        if run.first_piece_at is not None:
            fields |= self._streamed(run, run.first_piece_at)
        for name, key in TOLD:
            if (value := ask(key)) is not None:
                fields[name] = text_from(value)
        for name, key in COUNTED:
            if type(value := ask(key)) is int:
                fields[name] = value
        # a fallback chain says how often it asked; its attempts may be roots without a parent in common
        attempt = fields.get("attempt")
        fields["retries"] = run.retries(fields.get("prompt_hash")) if attempt is None else max(attempt - 1, 0)
        return fields

    def _streamed(self, run: OpenRun, first: float) -> dict[str, Any]:
        """The last piece came about now, so the mean pause needs no clock at every piece."""
        pause = (self._timer() - first) / (run.pieces - 1) if run.pieces > 1 else None
        return {"streamed": True, "ttft_s": first - run.began, "inter_token_s": pause}

    def _charge(self, fields: dict[str, Any], usage: Usage, tier: str | None = None) -> None:
        price = self._prices.price(fields["model"], usage, provider=fields["provider"], tier=tier)
        fields["usage"] = usage
        fields["service_tier"] = tier
        if isinstance(price, Unpriced):
            fields["unpriced"] = True
        else:
            fields["money"] = price

    def _save(self, fields: dict[str, Any], saved: Usage | None, level: str | None, tier: str | None) -> None:
        price = self._prices.price(fields["model"], saved or NOTHING, provider=fields["provider"], tier=tier)
        fields["cache_level"] = level
        fields["saved"] = saved or NOTHING
        fields["saved_usd"] = price.total_usd if isinstance(price, Money) and saved is not None else None
        fields["money"] = FREE

    def _estimate(self, fields: dict[str, Any], run: OpenRun, answer: str) -> None:
        self._charge(fields, self._guessed(run, answer))
        fields["estimated"] = True

    def _guessed(self, run: OpenRun, answer: str) -> Usage:
        """Our own count; a stream that nobody summed up had at least a token in each piece."""
        said = count_bounded(answer, self._counter) if answer else run.pieces
        return Usage(estimate_prompt(run.messages, self._counter, run.more.get("invocation_params")), said)

    def _content(self, run: OpenRun, message: BaseMessage | None) -> str:
        invocation: Mapping[str, Any] = run.more.get("invocation_params") or {}
        content = {
            "messages": _as_openai(run.messages),
            "tools": invocation.get("tools") or [],
            "answer": {
                "content": message.text if message is not None else "",
                "tool_calls": getattr(message, "tool_calls", None) or [],
            },
        }
        try:
            if _has_long_text(content):
                self._count_cut()
            # text by text, as masking whole JSON would eat its quotes
            return json.dumps(masked(content, LONGEST_TEXT), ensure_ascii=False, default=text_from, skipkeys=True)
        except (ValueError, RecursionError):  # a circle in a tool call's arguments
            return json.dumps({"unreadable": text_from(type(message).__name__)})

    def _count_cut(self) -> None:
        self.cut += 1
        if self.cut == 1:
            _log.warning("a text of more than %d characters is cut in recorded content, and counted", LONGEST_TEXT)


def _has_long_text(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > LONGEST_TEXT
    within = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return any(map(_has_long_text, within))


def _dollars(told: Any, ours: Decimal | None) -> Decimal | None:
    """What the cache tells; ours is another where the price of the day or what the message still says is another."""
    return Decimal(repr(told)) if type(told) in (int, float) and 0 <= told < MOST_USD else ours


def _once(text: str | None, *, joined: bool) -> str | None:
    """`stopstop` is `stop`: the shortest text that, repeated, is this one."""
    return text[: (text + text).find(text, 1)] if joined and text else text


def _provider(run: OpenRun) -> str | None:
    provider = run.metadata.get("ls_provider")
    return text_from(provider) if provider else None


def _model(run: OpenRun) -> str:
    model = run.metadata.get("ls_model_name")
    return text_from(model) if model else text_from(run.name)


def _as_openai(messages: Sequence[BaseMessage]) -> list[Any]:
    """As OpenAI takes them; a message with blocks that it has no word for, as its role and text."""
    found: list[Any] = []
    for message in messages:
        try:
            found.append(convert_to_openai_messages(message))
        except Exception:  # noqa: BLE001 - providers have blocks of their own
            found.append({"role": message.type, "content": message.text})
    return found


def _hash(messages: Sequence[BaseMessage]) -> str:
    text = "\x01".join([f"{message.type}\x00{message.content}" for message in messages])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
