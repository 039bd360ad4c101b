"""The caches that ours is measured beside, each under the name that its rows carry.

`open_peer` raises whatever a peer raises: one that does not import or does not answer is named with that reason.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import redis
import redis.asyncio

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")

from tests.benchmarks.cache_subjects import TTL_S, Subject, hashed

if TYPE_CHECKING:
    from collections.abc import Callable

COMMUNITY = "community RedisCache"
ASYNC_COMMUNITY = "community AsyncRedisCache"
LANGCHAIN_REDIS = "langchain-redis RedisCache"
LANGCHAIN_REDIS_PATH = "langchain-redis (JSON emulated)"
LITELLM_REDIS = "litellm RedisCache"
LITELLM_DUAL = "litellm DualCache"
AIOCACHE = "aiocache (pickle)"
CASHEWS = "cashews (pickle)"
IN_MEMORY = "InMemoryCache (no copy)"
OVER_REDIS = (
    COMMUNITY,
    ASYNC_COMMUNITY,
    LANGCHAIN_REDIS,
    LANGCHAIN_REDIS_PATH,
    LITELLM_REDIS,
    AIOCACHE,
    CASHEWS,
)


async def open_peer(name: str, url: str, payload: bytes) -> Subject:
    """The peer of that name over the Redis at `url`; called on the loop that its async side will live on."""
    return PEERS[name](url, payload)


def community(url: str, _: bytes) -> Subject:
    from langchain_community.cache import RedisCache

    return Subject.of(RedisCache(redis.Redis.from_url(url), ttl=TTL_S))


def async_community(url: str, _: bytes) -> Subject:
    from langchain_community.cache import AsyncRedisCache

    client = redis.asyncio.Redis.from_url(url)
    cache = AsyncRedisCache(client, ttl=TTL_S)
    return Subject(aget=cache.alookup, aset=cache.aupdate, aclose=client.aclose)


def langchain_redis(url: str, _: bytes) -> Subject:
    from langchain_redis import RedisCache

    try:
        redis.Redis.from_url(url).execute_command("JSON.GET", "nothing")
    except redis.ResponseError as error:
        raise RuntimeError(f"it needs the module RedisJSON, which plain Redis lacks ({error})") from error
    return Subject.of(RedisCache(url, ttl=TTL_S))


def langchain_redis_path(url: str, _: bytes) -> Subject:
    """Its own Python code over a Redis without RedisJSON, whose cost on the server is thereby left out."""
    from langchain_redis import RedisCache

    client = redis.Redis.from_url(url)
    return Subject.of(RedisCache(redis_client=_WithoutModule(client), ttl=TTL_S))


class _WithoutModule:
    """As much of a client with RedisJSON as that cache uses."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.expire = client.expire

    def json(self) -> _WithoutModule:
        return self

    def client_setinfo(self, *_: Any) -> None:
        pass

    def get(self, key: str) -> Any:
        value = self._client.get(key)
        return json.loads(value) if value else None

    def set(self, key: str, _: str, value: Any) -> Any:
        return self._client.set(key, json.dumps(value))


def litellm_redis(url: str, payload: bytes) -> Subject:
    """It keeps JSON values: what comes back is no message yet."""
    from litellm.caching import RedisCache

    at = urlparse(url)
    return _of_litellm(RedisCache(host=at.hostname, port=at.port), payload)


def litellm_dual(url: str, payload: bytes) -> Subject:
    """Its hits come from memory: a value shared by all callers, and no message."""
    from litellm.caching import DualCache, InMemoryCache, RedisCache

    at = urlparse(url)
    memory = InMemoryCache(max_size_in_memory=10_000)
    return _of_litellm(DualCache(memory, RedisCache(host=at.hostname, port=at.port)), payload)


def _of_litellm(cache: Any, payload: bytes) -> Subject:
    value = json.loads(payload)
    return Subject(
        lambda *request: cache.get_cache(hashed(*request)),
        lambda prompt, llm, _: cache.set_cache(hashed(prompt, llm), value, ttl=TTL_S),
        lambda *request: cache.async_get_cache(hashed(*request)),
        lambda prompt, llm, _: cache.async_set_cache(hashed(prompt, llm), value, ttl=TTL_S),
    )


def aiocache(url: str, _: bytes) -> Subject:
    from aiocache import RedisCache
    from aiocache.serializers import PickleSerializer

    at = urlparse(url)
    try:
        cache = RedisCache(endpoint=at.hostname, port=at.port, serializer=PickleSerializer())
    except TypeError:  # from 1.0 on it takes a client
        cache = RedisCache(redis.asyncio.Redis.from_url(url), serializer=PickleSerializer())
    return Subject(
        aget=lambda *request: cache.get(hashed(*request)),
        aset=lambda prompt, llm, answer: cache.set(hashed(prompt, llm), answer, ttl=TTL_S),
        aclose=cache.close,
    )


def cashews(url: str, _: bytes) -> Subject:
    from cashews import Cache

    cache = Cache()
    cache.setup(url)
    return Subject(
        aget=lambda *request: cache.get(hashed(*request)),
        aset=lambda prompt, llm, answer: cache.set(hashed(prompt, llm), answer, expire=TTL_S),
        aclose=cache.close,
    )


def in_memory(_: str, __: bytes) -> Subject:
    from langchain_core.caches import InMemoryCache

    return Subject.of(InMemoryCache())


PEERS: dict[str, Callable[[str, bytes], Subject]] = {
    COMMUNITY: community,
    ASYNC_COMMUNITY: async_community,
    LANGCHAIN_REDIS: langchain_redis,
    LANGCHAIN_REDIS_PATH: langchain_redis_path,
    LITELLM_REDIS: litellm_redis,
    LITELLM_DUAL: litellm_dual,
    AIOCACHE: aiocache,
    CASHEWS: cashews,
    IN_MEMORY: in_memory,
}
