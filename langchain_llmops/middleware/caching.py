"""The cache inside `create_agent`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.runnables.config import ensure_config

from langchain_llmops.cache.model import cached
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.context import text_from
from langchain_llmops.core.delegate import tagged
from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from langchain_core.language_models import BaseChatModel


__all__ = ["CacheMiddleware"]

NAMES: Final = ("tenant_id", "user_id", "session_id")


class CacheMiddleware(AgentMiddleware[Any, Any]):
    """Has the agent's model answer from a cache: `create_agent(model, tools, middleware=[CacheMiddleware(cache)])`.

    The model itself looks, with tools, schema and system message bound: so a hit is a run like any other, with a record
    and a trace, and has the key of a call outside of the agent. Who asks is read from the run's config and, where that
    does not say, from `tenant_id`, `user_id` and `session_id` of the agent's context. Put it last, next to the model.
    """

    def __init__(self, cache: TieredCache) -> None:
        super().__init__()
        if not isinstance(cache, TieredCache):
            raise ConfigurationError(f"CacheMiddleware takes a TieredCache, not {cache!r:.60}: ops.cache, for one")
        self._cache = cache

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Ask the model through the cache."""
        return handler(self._through(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Ask the model through the cache."""
        return await handler(self._through(request))

    def _through(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        model: BaseChatModel = cached(request.model, cache=self._cache)
        named = _named(getattr(request.runtime, "context", None))
        said = ensure_config().get("metadata") or {}
        more = {name: value for name, value in named.items() if not said.get(name)}
        return request.override(model=tagged(model, more) if more else model)


def _named(context: Any) -> Mapping[str, str]:
    """Whom an agent's context names, be it a mapping or an object."""
    said = context if isinstance(context, dict) else {name: getattr(context, name, None) for name in NAMES}
    return {name: text_from(said[name]) for name in NAMES if said.get(name)}
