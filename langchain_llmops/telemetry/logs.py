"""One JSON line per call."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from langchain_llmops.core.context import text_from
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import CallFinished, Event
from langchain_llmops.telemetry.masking import described, mask_secrets, may_hold_secret
from langchain_llmops.telemetry.names import plain

if TYPE_CHECKING:
    from collections.abc import Callable
    from decimal import Decimal

    from langchain_llmops.core.types import CallRecord, Money, Usage

__all__ = ["CallLog"]

LOGGER: Final = "langchain_llmops.calls"
TOKEN_PARTS: Final = tuple(
    f"{part}_tokens"
    for part in ("cache_read", "cache_write", "cache_write_1h", "reasoning", "audio_input", "audio_output")
)
COST_PARTS: Final = (
    ("input_cost_usd", "input_usd"),
    ("output_cost_usd", "output_usd"),
    ("fee_usd", "fee_usd"),
    ("cache_read_cost_usd", "cache_read_usd"),
    ("cache_write_cost_usd", "cache_write_usd"),
)

_log = logging.getLogger(__name__)

Fields = dict[str, Any]


class CallLog:
    """Writes every `CallRecord` as a JSON object on one line: what has no value is left out, secrets are masked.

    What a failed attempt may have cost (estimated) is `failed_cost_usd`, its parts `failed_input_cost_usd` and so on:
    `cost_usd` is only in the lines of answers. A line that cannot be written, or whose `redact` raises, is dropped:
    counted in `failures` and logged once.

    Args:
        destination: `logging` (the logger `langchain_llmops.calls` at INFO, so the application decides), `stderr`,
            or a file path that is appended to. Prompts and answers appear only when the record carries them.
        redact: what the fields of a line become before they are rendered; secrets are masked after it.
        clock: Unix seconds.
    """

    def __init__(
        self,
        destination: str = "logging",
        *,
        redact: Callable[[Fields], Fields] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        encode = json.JSONEncoder(default=text_from).encode
        self._render = structlog.processors.JSONRenderer(serializer=lambda fields, **_: encode(fields))
        self._redact = redact
        self._clock = clock
        self._logger = logging.getLogger(LOGGER)
        self._sink = _open(destination)
        self._emit: Callable[[str], None] = self._logger.info if self._sink is None else self._sink.write
        self._second = (-1.0, "")
        self.failures = 0

    def __call__(self, event: Event) -> None:
        """Log a finished call."""
        if isinstance(event, CallFinished) and (self._sink is not None or self._logger.isEnabledFor(logging.INFO)):
            try:
                self._emit(self._line(plain(event.record)))
            except Exception as error:  # noqa: BLE001 - a full disk or a hook of the user's must not hurt the call
                self._fail(error)

    def close(self) -> None:
        """Close the file, if it is ours."""
        if self._sink is not None:
            self._sink.close()

    def _line(self, record: CallRecord) -> str:
        fields = _fields(record)
        if self._redact is not None:
            fields = mask_secrets(self._redact(fields))
        elif may_hold_secret(_from_outside(record)):
            fields = mask_secrets(fields)
        fields["timestamp"] = self._timestamp()
        return str(self._render(None, "info", fields))

    def _timestamp(self) -> str:
        """Now in UTC by RFC 3339; the date and the second are rendered once a second."""
        second, fraction = divmod(self._clock(), 1)
        known, text = self._second
        if second != known:
            text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            self._second = (second, text)
        return f"{text}.{int(fraction * 1e6):06d}Z"

    def _fail(self, error: Exception) -> None:
        self.failures += 1
        if self.failures == 1:
            _log.error("the call log drops a line, and only counts from now on: %s", described(error))


class _Sink(Protocol):
    def write(self, line: str) -> None: ...

    def close(self) -> None: ...


class _File:
    """Appends a line by one write without a buffer, so that processes can share a file and a failure leaves no rest."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: PTH123, SIM115 - closed by close()
        self._torn = False

    def write(self, line: str) -> None:
        """Append a line; after one that a full disk cut short, on a line of its own."""
        text = f"\n{line}\n" if self._torn else f"{line}\n"
        data = text.encode("ascii")
        written = self._file.write(data)
        self._torn = written < len(data)
        if self._torn:
            raise OSError(f"only {written} of {len(data)} bytes were written")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Stderr:
    """Standard error as it was when the log was made; it stays open."""

    def __init__(self) -> None:
        self._stream = sys.stderr

    def write(self, line: str) -> None:
        """Write a line at once."""
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """It is not ours to close."""


