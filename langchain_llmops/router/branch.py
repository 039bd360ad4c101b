"""A `RunnableBranch` whose conditions and arms look at one decision, made once per input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableBranch
from pydantic import PrivateAttr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextvars import ContextVar

    from langchain_core.runnables import RunnableConfig

__all__ = ["DecidedBranch"]


class DecidedBranch(RunnableBranch[Any, Any]):
    """Calls `decide(input)` before the branch begins; its conditions and arms read the result from `decided`.

    The decision travels in a context variable, which LangChain carries into the threads and tasks that conditions and
    arms run in, so the input itself stays as it came.
    """

    _decide: Callable[[Any], Any] = PrivateAttr()
    _decided: ContextVar[Any] = PrivateAttr()

    def __init__(self, *branches: Any, decide: Callable[[Any], Any], decided: ContextVar[Any]) -> None:
        super().__init__(*branches)
        self._decide = decide
        self._decided = decided

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Decide, then ask the arm."""
        self._decided.set(self._decide(input))
        return super().invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Decide, then ask the arm."""
        self._decided.set(self._decide(input))
        return await super().ainvoke(input, config, **kwargs)

    def stream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Decide, then stream the arm."""
        self._decided.set(self._decide(input))
        yield from super().stream(input, config, **kwargs)

    async def astream(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """Decide, then stream the arm."""
        self._decided.set(self._decide(input))
        async for chunk in super().astream(input, config, **kwargs):
            yield chunk
