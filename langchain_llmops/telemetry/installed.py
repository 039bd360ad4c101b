"""A handler in every LangChain run, with no word of it in the user's code."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from langchain_core.tracers.context import _configure_hooks, register_configure_hook, tracing_v2_callback_var

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.tracers import LangChainTracer

__all__ = ["Installation"]

_log = logging.getLogger(__name__)

EVERYWHERE: Final = "llmops_installed"


class Installation:
    """Puts one handler into the runs of the process, or of a block. A run that has the handler already gets no second.

    LangChain's own context managers leave a hook behind at each use, and every later run walks them all (langchain
    #32300); here a hook goes when its block or its installation ends.

    Args:
        tracer: what takes the place of LangChain's own LangSmith tracer while tracing is on, in the context that
            installs, its tasks, and LangChain's own threads (bare threads keep LangChain's); None when it is off.
    """

    def __init__(
        self, handler: BaseCallbackHandler, tracer: Callable[[], LangChainTracer | None] | None = None
    ) -> None:
        self._handler = handler
        self._tracer = tracer or (lambda: None)
        self._lock = threading.Lock()
        self._everywhere: tuple[Any, ...] | None = None
        self._block: ContextVar[BaseCallbackHandler | None] = ContextVar("llmops_block", default=None)
        self._block_hook: tuple[Any, ...] | None = None
        self._blocks = 0

    def install(self) -> None:
        """Into every run, in tasks and bare threads too; a second time changes nothing."""
        with self._lock:
            if self._everywhere is None:
                if any(hook[0].name == EVERYWHERE for hook in _configure_hooks):
                    _log.warning("another LLMOps observes this process already: every call is recorded by both")
                # the default of a context variable is seen in every context, also in those that exist already
                self._everywhere = _hook(ContextVar(EVERYWHERE, default=self._handler))
                tracing_v2_callback_var.set(self._tracer())

    def uninstall(self) -> None:
        """Undo `install()`; open blocks go on."""
        with self._lock:
            hook, self._everywhere = self._everywhere, None
            if hook is not None:
                _configure_hooks.remove(hook)
                tracing_v2_callback_var.set(None)

    @contextmanager
    def block(self) -> Iterator[None]:
        """Into the runs that start within a `with` block, and in tasks made there."""
        with self._lock:
            self._blocks += 1
            if self._block_hook is None:
                self._block_hook = _hook(self._block)
        token, tracing = self._block.set(self._handler), tracing_v2_callback_var.set(self._tracer())
        try:
            yield
        finally:
            tracing_v2_callback_var.reset(tracing)
            self._block.reset(token)
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self._blocks -= 1
            if not self._blocks and self._block_hook is not None:
                _configure_hooks.remove(self._block_hook)
                self._block_hook = None


def _hook(variable: ContextVar[Any]) -> tuple[Any, ...]:
    register_configure_hook(variable, inheritable=True)
    return _configure_hooks[-1]
