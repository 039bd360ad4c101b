"""What a user says of what was done, and reads of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.concurrency import DOOR, run_sync
from langchain_llmops.ledger.queries import Figures
from langchain_llmops.ledger.report import Report

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prometheus_client import CollectorRegistry

    from langchain_llmops.cache.tiered import TieredCache
    from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
    from langchain_llmops.core.events import Bus
    from langchain_llmops.core.pricing import PriceBook
    from langchain_llmops.core.settings import Settings
    from langchain_llmops.ledger.writer import Ledger
    from langchain_llmops.observing import Observers
    from langchain_llmops.telemetry.scoreboard import Scoreboard

__all__ = ["Reporting"]

GOOD: Final = 0.5


class Reporting:
    """The part of `LLMOps` that looks back; parts that were never used are no part of a report."""

    settings: Settings
    bus: Bus
    prices: PriceBook
    started_at: float
    _observers: Observers
    _baseline: tuple[str | None, str | None]

    @property
    def registry(self) -> CollectorRegistry:
        """The Prometheus registry with the suite's series."""
        return self._observers.metrics.registry

    @property
    def ledger(self) -> Ledger:
        """The durable record of calls."""
        return self._observers.ledger

    @property
    def scoreboard(self) -> Scoreboard:
        """Live latency, cost and error rate of every model, tool and turn, in this process."""
        return self._observers.scoreboard

    def feedback(self, run_id: str, score: float, *, key: str = "user_score", comment: str | None = None) -> None:
        """What somebody thought of an answer: into the ledger, and to LangSmith.

        `run_id` may be a run's, trace's or request's id (`config["metadata"]["request_id"]`), or an answer's `.id`.
        """
        self._judge(run_id, score)
        run_sync(self._observers.feedback(run_id, score, key, comment))

    async def afeedback(
        self, run_id: str, score: float, *, key: str = "user_score", comment: str | None = None
    ) -> None:
        """The same for async callers."""
        self._judge(run_id, score)
        await DOOR.cross(self._observers.feedback(run_id, score, key, comment))

    def outcome(self, session_id: str, ok: bool, *, comment: str | None = None) -> None:  # noqa: FBT001 - reads well at the call
        """Whether a conversation reached what it was for, as the application knows it; the latest word counts."""
        run_sync(self.ledger.aoutcome(session_id, ok, comment=comment))

    async def aoutcome(self, session_id: str, ok: bool, *, comment: str | None = None) -> None:  # noqa: FBT001 - reads well at the call
        """The same for async callers."""
        await DOOR.cross(self.ledger.aoutcome(session_id, ok, comment=comment))

    def erase_user(self, user_id: str) -> dict[str, Any]:
        """Remove a user of this tenant from the ledger; rows removed by table."""
        return self.ledger.erase_user(user_id, self.settings.tenant)

    async def aerase_user(self, user_id: str) -> dict[str, Any]:
        """The same for async callers."""
        return await self.ledger.aerase_user(user_id, self.settings.tenant)

    def share_link(self, run_id: str) -> str:
        """A public address of a run's trace in LangSmith."""
        return run_sync(self._observers.share_link(run_id))

    async def ashare_link(self, run_id: str) -> str:
        """The same for async callers."""
        return await DOOR.cross(self._observers.share_link(run_id))

    def report(self, since: float | None = None, *, extra: Mapping[str, Any] | None = None) -> Report:
        """What happened since this object was made (or since Unix time `since`), read from the ledger."""
        return run_sync(self._report(since, extra))

    async def areport(self, since: float | None = None, *, extra: Mapping[str, Any] | None = None) -> Report:
        """What happened since this object was made (or since Unix time `since`), read from the ledger."""
        return await DOOR.cross(self._report(since, extra))

    def _judge(self, run_id: str, score: float) -> None:
        """A word on an answer that was another question's is a word on that likeness too."""
        cache: TieredCache | None = self.__dict__.get("cache")
        if cache is not None:
            cache.judge(run_id, right=score >= GOOD)

    async def _report(self, since: float | None, extra: Mapping[str, Any] | None) -> Report:
        await self.ledger.aflush()
        start = self.started_at if since is None else since
        model, provider = self._baseline
        figures = Figures(
            await self.ledger.sql(),
            self.prices,
            since=start,
            baseline_model=model,
            baseline_provider=provider,
            tenant=self.settings.tenant,
        )
        collected = await figures.collect()
        collected["cache"] |= {"in_use": "cache" in self.__dict__, "process": dict(self._observers.cache_stats())}
        checkpointer: TieredCheckpointSaver | None = self.__dict__.get("checkpointer")
        if checkpointer is not None:
            stats = await checkpointer.astats()
            collected["checkpoints"] = {"count": stats.checkpoints, "bytes": stats.bytes_by_tier}
        collected["ledger"] = {"dropped": self.ledger.dropped, "reader_failures": dict(self.bus.failures)}
        return Report({**collected, **(extra or {})})
