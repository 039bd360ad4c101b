"""What happened, and the bus that tells whoever listens."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from langchain_llmops.core.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_llmops.core.types import CallRecord, ErrorKind, Identity

__all__ = [
    "Bus",
    "CacheLooked",
    "CallFinished",
    "CheckpointsStored",
    "ConversationArchived",
    "ConversationGrown",
    "Event",
    "FellBack",
    "Retried",
    "Routed",
]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """Base of all facts on the bus."""


@dataclass(frozen=True, slots=True)
class CallFinished(Event):
    """A model call, tool call or turn ended, well or badly."""

    record: CallRecord


@dataclass(frozen=True, slots=True)
class CacheLooked(Event):
    """A cache was asked: `outcome` is `hit`, `miss`, `bypass` or `error`; `level` is set on a hit or an error."""

    outcome: str
    level: str | None = None
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Routed(Event):
    """The router chose a route, for the reasons given."""

    route: str
    model: str
    reasons: tuple[str, ...]
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class Retried(Event):
    """A rung is asked again after a retryable error; `wait_s` is the pause before it."""

    model: str
    error_kind: ErrorKind
    attempt: int
    wait_s: float
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class FellBack(Event):
    """A chain moved on to its next rung."""

    from_model: str
    to_model: str
    error_kind: ErrorKind
    identity: Identity | None = None


@dataclass(frozen=True, slots=True)
class CheckpointsStored(Event):
    """A commit of the checkpointer: how many writes it stored, how long it took, and the conversations' bytes after it.

    Of writes that Redis acknowledges, the sizes are told when they reach the warm tier.
    """

    writes: int
    seconds: float
    sizes: tuple[int, ...]
    tenant: str


@dataclass(frozen=True, slots=True)
class ConversationArchived(Event):
    """A conversation became cold, in objects of so many bytes."""

    size_bytes: int
    tenant: str


@dataclass(frozen=True, slots=True)
class ConversationGrown(Event):
    """A warning: the stored bytes of a conversation have passed `warn_bytes`; told once by a process."""

    thread_id: str
    size_bytes: int
    limit_bytes: int
    tenant: str


class Bus:
    """Tells every subscriber, in order of subscription, on the caller's thread.

    A subscriber that raises never hurts the call: it is counted in `failures` by name and logged once.
    """

    def __init__(self) -> None:
        self._subscribers: tuple[Callable[[Event], None], ...] = ()
        self.failures: Counter[str] = Counter()

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Add a reader; the returned function removes it."""
        self._subscribers = (*self._subscribers, subscriber)

        def unsubscribe() -> None:
            self._subscribers = tuple(s for s in self._subscribers if s is not subscriber)

        return unsubscribe

    def publish(self, event: Event) -> None:
        """Tell every reader."""
        for subscriber in self._subscribers:
            try:
                subscriber(event)
            except Exception as error:  # noqa: BLE001 - an observer must not break the observed call
                self._count(subscriber, error)

    def _count(self, subscriber: Callable[[Event], None], error: Exception) -> None:
        name = getattr(subscriber, "__qualname__", type(subscriber).__qualname__)
        self.failures[name] += 1
        if self.failures[name] == 1:
            what = redact(" ".join(f"{type(error).__name__}: {error}".split()))
            _log.error("a reader of events failed and is only counted from now on: %s (%s)", name, what)
