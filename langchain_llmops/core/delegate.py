"""A chat model that hands whole calls to other chat models, and what it must not lose on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import CallbackManager
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, convert_to_messages
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.prompt_values import PromptValue
from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.runnables.config import ensure_config, merge_configs
from pydantic import ConfigDict, Field

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from langchain_core.callbacks import CallbackManagerForLLMRun
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.language_models.base import LangSmithParams

__all__ = ["DELEGATE_PROVIDER", "DelegatingChatModel", "describe", "messages_of", "tagged", "with_metadata"]

DELEGATE_PROVIDER = "llmops_delegate"
TOOLS_ONLY = frozenset({"tool_choice", "parallel_tool_calls", "strict"})


class DelegatingChatModel(BaseChatModel):
    """Base of the router and the fallback chain: real chat models that make no call of their own.

    Subclasses override `invoke`, `ainvoke`, `stream` and `astream`, so that one call is one run and its usage counts
    once. Tools and output schemas are kept raw and bound to the model that is chosen.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    raw_tools: tuple[Any, ...] | None = Field(default=None, exclude=True)
    tool_options: dict[str, Any] = Field(default_factory=dict, exclude=True)
    structured: tuple[Any, dict[str, Any]] | None = Field(default=None, exclude=True)

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Live models inside, so never written out."""
        return False

    def bind_tools(self, tools: Sequence[Any], *, tool_choice: Any = None, **kwargs: Any) -> Self:
        """Keep tools for whichever model will be chosen."""
        options = kwargs if tool_choice is None else {"tool_choice": tool_choice, **kwargs}
        return self.model_copy(update={"raw_tools": tuple(tools), "tool_options": options})

    def with_structured_output(self, schema: Any, *, include_raw: bool = False, **kwargs: Any) -> Runnable[Any, Any]:
        """The parsed output of whichever model will be chosen, by that model's own method."""
        return self.model_copy(update={"structured": (schema, {"include_raw": include_raw, **kwargs})})

    def over(self, change: Callable[[BaseChatModel], BaseChatModel]) -> Self:
        """A copy with each of its models changed."""
        held = {name: _changed(getattr(self, name), change) for name in type(self).model_fields}
        return self.model_copy(update={name: value for name, value in held.items() if value is not None})

    def dressed(self, model: BaseChatModel) -> Runnable[Any, Any]:
        """A chosen model with the tools or the schema bound here."""
        if self.structured is not None:
            schema, options = self.structured
            return model.with_structured_output(schema, **options)
        if self.raw_tools:
            return model.bind_tools(self.raw_tools, **self.tool_options)
        # an agent without tools binds an empty list, which providers refuse
        options = {name: value for name, value in self.tool_options.items() if name not in TOOLS_ONLY}
        return model.bind(**options) if options else model

    def run_config(self, config: RunnableConfig | None, **metadata: Any) -> RunnableConfig:
        """The caller's config, or that of the running graph, with our own metadata, tags and callbacks added."""
        own: RunnableConfig = {"metadata": {**(self.metadata or {}), **metadata}, "tags": list(self.tags or [])}
        if isinstance(self.callbacks, list):
            # a manager, because merging one with the caller's list adds no handler twice
            own["callbacks"] = CallbackManager(handlers=[*self.callbacks], inheritable_handlers=[*self.callbacks])
        elif self.callbacks is not None:
            own["callbacks"] = self.callbacks
        return merge_configs(ensure_config(config), own)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        """Marks runs of `generate()`, whose usage the chosen model's own run already carries."""
        params = super()._get_ls_params(stop=stop, **kwargs)
        params["ls_provider"] = DELEGATE_PROVIDER
        return params

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        # run managers of models have no get_child(); the handlers go on with this run as the parent
        config: RunnableConfig = {} if run_manager is None else {"callbacks": _below(run_manager)}
        answer = self.invoke(messages, config, stop=stop, **kwargs)
        return ChatResult(generations=[ChatGeneration(message=answer)])


def _below(run: CallbackManagerForLLMRun) -> CallbackManager:
    manager = CallbackManager(handlers=[], parent_run_id=run.run_id)
    manager.set_handlers(run.inheritable_handlers)
    manager.add_tags(run.inheritable_tags)
    manager.add_metadata(run.inheritable_metadata)
    return manager


def _changed(held: Any, change: Callable[[BaseChatModel], BaseChatModel]) -> Any:
    """A field of models with each of them changed; None for a field of anything else."""
    if isinstance(held, BaseChatModel):
        return change(held)
    if isinstance(held, list) and held and all(isinstance(one, BaseChatModel) for one in held):
        return [change(one) for one in held]
    if isinstance(held, dict) and held and all(isinstance(one, BaseChatModel) for one in held.values()):
        return {name: change(one) for name, one in held.items()}
    return None


def messages_of(value: LanguageModelInput) -> list[BaseMessage]:
    """What a model was asked, as messages."""
    if isinstance(value, PromptValue):
        return value.to_messages()
    return convert_to_messages([value] if isinstance(value, str) else value)


def describe(model: BaseChatModel) -> str:
    """The name of a model for people and metrics."""
    name = getattr(model, "model_name", None) or getattr(model, "model", None) or getattr(model, "model_id", None)
    return name if isinstance(name, str) and name else model.get_name()


def tagged(model: BaseChatModel, metadata: Mapping[str, Any]) -> BaseChatModel:
    """A copy of a model whose runs carry more metadata; clients are shared."""
    return model.model_copy(update={"metadata": {**(model.metadata or {}), **metadata}})


def with_metadata(answer: Any, metadata: Mapping[str, Any]) -> Any:
    """A copy of an answer whose `response_metadata` says more; anything but a message passes unchanged."""
    if not isinstance(answer, AIMessage | AIMessageChunk):
        return answer
    return answer.model_copy(update={"response_metadata": {**answer.response_metadata, **metadata}})
