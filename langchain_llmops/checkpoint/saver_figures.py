"""`TieredCheckpointSaver`'s own calls: what is stored where, and whether all of it can be read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from langchain_llmops.checkpoint.engine import Engine
    from langchain_llmops.checkpoint.figures import CheckpointStats, Explained, Verified

__all__ = ["FigureMethods"]


class FigureMethods:
    """Each in both colours, like the rest."""

    _engine: Engine
    _now: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]
    _later: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Coroutine[Any, Any, Any]]

    def stats(self) -> CheckpointStats:
        """How many conversations, checkpoints and bytes are in which tier."""
        stats: CheckpointStats = self._now(self._engine.figures.stats)
        return stats

    async def astats(self) -> CheckpointStats:
        """The same; see `stats`."""
        stats: CheckpointStats = await self._later(self._engine.figures.stats)
        return stats

    def explain(self, thread_id: str) -> Explained | None:
        """Where a conversation lives, and each of its warm checkpoints; None if there is none."""
        explained: Explained | None = self._now(lambda: self._explained(thread_id))
        return explained

    async def aexplain(self, thread_id: str) -> Explained | None:
        """The same; see `explain`."""
        explained: Explained | None = await self._later(lambda: self._explained(thread_id))
        return explained

    def verify(self, thread_id: str | None = None) -> Verified:
        """Read a conversation, or all of the tenant's, to the last byte in every tier, and say what cannot be read.

        Nothing is moved: what is cold is read in its archive.
        """
        verified: Verified = self._now(lambda: self._verified(thread_id))
        return verified

    async def averify(self, thread_id: str | None = None) -> Verified:
        """The same; see `verify`."""
        verified: Verified = await self._later(lambda: self._verified(thread_id))
        return verified

    def counts(self) -> dict[str, float]:
        """What this process did, and what is stored as of some seconds ago; for metrics, as it never waits."""
        engine = self._engine
        counts: dict[str, float] = {**engine.standing.now(), **engine.background.counts()}
        counts["mover:archived"] = engine.observer.moves
        counts["refused"] = engine.journaled.refused if engine.journaled is not None else 0
        if engine.hot is not None:
            counts |= {"hot:hit": engine.hot.hits, "hot:miss": engine.hot.misses, "hot:error": engine.hot.errors}
        return counts

    def _explained(self, thread_id: str) -> Coroutine[Any, Any, Explained | None]:
        return self._engine.figures.explain(self._engine.place(thread_id))

    def _verified(self, thread_id: str | None) -> Coroutine[Any, Any, Verified]:
        places = None if thread_id is None else [self._engine.place(thread_id)]
        return self._engine.figures.verify(places)
