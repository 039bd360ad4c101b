"""Redis and Valkey, 6.2 or newer, plain commands only; single server, TLS and Cluster."""

from __future__ import annotations

import hashlib
import random
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import redis
from redis.backoff import ExponentialWithJitterBackoff
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
from langchain_llmops.stores.clients import BlockingClient, LoopClients
from langchain_llmops.stores.keys import NOT_A_COUNTER, key_bytes, milliseconds
from langchain_llmops.stores.opened import OpenedStore
from langchain_llmops.stores.place import Place, StoreUrl
from langchain_llmops.stores.redis_cluster import Cluster
from langchain_llmops.stores.redis_documents import documents, scan
from langchain_llmops.stores.redis_journal import RedisJournal
from langchain_llmops.stores.redis_maps import RedisMaps
from langchain_llmops.stores.redis_push import listening
from langchain_llmops.stores.wire import EXEC, Endpoint, raised
from langchain_llmops.stores.wire_blocking import BlockingWires
from langchain_llmops.stores.wire_loop import LoopWire

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from typing import Protocol

    from langchain_llmops.stores.base import Line
    from langchain_llmops.stores.wire import Command

    class _Line(Protocol):
        """A way to the server."""

        async def ask(
            self, commands: Sequence[Command], timeout_s: float, *, again: bool, at: bytes | None = None
        ) -> list[Any]:
            """Answers to commands, errors among them; `again`: they may be sent twice; `at`: to the server of a key."""
            ...

        async def aclose(self) -> None:
            """Close the connections."""
            ...


__all__ = ["RedisStore"]

EXAMPLES: Final = {
    "redis": "redis://user:password@host:6379/0",
    "rediss": "rediss://user:password@host:6379/0",
    "redis+cluster": "redis+cluster://user:password@host:6379,host2:6379",
    "rediss+cluster": "rediss+cluster://user:password@host:6379,host2:6379",
}
DEFAULT_PORT: Final = 6379
CLIENT_NAME: Final = "langchain-llmops"
MAX_CLUSTER_CONNECTIONS: Final = 1024  # of a node; a cluster client does not wait for a free one, it fails
IDLE_CHECK_S: Final = 30
TLS_OPTIONS: Final = frozenset(
    ("ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_keyfile", "ssl_keyfile_password")
)
AUTH_ERRORS: Final = (AuthenticationError, AuthorizationError)
DRIVER_ERRORS: Final = (RedisError, RedisClusterException, OSError)
PASSING_ERRORS: Final = (BusyLoadingError, ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)


class RedisStore(OpenedStore):
    """The `KeyValue`, the `Maps` and the `Journal` of one Redis.

    Args:
        url: `redis://`, `rediss://` (TLS; options `ssl_ca_certs` and the like), `redis+cluster://` (one or several of
            its nodes) or `rediss+cluster://`.
        blocking: connections for threads; otherwise one for each event loop, which all its tasks share.
        timeout_s: of every answer; connecting, and waiting for a free connection, has a quarter second at least.
    """

    def __init__(self, url: str, *, setting: str = "url", blocking: bool = False, timeout_s: float = 5.0) -> None:
        server = _Server(url, setting, timeout_s)
        line = _line(server, blocking=blocking)
        kv = _RedisKeyValue(server, line, timeout_s)
        maps = RedisMaps(kv.ask, cluster=server.cluster)
        journal = RedisJournal(kv.ask, cluster=server.cluster, timeout_s=timeout_s)
        super().__init__(
            server.url.shown, setting, reach=kv.reach, close=line.aclose, kv=kv, maps=maps, journal=journal
        )
        self._server = server
        self._redis = kv

    async def publish(self, channel: str, message: bytes) -> None:
        """PUBLISH; in a cluster every node hears of it."""
        await self._redis.publish(self._server.channel(channel), message)

    def listen(self, channel: str) -> AbstractAsyncContextManager[Line]:
        """SUBSCRIBE, in a cluster at any of the nodes that the URL names."""
        return listening(self._server, self._server.channel(channel))

    async def scan(self, pattern: str) -> list[tuple[str, str]]:
        """SCAN and TYPE; not of a cluster, whose nodes each know their own keys only."""
        if self._server.cluster:
            raise self._server.place.fault(ConfigurationError, "keys of a Redis Cluster are not scanned; use redis://")
        return await scan(partial(self._redis.ask, again=True), key_bytes(pattern))

    async def documents(self, keys: Sequence[str], *paths: str) -> list[bytes | None]:
        """JSON.GET, in batches."""
        return await documents(partial(self._redis.ask, again=True), [key_bytes(key) for key in keys], paths)


