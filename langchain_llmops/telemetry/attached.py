"""A model, chain or graph that exists, with handlers in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import CallbackManager
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import Runnable

if TYPE_CHECKING:
    from langchain_core.callbacks import BaseCallbackHandler

__all__ = ["attached"]


def attached(runnable: Runnable[Any, Any], handlers: list[BaseCallbackHandler]) -> Runnable[Any, Any]:
    """The runnable with the handlers; one that a run has already is not there twice.

    A chat model is copied with them in it, so that they stay when tools or a schema are bound.
    """
    if not isinstance(runnable, Runnable):
        raise TypeError(f"attach() takes a model, a chain or a graph, not {type(runnable).__name__}")
    if isinstance(runnable, BaseChatModel):
        own = runnable.callbacks
        present = own if isinstance(own, list) else own.handlers if own is not None else []
        added = [handler for handler in handlers if handler not in present]
        return runnable.model_copy(update={"callbacks": [*present, *added]})
    return runnable.with_config(callbacks=CallbackManager(handlers=handlers, inheritable_handlers=handlers))
