"""A handler in every LangChain run, with no word of it in the user's code."""

from __future__ import annotations

import logging
import threading
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.tracers import context as langchain_context
from langchain_core.tracers.context import _configure_hooks, register_configure_hook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import Token

    from langchain_core.tracers import LangChainTracer

__all__ = ["Installation"]

_log = logging.getLogger(__name__)

EVERYWHERE: Final = "llmops_installed"
NOBODY: Final = BaseCallbackHandler()

_process: Final = threading.Lock()  # LangChain's hooks and its variable belong to the process


class Installation:
    """Puts one handler into the runs of the process, or of a block. A run that has the handler already gets no second.

    LangChain's own context managers leave a hook behind at each use, and every later run walks them all (langchain
    #32300); here a hook goes when its block or its installation ends.

    Args:
        tracer: asked at each run for what takes the place of LangChain's own LangSmith tracer; None when tracing is
            off. A tracer that the user set with `tracing_v2_enabled()` stays in effect.
    """

    def __init__(
        self, handler: BaseCallbackHandler, tracer: Callable[[], LangChainTracer | None] | None = None
    ) -> None:
        self._tracer = tracer or (lambda: None)
        # the default of a context variable is seen in every context, also in those that exist already
        self._everywhere = _Hook(ContextVar(EVERYWHERE, default=handler), handler, self._tracer)
        self._blocks = _Blocks(handler)
        self._in_blocks = _Hook(self._blocks, handler, self._tracer, narrow=True)
        self._installed = False
        self._open = 0

    def install(self) -> None:
        """Into every run, in tasks and bare threads too; a second time changes nothing."""
        self._tracer()  # what is wrong with its settings shows here, and in no call of the user's
        with _process:
            if not self._installed:
                if any(hook[0].name == EVERYWHERE for hook in _configure_hooks):
                    _log.warning("another LLMOps observes this process already: every call is recorded by both")
                self._installed = True
                self._everywhere.put()

    def uninstall(self) -> None:
        """Undo `install()`; open blocks go on."""
        with _process:
            if self._installed:
                self._installed = False
                self._everywhere.take()

    @contextmanager
    def block(self) -> Iterator[None]:
        """Into the runs that start within a `with` block, and in tasks made there, until it is left.

        It may be left in another context than it was entered in, as fixtures and generators do.
        """
        self._tracer()
        with _process:
            self._open += 1
            if self._open == 1:
                self._in_blocks.put()
        block = self._blocks.enter()
        try:
            yield
        finally:
            self._blocks.leave(block)
            with _process:
                self._open -= 1
                if not self._open:
                    self._in_blocks.take()


class _Variable(Protocol):
    """What LangChain asks of a context variable."""

    @property
    def name(self) -> str: ...

    def get(self) -> BaseCallbackHandler | None: ...


class _Hook:
    """A handler and its tracer where `variable` gives the handler; `narrow` ones go before the others."""

    def __init__(
        self,
        variable: _Variable,
        handler: BaseCallbackHandler,
        tracer: Callable[[], LangChainTracer | None],
        *,
        narrow: bool = False,
    ) -> None:
        self._variable: Any = variable
        self._handler = handler
        self._tracer = tracer
        self.narrow = narrow
        self._tracers: _TracerVariable | None = None

    def put(self) -> None:
        """Into what LangChain asks at each run."""
        register_configure_hook(self._variable, inheritable=True)
        self._tracers = _TracerVariable.of_process()
        self._tracers.put(self)

    def take(self) -> None:
        """Out of it again."""
        _configure_hooks[:] = [hook for hook in _configure_hooks if hook[0] is not self._variable]
        if self._tracers is not None:
            self._tracers.take(self)

    def tracer(self) -> LangChainTracer | None:
        """The tracer, where the handler is."""
        return self._tracer() if self._variable.get() is self._handler else None


class _TracerVariable:
    """Stands before LangChain's variable of the tracer while something is installed, and keeps nothing itself.

    LangChain makes a tracer of its own where its variable has none. A value set in that variable is seen in one context
    and the tasks made there: neither in bare threads nor in the requests of a server that started before.
    """

    def __init__(self, own: ContextVar[LangChainTracer | None]) -> None:
        self._own = own
        self._hooks: tuple[_Hook, ...] = ()
        self.name = own.name

    @classmethod
    def of_process(cls) -> _TracerVariable:
        """The one that LangChain asks now; a new one when it asks its own."""
        asked: Any = langchain_context.tracing_v2_callback_var
        if isinstance(asked, cls):
            return asked
        before = cls(asked)
        langchain_context.tracing_v2_callback_var = before  # type: ignore[assignment] # LangChain asks it for no more than `get`, `set` and `reset`
        return before

    def put(self, hook: _Hook) -> None:
        """The newest is asked first."""
        self._hooks = tuple(sorted((hook, *self._hooks), key=lambda one: not one.narrow))

    def take(self, hook: _Hook) -> None:
        """With the last one, LangChain's own variable is back."""
        self._hooks = tuple(one for one in self._hooks if one is not hook)
        asked: Any = langchain_context.tracing_v2_callback_var
        if not self._hooks and asked is self:
            langchain_context.tracing_v2_callback_var = self._own

    def get(self, default: LangChainTracer | None = None) -> LangChainTracer | None:
        """The user's own tracer, else ours."""
        tracer = self._own.get(default)
        for hook in self._hooks if tracer is None else ():
            tracer = hook.tracer()
            if tracer is not None:
                break
        return tracer

    def set(self, tracer: LangChainTracer | None) -> Token[LangChainTracer | None]:
        """As LangChain's own."""
        return self._own.set(tracer)

    def reset(self, token: Token[LangChainTracer | None]) -> None:
        """As LangChain's own."""
        self._own.reset(token)


@dataclass(eq=False)
class _Block:
    outer: _Block | None
    open: bool = True

    @property
    def lives(self) -> bool:
        return self.open or (self.outer is not None and self.outer.lives)


class _Blocks:
    """The handler in an open block and in the contexts copied there, asked as a context variable is."""

    name: Final = "llmops_blocks"

    def __init__(self, handler: BaseCallbackHandler) -> None:
        self._handler = handler
        self._innermost: ContextVar[_Block | None] = ContextVar("llmops_block", default=None)

    def get(self) -> BaseCallbackHandler | None:
        """The handler, in an open block; nobody, in one that was left; None, in a context without any.

        LangChain asks twice and fails when only the second answer is None, and another thread may leave a block.
        """
        block = self._innermost.get()
        if block is None:
            return None
        return self._handler if block.lives else NOBODY

    def enter(self) -> _Block:
        """A block within the one that lives here."""
        outer = self._innermost.get()
        block = _Block(outer if outer is not None and outer.lives else None)
        self._innermost.set(block)
        return block

    def leave(self, block: _Block) -> None:
        """In whatever context."""
        block.open = False
        if self._innermost.get() is block:
            self._innermost.set(block.outer)
