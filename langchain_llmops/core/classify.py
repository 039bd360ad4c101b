"""Any exception to one verdict: what kind it is, whether to try again, and what it may have cost."""

from __future__ import annotations

import asyncio
import json
import math
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Final

from langchain_core.exceptions import (
    ContextOverflowError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelError,
    ModelInvalidRequestError,
    ModelNotFoundError,
    ModelPermissionDeniedError,
    ModelRateLimitError,
    ModelTimeoutError,
)

from langchain_llmops.core.errors import (
    FallbackExhaustedError,
    MalformedAnswerError,
    RefusalError,
    StoreError,
    TruncatedAnswerError,
)
from langchain_llmops.core.types import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Verdict", "classify"]

_KINDS: Final[tuple[tuple[type[BaseException], ErrorKind], ...]] = (
    (asyncio.CancelledError, ErrorKind.CANCELLED),
    (GeneratorExit, ErrorKind.CANCELLED),
    (KeyboardInterrupt, ErrorKind.CANCELLED),
    (MalformedAnswerError, ErrorKind.MALFORMED),
    (TruncatedAnswerError, ErrorKind.TRUNCATED),
    (RefusalError, ErrorKind.REFUSAL),
    (StoreError, ErrorKind.STORE),
    (ContextOverflowError, ErrorKind.CONTEXT_OVERFLOW),
    (ModelAuthenticationError, ErrorKind.AUTH),
    (ModelPermissionDeniedError, ErrorKind.AUTH),
    (ModelInvalidRequestError, ErrorKind.INVALID_REQUEST),
    (ModelNotFoundError, ErrorKind.NOT_FOUND),
    (ModelRateLimitError, ErrorKind.RATE_LIMIT),
    (ModelTimeoutError, ErrorKind.TIMEOUT),
    (ModelConnectionError, ErrorKind.UNAVAILABLE),
    (ModelAPIError, ErrorKind.UNAVAILABLE),
    (json.JSONDecodeError, ErrorKind.MALFORMED),
    (TimeoutError, ErrorKind.TIMEOUT),
    (ConnectionError, ErrorKind.UNAVAILABLE),
)
# Integrations that do not raise langchain-core's classes yet, and HTTP clients, by the names of their classes.
_NAMES: Final[Mapping[str, ErrorKind]] = {
    "OpenAIRefusalError": ErrorKind.REFUSAL,
    "ModelRefusalError": ErrorKind.REFUSAL,
    "APIResponseValidationError": ErrorKind.MALFORMED,
    "APITimeoutError": ErrorKind.TIMEOUT,
    "APIConnectionError": ErrorKind.UNAVAILABLE,
    "TimeoutException": ErrorKind.TIMEOUT,
    "TransportError": ErrorKind.UNAVAILABLE,
    "ResourceExhausted": ErrorKind.RATE_LIMIT,
    "ServiceUnavailable": ErrorKind.UNAVAILABLE,
}
_STATUSES: Final[Mapping[int, ErrorKind]] = {
    400: ErrorKind.INVALID_REQUEST,
    401: ErrorKind.AUTH,
    403: ErrorKind.AUTH,
    404: ErrorKind.NOT_FOUND,
    408: ErrorKind.TIMEOUT,
    409: ErrorKind.UNAVAILABLE,
    422: ErrorKind.INVALID_REQUEST,
    429: ErrorKind.RATE_LIMIT,
}
_RETRYABLE: Final = frozenset(
    (ErrorKind.RATE_LIMIT, ErrorKind.TIMEOUT, ErrorKind.UNAVAILABLE, ErrorKind.MALFORMED, ErrorKind.TRUNCATED)
)
_STORE_DRIVERS: Final = frozenset(("redis", "psycopg", "psycopg_pool", "sqlite3", "obstore"))
_NEVER_SENT: Final = frozenset(("ConnectError", "ConnectTimeout", "ConnectionRefusedError", "PoolTimeout"))
_SERVER_ERROR = 500
EMPTY_STREAM: Final = "No generation chunks were returned"  # langchain-core's bare ValueError


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failure means; `retry_after_s` is the provider's own wish, `may_be_billed` that it may cost money."""

    kind: ErrorKind
    is_retryable: bool
    status: int | None = None
    retry_after_s: float | None = None
    may_be_billed: bool = False


def classify(error: BaseException) -> Verdict:
    """The verdict on any exception: ours, langchain-core's, a provider SDK's, an HTTP client's or a driver's."""
    if isinstance(error, FallbackExhaustedError) and error.__cause__ is not None:
        return Verdict(classify(error.__cause__).kind, is_retryable=False)
    status, headers = _response(error)
    kind = _kind(error, status)
    retryable = kind in _RETRYABLE and not _is_hopeless(error)
    if isinstance(error, ModelError) and not error.is_retryable:
        retryable = False
    return Verdict(kind, retryable, status, _retry_after_s(headers), _may_be_billed(error, kind, status))


def _kind(error: BaseException, status: int | None) -> ErrorKind:
    told = _by_word(error)
    if told is not None:
        return told
    for cls, kind in _KINDS:
        if isinstance(error, cls):
            return kind
    for base in type(error).__mro__:
        if base.__name__ in _NAMES:
            return _NAMES[base.__name__]
    if type(error).__module__.partition(".")[0] in _STORE_DRIVERS:
        return ErrorKind.STORE
    if status is not None:
        return ErrorKind.UNAVAILABLE if status >= _SERVER_ERROR else _STATUSES.get(status, ErrorKind.OTHER)
    # openai raises its bare base class for an error that arrives inside a stream
    return ErrorKind.UNAVAILABLE if type(error).__name__ == "APIError" else ErrorKind.OTHER


def _by_word(error: BaseException) -> ErrorKind | None:
    """What only a code or a text says, whatever the class."""
    if getattr(error, "code", None) == "context_length_exceeded":
        return ErrorKind.CONTEXT_OVERFLOW
    return ErrorKind.TRUNCATED if isinstance(error, ValueError) and str(error) == EMPTY_STREAM else None


def _is_hopeless(error: BaseException) -> bool:
    """A 429 that says the account has no money left will not pass by waiting."""
    return getattr(error, "code", None) == "insufficient_quota"


def _may_be_billed(error: BaseException, kind: ErrorKind, status: int | None) -> bool:
    """The request went out and no status came back (or an answer did, and was unusable)."""
    if kind in (ErrorKind.MALFORMED, ErrorKind.TRUNCATED, ErrorKind.REFUSAL, ErrorKind.CANCELLED):
        return True
    if status is not None or kind not in (ErrorKind.TIMEOUT, ErrorKind.UNAVAILABLE):
        return False
    return not any(type(cause).__name__ in _NEVER_SENT for cause in _causes(error))


def _causes(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def _response(error: BaseException) -> tuple[int | None, Mapping[str, str]]:
    response: Any = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    return (status if isinstance(status, int) else None), getattr(response, "headers", None) or {}


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    """`retry-after-ms`, or `Retry-After` in seconds or as an HTTP date (RFC 9110, 10.2.3); nonsense is no wish."""
    millis, after = _number(headers.get("retry-after-ms")), headers.get("retry-after")
    if millis is not None:
        return max(0.0, millis / 1000)
    seconds = _number(after)
    return _until(after) if seconds is None else max(0.0, seconds)


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _until(date: str | None) -> float | None:
    try:
        return max(0.0, parsedate_to_datetime(date).timestamp() - time.time()) if date else None
    except ValueError:
        return None
