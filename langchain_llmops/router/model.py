"""The router as a chat model: one decision per call."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.config import ensure_config
from pydantic import Field, SkipValidation, model_validator

from langchain_llmops.core.context import ROUTE, identity_from
from langchain_llmops.core.delegate import DelegatingChatModel, describe, messages_of, tagged
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import Bus, Routed
from langchain_llmops.core.tokens import TokenCounter, default_token_counter
from langchain_llmops.router.branch import DecidedBranch
from langchain_llmops.router.rules import Rules
from langchain_llmops.router.signals import read_signals

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence
    from typing import Self

    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import Runnable, RunnableBranch, RunnableConfig

__all__ = ["Decision", "ModelRouter"]


@dataclass(frozen=True, slots=True)
class Decision:
    """Which route a request takes, and why."""

    route: str
    reasons: tuple[str, ...]


class ModelRouter(DelegatingChatModel):
    """Chooses a model for each call: `ModelRouter(routes={"simple": small, "complex": large})`.

    A chat model, so it goes wherever one goes: `create_agent(router, tools=…)`, `prompt | router`. Runs of the chosen
    model carry the route in their metadata. Raises `ConfigurationError` when the rules name a route without a model.
    """

    routes: dict[str, BaseChatModel]
    rules: Rules = Field(default_factory=Rules.load, exclude=True)
    counter: SkipValidation[TokenCounter] = Field(default_factory=default_token_counter, exclude=True)
    bus: Bus = Field(default_factory=Bus, exclude=True)

    def __init__(self, routes: dict[str, BaseChatModel], **options: Any) -> None:
        super().__init__(**{"routes": routes, "cache": False, **options})

    @model_validator(mode="after")
    def _check_routes(self) -> Self:
        missing = self.rules.routes - set(self.routes)
        if missing:
            raise ConfigurationError(
                f"the rules name routes without a model: {sorted(missing)}; given: {sorted(self.routes)}"
            )
        return self

    @property
    def _llm_type(self) -> str:
        return "llmops-router"

    def decide(self, messages: Sequence[BaseMessage], *, tools: int | None = None) -> Decision:
        """The decision for a request, without asking any model; `tools` defaults to how many are bound."""
        offered = len(self.raw_tools or ()) if tools is None else tools
        route, reasons = self.rules.decide(read_signals(messages, tools=offered, counter=self.counter))
        return Decision(route, reasons)

    def chosen(self, decision: Decision, config: RunnableConfig | None = None) -> BaseChatModel:
        """The model of a decision, its runs marked with the route; tells the bus."""
        model = self.routes[decision.route]
        who = identity_from(ensure_config(config).get("metadata"))
        self.bus.publish(Routed(decision.route, describe(model), decision.reasons, who))
        return tagged(model, {ROUTE: decision.route})

    def as_branch(self) -> RunnableBranch[Any, Any]:
        """A `RunnableBranch` over one decision per input, for LCEL."""
        decided: ContextVar[Decision] = ContextVar("llmops_decided")

        def takes(route: str) -> Runnable[Any, Any]:
            return RunnableLambda(lambda _: decided.get().route == route)

        def arm(route: str) -> Runnable[Any, Any]:
            return RunnableLambda(lambda _: self.dressed(self.chosen(decided.get()))).with_config(
                run_name=f"route:{route}"
            )

        *others, otherwise = sorted(self.routes, key=lambda route: route == self.rules.otherwise)
        branches = [(takes(route), arm(route)) for route in others]
        return DecidedBranch(
            *branches, arm(otherwise), decide=lambda value: self.decide(messages_of(value)), decided=decided
        )

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Ask the chosen model."""
        model, config = self._choose(input, config)
        return model.invoke(input, config, **kwargs)

    async def ainvoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Ask the chosen model."""
        model, config = self._choose(input, config)
        return await model.ainvoke(input, config, **kwargs)

    def stream(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Stream the chosen model."""
        model, config = self._choose(input, config)
        yield from model.stream(input, config, **kwargs)

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Stream the chosen model."""
        model, config = self._choose(input, config)
        async for chunk in model.astream(input, config, **kwargs):
            yield chunk

    def _choose(
        self, value: LanguageModelInput, config: RunnableConfig | None
    ) -> tuple[Runnable[Any, Any], RunnableConfig]:
        own = self.run_config(config)
        return self.dressed(self.chosen(self.decide(messages_of(value)), own)), own
