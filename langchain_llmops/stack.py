"""Everything joined: `LLMOps` builds the parts, hands them to each other, and shows the order of wrapping."""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.cache.model import cached
from langchain_llmops.caching import Caching
from langchain_llmops.core.concurrency import DOOR, run_sync
from langchain_llmops.core.context import acting_for, current_identity, metadata_of, run_config
from langchain_llmops.core.delegate import describe
from langchain_llmops.core.errors import ConfigurationError, LLMOpsError
from langchain_llmops.core.events import Bus
from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.settings import Settings
from langchain_llmops.core.tokens import TokenCounter, default_token_counter
from langchain_llmops.core.types import Identity
from langchain_llmops.middleware.routing import RouterMiddleware
from langchain_llmops.models import HttpPool, ModelFactory
from langchain_llmops.observing import Observers
from langchain_llmops.parts import build_checkpointer
from langchain_llmops.reporting import Reporting
from langchain_llmops.resilience.fallback import FallbackChain
from langchain_llmops.resilience.retry import RetryPolicy
from langchain_llmops.router.model import ModelRouter
from langchain_llmops.router.rules import Rules
from langchain_llmops.telemetry.attached import attached
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from langchain_llmops.telemetry.installed import Installation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from langchain.agents.middleware import AgentMiddleware
    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.embeddings import Embeddings
    from langchain_core.language_models import BaseChatModel
    from langchain_core.runnables import Runnable, RunnableConfig
    from prometheus_client import CollectorRegistry

    from langchain_llmops.checkpoint.saver import TieredCheckpointSaver

__all__ = ["LLMOps"]

_log = logging.getLogger(__name__)

# One call, from the outside in; `LLMOps.explain()` prints it.
WRAPPING: Final = (
    "config        user, session and request into the metadata of every run",
    "router        one decision per call: which route, and so which model is first",
    "fallback      retries on retryable errors, then the next rung",
    "cache         an answer already paid for ends here, at no cost",
    "model         the provider is asked; its own retries are off",
    "handler       one CallRecord per model call, tool call and turn",
    "bus           ledger, Prometheus, log line, LangSmith facts: they observe, they never decide",
)


