"""`TieredCheckpointSaver`'s own calls: where conversations live, and for how long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from langchain_llmops.checkpoint.engine import Engine
    from langchain_llmops.checkpoint.mover import Swept

__all__ = ["TierMethods"]


class TierMethods:
    """Each in both colours, like the rest."""

    _engine: Engine
    _now: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Any]
    _later: Callable[[Callable[[], Coroutine[Any, Any, Any]]], Coroutine[Any, Any, Any]]

    def archive(self, thread_id: str) -> bool:
        """Move a thread to the cold tier; False if there is none, it is pinned or cold, or was written meanwhile."""
        return bool(self._now(lambda: self._engine.archive_thread(thread_id)))

    async def aarchive(self, thread_id: str) -> bool:
        """The same; see `archive`."""
        return bool(await self._later(lambda: self._engine.archive_thread(thread_id)))

    def archive_idle(self, older_than_s: float) -> int:
        """Archive the threads that nobody has used for so long; how many that made cold.

        One that fails stops no other; the first failure is raised after the last thread.
        """
        return int(self._now(lambda: self._engine.archive_idle(older_than_s)))

    async def aarchive_idle(self, older_than_s: float) -> int:
        """The same; see `archive_idle`."""
        return int(await self._later(lambda: self._engine.archive_idle(older_than_s)))

    def restore(self, thread_id: str) -> bool:
        """Bring all of a thread back to the warm tier; False if nothing of it is cold."""
        return bool(self._now(lambda: self._engine.restore_thread(thread_id)))

    async def arestore(self, thread_id: str) -> bool:
        """Bring all of a thread back to the warm tier; False if nothing of it is cold."""
        return bool(await self._later(lambda: self._engine.restore_thread(thread_id)))

    def pin(self, thread_id: str, for_s: float) -> bool:
        """Keep a thread out of the cold tier for so many seconds (0 ends it); False if there is no such thread."""
        return bool(self._now(lambda: self._engine.upkeep.pin(self._engine.place(thread_id), for_s)))

    async def apin(self, thread_id: str, for_s: float) -> bool:
        """The same; see `pin`."""
        return bool(await self._later(lambda: self._engine.upkeep.pin(self._engine.place(thread_id), for_s)))

    def sweep(self) -> Swept:
        """One pass of what the background thread does: archive, retention, and the end of what crashes left."""
        swept: Swept = self._now(self._engine.mover.sweep)
        return swept

    async def asweep(self) -> Swept:
        """The same; see `sweep`."""
        swept: Swept = await self._later(self._engine.mover.sweep)
        return swept
