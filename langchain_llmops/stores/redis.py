"""Redis and Valkey, 6.2 or newer, plain commands only; single server, TLS and Cluster."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry

from langchain_llmops.core.errors import ConfigurationError, StoreAuthError, StoreError, StoreUnavailableError
from langchain_llmops.stores.clients import BlockingClient, LoopClients, settled
from langchain_llmops.stores.keys import NOT_A_COUNTER, key_bytes, milliseconds
from langchain_llmops.stores.opened import OpenedStore
from langchain_llmops.stores.place import Place, StoreUrl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from langchain_llmops.stores.clients import Clients

__all__ = ["RedisStore"]

EXAMPLES: Final = {
    "redis": "redis://user:password@host:6379/0",
    "rediss": "rediss://user:password@host:6379/0",
    "redis+cluster": "redis+cluster://user:password@host:6379,host2:6379",
    "rediss+cluster": "rediss+cluster://user:password@host:6379,host2:6379",
}
DEFAULT_PORT: Final = 6379
MAX_CONNECTIONS: Final = 64
MAX_CLUSTER_CONNECTIONS: Final = 1024  # of a node; a cluster client does not wait for a free one, it fails
IDLE_CHECK_S: Final = 30
TLS_OPTIONS: Final = frozenset(
    ("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile", "ssl_keyfile_password")
)
AUTH_ERRORS: Final = (AuthenticationError, AuthorizationError)
PASSING_ERRORS: Final = (BusyLoadingError, ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)


class RedisStore(OpenedStore):
    """The `KeyValue` of one Redis.

    Args:
        url: `redis://`, `rediss://` (TLS; options `ssl_ca_certs` and the like), `redis+cluster://` (one or several of
            its nodes) or `rediss+cluster://`.
        blocking: a blocking client; otherwise an asyncio client per event loop.
        timeout_s: of connecting, of every answer, and of waiting for a free connection.
    """

    def __init__(self, url: str, *, setting: str = "url", blocking: bool = False, timeout_s: float = 5.0) -> None:
        server = _Server(url, setting, timeout_s)
        clients: Clients[_Client] = _blocking_client(server) if blocking else _loop_clients(server)
        kv = _RedisKeyValue(server, clients)
        super().__init__(server.url.shown, setting, reach=kv.reach, close=clients.aclose, kv=kv)


class _Server:
    """Where Redis is, how it is connected to, and what its errors mean."""

    def __init__(self, url: str, setting: str, timeout_s: float) -> None:
        scheme = url.partition("://")[0].lower()
        self.url = StoreUrl.parse(url, setting, EXAMPLES[scheme])
        self.cluster = scheme.endswith("+cluster")
        self.place = Place(setting, "Redis", self.url.authority, self.url.secrets)
        self.timeout_s = timeout_s
        self.nodes = [_node(server) for server in self.url.authority.split(",")]
        self._database = self.url.path.strip("/")
        wrong = self._mistake()
        if wrong:
            raise self.place.fault(ConfigurationError, f"the {scheme}:// URL {wrong}; as in {EXAMPLES[scheme]}")

    def options(self) -> dict[str, Any]:
        """Keyword arguments of every client."""
        options: dict[str, Any] = {
            "username": self.url.user,
            "password": self.url.password,
            "socket_timeout": self.timeout_s,
            "socket_connect_timeout": self.timeout_s,
            "health_check_interval": IDLE_CHECK_S,
            "client_name": "langchain-llmops",
            "protocol": 2,
        }
        return options | dict(self.url.options)

    def single(self) -> dict[str, Any]:
        """Keyword arguments of a connection pool that makes callers wait when all connections are in use."""
        host, port = self.nodes[0]
        # a command that may have run is not sent again here: `_again` does so for those that may run twice
        own = {"db": int(self._database or 0), "max_connections": MAX_CONNECTIONS, "timeout": self.timeout_s}
        return {"host": host, "port": port, "retry": Retry(NoBackoff(), 0), **own, **self.options()}

    def clustered(self) -> dict[str, Any]:
        """Keyword arguments of a cluster client, which asks again when slots move."""
        retry = Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), 3)
        tls = {"ssl": True} if self.url.scheme.startswith("rediss") else {}
        return {"max_connections": MAX_CLUSTER_CONNECTIONS, "retry": retry, **tls, **self.options()}

    def typed(self) -> AbstractContextManager[None]:
        """Driver errors as ours; NOSCRIPT stays, as `increment` answers it."""
        return self.place.typed((RedisError, RedisClusterException, OSError), self._translated)

    def _mistake(self) -> str | None:
        unknown = sorted(set(self.url.options) - (TLS_OPTIONS if self.url.scheme.startswith("rediss") else set()))
        if unknown:
            return f"has an option that is not known here: {unknown[0]!r}"
        if not all(host for host, _ in self.nodes) or (len(self.nodes) > 1 and not self.cluster):
            return "needs one host"
        if self._database and (self.cluster or not self._database.isdigit()):
            return "ends in something that is no database number"
        return None

    def _translated(self, error: Exception) -> Exception:
        if isinstance(error, NoScriptError):
            return error
        place, reason = self.place, self.place.reason(error)
        at = f"Redis at {place.where}"
        if isinstance(error, AUTH_ERRORS) or "NOAUTH" in reason or "Authentication required" in reason:
            return place.fault(StoreAuthError, f"{at} refused the credentials; check user and password", error)
        if isinstance(error, NoPermissionError):
            return place.fault(StoreAuthError, f"{at} denied this user a command ({reason}); grant it", error)
        if "DB index" in reason or "invalid DB" in reason:
            return place.fault(ConfigurationError, f"{at} has no database {self._database}; correct its number", error)
        if isinstance(error, ResponseError) and not isinstance(error, PASSING_ERRORS):
            return place.fault(StoreError, f"{at} refused a command: {reason}", error)
        text = f"{at} cannot be reached ({_short(reason)}); start it or correct the URL"
        return place.fault(StoreUnavailableError, text, error)


class _RedisKeyValue:
    """The commands, written once for both colours."""

    def __init__(self, server: _Server, clients: Clients[_Client]) -> None:
        self._server = server
        self._clients = clients
        self._script = files("langchain_llmops.stores").joinpath("lua/increment.lua").read_text("utf-8")
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    async def get(self, key: str) -> bytes | None:
        """GET."""
        value: bytes | None = await self._again(lambda: self._command("GET", key_bytes(key)))
        return value

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """MGET; on a cluster one pipeline, as keys live on several nodes."""
        if not keys:
            return []
        names = [key_bytes(key) for key in keys]
        values: list[bytes | None]
        if self._server.cluster:
            values = await self._again(lambda: self._pipeline([("GET", name) for name in names]))
        else:
            values = await self._again(lambda: self._command("MGET", *names))
        return values

    async def set(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        """SET with PX."""
        command = _set(key, value, ttl_s)
        await self._again(lambda: self._command(*command))

    async def set_many(self, items: Mapping[str, bytes], ttl_s: float | None = None) -> None:
        """SETs in one pipeline."""
        commands = [_set(key, value, ttl_s) for key, value in items.items()]
        if commands:
            await self._again(lambda: self._pipeline(commands))

    async def add(self, key: str, value: bytes, ttl_s: float | None = None) -> bool:
        """SET with NX."""
        return await self._command(*_set(key, value, ttl_s), "NX") is not None

    async def increment(self, key: str, by: int = 1, ttl_s: float | None = None) -> int:
        """One script, so that a counter is never left without its time to live."""
        arguments = (1, key_bytes(key), by, 0 if ttl_s is None else milliseconds(ttl_s))
        try:
            return int(await self._counted("EVALSHA", self._sha, *arguments))
        except NoScriptError:
            return int(await self._counted("EVAL", self._script, *arguments))

    async def delete(self, *keys: str) -> int:
        """UNLINK."""
        names = [key_bytes(key) for key in dict.fromkeys(keys)]
        if not names:
            return 0
        if self._server.cluster:
            return sum(await self._pipeline([("UNLINK", name) for name in names]))
        return int(await self._command("UNLINK", *names))

    async def reach(self) -> None:
        """PING."""
        await self._command("PING")

    async def _command(self, *parts: Any) -> Any:
        with self._server.typed():
            client = await self._clients.get()
            async with client.gate:
                return await settled(client.driver.execute_command(*parts))

    async def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self._server.typed():
            client = await self._clients.get()
            driver = client.driver
            pipeline = driver.pipeline() if self._server.cluster else driver.pipeline(transaction=False)
            for parts in commands:
                pipeline.execute_command(*parts)
            async with client.gate:
                answers: list[Any] = await settled(pipeline.execute())
            return answers

    async def _again(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Once more when the connection was lost: only for what may run twice, and not when time has run out."""
        try:
            return await call()
        except StoreUnavailableError as error:
            if not isinstance(error.__cause__, redis.ConnectionError):
                raise
        return await call()

    async def _counted(self, *parts: Any) -> Any:
        try:
            return await self._command(*parts)
        except StoreError as error:
            if "not an integer" in str(error) or "overflow" in str(error) or "WRONGTYPE" in str(error):
                raise StoreError(NOT_A_COUNTER) from error
            raise


