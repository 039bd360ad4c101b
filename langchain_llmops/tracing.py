"""Our side of LangSmith: whether a run is traced, through which client, and what is told about it afterwards."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from collections import Counter
from functools import cached_property, partial
from typing import TYPE_CHECKING, Final, TypeVar
from urllib.parse import urlsplit

from langsmith import Client
from langsmith.utils import (
    LangSmithError,
    LangSmithNotFoundError,
    get_host_url,
    get_tracer_project,
    tracing_is_enabled,
)

from langchain_llmops.core.errors import ConfigurationError, LLMOpsError
from langchain_llmops.sending import BoundedLangSmithRetry, BoundedSession, Outbox
from langchain_llmops.telemetry.anonymize import Anonymizer
from langchain_llmops.telemetry.tracer import OpsTracer, RecentRecords

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from langchain_llmops.core.events import Bus
    from langchain_llmops.core.settings import Settings
    from langchain_llmops.telemetry.handler import OpsCallbackHandler

__all__ = ["Tracing"]

T = TypeVar("T")

LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))

TIMEOUT_MS: Final = (3_000, 5_000)  # to connect, and for an answer
FLUSH_S: Final = 3.0
PAUSES_S: Final = (0.1, 0.3, 0.6, 1.0, 2.0)
PATIENCE_S: Final = 4.0
SHARE_S: Final = 15.0
CLOSE_S, GRACE_S = 8.0, 2.0
MAX_WAITING: Final = 1000

UNKNOWN: Final = (
    "the ledger does not know {!r}: give the id of an answer (answer.id), or a run, trace or request id of this tenant"
    " that `llmops logs --json` lists"
)
FAILURES: Final = (LangSmithError, OSError, KeyError, ValueError)
# LangSmith's errors name the runs that were in what was sent
RUN: Final = re.compile(r"trace=[0-9a-f-]{36},id=([0-9a-f-]{36})")

_log = logging.getLogger(__name__)


class Tracing:
    """The tracer while `LANGSMITH_TRACING` is on, feedback and share links.

    LangSmith's own variables say where traces go (`LANGSMITH_ENDPOINT`, `LANGSMITH_API_KEY`, `LANGSMITH_PROJECT`).
    """

    def __init__(self, settings: Settings, handler: OpsCallbackHandler, bus: Bus) -> None:
        self._settings = settings
        self._handler = handler
        self._bus = bus
        self._session = BoundedSession()
        self._outbox = Outbox()
        self._lost = Counter(runs=0, feedback=0)
        self._told_lost = 0
        self._lock = threading.Lock()
        self._making = threading.RLock()

    def active(self) -> OpsTracer | None:
        """The tracer, one for all threads; None where tracing is off."""
        if not tracing_is_enabled():
            return None
        with self._making:
            return self.tracer

    @property
    def client(self) -> Client:
        """Our own client, one for all threads: it samples whole traces, and masks what it sends when told to."""
        with self._making:
            return self._client

    @cached_property
    def _client(self) -> Client:
        return Client(
            anonymizer=self._anonymizer if self._settings.trace_anonymize else None,
            tracing_sampling_rate=self._settings.trace_sample_rate,
            session=self._session,
            retry_config=BoundedLangSmithRetry.of(self._session),
            timeout_ms=TIMEOUT_MS,
            tracing_error_callback=self._lose_runs,
        )

    @cached_property
    def tracer(self) -> OpsTracer:
        """The tracer; it reads the records of model calls from the bus.

        A trace goes to the project of its parent, else of `langsmith.tracing_context(project_name=...)`, else of the
        `trace_project` setting, else of `LANGSMITH_PROJECT`, else to "default".
        """
        records = RecentRecords()
        self._bus.subscribe(records)
        retention = self._settings.trace_retention
        return OpsTracer(
            client=self.client,
            project_name=self._project,
            tags=[f"retention:{retention}"] if retention else [],
            handler=self._handler,
            records=records,
            mask=self._anonymizer if self._settings.trace_anonymize else None,
        )

    @property
    def losses(self) -> Mapping[str, int]:
        """How many `runs` and how much `feedback` LangSmith did not take; a run counts in every batch it was in."""
        return self._lost

    async def feedback(self, run_id: str, trace_id: str | None, key: str, score: float, comment: str | None) -> None:
        """Tell LangSmith too, and wait for it a moment; what it does not take is counted and logged.

        The ledger has the feedback already.
        """
        if not tracing_is_enabled():
            return
        if self._outbox.waiting >= MAX_WAITING:
            self._lose_feedback("too much waits already")
            return
        told = self._outbox.submit(partial(self._tell, run_id, trace_id, key, score, comment))
        await _moment(told, PATIENCE_S)

    async def share_link(self, run_id: str, trace_id: str | None) -> str:
        """Make a trace public and return its address; raises `LLMOpsError` when LangSmith does not.

        `trace_id` is None where the ledger does not know the run: then LangSmith may still know it.
        """
        if not tracing_is_enabled():
            raise ConfigurationError("a share link needs LANGSMITH_TRACING=true and LANGSMITH_API_KEY")
        shared = self._outbox.submit(partial(self._once_there, partial(self._share, run_id, trace_id or run_id)))
        try:
            token = await asyncio.wait_for(asyncio.wrap_future(shared), SHARE_S)
        except FAILURES as error:
            known = "" if trace_id else f"; {UNKNOWN.format(run_id)}"
            raise LLMOpsError(f"LangSmith made no share link ({type(error).__name__}){known}") from error
        return f"{self._pages}/public/{token}/r"

    async def close(self) -> None:
        """Send what is buffered, within `CLOSE_S`; one line of the log tells what was lost."""
        if "_client" in self.__dict__:
            self._session.end_within(CLOSE_S)
            sent = self._outbox.submit(self._send_rest)
            await _moment(sent, CLOSE_S + GRACE_S)
        lost, self._told_lost = sum(self._lost.values()) - self._told_lost, sum(self._lost.values())
        if lost:
            _log.error(
                "LangSmith did not take everything: %d runs and %d feedback are lost to it (llmops_trace_losses)",
                self._lost["runs"],
                self._lost["feedback"],
            )

    @cached_property
    def _anonymizer(self) -> Anonymizer:
        return Anonymizer()

    def _tell(self, run_id: str, trace_id: str | None, key: str, score: float, comment: str | None) -> None:
        if comment is not None and self._settings.trace_anonymize:
            comment = self._anonymizer.text(comment)

        def create() -> None:
            self.client.create_feedback(
                run_id,
                key,
                score=score,
                comment=comment,
                trace_id=trace_id,
                session_id=self._project_id,
                stop_after_attempt=1,
            )

        try:
            if self.client._should_sample(trace_id or run_id):  # noqa: SLF001 - without its runs there may be no project
                self._once_there(create)
        except FAILURES as error:
            self._lose_feedback(type(error).__name__)

    def _once_there(self, call: Callable[[], T]) -> T:
        """The result of `call`, tried again while LangSmith has not found what was sent just now."""
        self.client.flush(timeout=min(FLUSH_S, self._session.left_s))
        for pause_s in PAUSES_S:
            try:
                return call()
            except LangSmithNotFoundError:
                time.sleep(min(pause_s, self._session.left_s))
        return call()

    def _send_rest(self) -> None:
        self.client.flush(timeout=self._session.left_s)
        if self._session.left_s:
            self._session.go_on()
        else:
            self.client.flush(timeout=GRACE_S)  # every send fails at once now, and is counted

    def _lose_runs(self, error: Exception) -> None:
        with self._lock:
            self._lost["runs"] += len(set(RUN.findall(str(error)))) or 1

    def _lose_feedback(self, reason: str) -> None:
        with self._lock:
            self._lost["feedback"] += 1
        _log.warning("LangSmith did not take the feedback, which is in the ledger: %s", reason)

    def _share(self, run_id: str, trace_id: str) -> str:
        # what `client.runs.share.create` sends, which leaves a connection open that nobody can close
        body = {"session_id": self._project_id, "trace_id": trace_id}
        answer = self.client.request_with_retries("POST", f"/api/v2/runs/{run_id}/share", json=body)
        return str(answer.json()["share_token"])

    @property
    def _pages(self) -> str:
        """Where people look; a recorder on this machine shows its pages where it takes runs."""
        api_url = self.client.api_url
        return api_url if urlsplit(api_url).hostname in LOOPBACK else get_host_url(None, api_url)

    @property
    def _project(self) -> str:
        return self._settings.trace_project or get_tracer_project() or "default"

    @cached_property
    def _project_id(self) -> str:
        return str(self.client.read_project(project_name=self._project).id)


async def _moment(work: Future[None], seconds: float) -> None:
    """Wait for work, which goes on when the time is over; raises what it raised until then."""
    done, _ = await asyncio.wait([asyncio.wrap_future(work)], timeout=seconds)
    for one in done:
        one.result()
