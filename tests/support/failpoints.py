"""Places at which a process ends itself: before or after its n-th operation of a kind, in a phase of its script.

The capabilities of every store that the process opens are wrapped; the product's code is as it is. A kind is a
capability and its operation, of statements the verb and the table: `objects put`, `sql commit`, `sql insert llmops_x`.
"""

from __future__ import annotations

import inspect
import re
import signal
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

from langchain_llmops.stores import open as opening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

__all__ = ["ANY", "SIDES", "Failpoint", "Failpoints"]

SIDES = ("before", "after")
ANY = "sql *"
CAPABILITIES = ("kv", "maps", "sql", "objects")
VERB = re.compile(r"\b(select|insert|update|delete|create|alter|drop)\b", re.IGNORECASE)
TABLE = re.compile(r"\b(?:into|update|from|table|exists)\s+(llmops_\w+)", re.IGNORECASE)


class Failpoint(NamedTuple):
    """The n-th operation of a kind (or of any statement or transaction, `sql *`) in a phase, counted from 1."""

    phase: str
    kind: str
    side: str
    nth: int = 1


class Failpoints:
    """Counts the operations of this process's stores by phase and kind, and ends the process at one of them.

    Args:
        point: where; nowhere without.
        how: the signal that the process sends itself.
    """

    def __init__(self, point: Failpoint | None = None, how: signal.Signals = signal.SIGKILL) -> None:
        self.phase = ""
        self.seen: Counter[tuple[str, str]] = Counter()
        self._point = point
        self._how = how
        self._lock = threading.Lock()

    def install(self) -> None:
        """Wrap every store that is opened from now on."""
        opened = opening.open_url

        def open_url(url: str, **options: Any) -> Any:
            return self.wrapped(opened(url, **options))

        opening.open_url = open_url

    def wrapped(self, store: Any) -> Any:
        for name in CAPABILITIES:
            capability = getattr(store, f"_{name}", None)
            if capability is not None:
                self._wrap(capability, name)
        return store

    def _wrap(self, capability: Any, name: str) -> None:
        for operation in dir(capability):
            act = getattr(capability, operation)
            if not operation.startswith("_") and inspect.isroutine(act) and operation != "aclose":
                setattr(capability, operation, self._around(name, operation, act))

    def _around(self, name: str, operation: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = act(*args, **kwargs)
            if inspect.iscoroutine(result):
                return self._awaited(kind_of(name, operation, args), result)
            if inspect.isasyncgen(result):
                return self._listed(f"{name} {operation}", result)
            if hasattr(result, "__aenter__"):
                return _Block(self, name, result)
            return result

        return call

    async def _awaited(self, kind: str, operation: Coroutine[Any, Any, Any]) -> Any:
        numbers = self.before(kind)
        result = await operation
        self.after(kind, numbers)
        return result

    async def _listed(self, kind: str, found: AsyncIterator[Any]) -> AsyncIterator[Any]:
        numbers = self.before(kind)
        async for one in found:
            yield one
        self.after(kind, numbers)

    def before(self, kind: str) -> tuple[int, ...]:
        """Called before an operation; its number among those of its kind, and among all of the database."""
        with self._lock:
            keys = [(self.phase, kind), (self.phase, ANY if kind.startswith("sql ") else "")]
            self.seen.update(keys)
            numbers = tuple(self.seen[key] for key in keys)
        self._maybe_end(kind, SIDES[0], numbers)
        return numbers

    def after(self, kind: str, numbers: tuple[int, ...]) -> None:
        """Called after it."""
        self._maybe_end(kind, SIDES[1], numbers)

    def _maybe_end(self, kind: str, side: str, numbers: tuple[int, ...]) -> None:
        names = (kind, ANY if kind.startswith("sql ") else "")
        here = [(self.phase, name, side, nth) for name, nth in zip(names, numbers, strict=True)]
        if self._point in here:
            # to this very thread, which then does nothing more; to the process, it may for a moment
            signal.pthread_kill(threading.get_ident(), self._how)


class _Block:
    """A transaction, from its begin to its commit or rollback."""

    def __init__(self, points: Failpoints, name: str, block: Any) -> None:
        self._points = points
        self._name = name
        self._block = block

    async def __aenter__(self) -> Any:
        numbers = self._points.before(f"{self._name} begin")
        inner = await self._block.__aenter__()
        self._points.after(f"{self._name} begin", numbers)
        self._points._wrap(inner, self._name)
        return inner

    async def __aexit__(self, *raised: object) -> Any:
        end = f"{self._name} {'rollback' if any(raised) else 'commit'}"
        numbers = self._points.before(end)
        result = await self._block.__aexit__(*raised)
        self._points.after(end, numbers)
        return result


def kind_of(name: str, operation: str, args: tuple[Any, ...]) -> str:
    """A statement by its verb and table, any other operation by its name."""
    statement = args[0] if name == "sql" and args and isinstance(args[0], str) else ""
    verb, table = VERB.search(statement), TABLE.search(statement)
    if statement and verb is not None:
        return f"sql {verb[1].lower()} {table[1] if table is not None else operation}"
    return f"{name} {operation}"
