"""One JSON line per call."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import structlog

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import CallFinished, Event

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_llmops.core.types import CallRecord

__all__ = ["CallLog"]

LOGGER = "langchain_llmops.calls"


class CallLog:
    """Writes every `CallRecord` as a JSON object on one line.

    Args:
        destination: `logging` (the logger `langchain_llmops.calls` at INFO, so the application decides), `stderr`,
            or a file path that is appended to. Prompts and answers appear only when the record carries them.
    """

    def __init__(self, destination: str = "logging") -> None:
        self._render = structlog.processors.JSONRenderer(sort_keys=False, ensure_ascii=True)
        self._stamp = structlog.processors.TimeStamper(fmt="iso", utc=True)
        self._logger = logging.getLogger(LOGGER)
        self._file = _open(destination)
        self._emit: Callable[[str], None] = self._logger.info if self._file is None else self._write

    def __call__(self, event: Event) -> None:
        """Log a finished call."""
        if isinstance(event, CallFinished) and (self._file is not None or self._logger.isEnabledFor(logging.INFO)):
            line = self._stamp(None, "info", _fields(event.record))
            self._emit(str(self._render(None, "info", line)))

    def close(self) -> None:
        """Close the file, if it is ours."""
        if self._file is not None and self._file is not sys.stderr:
            self._file.close()

    def _write(self, line: str) -> None:
        assert self._file is not None  # noqa: S101 - _emit is chosen by it
        self._file.write(line + "\n")
        self._file.flush()


def _open(destination: str) -> Any:
    if destination == "logging":
        return None
    if destination == "stderr":
        return sys.stderr
    try:
        return open(destination, "a", encoding="utf-8")  # noqa: PTH123 - closed by close()
    except OSError as error:
        raise ConfigurationError(f"LLMOPS_LOG_CALLS: cannot write {destination}: {error.strerror}") from error


def _fields(record: CallRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "event": f"{record.kind}_call",
        "level": "error" if record.error_kind else "info",
        "name": record.name,
        "model": record.model,
        "user_id": record.identity.user,
        "session_id": record.identity.session,
        "request_id": record.identity.request,
        "trace_id": record.trace_id,
        "run_id": record.run_id,
        "latency_s": round(record.latency_s, 6),
        "ttft_s": record.ttft_s,
        "input_tokens": record.usage.input_tokens,
        "output_tokens": record.usage.output_tokens,
        "cost_usd": str(record.money.total_usd) if record.money is not None else None,
        "unpriced": record.unpriced or None,
        "estimated": record.estimated or None,
        "cache_level": record.cache_level,
        "saved_usd": str(record.saved_usd) if record.saved_usd is not None else None,
        "route": record.route,
        "rung": record.rung,
        "attempt": record.attempt,
        "finish_reason": record.finish_reason,
        "error_kind": record.error_kind,
        "error_class": record.error_class,
        "prompt_hash": record.prompt_hash,
        "tags": list(record.tags) or None,
        "content": record.content,
    }
    return {key: value for key, value in fields.items() if value is not None}
