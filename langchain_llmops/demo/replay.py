"""A recorded conversation served back to an agent: its tools' side, its end, and the check afterwards."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse, hook_config
from langchain.tools import ToolRuntime  # noqa: TC002 - LangGraph reads the annotation to inject it
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool

from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from langgraph.runtime import Runtime

    from langchain_llmops.demo.traffic import Conversation

__all__ = ["ReplayContext", "ReplayMiddleware", "mismatches", "recorded_tools"]

HEADER: Final = "X-Replay-Conversation"
JSON_TYPES: Final = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}


@dataclass(frozen=True)
class ReplayContext:
    """What the middleware and the tools of a replay need to know about their run."""

    conversation: Conversation


class ReplayMiddleware(AgentMiddleware[Any, ReplayContext]):
    """Names the conversation to the simulator, and stops where the recording stops: there is no reply to ask for."""

    @hook_config(can_jump_to=["end"])
    def before_model(self, state: AgentState[Any], runtime: Runtime[ReplayContext]) -> dict[str, Any] | None:
        """End the run once the state holds the whole recording."""
        done = len(state["messages"]) >= len(runtime.context.conversation.after_system)
        return {"jump_to": "end"} if done else None

    def wrap_model_call(
        self, request: ModelRequest[ReplayContext], handler: Callable[[ModelRequest[ReplayContext]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Ask with the conversation's name in a header."""
        return handler(_named(request))

    async def awrap_model_call(
        self,
        request: ModelRequest[ReplayContext],
        handler: Callable[[ModelRequest[ReplayContext]], Awaitable[ModelResponse[Any]]],
    ) -> ModelResponse[Any]:
        """Ask with the conversation's name in a header."""
        return await handler(_named(request))


def _named(request: ModelRequest[ReplayContext]) -> ModelRequest[ReplayContext]:
    name = request.runtime.context.conversation.recorded_name
    return request.override(model_settings={**request.model_settings, "extra_headers": {HEADER: name}})


def recorded_tools(conversations: Iterable[Conversation]) -> list[BaseTool]:
    """Tools with the names and the arguments met in the recordings, answering with the recorded results."""
    met: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for conversation in conversations:
        for message in conversation.recorded or []:
            for call in message.get("tool_calls") or []:
                arguments = met[call["function"]["name"]]
                for key, value in _arguments(call).items():
                    arguments[key].add(JSON_TYPES.get(type(value), "null"))
    return [_recorded_tool(name, arguments) for name, arguments in sorted(met.items())]


def _recorded_tool(name: str, arguments: dict[str, set[str]]) -> BaseTool:
    def answer(runtime: ToolRuntime[ReplayContext, Any], **_: Any) -> str:
        return _recorded_result(runtime, name)

    properties = {key: {"type": sorted(kinds)} for key, kinds in arguments.items()}
    schema = {"type": "object", "title": name, "properties": properties}
    return StructuredTool(name=name, description=f"{name}, as recorded.", args_schema=schema, func=answer)


def _recorded_result(runtime: ToolRuntime[ReplayContext, Any], name: str) -> str:
    """The result by the number of tool messages in the state: ids and arguments repeat, the order does not."""
    messages: Sequence[BaseMessage] = runtime.state["messages"]
    before = sum(isinstance(message, ToolMessage) for message in messages)
    asked = next(message for message in reversed(messages) if isinstance(message, AIMessage))
    place = next(i for i, call in enumerate(asked.tool_calls) if call["id"] == runtime.tool_call_id)
    results = [message for message in runtime.context.conversation.after_system if message["role"] == "tool"]
    if before + place >= len(results):
        raise ConfigurationError(f"the recording has no result for call {before + place + 1}, {name}")
    return str(results[before + place]["content"] or "")


def mismatches(conversation: Conversation, messages: Sequence[BaseMessage]) -> list[int]:
    """Places (from 0) where a stored conversation differs from its recording (ids do not count, null is empty)."""
    recorded = conversation.after_system
    differing = [i for i, (old, new) in enumerate(zip(recorded, messages, strict=False)) if _plain(old) != _stored(new)]
    return differing + list(range(min(len(recorded), len(messages)), max(len(recorded), len(messages))))


def _plain(message: dict[str, Any]) -> tuple[Any, ...]:
    calls = [(call["function"]["name"], _arguments(call)) for call in message.get("tool_calls") or []]
    return message["role"], message.get("content") or "", calls


def _stored(message: BaseMessage) -> tuple[Any, ...]:
    role = {"human": "user", "ai": "assistant"}.get(message.type, message.type)
    calls = [(call["name"], call["args"]) for call in getattr(message, "tool_calls", [])]
    return role, message.text, calls


def _arguments(call: dict[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = json.loads(call["function"]["arguments"] or "{}")
    return arguments