class _Server:
    """Where Redis is, how it is connected to, and what its errors mean."""

    def __init__(self, url: str, setting: str, timeout_s: float) -> None:
        scheme = url.partition("://")[0].lower()
        self.url = StoreUrl.parse(url, setting, EXAMPLES[scheme])
        self.cluster = scheme.endswith("+cluster")
        self.place = Place(setting, "Redis", self.url.authority, self.url.secrets)
        self.timeout_s = timeout_s
        self.nodes = [_node(server) for server in self.url.authority.split(",")]
        self.database = self.url.path.strip("/")
        wrong = self._mistake()
        if wrong:
            raise self.place.fault(ConfigurationError, f"the {scheme}:// URL {wrong}; as in {EXAMPLES[scheme]}")

    def endpoint(self, host: str, port: int) -> Endpoint:
        """One of the servers."""
        url = self.url
        tls = url.options if url.scheme.startswith("rediss") else None
        return Endpoint(host, port, int(self.database or 0), url.user, url.password, CLIENT_NAME, tls)

    def clustered(self) -> dict[str, Any]:
        """Keyword arguments of a cluster client, which asks again when slots move."""
        tls = {"ssl": True} if self.url.scheme.startswith("rediss") else {}
        return {
            "max_connections": MAX_CLUSTER_CONNECTIONS,
            "retry": Retry(ExponentialWithJitterBackoff(base=0.02, cap=0.5), 3),
            "username": self.url.user,
            "password": self.url.password,
            "socket_timeout": self.timeout_s,
            "socket_connect_timeout": self.timeout_s,
            "health_check_interval": IDLE_CHECK_S,
            "client_name": CLIENT_NAME,
            "protocol": 2,
            **tls,
            **self.url.options,
        }

    def listening(self) -> dict[str, Any]:
        """Keyword arguments of a connection of its own; who listens asks for signs of life, not the driver."""
        host, port = random.choice(self.nodes)  # noqa: S311 - nobody need not guess it
        return {
            "host": host,
            "port": port,
            "username": self.url.user,
            "password": self.url.password,
            "socket_timeout": self.timeout_s,
            "socket_connect_timeout": self.timeout_s,
            "health_check_interval": 0,
            "client_name": CLIENT_NAME,
            "protocol": 2,
            "tls": self.url.scheme.startswith("rediss"),
            **self.url.options,
        }

    def channel(self, name: str) -> bytes:
        """Channels are those of all databases of a server, where keys are not."""
        return key_bytes(f"{name}:{int(self.database or 0)}")

    def typed(self) -> AbstractContextManager[None]:
        """Driver errors as ours."""
        return self.place.typed(DRIVER_ERRORS, self.translated)

    def _mistake(self) -> str | None:
        unknown = sorted(set(self.url.options) - (TLS_OPTIONS if self.url.scheme.startswith("rediss") else set()))
        if unknown:
            return f"has an option that is not known here: {unknown[0]!r}"
        if not all(host for host, _ in self.nodes) or (len(self.nodes) > 1 and not self.cluster):
            return "needs one host"
        if self.database and (self.cluster or not self.database.isdigit()):
            return "ends in something that is no database number"
        return None

    def translated(self, error: Exception) -> Exception:
        """A driver's error as ours; NOSCRIPT stays, as `increment` answers it."""
        if isinstance(error, NoScriptError):
            return error
        place, reason = self.place, self.place.reason(error)
        at = f"Redis at {place.where}"
        if isinstance(error, AUTH_ERRORS) or "NOAUTH" in reason or "Authentication required" in reason:
            return place.fault(StoreAuthError, f"{at} refused the credentials; check user and password", error)
        if isinstance(error, NoPermissionError):
            return place.fault(StoreAuthError, f"{at} denied this user a command ({reason}); grant it", error)
        if "DB index" in reason or "invalid DB" in reason:
            return place.fault(ConfigurationError, f"{at} has no database {self.database}; correct its number", error)
        if isinstance(error, ResponseError) and not isinstance(error, PASSING_ERRORS):
            return place.fault(StoreError, f"{at} refused a command: {reason}", error)
        text = f"{at} cannot be reached ({_short(reason)}); start it or correct the URL"
        return place.fault(StoreUnavailableError, text, error)


