"""Failures that would come again: what was too long for a model a moment ago still is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.classify import classify
from langchain_llmops.core.types import ErrorKind

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Refusals"]

REMEMBERED: Final = 1024
PLAIN: Final = (str, int, float, type(None))


class Refusals:
    """Requests of this process that a provider refused as too long, each for `seconds`."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[float, type[Exception], dict[str, Any]]] = OrderedDict()

    def remember(self, key: str, error: Exception) -> bool:
        """Keep a failure if it would come again; whether it would."""
        if classify(error).kind is not ErrorKind.CONTEXT_OVERFLOW:
            return False
        if self._seconds > 0:
            # neither the response nor the traceback, which hold the request that was so long
            told = {name: value for name, value in vars(error).items() if isinstance(value, PLAIN)}
            with self._lock:
                self._known[key] = (self._clock(), type(error), told)
                if len(self._known) > REMEMBERED:
                    self._known.popitem(last=False)
        return True

    def check(self, key: str) -> None:
        """Raises the failure of a moment ago, as an error of the same class."""
        known = self._known.get(key)
        if known is None:
            return
        at, kind, told = known
        ago_s = self._clock() - at
        if not 0 <= ago_s < self._seconds:
            with self._lock:
                self._known.pop(key, None)
            return
        text = f"this request was too long for the model {ago_s:.0f} s ago, and was not sent again"
        error = kind.__new__(kind, text)  # providers' classes want a response to be made of
        error.args = (text,)
        vars(error).update(told)
        if "message" in told:
            vars(error)["message"] = text
        raise error
