"""A chat model that answers from a script: texts, messages, streams and failures, in order; and a tool for it."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.tools import tool
from pydantic import Field

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from langchain_core.messages import BaseMessage

__all__ = ["DEADLINE_S", "Hang", "ScriptedModel", "answer", "chunk", "eventually", "lookup", "tool_call"]

DEADLINE_S = 10.0


class Hang:
    """A script line that never answers an async caller; `reached` is set when the model waits in it."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()


def answer(
    text: str = "ok",
    *,
    usage: tuple[int, int] | dict[str, Any] | None = (10, 5),
    finish: str | None = "stop",
    **more: Any,
) -> AIMessage:
    """A message as a provider gives one; `usage` is (input, output) tokens or a whole `usage_metadata`."""
    if isinstance(usage, tuple):
        usage = {"input_tokens": usage[0], "output_tokens": usage[1], "total_tokens": sum(usage)}
    told = (
        {"finish_reason": finish, **more.pop("response_metadata", {})} if finish else more.pop("response_metadata", {})
    )
    return AIMessage(text, usage_metadata=usage, response_metadata=told, **more)


def chunk(text: str = "", *, usage: tuple[int, int] | None = None, **told: Any) -> AIMessageChunk:
    """One piece of a stream; `told` is its response metadata."""
    counted = (
        None if usage is None else {"input_tokens": usage[0], "output_tokens": usage[1], "total_tokens": sum(usage)}
    )
    return AIMessageChunk(text, usage_metadata=counted, response_metadata=told)


def tool_call(name: str, /, **arguments: Any) -> dict[str, Any]:
    """A tool call of an assistant message."""
    return {"name": name, "args": arguments, "id": f"call_{name}", "type": "tool_call"}


@tool
def lookup(order_id: str) -> str:
    """Look up an order."""
    return f"{order_id} shipped"


def eventually(condition: Callable[[], bool]) -> None:
    """Wait until something that another thread does has happened."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.001)


class ScriptedModel(BaseChatModel):
    """Says the next line of its script at each call; the last one again and again.

    A line is a text, a message, an exception (raised), a list of chunks and exceptions (a stream, joined for
    `invoke`), a function of the messages that returns one of these, or `Hang()`. `asked` keeps what every call asked.
    """

    script: list[Any] = Field(default_factory=lambda: [answer()], repr=False)
    model_name: str = "gpt-4o-mini"
    provider: str = "openai"
    temperature: float | None = None
    asked: list[tuple[list[Any], dict[str, Any]]] = Field(default_factory=list, repr=False)
    lock: Any = Field(default_factory=threading.Lock, exclude=True, repr=False)

    def __init__(self, *script: Any, **fields: Any) -> None:
        super().__init__(**({"script": list(script)} if script else {}), **fields)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "temperature": self.temperature}

    @property
    def calls(self) -> int:
        return len(self.asked)

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> Any:
        return {**super()._get_ls_params(stop=stop, **kwargs), "ls_provider": self.provider}

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self.bind(tools=[getattr(tool, "name", None) or tool.__name__ for tool in tools], **kwargs)

    def _line(self, messages: list[BaseMessage], kwargs: dict[str, Any]) -> Any:
        with self.lock:
            line = self.script[min(len(self.asked), len(self.script) - 1)]
            self.asked.append((messages, kwargs))
        return line(messages) if callable(line) else line

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        return _result(self._line(messages, kwargs))

    async def _agenerate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        line = self._line(messages, kwargs)
        await _hang(line)
        return _result(line)

    def _stream(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> Iterator[Any]:
        for piece in _pieces(self._line(messages, kwargs)):
            yield _told(piece, run_manager)

    async def _astream(
        self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        for piece in _pieces(self._line(messages, kwargs)):
            await _hang(piece)
            generation = ChatGenerationChunk(message=_raised(piece))
            if run_manager is not None:
                await run_manager.on_llm_new_token(generation.text, chunk=generation)
            yield generation


async def _hang(line: Any) -> None:
    if isinstance(line, Hang):
        line.reached.set()
        await asyncio.Event().wait()


def _raised(line: Any) -> Any:
    if isinstance(line, BaseException):
        raise line
    return line


def _told(piece: Any, run_manager: Any) -> ChatGenerationChunk:
    generation = ChatGenerationChunk(message=_raised(piece))
    if run_manager is not None:
        run_manager.on_llm_new_token(generation.text, chunk=generation)
    return generation


def _result(line: Any) -> ChatResult:
    if isinstance(line, list):
        first, *rest = [_raised(piece) for piece in line]
        for piece in rest:
            first += piece
        fields = {"content", "additional_kwargs", "response_metadata", "usage_metadata", "tool_calls"}
        line = AIMessage(**first.model_dump(include=fields))
    message = answer(line) if isinstance(line, str) else _raised(line).model_copy()  # LangChain writes an id into it
    return ChatResult(generations=[ChatGeneration(message=message)])


def _pieces(line: Any) -> list[Any]:
    """The chunks of a line: a text word by word, then one with usage and finish reason."""
    if isinstance(line, list):
        return line
    if isinstance(line, BaseException | Hang):
        return [line]
    message = answer(line) if isinstance(line, str) else line
    words = message.text.split(" ")
    pieces = [AIMessageChunk(word if index == 0 else f" {word}") for index, word in enumerate(words)]
    last = AIMessageChunk(
        "",
        additional_kwargs=message.additional_kwargs,
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        tool_call_chunks=[
            {"name": c["name"], "args": _json(c["args"]), "id": c["id"], "index": i, "type": "tool_call_chunk"}
            for i, c in enumerate(message.tool_calls)
        ],
    )
    return [*pieces, last]


def _json(arguments: dict[str, Any]) -> str:
    import json

    return json.dumps(arguments)
