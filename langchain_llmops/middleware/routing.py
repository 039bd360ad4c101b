"""The router inside `create_agent`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse

from langchain_llmops.router.model import ModelRouter

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from langchain_core.messages import BaseMessage

__all__ = ["RouterMiddleware"]


class RouterMiddleware(AgentMiddleware[Any, Any]):
    """Unwraps a `ModelRouter` before each model call, so that the agent sees the chosen model itself.

    Without it the router still works; with it the agent picks structured-output strategies by the chosen model's
    profile. An agent whose model is no router is left alone, unless `router` is given: then that one decides.
    """

    def __init__(self, router: ModelRouter | None = None) -> None:
        super().__init__()
        self._router = router

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Decide, then ask the chosen model."""
        return handler(self._routed(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Decide, then ask the chosen model."""
        return await handler(self._routed(request))

    def _routed(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        router = self._router or request.model
        if not isinstance(router, ModelRouter):
            return request
        messages: list[BaseMessage] = list(request.messages)
        decision = router.decide(messages, tools=len(request.tools))
        return request.override(model=router.chosen(decision))
