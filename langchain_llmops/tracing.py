"""Our side of LangSmith: whether a run is traced, through which client, and what is told about it afterwards."""

from __future__ import annotations

import asyncio
import logging
from functools import cached_property
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from langsmith import Client
from langsmith.utils import LangSmithError, get_host_url, get_tracer_project, tracing_is_enabled

from langchain_llmops.core.errors import ConfigurationError, LLMOpsError
from langchain_llmops.telemetry.anonymize import Anonymizer
from langchain_llmops.telemetry.tracer import OpsTracer, RecentRecords

if TYPE_CHECKING:
    from langchain_llmops.core.events import Bus
    from langchain_llmops.core.settings import Settings
    from langchain_llmops.telemetry.handler import OpsCallbackHandler

__all__ = ["Tracing"]

LOOPBACK: Final = frozenset(("localhost", "127.0.0.1", "::1"))

_log = logging.getLogger(__name__)


class Tracing:
    """The tracer while `LANGSMITH_TRACING` is on, feedback and share links.

    LangSmith's own variables say where traces go (`LANGSMITH_ENDPOINT`, `LANGSMITH_API_KEY`, `LANGSMITH_PROJECT`).
    """

    def __init__(self, settings: Settings, handler: OpsCallbackHandler, bus: Bus) -> None:
        self._settings = settings
        self._handler = handler
        self._bus = bus

    def active(self) -> OpsTracer | None:
        """The tracer; None while tracing is off."""
        return self.tracer if tracing_is_enabled() else None

    @cached_property
    def client(self) -> Client:
        """Our own client: it samples whole traces, and masks what it sends when told to."""
        anonymizer = self._anonymizer if self._settings.trace_anonymize else None
        return Client(anonymizer=anonymizer, tracing_sampling_rate=self._settings.trace_sample_rate)

    @cached_property
    def tracer(self) -> OpsTracer:
        """The tracer; it reads the records of model calls from the bus."""
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

    def feedback(self, run_id: str, trace_id: str | None, key: str, score: float, comment: str | None) -> None:
        """Tell LangSmith too; when it cannot be reached that is logged, as the ledger has the feedback already."""
        if not tracing_is_enabled():
            return
        if comment is not None and self._settings.trace_anonymize:
            comment = self._anonymizer.text(comment)
        try:
            self.client.create_feedback(
                run_id, key, score=score, comment=comment, trace_id=trace_id, session_id=self._project_id
            )
        except LangSmithError as error:
            _log.warning("LangSmith did not take the feedback, which is in the ledger: %s", type(error).__name__)

    async def share_link(self, run_id: str, trace_id: str) -> str:
        """Make a trace public and return its address; raises `LLMOpsError` when LangSmith does not answer."""
        if not tracing_is_enabled():
            raise ConfigurationError("a share link needs LANGSMITH_TRACING=true and LANGSMITH_API_KEY")
        try:
            token = await asyncio.to_thread(self._share, run_id, trace_id)
        except (LangSmithError, OSError, KeyError, ValueError) as error:
            raise LLMOpsError(f"LangSmith made no share link ({type(error).__name__})") from error
        return f"{self._pages}/public/{token}/r"

    def close(self) -> None:
        """Send what is buffered."""
        if "client" in self.__dict__:
            self.client.flush()

    @cached_property
    def _anonymizer(self) -> Anonymizer:
        return Anonymizer()

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
