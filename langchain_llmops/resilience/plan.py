"""The walk over a chain's rungs as a value: no I/O, so sync and async callers share it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from langchain_llmops.core.classify import Verdict, classify
from langchain_llmops.core.errors import FallbackExhaustedError
from langchain_llmops.core.redaction import redact
from langchain_llmops.core.types import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from langchain_llmops.resilience.retry import RetryPolicy

__all__ = ["Plan", "Step"]

# Failures that another model may not share. A request that is wrong, or a bug of the caller, fails everywhere alike.
NEXT_RUNG: Final = frozenset(
    {
        ErrorKind.RATE_LIMIT,
        ErrorKind.TIMEOUT,
        ErrorKind.UNAVAILABLE,
        ErrorKind.MALFORMED,
        ErrorKind.TRUNCATED,
        ErrorKind.AUTH,
        ErrorKind.NOT_FOUND,
        ErrorKind.CONTEXT_OVERFLOW,
        ErrorKind.REFUSAL,
    }
)


@dataclass(frozen=True, slots=True)
class Step:
    """Ask rung `rung` (from 0) for the `attempt`-th time (from 1) after `pause_s` seconds."""

    rung: int
    attempt: int
    pause_s: float = 0.0


class Plan:
    """Which rung to ask next, given how the last attempt failed."""

    def __init__(self, names: Sequence[str], policy: RetryPolicy) -> None:
        self._names = names
        self._policy = policy
        self._ends: list[str] = []
        self.step = Step(0, 1)

    def after(self, error: Exception) -> tuple[Step, Verdict]:
        """The next step; raises the error itself when no model can help, `FallbackExhaustedError` when none is left."""
        verdict = classify(error)
        last = self.step
        pause_s = self._policy.pause_s(last.attempt, verdict)
        if pause_s is not None:
            self.step = Step(last.rung, last.attempt + 1, pause_s)
            return self.step, verdict
        if verdict.kind not in NEXT_RUNG:
            raise error
        self._ends.append(redact(f"{self._names[last.rung]} ({verdict.kind}{_whereabouts(error)})"))
        if last.rung + 1 == len(self._names):
            raise FallbackExhaustedError(f"no model answered: {', '.join(self._ends)}") from error
        self.step = Step(last.rung + 1, 1)
        return self.step, verdict


def _whereabouts(error: BaseException) -> str:
    """The host that was asked, and what the system said of it; never the provider's words, which may hold secrets."""
    at = next((told for cause in _causes(error) if (told := _host(cause))), "")
    said = next((words for cause in _causes(error) if (words := _reason(cause))), "")
    return f"{at}: {said}" if at and said else at


def _host(error: BaseException) -> str:
    """Of the request that openai, anthropic and httpx keep on their errors; credentials, path and query stay behind."""
    try:
        url = urlsplit(str(error.request.url))  # type: ignore[attr-defined] # who has no request is caught below
        port = f":{url.port}" if url.port else ""
    except (AttributeError, RuntimeError, ValueError):
        return ""  # no request on it, or none that can be read: the model and the kind are told without
    if url.scheme not in ("http", "https") or not url.hostname:
        return ": its base_url does not begin with http:// or https://"
    return f" at {url.hostname}{port}"


def _reason(error: BaseException) -> str | None:
    """The system's words: asyncio mixes an address into `strerror`, and codes of name look-ups are below zero."""
    if not isinstance(error, OSError) or error.errno is None:
        return None
    return os.strerror(error.errno) if error.errno > 0 else error.strerror


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen = set[int]()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__