def _open(destination: str) -> _Sink | None:
    if destination == "logging":
        return None
    if destination == "stderr":
        return _Stderr()
    try:
        return _File(destination)
    except OSError as error:
        raise ConfigurationError(f"LLMOPS_LOG_CALLS: cannot write {destination}: {error.strerror}") from error


def _from_outside(record: CallRecord) -> str:
    """Every text of a record that somebody else chose. The ids and hashes are LangChain's and ours."""
    who = record.identity
    return (
        f"{record.name} {record.provider} {record.model} {who.tenant} {who.team} {who.user} {who.session} {who.request}"
        f" {record.node} {record.service_tier} {record.route} {record.cache_level} {record.finish_reason}"
        f" {record.error_class} {record.tags} {record.experiment} {record.arm} {record.outcome} {record.content_ref}"
        f" {record.content}"
    )


def _fields(record: CallRecord) -> Fields:
    who = record.identity
    fields: Fields = {
        "event": f"{record.kind}_call",
        "level": "error" if record.error_kind is not None else "info",
        "name": record.name,
        "provider": record.provider,
        "model": record.model,
        "tenant_id": who.tenant,
        "team_id": who.team,
        "user_id": who.user,
        "session_id": who.session,
        "request_id": who.request,
        "trace_id": record.trace_id,
        "run_id": record.run_id,
        "parent_run_id": record.parent_run_id,
        "node": record.node,
        "latency_s": round(record.latency_s, 6),
        "ttft_s": _rounded(record.ttft_s),
        "inter_token_s": _rounded(record.inter_token_s),
        "streamed": record.streamed or None,
        "service_tier": record.service_tier,
        "unpriced": record.unpriced or None,
        "estimated": record.estimated or None,
        "clamped": record.clamped or None,
        "cache_level": record.cache_level,
        "saved_usd": _dollars(record.saved_usd),
        "route": record.route,
        "rung": record.rung,
        "attempt": record.attempt,
        "retries": record.retries or None,
        "finish_reason": record.finish_reason,
        "error_kind": record.error_kind,
        "error_class": record.error_class,
        "prompt_hash": record.prompt_hash,
        "tags": record.tags or None,
        "experiment": record.experiment,
        "arm": record.arm,
        "outcome": record.outcome,
        "content_ref": record.content_ref,
        "content": record.content,
    }
    present = {key: value for key, value in fields.items() if value is not None}
    if record.asks_model:
        _add_tokens(present, record.usage)
    if record.money is not None:
        _add_costs(present, record.money, "failed_" if record.error_kind is not None else "")
    return present


def _add_tokens(fields: Fields, usage: Usage) -> None:
    """Input and output always, their parts when there are any."""
    fields["input_tokens"] = usage.input_tokens
    fields["output_tokens"] = usage.output_tokens
    for part in TOKEN_PARTS:
        tokens = getattr(usage, part)
        if tokens:
            fields[part] = tokens


def _add_costs(fields: Fields, money: Money, prefix: str) -> None:
    """The whole always, its parts when there are any."""
    fields[f"{prefix}cost_usd"] = _dollars(money.total_usd)
    for field, part in COST_PARTS:
        amount = getattr(money, part)
        if amount:
            fields[prefix + field] = _dollars(amount)


def _dollars(amount: Decimal | None) -> str | None:
    """Never in the notation with an exponent, which readers of logs may not know."""
    if amount is None:
        return None
    text = str(amount)
    return f"{amount:f}" if "E" in text else text


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
