"""Chat models as the suite manages them: no retries of their own, shared connections, usage also when streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.request import getproxies

import httpx
from langchain.chat_models import init_chat_model
from langchain_core.callbacks import BaseCallbackManager

from langchain_llmops.core.concurrency import PerLoop
from langchain_llmops.core.delegate import DelegatingChatModel
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_core.caches import BaseCache
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.language_models import BaseChatModel

__all__ = ["HttpPool", "ModelFactory"]

LIMITS: Final = httpx.Limits(max_connections=50, max_keepalive_connections=10, keepalive_expiry=30.0)
CLIENTS: Final = frozenset(("client", "async_client", "root_client", "root_async_client"))


class HttpPool:
    """One keep-alive pool for every model: 50 connections, 10 kept idle for 30 seconds.

    The async side keeps its connections per event loop, so that one model survives two `asyncio.run` calls.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self.sync = httpx.Client(limits=LIMITS, timeout=timeout_s, follow_redirects=True)
        self.asynchronous = httpx.AsyncClient(transport=_PerLoop(), timeout=timeout_s, follow_redirects=True)

    def options(self) -> dict[str, Any]:
        """Arguments of langchain-openai models; none where a proxy is set, which its own clients honour."""
        return {} if getproxies() else {"http_client": self.sync, "http_async_client": self.asynchronous}

    def close(self) -> None:
        """Close the blocking connections; those of event loops close with their loops."""
        self.sync.close()

    async def aclose(self) -> None:
        """Close the blocking connections and those of the running loop."""
        self.sync.close()
        await self.asynchronous.aclose()


class _PerLoop(httpx.AsyncBaseTransport):
    def __init__(self) -> None:
        self._transports = PerLoop(lambda: httpx.AsyncHTTPTransport(limits=LIMITS), httpx.AsyncHTTPTransport.aclose)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await (await self._transports.get()).handle_async_request(request)

    async def aclose(self) -> None:
        await self._transports.aclose()


class ModelFactory:
    """Builds chat models by name and takes over those that exist.

    Args:
        timeout_s: of one attempt.
        cache: the LLM cache of built models; False for none.
        callbacks: of every managed model, so that a call without a config is recorded too (and once with one).
        through: makes of a model with that cache one that uses it for streams and output classes too.
    """

    def __init__(
        self,
        pool: HttpPool,
        *,
        timeout_s: float,
        cache: BaseCache | bool,
        callbacks: Sequence[BaseCallbackHandler] = (),
        through: Callable[[BaseChatModel], BaseChatModel] | None = None,
    ) -> None:
        self._callbacks = list(callbacks)
        self._pool = pool
        self._timeout_s = timeout_s
        self._cache = cache
        self._through = through

    def model(self, model: str | BaseChatModel, **options: Any) -> BaseChatModel:
        """A managed model from `provider:name`, or from an instance, which is rebuilt and not changed."""
        if not isinstance(model, str):
            return self._take_over(model)
        settings: dict[str, Any] = {"max_retries": 0, "timeout": self._timeout_s, "cache": self._cache}
        if self._callbacks:
            settings["callbacks"] = self._callbacks
        if model.startswith(("openai:", "gpt-", "o1", "o3", "o4")):
            settings |= {"stream_usage": True, **self._pool.options()}
        if not model.rpartition(":")[2]:
            raise ConfigurationError(f"model {model!r}: name one, as in openai:gpt-4o-mini")
        try:
            built: BaseChatModel = init_chat_model(model, **{**settings, **options})
        except Exception as error:  # whatever a provider's constructor raises (no key, no package) is configuration
            reason = redact(" ".join(str(error).split())) or type(error).__name__
            raise ConfigurationError(f"model {model!r}: {reason}") from error
        return self._caching(built)

    def _caching(self, model: BaseChatModel) -> BaseChatModel:
        return self._through(model) if self._through is not None and model.cache is self._cache else model

    def _take_over(self, model: BaseChatModel) -> BaseChatModel:
        if isinstance(model, DelegatingChatModel):
            return model
        fields = {name: getattr(model, name) for name in model.model_fields_set if name not in CLIENTS}
        if fields.get("cache") is None:
            fields["cache"] = self._cache
        if self._callbacks and not isinstance(fields.get("callbacks"), BaseCallbackManager):
            fields["callbacks"] = [*(fields.get("callbacks") or []), *self._callbacks]
        if getattr(model, "max_retries", 0) == 0:
            update: dict[str, Any] = {name: fields[name] for name in ("cache", "callbacks") if name in fields}
            return self._caching(model.model_copy(update=update))
        rebuilt: BaseChatModel = type(model)(**{**fields, "max_retries": 0})
        return self._caching(rebuilt)