class LLMOps(Caching, Reporting):
    """The suite around your agents.

    ```python
    with LLMOps.from_env() as ops:
        agent = create_agent(ops.router(simple="openai:gpt-4o-mini", complex="openai:gpt-4o"), tools,
                             middleware=ops.middleware(), checkpointer=ops.checkpointer)
        agent.invoke({"messages": [("user", "hi")]}, ops.config(user_id="u1", session_id="s1"))
        print(ops.report())
    ```
    Args:
        settings: read from the environment when None.
        registry: where the Prometheus series live; a private one (`ops.registry`) when None. One `LLMOps` per registry.
        token_counter: counts where no provider does.
        allowed_types: classes of your own that conversation states hold; others come back as plain data.
        semantic_embeddings: for `LLMOPS_CACHE_SEMANTIC`; without any, other wordings are known by spelling alone.
        redact_log: what the fields of a log line become before they are written; secrets are masked after it.

    Parts are made on first use. With no settings everything is embedded: SQLite files and a folder below
    `LLMOPS_STATE_DIR`; `LLMOPS_REDIS_URL`, `LLMOPS_POSTGRES_URL` and `LLMOPS_OBJECTS_URL` move it to servers.
    Raises `ConfigurationError` naming the variable. Close it (`with`, `close()`, `aclose()`): what is buffered is
    written then, and at interpreter exit.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        registry: CollectorRegistry | None = None,
        token_counter: TokenCounter | None = None,
        allowed_types: Iterable[type] = (),
        redact_log: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
        semantic_embeddings: Embeddings | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.bus = Bus()
        self.prices = PriceBook.from_file(self.settings.prices_file)
        self.token_counter = token_counter or default_token_counter()
        self._allowed_types = tuple(allowed_types)
        self._embeddings = semantic_embeddings
        self.started_at = time.time()
        self.handler = OpsCallbackHandler(
            self.bus,
            prices=self.prices,
            counter=self.token_counter,
            keep_content=self.settings.log_content,
            tenant=self.settings.tenant,
        )
        self._observers = Observers(self.settings, self.bus, self.handler, registry=registry, redact=redact_log)
        self._baseline: tuple[str | None, str | None] = (None, None)
        self._installation = Installation(self.handler, self._observers.tracing.active)
        self._closed = False
        self._lock = threading.RLock()
        atexit.register(self._at_exit)

    @classmethod
    def from_env(cls) -> LLMOps:
        """The suite as the `LLMOPS_*` variables say."""
        settings = Settings()
        for name in settings.misspelt_variables():
            _log.warning("%s is set, and nothing reads it; `llmops settings` lists the variables", name)
        return cls(settings)

    # what the user attaches

    def config(
        self,
        user_id: str | None = None,
        session_id: str | None = None,
        request_id: str | None = None,
        tags: Iterable[str] = (),
        *,
        thread_id: str | None = None,
        **metadata: Any,
    ) -> RunnableConfig:
        """A `RunnableConfig` for one request: identity on every run, thread, callbacks (`core.context.run_config`).

        A `tenant_id` among the metadata goes before the tenant of the settings. Within `as_user`, what is not named is
        the block's.
        """
        if isinstance(tags, str):
            raise ConfigurationError(f"tags must be a list of texts, not the text {tags!r}")
        meant = current_identity() or Identity()
        tenant = metadata.pop("tenant_id", meant.tenant or self.settings.tenant)
        if user_id is None:
            user_id = meant.user
        if session_id is None and user_id == meant.user:
            session_id = meant.session
        who = Identity(tenant=tenant, user=user_id, session=session_id, request=request_id)
        return run_config(who, thread_id=thread_id, tags=tags, metadata=metadata, callbacks=self.callbacks)

    def as_user(
        self, user_id: str, session_id: str | None = None, tenant_id: str | None = None
    ) -> AbstractContextManager[None]:
        """Calls in a `with` block are this user's, as far as their runs name no other: for the cache's scope.

        It holds across `await` and in tasks made in the block, not in bare threads. Records and traces say what a run's
        config names; `config()` made in the block names the user.
        """
        who = Identity(tenant=tenant_id, user=user_id, session=session_id)
        if "user_id" not in metadata_of(who):
            raise ConfigurationError("user_id must be a non-empty string, not None")
        return acting_for(who)

    def erase_user(self, user_id: str) -> dict[str, Any]:
        """Remove a user of this tenant from the cache, the ledger and the conversations, in every tier.

        Rows by table of the ledger, and as `conversations` the receipt of `TieredCheckpointSaver.delete_user`. Raises
        `ErasureIncomplete` when a tier refuses, after all else is erased; call it again.
        """
        if self.settings.cache_scope != "shared":
            self.cache.forget_user(user_id)
        return super().erase_user(user_id) | {"conversations": self.checkpointer.delete_user(user_id)}

    async def aerase_user(self, user_id: str) -> dict[str, Any]:
        """The same for async callers."""
        if self.settings.cache_scope != "shared":
            await self.cache.aforget_user(user_id)
        rows = await super().aerase_user(user_id)
        return rows | {"conversations": await self.checkpointer.adelete_user(user_id)}

    @property
    def callbacks(self) -> list[BaseCallbackHandler]:
        """The handler and, when LangSmith tracing is on, our tracer."""
        tracer = self._observers.tracing.active()
        return [self.handler] if tracer is None else [self.handler, tracer]

    @cached_property
    def checkpointer(self) -> TieredCheckpointSaver:
        """Conversations: hot in Redis or memory, durable in PostgreSQL or SQLite, idle ones in objects.

        A LangGraph checkpointer, also for sync and async callers at once; opened on first use, closed with the suite.
        """
        checkpointer = build_checkpointer(self.settings, self._allowed_types, self.bus)
        self._observers.checkpoint_counts = checkpointer.counts
        return checkpointer

    @cached_property
    def models(self) -> ModelFactory:
        """Builds managed chat models."""
        cache = self.cache if self.settings.cache else None
        return ModelFactory(
            self._pool,
            timeout_s=self.settings.request_timeout_s,
            cache=cache or False,
            callbacks=[self.handler],
            through=None if cache is None else partial(cached, cache=cache),
        )

    def router(
        self,
        simple: str | BaseChatModel,
        complex: str | BaseChatModel,  # noqa: A002 - the word users say
        *,
        rules: Rules | Path | str | None = None,
        **options: Any,
    ) -> ModelRouter:
        """A chat model that sends easy calls to `simple` and the rest to `complex`; each is the other's fallback.

        Args:
            simple, complex: `provider:name`, or models of your own.
            rules: rules, or a rules file; the built-in ones when None.
            options: arguments for models given by name (`temperature`, `base_url`, `api_key`, …).
        """
        small, large = self.models.model(simple, **options), self.models.model(complex, **options)
        self._baseline = (describe(large), large._get_ls_params().get("ls_provider"))  # noqa: SLF001 - LangChain's own way
        if not isinstance(rules, Rules):
            rules = Rules.load(rules, max_simple_tokens=self.settings.router_max_simple_tokens)
        routes: dict[str, BaseChatModel] = {"simple": self._chain(small, large), "complex": self._chain(large, small)}
        return ModelRouter(routes, rules=rules, counter=self.token_counter, bus=self.bus)

    def fallback(self, *rungs: str | BaseChatModel, **options: Any) -> FallbackChain:
        """A chat model that asks `rungs` in order; `options` as in `router`."""
        return self._chain(*(self.models.model(rung, **options) for rung in rungs))

    def middleware(self) -> list[AgentMiddleware[Any, Any]]:
        """The agent middleware of the suite, outermost first."""
        return [RouterMiddleware()]

    def attach(self, runnable: Runnable[Any, Any]) -> Runnable[Any, Any]:
        """A model, chain or graph that already exists, observed; safe together with `config()`.

        A chat model is copied with the callbacks in it, so that they stay when tools or a schema are bound.
        """
        return attached(runnable, self.callbacks)

    def install(self) -> None:
        """Observe every LangChain run of the process, in tasks and threads too, until `uninstall()` or `close()`."""
        self._installation.install()

    def uninstall(self) -> None:
        """Undo `install()`."""
        self._installation.uninstall()

    def observe(self) -> AbstractContextManager[None]:
        """Observe the LangChain runs that start within a `with` block, and in tasks made there."""
        return self._installation.block()

    # what the user asks of the whole

    async def aping(self) -> dict[str, float]:
        """Reach every store once; seconds by store. Raises the store's typed error, which names the setting."""
        return await DOOR.cross(self._ping())

    def explain(self) -> str:
        """The way of one call through the suite, outermost first."""
        return "\n".join(f"{number}. {line}" for number, line in enumerate(WRAPPING, 1))

    # life

    def close(self) -> None:
        """Write what is buffered, close what is open; safe to call twice."""
        if self._begin_close():
            run_sync(self._close_parts())
            self._pool.close()

    async def aclose(self) -> None:
        """The same for async callers."""
        if self._begin_close():
            await DOOR.cross(self._close_parts())
            await self._pool.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    # joints

    @cached_property
    def _pool(self) -> HttpPool:
        return HttpPool(timeout_s=self.settings.request_timeout_s)

    def _chain(self, *rungs: BaseChatModel) -> FallbackChain:
        s = self.settings
        policy = RetryPolicy(max_attempts=s.max_attempts, base_s=s.retry_base_s, max_s=s.retry_max_s)
        distinct = list({id(rung): rung for rung in rungs}.values())
        return FallbackChain(distinct, policy=policy, bus=self.bus)

    async def _ping(self) -> dict[str, float]:
        return {
            "ledger": await self.ledger.aping(),
            "cache": await self.cache.aping(),
            "checkpointer": await self.checkpointer.aping(),
        }

    def _begin_close(self) -> bool:
        with self._lock:
            first, self._closed = not self._closed, True
        if first:
            self.uninstall()
            atexit.unregister(self._at_exit)
        return first

    async def _close_parts(self) -> None:
        """Every part is closed even when one fails; the first failure is raised at the end."""
        closers = [self._observers.close()]
        closers += [self.__dict__[name].aclose() for name in ("cache", "checkpointer") if name in self.__dict__]
        failures = [f for f in await asyncio.gather(*closers, return_exceptions=True) if isinstance(f, BaseException)]
        if failures:
            raise failures[0]

    def _at_exit(self) -> None:
        try:
            self.close()
        except (LLMOpsError, TimeoutError) as error:
            _log.error("not everything could be written at exit: %s", error)
