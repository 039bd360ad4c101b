"""What the checkpointer tells on the bus, as Prometheus series. No label ever names a user or a session."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Histogram

from langchain_llmops.core.events import CheckpointsStored, ConversationArchived, ConversationGrown, Event

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["ConversationMetrics"]

SECONDS: Final = tuple(0.001 * 2**power for power in range(14))
WRITES: Final = tuple(2**power for power in range(9))
BYTES: Final = tuple(1024 * 4**power for power in range(10))


class ConversationMetrics:
    """Commits and their sizes, and bytes of conversations when they are written and when they become cold.

    Args:
        registry: where the series live; one reader per registry.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def histogram(name: str, documentation: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"llmops_{name}", documentation, labels, buckets=buckets, registry=registry)

        self._seconds = histogram("checkpoint_commit_seconds", "Duration of commits of checkpoints.", SECONDS)
        self._writes = histogram("checkpoint_commit_writes", "Writes that shared a commit.", WRITES)
        sizes = histogram("conversation_bytes", "Bytes of a conversation, at each of its writes.", BYTES, "tier")
        self._warm, self._cold = sizes.labels("warm"), sizes.labels("cold")
        grown = "Conversations that have passed LLMOPS_CHECKPOINT_WARN_BYTES."
        self._grown = Counter("llmops_conversations_grown", grown, registry=registry)

    def __call__(self, event: Event) -> None:
        """Take one event."""
        match event:
            case CheckpointsStored(writes, seconds, sizes):
                if writes:
                    self._seconds.observe(seconds)
                    self._writes.observe(writes)
                for size in sizes:
                    self._warm.observe(size)
            case ConversationArchived(size):
                self._cold.observe(size)
            case ConversationGrown():
                self._grown.inc()
            case _:
                pass
