"""Any exception to one verdict: kind, retry or not, the provider's pause, and whether it may have cost money."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import langchain_openai.chat_models.base as langchain_openai
import openai
import psycopg
import pytest
import redis
from langchain_core import exceptions as core
from langchain_openai import ChatOpenAI
from langchain_openai._compat import httpx as sdk_httpx

from langchain_llmops.core import errors as ours
from langchain_llmops.core.classify import Verdict, classify
from langchain_llmops.core.types import ErrorKind as Kind

REQUEST = sdk_httpx.Request("POST", "http://provider/v1/chat/completions")
PLAIN_REQUEST = httpx.Request("POST", "http://provider/v1/chat/completions")


def response(status: int, **headers: str):
    return sdk_httpx.Response(status, headers={k.replace("_", "-"): v for k, v in headers.items()}, request=REQUEST)


def openai_status(cls, status: int, *, body: object = None, **headers: str):
    return cls("no", response=response(status, **headers), body=body)


def http_status(status: int) -> httpx.HTTPStatusError:
    return httpx.HTTPStatusError("no", request=PLAIN_REQUEST, response=httpx.Response(status, request=PLAIN_REQUEST))


def json_error() -> json.JSONDecodeError:
    return json.JSONDecodeError("no", "{", 1)


Row = tuple[BaseException, Kind, bool, bool]
TABLE: dict[str, Row] = {
    # langchain-core's tree
    "core rate limit": (core.ModelRateLimitError(), Kind.RATE_LIMIT, True, False),
    "core server": (core.ModelAPIError(), Kind.UNAVAILABLE, True, True),
    "core connection": (core.ModelConnectionError(), Kind.UNAVAILABLE, True, True),
    "core timeout": (core.ModelTimeoutError(), Kind.TIMEOUT, True, True),
    "core authentication": (core.ModelAuthenticationError(), Kind.AUTH, False, False),
    "core permission": (core.ModelPermissionDeniedError(), Kind.AUTH, False, False),
    "core wrong request": (core.ModelInvalidRequestError(), Kind.INVALID_REQUEST, False, False),
    "core not found": (core.ModelNotFoundError(), Kind.NOT_FOUND, False, False),
    "core context": (core.ContextOverflowError(), Kind.CONTEXT_OVERFLOW, False, False),
    "core anything else": (core.ModelError(), Kind.OTHER, False, False),
    # openai's SDK
    "openai 400": (openai_status(openai.BadRequestError, 400), Kind.INVALID_REQUEST, False, False),
    "openai 401": (openai_status(openai.AuthenticationError, 401), Kind.AUTH, False, False),
    "openai 403": (openai_status(openai.PermissionDeniedError, 403), Kind.AUTH, False, False),
    "openai 404": (openai_status(openai.NotFoundError, 404), Kind.NOT_FOUND, False, False),
    "openai 408": (openai_status(openai.APIStatusError, 408), Kind.TIMEOUT, True, False),
    "openai 409": (openai_status(openai.ConflictError, 409), Kind.UNAVAILABLE, True, False),
    "openai 422": (openai_status(openai.UnprocessableEntityError, 422), Kind.INVALID_REQUEST, False, False),
    "openai 429": (openai_status(openai.RateLimitError, 429), Kind.RATE_LIMIT, True, False),
    "openai 500": (openai_status(openai.InternalServerError, 500), Kind.UNAVAILABLE, True, False),
    "openai 503": (openai_status(openai.InternalServerError, 503), Kind.UNAVAILABLE, True, False),
    "openai 418": (openai_status(openai.APIStatusError, 418), Kind.OTHER, False, False),
    "openai no money": (
        openai_status(openai.RateLimitError, 429, body={"code": "insufficient_quota"}),
        Kind.RATE_LIMIT,
        False,
        False,
    ),
    "openai connection": (openai.APIConnectionError(request=REQUEST), Kind.UNAVAILABLE, True, True),
    "openai timeout": (openai.APITimeoutError(REQUEST), Kind.TIMEOUT, True, True),
    "openai in a stream": (openai.APIError("no", REQUEST, body=None), Kind.UNAVAILABLE, True, True),
    "openai bad answer": (openai.APIResponseValidationError(response(200), None), Kind.MALFORMED, True, True),
    # langchain-openai's classes are both
    "langchain-openai 429": (openai_status(langchain_openai.OpenAIRateLimitError, 429), Kind.RATE_LIMIT, True, False),
    "langchain-openai no money": (
        openai_status(langchain_openai.OpenAIRateLimitError, 429, body={"code": "insufficient_quota"}),
        Kind.RATE_LIMIT,
        False,
        False,
    ),
    "langchain-openai 400": (
        openai_status(langchain_openai.OpenAIInvalidRequestError, 400),
        Kind.INVALID_REQUEST,
        False,
        False,
    ),
    "langchain-openai context": (
        openai_status(langchain_openai.OpenAIContextOverflowError, 400),
        Kind.CONTEXT_OVERFLOW,
        False,
        False,
    ),
    "langchain-openai context in a stream": (
        langchain_openai.OpenAIAPIContextOverflowError("no", REQUEST, body=None),
        Kind.CONTEXT_OVERFLOW,
        False,
        False,
    ),
    "langchain-openai 401": (openai_status(langchain_openai.OpenAIAuthenticationError, 401), Kind.AUTH, False, False),
    "langchain-openai 403": (openai_status(langchain_openai.OpenAIPermissionDeniedError, 403), Kind.AUTH, False, False),
    "langchain-openai 404": (
        openai_status(langchain_openai.OpenAIModelNotFoundError, 404),
        Kind.NOT_FOUND,
        False,
        False,
    ),
    "langchain-openai 500": (openai_status(langchain_openai.OpenAIAPIError, 500), Kind.UNAVAILABLE, True, False),
    "langchain-openai connection": (
        langchain_openai.OpenAIConnectionError(request=REQUEST),
        Kind.UNAVAILABLE,
        True,
        True,
    ),
    "langchain-openai timeout": (langchain_openai.OpenAITimeoutError(REQUEST), Kind.TIMEOUT, True, True),
    "langchain-openai refusal": (langchain_openai.OpenAIRefusalError("no"), Kind.REFUSAL, False, True),
    # HTTP clients
    "httpx never connected": (httpx.ConnectError("no"), Kind.UNAVAILABLE, True, False),
    "httpx connect timeout": (httpx.ConnectTimeout("no"), Kind.TIMEOUT, True, False),
    "httpx pool timeout": (httpx.PoolTimeout("no"), Kind.TIMEOUT, True, False),
    "httpx read timeout": (httpx.ReadTimeout("no"), Kind.TIMEOUT, True, True),
    "httpx read error": (httpx.ReadError("no"), Kind.UNAVAILABLE, True, True),
    "httpx protocol": (httpx.RemoteProtocolError("no"), Kind.UNAVAILABLE, True, True),
    "httpx 429": (http_status(429), Kind.RATE_LIMIT, True, False),
    "httpx 502": (http_status(502), Kind.UNAVAILABLE, True, False),
    "httpx 302": (http_status(302), Kind.OTHER, False, False),
    # databases
    "redis connection": (redis.ConnectionError("no"), Kind.STORE, False, False),
    "redis timeout": (redis.TimeoutError("no"), Kind.STORE, False, False),
    "redis read only": (redis.exceptions.ReadOnlyError("no"), Kind.STORE, False, False),
    "psycopg": (psycopg.OperationalError("no"), Kind.STORE, False, False),
    "sqlite": (sqlite3.OperationalError("no"), Kind.STORE, False, False),
    # Python's own
    "cancelled": (asyncio.CancelledError(), Kind.CANCELLED, False, True),
    "stream left": (GeneratorExit(), Kind.CANCELLED, False, True),
    "interrupted": (KeyboardInterrupt(), Kind.CANCELLED, False, True),
    "timeout": (TimeoutError("no"), Kind.TIMEOUT, True, True),
    "refused": (ConnectionRefusedError("no"), Kind.UNAVAILABLE, True, False),
    "reset": (ConnectionResetError("no"), Kind.UNAVAILABLE, True, True),
    "no JSON": (json_error(), Kind.MALFORMED, True, True),
    "a bug": (ValueError("no"), Kind.OTHER, False, False),
    "another bug": (AttributeError("no"), Kind.OTHER, False, False),
    "langchain-core's empty stream": (ValueError("No generation chunks were returned"), Kind.TRUNCATED, True, True),
    # ours
    "our truncated": (ours.TruncatedAnswerError("no"), Kind.TRUNCATED, True, True),
    "our malformed": (ours.MalformedAnswerError("no"), Kind.MALFORMED, True, True),
    "our refusal": (ours.RefusalError("no"), Kind.REFUSAL, False, True),
    "our store": (ours.StoreUnavailableError("no"), Kind.STORE, False, False),
    "our configuration": (ours.ConfigurationError("no"), Kind.OTHER, False, False),
    "our end of a chain": (ours.FallbackExhaustedError("no"), Kind.OTHER, False, False),
}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE)
def test_every_error_has_one_verdict(row: Row) -> None:
    error, kind, retryable, billed = row
    verdict = classify(error)
    assert (verdict.kind, verdict.is_retryable, verdict.may_be_billed) == (kind, retryable, billed)


def test_the_table_reaches_every_kind() -> None:
    assert {row[1] for row in TABLE.values()} == set(Kind)


def test_a_status_is_part_of_the_verdict() -> None:
    assert classify(openai_status(openai.InternalServerError, 503)).status == 503
    assert classify(http_status(429)).status == 429
    assert classify(TimeoutError()).status is None


PAUSES: dict[str, tuple[dict[str, str], float | None]] = {
    "seconds": ({"retry_after": "7"}, 7.0),
    "part of a second": ({"retry_after": "0.25"}, 0.25),
    "milliseconds": ({"retry_after_ms": "1500"}, 1.5),
    "milliseconds win": ({"retry_after_ms": "250", "retry_after": "1"}, 0.25),
    "none": ({}, None),
    "below zero": ({"retry_after": "-3"}, 0.0),
    "nonsense": ({"retry_after": "soon"}, None),
    "a date that was": ({"retry_after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
    "nonsense and seconds": ({"retry_after_ms": "soon", "retry_after": "2"}, 2.0),
}


@pytest.mark.parametrize(("headers", "pause"), PAUSES.values(), ids=PAUSES)
def test_the_providers_wish_is_read(headers, pause) -> None:
    assert classify(openai_status(openai.RateLimitError, 429, **headers)).retry_after_s == pause


def test_the_providers_wish_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    pause = classify(openai_status(openai.RateLimitError, 429, retry_after=later)).retry_after_s
    assert pause is not None
    assert 60 < pause <= 90


@pytest.mark.parametrize("value", ["inf", "nan", "1e999", "-inf"])
def test_a_pause_without_end_is_no_pause(value) -> None:
    pause = classify(openai_status(openai.RateLimitError, 429, retry_after=value)).retry_after_s
    assert pause is None or pause == 0.0


def test_a_chain_that_gave_up_is_of_its_causes_kind_and_not_retried_again() -> None:
    error = ours.FallbackExhaustedError("no model answered")
    error.__cause__ = core.ModelRateLimitError()
    assert classify(error) == Verdict(Kind.RATE_LIMIT, is_retryable=False)


def caused_by(error: BaseException, *causes: BaseException) -> BaseException:
    last = error
    for cause in causes:
        last.__cause__ = cause
        last = cause
    return error


def test_a_request_that_never_left_costs_nothing_however_deep_the_cause() -> None:
    refused = httpx.ConnectError("no")
    sdk = openai.APIConnectionError(request=REQUEST)
    error = caused_by(langchain_openai.OpenAIConnectionError(request=REQUEST), sdk, refused)
    assert not classify(error).may_be_billed
    assert classify(caused_by(openai.APITimeoutError(REQUEST), httpx.ReadTimeout("no"))).may_be_billed
    assert not classify(caused_by(openai.APITimeoutError(REQUEST), httpx.ConnectTimeout("no"))).may_be_billed


def test_a_circle_of_causes_comes_to_an_end() -> None:
    one, other = TimeoutError("one"), TimeoutError("other")
    one.__cause__, other.__cause__ = other, one
    assert classify(one).kind is Kind.TIMEOUT


WIRE: dict[str, tuple[int, dict[str, object], dict[str, str], Kind, bool]] = {
    "400": (400, {"message": "bad"}, {}, Kind.INVALID_REQUEST, False),
    "context": (
        400,
        {"message": "This model takes 128000 tokens.", "code": "context_length_exceeded"},
        {},
        Kind.CONTEXT_OVERFLOW,
        False,
    ),
    "401": (401, {"message": "key"}, {}, Kind.AUTH, False),
    "403": (403, {"message": "no"}, {}, Kind.AUTH, False),
    "404": (404, {"message": "no"}, {}, Kind.NOT_FOUND, False),
    "429": (429, {"message": "slow"}, {"retry-after": "3"}, Kind.RATE_LIMIT, True),
    "no money": (429, {"message": "pay", "code": "insufficient_quota"}, {}, Kind.RATE_LIMIT, False),
    "500": (500, {"message": "oops"}, {}, Kind.UNAVAILABLE, True),
    "503": (503, {"message": "oops"}, {}, Kind.UNAVAILABLE, True),
}


def chat(answer) -> ChatOpenAI:
    client = httpx.Client(transport=httpx.MockTransport(answer))
    return ChatOpenAI(
        model="gpt-4o-mini", api_key="k", base_url="http://provider/v1", max_retries=0, http_client=client
    )


@pytest.mark.parametrize(("status", "body", "headers", "kind", "retryable"), WIRE.values(), ids=WIRE)
def test_what_chatopenai_really_raises_is_understood(status, body, headers, kind, retryable) -> None:
    model = chat(lambda _: httpx.Response(status, json={"error": body}, headers=headers))
    with pytest.raises(openai.APIStatusError) as caught:
        model.invoke("hi")
    verdict = classify(caught.value)
    assert (verdict.kind, verdict.is_retryable, verdict.status) == (kind, retryable, status)
    assert verdict.retry_after_s == (3.0 if headers else None)
    assert not verdict.may_be_billed


FAILURES = {
    "never connected": (httpx.ConnectError("no"), Kind.UNAVAILABLE, False),
    "cut": (httpx.ReadError("no"), Kind.UNAVAILABLE, True),
    "too slow": (httpx.ReadTimeout("no"), Kind.TIMEOUT, True),
    "too slow to connect": (httpx.ConnectTimeout("no"), Kind.TIMEOUT, False),
}


@pytest.mark.parametrize(("failure", "kind", "billed"), FAILURES.values(), ids=FAILURES)
def test_a_failing_connection_below_chatopenai_is_understood(failure, kind, billed) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise failure

    with pytest.raises(openai.APIConnectionError) as caught:
        chat(fail).invoke("hi")
    verdict = classify(caught.value)
    assert (verdict.kind, verdict.is_retryable, verdict.may_be_billed) == (kind, True, billed)


def test_a_broken_body_below_chatopenai_is_malformed() -> None:
    model = chat(lambda _: httpx.Response(200, text="{not json", headers={"content-type": "application/json"}))
    with pytest.raises(Exception) as caught:
        model.invoke("hi")
    assert classify(caught.value).kind is Kind.MALFORMED
