"""What a checkpointer tells of its commits, after its callers had their answers: events, and a warning of growth."""

from __future__ import annotations

import logging
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from langchain_llmops.checkpoint.apply import size_of
from langchain_llmops.checkpoint.names import shown
from langchain_llmops.checkpoint.schema import Status
from langchain_llmops.core.errors import EnvelopeError
from langchain_llmops.core.events import CheckpointsStored, ConversationArchived, ConversationGrown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from langchain_llmops.checkpoint.names import Place
    from langchain_llmops.checkpoint.options import Options
    from langchain_llmops.checkpoint.schema import Applied, Group

__all__ = ["Observer"]

_log = logging.getLogger(__name__)

MAX_WARNED: Final = 10_000


class Observer:
    """Publishes what the committer, the settling of journals and the mover did.

    Args:
        options: who listens (`bus`), and from how many stored bytes a conversation is warned of, once (`warn_bytes`).
        place_of: where a thread's digest and sealed label come from.
    """

    def __init__(self, options: Options, place_of: Callable[[bytes, bytes], Place]) -> None:
        self._bus = options.bus
        self._warn_bytes = options.warn_bytes
        self._tenant = options.tenant
        self._place_of = place_of
        self.moves = 0
        self._warned: OrderedDict[bytes, None] = OrderedDict()

    def committed(self, groups: Sequence[Group], outcomes: Sequence[Applied], writes: int, seconds: float) -> None:
        """A transaction stored groups of different threads, which came of so many writes."""
        stored = [pair for pair in zip(groups, outcomes, strict=True) if pair[1].status is Status.DONE]
        if self._bus is not None:
            sizes = tuple(applied.size for _, applied in stored if applied.size)
            self._bus.publish(CheckpointsStored(writes, seconds, sizes, self._tenant))
        if self._warn_bytes is not None:
            for group, applied in stored:
                if applied.size > self._warn_bytes >= applied.size - size_of(group):
                    self._warn(group, applied.size, self._warn_bytes)

    def settled(self, groups: Sequence[Group], outcomes: Sequence[Applied]) -> None:
        """Groups that Redis had acknowledged are in the warm tier."""
        self.committed(groups, outcomes, 0, 0.0)

    def archived(self, size: int) -> None:
        """A conversation became cold, in objects of so many bytes; of 0 if those it had before are still right."""
        self.moves += 1
        if self._bus is not None and size:
            self._bus.publish(ConversationArchived(size, self._tenant))

    def _warn(self, group: Group, size: int, limit: int) -> None:
        if group.thread in self._warned:
            return
        self._warned[group.thread] = None
        while len(self._warned) > MAX_WARNED:
            self._warned.popitem(last=False)
        name = self._name(group)
        _log.warning("conversation %s has grown to %d bytes, more than warn_bytes (%d)", shown(name), size, limit)
        if self._bus is not None:
            self._bus.publish(ConversationGrown(name, size, limit, self._tenant))

    def _name(self, group: Group) -> str:
        try:
            return self._place_of(group.thread, group.label).thread_id
        except EnvelopeError:  # its key was destroyed between the commit and here
            return group.thread.hex()
