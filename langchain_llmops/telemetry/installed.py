"""A handler in every LangChain run, with no word of it in the user's code."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from langchain_core.tracers.context import _configure_hooks, register_configure_hook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.callbacks import BaseCallbackHandler

__all__ = ["Installation"]


class Installation:
    """Puts one handler into the runs of the process, or of a block. A run that has the handler already gets no second.

    LangChain's own context managers leave a hook behind at each use, and every later run walks them all (langchain
    #32300); here a hook goes when its block or its installation ends.
    """

    def __init__(self, handler: BaseCallbackHandler) -> None:
        self._handler = handler
        self._lock = threading.Lock()
        self._everywhere: tuple[Any, ...] | None = None
        self._block: ContextVar[BaseCallbackHandler | None] = ContextVar("llmops_block", default=None)
        self._block_hook: tuple[Any, ...] | None = None
        self._blocks = 0

    def install(self) -> None:
        """Into every run, in tasks and bare threads too; a second time changes nothing."""
        with self._lock:
            if self._everywhere is None:
                # the default of a context variable is seen in every context, also in those that exist already
                self._everywhere = _hook(ContextVar("llmops_installed", default=self._handler))

    def uninstall(self) -> None:
        """Undo `install()`; open blocks go on."""
        with self._lock:
            hook, self._everywhere = self._everywhere, None
            if hook is not None:
                _configure_hooks.remove(hook)

    @contextmanager
    def block(self) -> Iterator[None]:
        """Into the runs that start within a `with` block, and in tasks made there."""
        with self._lock:
            self._blocks += 1
            if self._block_hook is None:
                self._block_hook = _hook(self._block)
        token = self._block.set(self._handler)
        try:
            yield
        finally:
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
