"""Redis and Valkey, 6.2 or newer, plain commands only; single server, TLS and Cluster."""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import urlsplit

import redis
import redis.asyncio as aredis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    NoPermissionError,
    NoScriptError,
    RedisClusterException,
    RedisError,
)

from langchain_llmops.core.concurrency import PerLoop
from langchain_llmops.core.errors import ConfigurationError, StoreAuthError, StoreError, StoreUnavailableError
from langchain_llmops.core.redaction import redact, redact_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from langchain_llmops.stores.base import KeyValue, Objects, Sql

__all__ = ["RedisStore"]

MAX_CONNECTIONS: Final = 64
AUTH_ERRORS: Final = (AuthenticationError, AuthorizationError, NoPermissionError)
CLUSTER: Final = "redis+cluster"


class RedisStore:
    """The `KeyValue` of one Redis.

    Args:
        url: `redis://`, `rediss://` or `redis+cluster://`, with user, password, host, port and database as usual.
        blocking: a blocking client; otherwise an asyncio client per event loop.
    """

    def __init__(self, url: str, *, setting: str, blocking: bool = False, timeout_s: float = 5.0) -> None:
        _check(url, setting)
        self.url = redact_url(url)
        self._kv: _RedisKeyValue = (_Blocking if blocking else _Async)(url, setting, timeout_s)

    def __repr__(self) -> str:
        return f"RedisStore({self.url!r})"

    @property
    def kv(self) -> KeyValue:
        """Strings with a time to live."""
        return self._kv

    @property
    def sql(self) -> Sql:
        """Not here."""
        raise ConfigurationError("redis:// is no database; use sqlite:// or postgresql://")

    @property
    def objects(self) -> Objects:
        """Not here."""
        raise ConfigurationError("redis:// keeps no objects; use file://, s3://, gs:// or az://")

    async def ping(self) -> float:
        """One PING; seconds."""
        began = time.perf_counter()
        await self._kv.command("PING")
        return time.perf_counter() - began

    async def aclose(self) -> None:
        """Close this loop's connections."""
        await self._kv.close()