@dataclass(frozen=True, slots=True)
class _Client:
    """A client and the gate before it: a cluster's pools fail when they are empty, where a server's pool waits."""

    driver: Any
    gate: AbstractAsyncContextManager[Any]


def _loop_clients(server: _Server) -> LoopClients[_Client]:
    async def make() -> _Client:
        if not server.cluster:
            return _Client(_driver(server, redis.asyncio), nullcontext())
        # the first command of many at once would learn the slots once each, and cut each other's connections
        return _Client(await _driver(server, redis.asyncio).initialize(), asyncio.Semaphore(MAX_CONNECTIONS))

    async def close(client: _Client) -> None:
        await client.driver.aclose()

    return LoopClients(make, close)


def _blocking_client(server: _Server) -> BlockingClient[_Client]:
    async def make() -> _Client:
        return _Client(_driver(server, redis), nullcontext())

    async def close(client: _Client) -> None:
        client.driver.close()

    return BlockingClient(make, close)


def _driver(server: _Server, module: Any) -> Any:
    """A client of `redis` or of `redis.asyncio`: the two modules have the same names."""
    if server.cluster:
        nodes = [module.cluster.ClusterNode(host, port) for host, port in server.nodes]
        return module.RedisCluster(startup_nodes=nodes, **server.clustered())
    kind = {"connection_class": module.SSLConnection} if server.url.scheme == "rediss" else {}
    return module.Redis.from_pool(module.BlockingConnectionPool(**kind, **server.single()))


def _node(server: str) -> tuple[str, int]:
    host, colon, port = server.rpartition(":")
    if not colon or server.endswith("]"):
        host, port = server, ""
    return host.strip("[]"), int(port or DEFAULT_PORT)


def _set(key: str, value: bytes, ttl_s: float | None) -> tuple[Any, ...]:
    command = ("SET", key_bytes(key), value)
    return command if ttl_s is None else (*command, "PX", milliseconds(ttl_s))


def _short(reason: str) -> str:
    """Connection errors repeat the address."""
    return reason.rpartition("connecting to ")[2].partition(". ")[2] or reason
