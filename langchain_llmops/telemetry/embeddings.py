"""Embedding calls, for which LangChain has no callbacks, as records."""

from __future__ import annotations

import time
import uuid
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from langchain_core.callbacks import BaseCallbackManager
from langchain_core.embeddings import Embeddings
from langchain_core.runnables.config import ensure_config

from langchain_llmops.core.classify import classify
from langchain_llmops.core.context import current_identity, text_from
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.events import CallFinished
from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.redaction import redact
from langchain_llmops.core.tokens import TokenCounter, default_token_counter
from langchain_llmops.core.types import CallRecord, Identity, Money, Unpriced, Usage
from langchain_llmops.core.usage import LONGEST_COUNTED, count_bounded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence
    from uuid import UUID

    from langchain_core.runnables import RunnableConfig

    from langchain_llmops.core.events import Bus

__all__ = ["ObservedEmbeddings"]

PROVIDERS: Final = {"AzureOpenAIEmbeddings": "azure", "OpenAIEmbeddings": "openai"}
_REPORTED: ContextVar[list[int] | None] = ContextVar("llmops_embedding_tokens", default=None)


class ObservedEmbeddings(Embeddings):
    """Wraps any `Embeddings`: each call becomes one `CallRecord` of kind `embedding` on the bus.

    Tokens are those that the client reports (OpenAI's, Azure's), else counted and flagged `estimated`. The identity and
    the run above come from the config in effect, as in a LangGraph node.

    Args:
        provider: who serves it, in LangChain's words; read off the wrapped class when None.
        model: read off the wrapped object (`model`, `model_name`, `model_id`, `deployment`) when None.
        identity: who is asking, for code that runs in no chain.
        tenant: whose the calls are that name no tenant.
        place_of: the trace of an open run, and the nearest run at or above it that becomes a record
            (`OpsCallbackHandler.place_of`); without it, the run above is both.
        clock: Unix seconds. `timer`: monotonic seconds.
    """

    def __init__(
        self,
        embeddings: Embeddings,
        bus: Bus,
        *,
        provider: str | None = None,
        model: str | None = None,
        identity: Identity | None = None,
        tenant: str | None = None,
        prices: PriceBook | None = None,
        counter: TokenCounter | None = None,
        place_of: Callable[[UUID], tuple[str, str | None] | None] | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not isinstance(embeddings, Embeddings):
            raise ConfigurationError(redact(f"embeddings must be a LangChain Embeddings object, not {embeddings!r}"))
        self._embeddings = _metered(embeddings)
        self._bus = bus
        self._provider = provider or _provider_of(embeddings)
        self._model = model or _model_of(embeddings)
        self._identity = identity
        self._tenant = tenant
        self._prices = prices or PriceBook()
        self._counter = counter or default_token_counter()
        self._place_of = place_of
        self._clock = clock
        self._timer = timer

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed texts to be searched."""
        with self._call(texts):
            return self._embeddings.embed_documents(texts)

    def embed_query(self, text: str) -> list[float]:
        """Embed a text to search with."""
        with self._call([text]):
            return self._embeddings.embed_query(text)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """The same, awaited."""
        with self._call(texts):
            return await self._embeddings.aembed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        """The same, awaited."""
        with self._call([text]):
            return await self._embeddings.aembed_query(text)

    def answered_from(self, texts: Sequence[str], level: str, took_s: float) -> None:
        """One more record, of texts that a cache answered: free, with what asking had cost (as counted here)."""
        usage = Usage(self._estimated(texts))
        price = self._prices.price(self._model, usage, provider=self._provider)
        saved_usd = None if isinstance(price, Unpriced) else price.total_usd
        record = self._record(self._timer() - took_s, self._clock() - took_s)
        free = replace(record, money=Money(), estimated=True, cache_level=level, saved=usage, saved_usd=saved_usd)
        self._publish(free)

    @contextmanager
    def _call(self, texts: Sequence[str]) -> Iterator[None]:
        began, started_at = self._timer(), self._clock()
        reported: list[int] = []
        token = _REPORTED.set(reported)
        try:
            yield
        except BaseException as error:  # a cancelled call is recorded, too
            record = self._record(began, started_at)
            record = replace(record, error_kind=classify(error).kind, error_class=type(error).__name__)
            billed = reported or classify(error).may_be_billed
            self._publish(self._charged(record, texts, reported) if billed else record)
            raise
        else:
            self._publish(self._charged(self._record(began, started_at), texts, reported))
        finally:
            _REPORTED.reset(token)

    def _record(self, began: float, started_at: float) -> CallRecord:
        config = ensure_config()
        run_id = str(uuid.uuid4())
        trace, parent = self._place(config) or (run_id, None)
        return CallRecord(
            kind="embedding",
            run_id=run_id,
            trace_id=trace,
            name="embeddings",
            started_at=started_at,
            latency_s=self._timer() - began,
            parent_run_id=parent,
            identity=self._owned(self._identity or _asking(config)),
            provider=self._provider,
            model=self._model,
            node=config["metadata"].get("langgraph_node"),
            tags=tuple(config["tags"]),
        )

    def _owned(self, who: Identity) -> Identity:
        return who if who.tenant is not None or self._tenant is None else replace(who, tenant=self._tenant)

    def _place(self, config: RunnableConfig) -> tuple[str, str | None] | None:
        callbacks = config.get("callbacks")
        above = callbacks.parent_run_id if isinstance(callbacks, BaseCallbackManager) else None
        if above is None:
            return None
        place = self._place_of(above) if self._place_of is not None else None
        return place or (str(above), str(above))

    def _charged(self, record: CallRecord, texts: Sequence[str], reported: list[int]) -> CallRecord:
        usage = Usage(sum(reported) if reported else self._estimated(texts))
        price = self._prices.price(self._model, usage, provider=self._provider)
        unpriced = isinstance(price, Unpriced)
        return replace(
            record,
            usage=usage,
            estimated=not reported,
            unpriced=unpriced,
            money=None if isinstance(price, Unpriced) else price,
        )

    def _estimated(self, texts: Sequence[str]) -> int:
        """Our own count; of very much text the beginning stands for the rest, as a caller waits for this."""
        texts = [text_from(text) for text in texts]  # some models embed what is no text
        tokens = counted = 0
        for text in texts:
            tokens += count_bounded(text, self._counter)
            counted += len(text)
            if counted >= LONGEST_COUNTED:
                break
        whole = sum(map(len, texts))
        return tokens if counted == whole else round(tokens * whole / counted)

    def _publish(self, record: CallRecord) -> None:
        self._bus.publish(CallFinished(record))


class _Metered:
    """A client of OpenAI's embeddings endpoint that notes the tokens of each answer, which LangChain drops."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def create(self, **options: Any) -> Any:
        answer = self._client.create(**options)
        return _noted_later(answer) if hasattr(answer, "__await__") else _noted(answer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


async def _noted_later(answer: Awaitable[Any]) -> Any:
    return _noted(await answer)


def _noted(answer: Any) -> Any:
    usage = answer.get("usage") if isinstance(answer, dict) else getattr(answer, "usage", None)
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else getattr(usage, "prompt_tokens", None)
    reported = _REPORTED.get()
    if reported is not None and type(tokens) is int and tokens > 0:
        reported.append(tokens)
    return answer


def _metered(embeddings: Embeddings) -> Embeddings:
    """A copy whose clients are metered; the object itself where it has none of that shape."""
    clients = {
        name: _Metered(client)
        for name in ("client", "async_client")
        if callable(getattr(client := getattr(embeddings, name, None), "create", None))
    }
    copy = getattr(embeddings, "model_copy", None)
    return copy(update=clients) if clients and copy is not None else embeddings


def _provider_of(embeddings: Embeddings) -> str:
    name = type(embeddings).__name__
    return PROVIDERS.get(name, name.removesuffix("Embeddings").lower())


def _model_of(embeddings: Embeddings) -> str:
    named = (getattr(embeddings, name, None) for name in ("model", "model_name", "model_id", "deployment"))
    return next((name for name in named if isinstance(name, str) and name), type(embeddings).__name__)


def _asking(config: RunnableConfig) -> Identity:
    return current_identity(config["metadata"]) or Identity()