class _RedisKeyValue:
    """The commands, written once; `command` and `many` are where the two colours differ."""

    def __init__(self, url: str, setting: str, timeout_s: float) -> None:
        self._url = url
        self._setting = setting
        self._timeout_s = timeout_s
        self._cluster = urlsplit(url).scheme == CLUSTER
        self._script = files("langchain_llmops.stores").joinpath("lua/increment.lua").read_text("utf-8")
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    async def command(self, *parts: Any) -> Any:
        raise NotImplementedError  # the two colours below override it

    async def many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        raise NotImplementedError  # the same

    async def close(self) -> None:
        raise NotImplementedError  # the same

    async def get(self, key: str) -> bytes | None:
        """GET."""
        value: bytes | None = await self.command("GET", _name(key))
        return value

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """MGET; on a cluster one pipeline, as keys live on several nodes."""
        if not keys:
            return []
        names = [_name(key) for key in keys]
        if self._cluster:
            return await self.many([("GET", name) for name in names])
        values: list[bytes | None] = await self.command("MGET", *names)
        return values

    async def set(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        """SET with PX."""
        await self.command(*_set(key, value, ttl_s))

    async def set_many(self, items: Mapping[str, bytes], ttl_s: float | None = None) -> None:
        """SETs in one pipeline."""
        if items:
            await self.many([_set(key, value, ttl_s) for key, value in items.items()])

    async def add(self, key: str, value: bytes, ttl_s: float | None = None) -> bool:
        """SET with NX."""
        return await self.command(*_set(key, value, ttl_s), "NX") is not None

    async def increment(self, key: str, by: int = 1, ttl_s: float | None = None) -> int:
        """One script, so that a counter is never left without its time to live."""
        arguments = (1, _name(key), by, 0 if ttl_s is None else _millis(ttl_s))
        try:
            return int(await self.command("EVALSHA", self._sha, *arguments))
        except NoScriptError:
            return int(await self.command("EVAL", self._script, *arguments))

    async def delete(self, *keys: str) -> int:
        """UNLINK."""
        if not keys:
            return 0
        if self._cluster:
            return sum(await self.many([("UNLINK", _name(key)) for key in keys]))
        return int(await self.command("UNLINK", *(_name(key) for key in keys)))

    def _options(self) -> dict[str, Any]:
        return {
            "socket_timeout": self._timeout_s,
            "socket_connect_timeout": self._timeout_s,
            "health_check_interval": 30,
            "client_name": "langchain-llmops",
        }

    @contextmanager
    def _typed(self) -> Iterator[None]:
        """Driver errors become ours; NOSCRIPT stays, `increment` answers it."""
        try:
            yield
        except NoScriptError:
            raise
        except (RedisError, RedisClusterException, OSError, TimeoutError) as error:
            self._raise(error)

    def _raise(self, error: Exception) -> NoReturn:
        text = redact(" ".join(str(error).split())[:200])
        cause = error if text == " ".join(str(error).split())[:200] else None
        if isinstance(error, AUTH_ERRORS) or "WRONGPASS" in text or "NOAUTH" in text or "invalid username" in text:
            raise StoreAuthError(
                f"{self._setting}: Redis at {_place(self._url)} refused the credentials; check user and password"
            ) from cause
        if isinstance(error, redis.ResponseError) and not isinstance(
            error, redis.ReadOnlyError | redis.BusyLoadingError
        ):
            raise StoreError(f"{self._setting}: Redis at {_place(self._url)} refused a command: {text}") from cause
        why = text or type(error).__name__
        raise StoreUnavailableError(
            f"{self._setting}: Redis at {_place(self._url)} cannot be reached ({why}); start it or correct the URL"
        ) from cause


class _Async(_RedisKeyValue):
    def __init__(self, url: str, setting: str, timeout_s: float) -> None:
        super().__init__(url, setting, timeout_s)
        self._clients: PerLoop[_Client] = PerLoop(self._client, _Client.aclose)

    async def command(self, *parts: Any) -> Any:
        client = await self._clients.get()
        with self._typed():
            await client.open()
            async with client.gate:
                return await client.raw.execute_command(*parts)

    async def many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        client = await self._clients.get()
        with self._typed():
            await client.open()
            pipeline = client.raw.pipeline(**_plain(cluster=self._cluster))
            for parts in commands:
                pipeline.execute_command(*parts)
            async with client.gate:
                results: list[Any] = await pipeline.execute()
            return results

    async def close(self) -> None:
        await self._clients.aclose()

    def _client(self) -> _Client:
        if self._cluster:
            cluster = aredis.RedisCluster.from_url(_cluster_url(self._url), **self._options())
            return _Client(cluster, asyncio.Semaphore(MAX_CONNECTIONS), asyncio.Lock())
        pool = aredis.BlockingConnectionPool.from_url(
            self._url, max_connections=MAX_CONNECTIONS, timeout=self._timeout_s, **self._options()
        )
        return _Client(aredis.Redis.from_pool(pool), nullcontext())


class _Blocking(_RedisKeyValue):
    def __init__(self, url: str, setting: str, timeout_s: float) -> None:
        super().__init__(url, setting, timeout_s)
        self._client: Any = None

    async def command(self, *parts: Any) -> Any:
        with self._typed():
            return self._connected().execute_command(*parts)

    async def many(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self._typed():
            pipeline = self._connected().pipeline(**_plain(cluster=self._cluster))
            for parts in commands:
                pipeline.execute_command(*parts)
            results: list[Any] = pipeline.execute()
            return results

    async def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self) -> Any:
        if self._client is None:
            self._client = self._open()
        return self._client

    def _open(self) -> Any:
        if self._cluster:
            return redis.RedisCluster.from_url(_cluster_url(self._url), **self._options())
        pool: Any = redis.BlockingConnectionPool.from_url(
            self._url, max_connections=MAX_CONNECTIONS, timeout=self._timeout_s, **self._options()
        )
        return redis.Redis.from_pool(pool)


@dataclass
class _Client:
    """A client and the gate before it: a cluster's pools fail when they are empty, where a server's pool waits."""

    raw: Any
    gate: AbstractAsyncContextManager[Any]
    opening: asyncio.Lock | None = None

    async def open(self) -> None:
        """A cluster's client asks for the slots once, before it is shared: redis-py drops connections when it does."""
        if self.opening is None:
            return
        async with self.opening:
            if self.opening is not None:
                await self.raw.initialize()
                self.opening = None

    async def aclose(self) -> None:
        await self.raw.aclose()


def _check(url: str, setting: str) -> None:
    parts = urlsplit(url)
    try:
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    database = parts.path.strip("/")
    if not usable or (database and not database.isdigit()):
        raise ConfigurationError(
            f"{setting}: {redact_url(url)} is no Redis URL; it must look like redis://user:password@host:6379/0"
        )


def _set(key: str, value: bytes, ttl_s: float | None) -> tuple[Any, ...]:
    return ("SET", _name(key), value) if ttl_s is None else ("SET", _name(key), value, "PX", _millis(ttl_s))


def _name(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def _millis(ttl_s: float) -> int:
    return max(1, round(ttl_s * 1000))


def _plain(*, cluster: bool) -> dict[str, Any]:
    return {} if cluster else {"transaction": False}


def _cluster_url(url: str) -> str:
    return "redis" + url[len(CLUSTER) :]


def _place(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or 6379}"
