"""Models in order of preference as one chat model: retries on retryable errors, then the next rung."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from pydantic import Field, InstanceOf, model_validator

from langchain_llmops.core.context import ATTEMPT, RUNG, identity_from
from langchain_llmops.core.delegate import DelegatingChatModel, describe, with_metadata
from langchain_llmops.core.errors import ConfigurationError, RefusalError, TruncatedAnswerError
from langchain_llmops.core.events import Bus, FellBack, Retried
from langchain_llmops.resilience.plan import Plan, Step
from langchain_llmops.resilience.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Self

    from langchain_core.language_models import LanguageModelInput
    from langchain_core.runnables import Runnable, RunnableConfig

__all__ = ["FallbackChain"]


class FallbackChain(DelegatingChatModel):
    """Asks its rungs in order: `FallbackChain([primary, secondary])`.

    Retryable errors are retried on the same rung by `policy`; then, and for refusals, context overflow and refused
    credentials, the next rung is asked. A wrong request is raised at once. Give it models whose own retries are off
    (`max_retries=0`), or attempts multiply. The answer says which rung gave it: `response_metadata["llmops_rung"]`.
    A stream fails over until its first chunk; after it the error is raised, so two models are never mixed.

    Raises `FallbackExhaustedError` (the last cause chained) when no rung answers.
    """

    rungs: list[BaseChatModel]
    policy: InstanceOf[RetryPolicy] = Field(default_factory=RetryPolicy, exclude=True)
    bus: Bus = Field(default_factory=Bus, exclude=True)
    sleep: Any = Field(default=time.sleep, exclude=True)
    asleep: Any = Field(default=asyncio.sleep, exclude=True)

    def __init__(self, rungs: list[BaseChatModel], **options: Any) -> None:
        super().__init__(**{"rungs": rungs, "cache": False, **options})

    @model_validator(mode="after")
    def _check_rungs(self) -> Self:
        if not self.rungs:
            raise ConfigurationError("a fallback chain needs at least one model")
        if self.profile is None:
            self.profile = self.rungs[0].profile
        return self

    @property
    def _llm_type(self) -> str:
        return "llmops-fallback"

    @property
    def model_name(self) -> str:
        """The first rung's name: the one that answers when all is well."""
        return describe(self.rungs[0])

    def invoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Ask the rungs until one answers."""
        plan = self._plan()
        while True:
            model, own = self._rung(plan.step, config)
            try:
                return self._checked(model.invoke(input, own, **kwargs), plan.step)
            except Exception as error:  # noqa: BLE001 - the plan raises what no model can help
                self.sleep(self._next(plan, error, own))

    async def ainvoke(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Ask the rungs until one answers."""
        plan = self._plan()
        while True:
            model, own = self._rung(plan.step, config)
            try:
                return self._checked(await model.ainvoke(input, own, **kwargs), plan.step)
            except Exception as error:  # noqa: BLE001 - the plan raises what no model can help
                await self.asleep(self._next(plan, error, own))

    def stream(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Stream the first rung that begins to answer."""
        plan = self._plan()
        while True:
            model, own = self._rung(plan.step, config)
            end = _End()
            try:
                for chunk in model.stream(input, own, **kwargs):
                    yield end.saw(with_metadata(chunk, {RUNG: plan.step.rung}) if end.empty else chunk)
                end.check()
            except Exception as error:  # `_next` decides, and raises what is not for another rung
                if not end.empty:
                    raise
                self.sleep(self._next(plan, error, own))
            else:
                return

    async def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[Any]:
        """Stream the first rung that begins to answer."""
        plan = self._plan()
        while True:
            model, own = self._rung(plan.step, config)
            end = _End()
            try:
                async for chunk in model.astream(input, own, **kwargs):
                    yield end.saw(with_metadata(chunk, {RUNG: plan.step.rung}) if end.empty else chunk)
                end.check()
            except Exception as error:  # `_next` decides, and raises what is not for another rung
                if not end.empty:
                    raise
                await self.asleep(self._next(plan, error, own))
            else:
                return

    def _plan(self) -> Plan:
        return Plan([describe(model) for model in self.rungs], self.policy)

    def _rung(self, step: Step, config: RunnableConfig | None) -> tuple[Runnable[Any, Any], RunnableConfig]:
        return self.dressed(self.rungs[step.rung]), self.run_config(config, **{RUNG: step.rung, ATTEMPT: step.attempt})

    def _checked(self, answer: Any, step: Step) -> Any:
        _refuse_refusal(answer)
        return with_metadata(answer, {RUNG: step.rung})

    def _next(self, plan: Plan, error: Exception, config: RunnableConfig) -> float:
        """Move the plan on, tell the bus, and return the pause in seconds."""
        last = plan.step
        step, verdict = plan.after(error)
        who = identity_from(config.get("metadata"))
        name = describe(self.rungs[last.rung])
        if step.rung == last.rung:
            self.bus.publish(Retried(name, verdict.kind, step.attempt, step.pause_s, who))
        else:
            self.bus.publish(FellBack(name, describe(self.rungs[step.rung]), verdict.kind, who))
        return step.pause_s


class _End:
    """Whether a stream has begun, and whether it ended as its provider ends streams."""

    def __init__(self) -> None:
        self.empty = True
        self._finished = False
        self._must_finish = False

    def saw(self, chunk: Any) -> Any:
        self.empty = False
        told = getattr(chunk, "response_metadata", None) or {}
        self._must_finish = self._must_finish or told.get("model_provider") == "openai"
        self._finished = self._finished or bool(told.get("finish_reason"))
        return chunk

    def check(self) -> None:
        """langchain-openai accepts a stream that stops without `finish_reason`; it was cut."""
        if self.empty:
            raise TruncatedAnswerError("the model's stream ended without a single chunk")
        if self._must_finish and not self._finished:
            raise TruncatedAnswerError("the model's stream ended without a finish reason")


def _refuse_refusal(answer: Any) -> None:
    if isinstance(answer, dict):  # structured output with `include_raw`
        answer = answer.get("raw")
    if isinstance(answer, AIMessage) and answer.additional_kwargs.get("refusal"):
        raise RefusalError("the model refused to answer")
