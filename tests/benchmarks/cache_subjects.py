"""What the cache benchmark asks and keeps, ours, and the floors below every cache: raw Redis, and an answer's bytes.

A subject has `get` and `set` for blocking callers, `aget` and `aset` for others; all take what langchain-core hands to
a `BaseCache`: `(prompt, llm_string)`, and the generations.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import pydoc_data.topics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from langchain_core.load import dumps
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.outputs import ChatGeneration

from langchain_llmops.cache.tiered import TieredCache

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Request = tuple[str, str]

REQUESTS = 64
TTL_S = 3600
DEADLINE_S = 10.0
LLM_STRING = (
    json.dumps(
        {
            "id": ["langchain", "chat_models", "openai", "ChatOpenAI"],
            "kwargs": {
                "model_name": "gpt-4o-mini",
                "openai_api_key": {"id": ["OPENAI_API_KEY"], "lc": 1, "type": "secret"},
                "temperature": 0.0,
            },
            "lc": 1,
            "name": "ChatOpenAI",
            "type": "constructor",
        },
        sort_keys=True,
    )
    + "---[('stop', None)]"
)


class NotMeasuredError(Exception):
    """A side without which there is no figure could not be measured."""


@dataclass(frozen=True)
class Subject:
    """A cache under measurement; a side that it does not have is None."""

    get: Callable[..., Any] | None = None
    set: Callable[..., Any] | None = None
    aget: Callable[..., Awaitable[Any]] | None = None
    aset: Callable[..., Awaitable[Any]] | None = None
    flush: Callable[[], None] | None = None
    aflush: Callable[[], Awaitable[None]] | None = None
    close: Callable[[], None] | None = None
    aclose: Callable[[], Awaitable[None]] | None = None

    @classmethod
    def of(cls, cache: Any) -> Subject:
        """A `BaseCache`; one that writes later than it says may have `flush` or `aflush`."""
        later = {name: getattr(cache, name, None) for name in ("flush", "aflush", "close", "aclose")}
        return cls(cache.lookup, cache.update, cache.alookup, cache.aupdate, **later)


def open_ours(url: str, *, l1: bool = True) -> TieredCache:
    """Our cache over one Redis, with its defaults; without L1 every hit comes from Redis."""
    return TieredCache.from_urls(url) if l1 else TieredCache.from_urls(url, l1_max_bytes=0)


def level_of(found: list[ChatGeneration]) -> str | None:
    """The level that a hit of ours names, where it names one."""
    return found[0].message.response_metadata.get("llmops_cache", {}).get("level")


def raw_redis(url: str, payload: bytes) -> Subject:
    """The bytes that LangChain makes of the answer, under a hash of the request."""
    blocking, client = redis.Redis.from_url(url), redis.asyncio.Redis.from_url(url)
    return Subject(
        lambda *request: blocking.get(hashed(*request)),
        lambda prompt, llm, _: blocking.set(hashed(prompt, llm), payload, ex=TTL_S),
        lambda *request: client.get(hashed(*request)),
        lambda prompt, llm, _: client.set(hashed(prompt, llm), payload, ex=TTL_S),
        close=blocking.close,
        aclose=client.aclose,
    )


def hashed(prompt: str, llm_string: str) -> str:
    """The least key that a cache can have."""
    return "k:" + hashlib.blake2b(f"{prompt}\0{llm_string}".encode(), digest_size=16).hexdigest()


def requests(series: int = 0) -> list[Request]:
    """Questions as langchain-core writes them, others in every series."""
    system = SystemMessage("You are a helpful assistant.")
    asked = [
        HumanMessage(f"question number {series * REQUESTS + number}: how does it work?") for number in range(REQUESTS)
    ]
    return [(dumps([system, question]), LLM_STRING) for question in asked]


def answers(size: int) -> list[list[ChatGeneration]]:
    """One answer of `size` bytes for each request: prose, from the manual that Python carries."""
    prose = "\n".join(pydoc_data.topics.topics.values()).encode("ascii", "ignore").decode()
    step = (len(prose) - size) // REQUESTS
    return [[_generation(prose[start : start + size])] for start in range(0, step * REQUESTS, step)]


def _generation(text: str) -> ChatGeneration:
    tokens = len(text) // 4
    counted = {"prompt_tokens": 100, "completion_tokens": tokens, "total_tokens": 100 + tokens}
    message = AIMessage(
        text,
        id="lc_run--01a1fcbd-8d96-7633-b37b-055fa22e95a6-0",
        response_metadata={
            "token_usage": {**counted, "prompt_tokens_details": {"cached_tokens": 0}},
            "model_provider": "openai",
            "model_name": "gpt-4o-mini",
            "system_fingerprint": "fp_1",
            "id": "chatcmpl-1",
            "finish_reason": "stop",
            "logprobs": None,
        },
        usage_metadata={
            "input_tokens": 100,
            "output_tokens": tokens,
            "total_tokens": 100 + tokens,
            "input_token_details": {"cache_read": 0},
            "output_token_details": {"reasoning": 0},
        },
    )
    return ChatGeneration(message=message, generation_info={"finish_reason": "stop", "logprobs": None})


def payload_of(answer: list[ChatGeneration]) -> bytes:
    """The answer in LangChain's own JSON, as community's caches keep it."""
    return json.dumps([dumps(generation) for generation in answer]).encode()


def written(subject: Subject, server: redis.Redis, keys: int) -> None:
    """Return when the server holds at least `keys` keys."""
    if subject.flush is not None:
        subject.flush()
    deadline = time.monotonic() + DEADLINE_S
    while server.dbsize() < keys:
        _in_time(deadline)
        time.sleep(0.0005)


async def awritten(subject: Subject, server: redis.Redis, keys: int) -> None:
    """The same for a caller on an event loop, which may itself be the writer."""
    if subject.aflush is not None:
        await subject.aflush()
    elif subject.flush is not None:
        await asyncio.to_thread(subject.flush)
    deadline = time.monotonic() + DEADLINE_S
    while server.dbsize() < keys:
        _in_time(deadline)
        await asyncio.sleep(0.0005)


def _in_time(deadline: float) -> None:
    if time.monotonic() > deadline:
        raise NotMeasuredError("the answers did not come to Redis in time")