class _RedisKeyValue:
    """The commands, written once for every kind of connection."""

    def __init__(self, server: _Server, line: _Line, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._server = server
        self._line = line
        self._script = files("langchain_llmops.stores").joinpath("lua/increment.lua").read_text("utf-8")
        self._sha = hashlib.sha1(self._script.encode(), usedforsecurity=False).hexdigest()

    def within(self, timeout_s: float) -> _RedisKeyValue:
        """The same over the same connections, with other patience; a Cluster's connections have their own."""
        return _RedisKeyValue(self._server, self._line, timeout_s)

    async def get(self, key: str) -> bytes | None:
        """GET."""
        values: list[bytes | None] = await self.ask(("GET", key_bytes(key)), again=True)
        return values[0]

    async def get_many(self, keys: Sequence[str]) -> list[bytes | None]:
        """MGET; on a cluster one pipeline, as keys live on several nodes."""
        if not keys:
            return []
        names = [key_bytes(key) for key in keys]
        values: list[bytes | None]
        if self._server.cluster:
            values = await self.ask(*[("GET", name) for name in names], again=True)
        else:
            (values,) = await self.ask(("MGET", *names), again=True)
        return values

    async def set(self, key: str, value: bytes, ttl_s: float | None = None) -> None:
        """SET with PX."""
        await self.ask(_set(key, value, ttl_s), again=True)

    async def set_many(self, items: Mapping[str, bytes], ttl_s: float | None = None) -> None:
        """SETs in one pipeline."""
        if items:
            await self.ask(*[_set(key, value, ttl_s) for key, value in items.items()], again=True)

    async def add(self, key: str, value: bytes, ttl_s: float | None = None) -> bool:
        """SET with NX."""
        return (await self.add_many({key: value}, ttl_s))[0]

    async def add_many(self, items: Mapping[str, bytes], ttl_s: float | None = None) -> list[bool]:
        """SETs with NX in one pipeline."""
        answers = await self.ask(*[(*_set(key, value, ttl_s), "NX") for key, value in items.items()], again=False)
        return [answer is not None for answer in answers]

    async def increment(self, key: str, by: int = 1, ttl_s: float | None = None) -> int:
        """One script, so that a counter is never left without its time to live."""
        arguments = (1, key_bytes(key), by, 0 if ttl_s is None else milliseconds(ttl_s))
        try:
            return await self._counted(("EVALSHA", self._sha, *arguments))
        except NoScriptError:
            return await self._counted(("EVAL", self._script, *arguments))

    async def delete(self, *keys: str) -> int:
        """UNLINK."""
        names = [key_bytes(key) for key in dict.fromkeys(keys)]
        if not names:
            return 0
        commands: list[Command] = [("UNLINK", name) for name in names] if self._server.cluster else [("UNLINK", *names)]
        return sum(await self.ask(*commands, again=False))

    async def reach(self) -> None:
        """PING."""
        await self.ask(("PING",), again=False)

    async def publish(self, channel: bytes, message: bytes) -> None:
        """PUBLISH."""
        await self.ask(("PUBLISH", channel, message), again=False)

    async def ask(self, *commands: Command, again: bool, at: bytes | None = None) -> list[Any]:
        """What may run twice does so when the connection was lost, unless time has run out."""
        try:
            try:
                answers = await self._line.ask(commands, self.timeout_s, again=again, at=at)
            except redis.ConnectionError:
                if not again:
                    raise
                answers = await self._line.ask(commands, self.timeout_s, again=False, at=at)
            raised(answers)
            if commands[-1] is EXEC:
                _raised_inside(answers)
        except DRIVER_ERRORS as error:
            fault = self._server.translated(error)
        else:
            return answers
        raise fault  # outside the handler, so that what the driver says is no part of the trace

    async def _counted(self, command: Command) -> int:
        try:
            return int((await self.ask(command, again=False))[0])
        except StoreError as error:
            if "not an integer" in str(error) or "overflow" in str(error) or "WRONGTYPE" in str(error):
                raise StoreError(NOT_A_COUNTER) from error
            raise


class _LoopLine:
    """A connection for each event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        async def make() -> LoopWire:
            return LoopWire(endpoint)

        self._wires = LoopClients(make, LoopWire.aclose)
        self.aclose = self._wires.aclose

    async def ask(
        self,
        commands: Sequence[Command],
        timeout_s: float,
        *,
        again: bool,  # noqa: ARG002 - its loop tells it of a lost connection before
        at: bytes | None = None,  # noqa: ARG002 - there is one server
    ) -> list[Any]:
        """As `_Line`."""
        return await (await self._wires.get()).ask(commands, timeout_s)


class _ThreadsLine:
    """Connections for the threads of this process."""

    def __init__(self, endpoint: Endpoint) -> None:
        async def make() -> BlockingWires:
            return BlockingWires(endpoint)

        async def close(wires: BlockingWires) -> None:
            wires.close()

        self._wires = BlockingClient(make, close)
        self.aclose = self._wires.aclose

    async def ask(
        self,
        commands: Sequence[Command],
        timeout_s: float,
        *,
        again: bool,
        at: bytes | None = None,  # noqa: ARG002 - there is one server
    ) -> list[Any]:
        """As `_Line`."""
        return (await self._wires.get()).ask(commands, timeout_s, again=again)


def _line(server: _Server, *, blocking: bool) -> _Line:
    kind = _ThreadsLine if blocking else _LoopLine

    def line_to(host: str, port: int) -> _ThreadsLine | _LoopLine:
        return kind(server.endpoint(host, port))

    if server.cluster:
        return Cluster(server.nodes, server.clustered(), line_to, blocking=blocking)
    return line_to(*server.nodes[0])


def _node(server: str) -> tuple[str, int]:
    host, colon, port = server.rpartition(":")
    if not colon or server.endswith("]"):
        host, port = server, ""
    return host.strip("[]"), int(port or DEFAULT_PORT)


def _set(key: str, value: bytes, ttl_s: float | None) -> Command:
    command = ("SET", key_bytes(key), value)
    return command if ttl_s is None else (*command, "PX", milliseconds(ttl_s))


def _raised_inside(answers: Sequence[Any]) -> None:
    for answer in answers:
        if isinstance(answer, list):
            raised(answer)


def _short(reason: str) -> str:
    """Connection errors repeat the address."""
    return reason.rpartition("connecting to ")[2].partition(". ")[2] or reason
