"""A chat model over the cache: whatever it is asked by, `stream` and output classes too."""

from __future__ import annotations

from contextlib import aclosing
from contextvars import copy_context
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast

from langchain_core.callbacks import CallbackManager
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables.config import ensure_config

from langchain_llmops.cache.ahead import Prefetching, Request
from langchain_llmops.cache.call import Call, MissedError
from langchain_llmops.cache.flight import Streaming
from langchain_llmops.cache.pieces import Heard, pieces_of
from langchain_llmops.cache.place import place_of
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.delegate import DelegatingChatModel
from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
    from typing import Self

    from langchain_core.callbacks import (
        AsyncCallbackManagerForLLMRun,
        BaseCallbackHandler,
        BaseRunManager,
        CallbackManagerForLLMRun,
        Callbacks,
    )
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import BaseMessage
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, Generation
    from langchain_core.rate_limiters import BaseRateLimiter
    from langchain_core.runnables import RunnableConfig

    from langchain_llmops.cache.ahead import Begun

__all__ = ["CachedChatModel", "cached"]

Model = TypeVar("Model", bound=BaseChatModel)


def cached(model: Model, *, cache: TieredCache, tags: Sequence[str] = (), prefetch: Prefetching | None = None) -> Model:
    """A copy of a chat model whose answers come from the cache where they can: `cached(ChatOpenAI(…), cache=cache)`.

    It is of the model's own class and a `CachedChatModel`, and has the model's keys: what `stream` brought is a hit
    for `invoke`, also of a plain model with `cache=` set. All its answers carry `tags`. A router or a fallback chain
    becomes one of cached models. `prefetch` has likely next requests asked ahead; it may be given to several models.
    Raises `ConfigurationError` for anything but a chat model: bind tools to the cached one.
    """
    if not isinstance(model, BaseChatModel):
        raise ConfigurationError(f"cached() takes a chat model, not {type(model).__name__}: bind and pipe afterwards")
    if not isinstance(cache, TieredCache):
        raise ConfigurationError(
            f"cache= must be a TieredCache, not {cache!r:.60}: TieredCache.from_urls(…), or ops.cache"
        )
    if prefetch is not None and not isinstance(prefetch, Prefetching):
        raise ConfigurationError(f"prefetch= must be a Prefetching, not {prefetch!r:.60}")
    if isinstance(model, DelegatingChatModel):
        return cast("Model", model.over(partial(cached, cache=cache, tags=tags, prefetch=prefetch)))
    copy = model.model_copy(update={"cache": cache})
    made = copy if isinstance(model, CachedChatModel) else _as(_class_of(type(model)), copy)
    object.__setattr__(made, "_tags", (*cache.checked(tags),))  # to pydantic it is neither a field nor private
    if prefetch is not None:
        prefetch.over(cache)
        object.__setattr__(made, "_prefetch", prefetch)
    elif (before := getattr(made, "_prefetch", None)) is not None and not before.is_over(cache):
        object.__setattr__(made, "_prefetch", None)
    return made


@lru_cache(maxsize=256)
def _class_of(plain: Any) -> Any:
    """The cached class of a class, under the same name: it is part of LangChain's keys, traces and profiles."""
    body = {"__module__": plain.__module__, "__qualname__": plain.__qualname__, "__doc__": plain.__doc__}
    made = type(plain)(plain.__name__, (CachedChatModel, plain), body)
    made._plain = plain  # noqa: SLF001 - ours, set here as pydantic would make a private field of it
    return made


@dataclass(frozen=True, slots=True)
class _Meant:
    """What a stream is asked with, and its model does not tell."""

    metadata: Mapping[str, Any]
    rate_limiter: BaseRateLimiter | None
    callbacks: Callbacks


class CachedChatModel(BaseChatModel):
    """What `cached` returns is one, beside its own class.

    An answer past its time (`Ttl.stale_s`) is served, marked `stale`, in place of an error that may pass. A request
    that was too long for the model is not sent again for `Policy.refused_s`, and raises its error again.
    """

    _plain: ClassVar[Any] = BaseChatModel
    _meant: ClassVar[_Meant | None] = None
    _tags: ClassVar[Sequence[str]] = ()
    _prefetch: ClassVar[Prefetching | None] = None

    def _generate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(run_manager, kwargs)
        model = self._asking(call)
        try:
            result = model._generate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)  # noqa: SLF001 - where langchain-core asks a cache; nothing public does, but with callbacks
        except Exception as error:
            rescued = _rescued(drive(call.rescue(error, blocking=True)))
            if rescued is None:
                raise
            result = rescued
        finally:
            call.leave()
        if call.begun is not None:
            self._tell(call.begun, call, messages, stop, kwargs, run_manager, blocking=True)
        if call.hit and run_manager is not None and _by_token(model, run_manager, kwargs, async_api=False):
            for piece in _replayed(result):
                piece.message.id = result.generations[0].message.id
                run_manager.on_llm_new_token(cast("str", piece.message.content), chunk=piece)
        return result

    async def _agenerate_with_cache(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(run_manager, kwargs)
        model = self._asking(call)
        try:
            result = await model._agenerate_with_cache(messages, stop=stop, run_manager=run_manager, **kwargs)  # noqa: SLF001 - where langchain-core asks a cache; nothing public does, but with callbacks
        except Exception as error:
            rescued = _rescued(await call.rescue(error, blocking=False))
            if rescued is None:
                raise
            result = rescued
        finally:
            call.leave()
        if call.begun is not None:
            self._tell(call.begun, call, messages, stop, kwargs, run_manager, blocking=False)
        if call.hit and run_manager is not None and _by_token(model, run_manager, kwargs, async_api=True):
            for piece in _replayed(result):
                piece.message.id = result.generations[0].message.id
                await run_manager.on_llm_new_token(cast("str", piece.message.content), chunk=piece)
        return result

    def stream(self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any) -> Iterator[Any]:
        """Stream the answer, from the cache where it can be."""
        config = ensure_config(config)
        yield from super(CachedChatModel, self._meaning(config)).stream(input, config, **kwargs)

    async def astream(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Stream the answer, from the cache where it can be."""
        config = ensure_config(config)
        chunks = super(CachedChatModel, self._meaning(config)).astream(input, config, **kwargs)
        async with aclosing(cast("AsyncGenerator[Any]", chunks)):
            async for chunk in chunks:
                yield chunk

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        streaming = Streaming(blocking=True)
        call = self._call(run_manager, kwargs, streaming)
        model = self._asking(call)
        try:
            try:
                found = model._generate_with_cache(messages, stop=stop, **kwargs)  # noqa: SLF001 - where langchain-core asks a cache; nothing public does, but with callbacks
            except MissedError:
                if self._meant is not None and self._meant.rate_limiter is not None:
                    self._meant.rate_limiter.acquire(blocking=True)
                chunks = model._stream(messages, stop=stop, run_manager=run_manager, **kwargs)  # noqa: SLF001 - the provider's own stream; the public one would start a second run
                if call.begun is not None:
                    chunks = call.begun.waiting(chunks)
                yield from self._passed_on(chunks, call, streaming)
            else:
                yield from _replayed(found)
        finally:
            call.leave()
        if call.begun is not None:
            self._tell(call.begun, call, messages, stop, kwargs, run_manager, blocking=True)

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        streaming = Streaming(blocking=False)
        call = self._call(run_manager, kwargs, streaming)
        model = self._asking(call)
        try:
            try:
                found = await model._agenerate_with_cache(messages, stop=stop, **kwargs)  # noqa: SLF001 - where langchain-core asks a cache; nothing public does, but with callbacks
            except MissedError:
                if self._meant is not None and self._meant.rate_limiter is not None:
                    await self._meant.rate_limiter.aacquire(blocking=True)
                chunks = model._astream(messages, stop=stop, run_manager=run_manager, **kwargs)  # noqa: SLF001 - the provider's own stream; the public one would start a second run
                if call.begun is not None:
                    chunks = call.begun.awaiting(chunks)
                async with aclosing(self._apassed_on(chunks, call, streaming)) as passed:
                    async for chunk in passed:
                        yield chunk
            else:
                for piece in _replayed(found):
                    yield piece
        finally:
            call.leave()
        if call.begun is not None:
            self._tell(call.begun, call, messages, stop, kwargs, run_manager, blocking=False)

    def _passed_on(
        self, chunks: Iterator[ChatGenerationChunk], call: Call, streaming: Streaming
    ) -> Iterator[ChatGenerationChunk]:
        """A provider's stream, kept when it is whole; one that fails before it began may be replaced."""
        heard = Heard()
        try:
            for chunk in chunks:
                heard.hear(chunk)
                streaming.hand_over()
                yield chunk
                streaming.go_on()
        except Exception as error:
            found = None if heard else _rescued(drive(call.rescue(error, blocking=True)))
            if found is None:
                raise
        else:
            drive(call.keep(heard.answers(self.output_version), blocking=True))
            return
        yield from _replayed(found)

    async def _apassed_on(
        self, chunks: AsyncIterator[ChatGenerationChunk], call: Call, streaming: Streaming
    ) -> AsyncGenerator[ChatGenerationChunk]:
        heard = Heard()
        try:
            async with aclosing(cast("AsyncGenerator[ChatGenerationChunk]", chunks)):
                async for chunk in chunks:
                    heard.hear(chunk)
                    streaming.hand_over()
                    yield chunk
                    streaming.go_on()
        except Exception as error:
            found = None if heard else _rescued(await call.rescue(error, blocking=False))
            if found is None:
                raise
        else:
            await call.keep(heard.answers(self.output_version), blocking=False)
            return
        for piece in _replayed(found):
            yield piece

    def _should_stream(self, *, async_api: bool, run_manager: Any = None, **kwargs: Any) -> bool:
        """Not what its own class cannot: that this one overrides both says nothing."""
        can = self._plain._stream is not BaseChatModel._stream  # noqa: SLF001 - langchain-core, too, asks by these whether a class streams
        can = can or (async_api and self._plain._astream is not BaseChatModel._astream)  # noqa: SLF001 - langchain-core, too, asks by these whether a class streams
        return can and super()._should_stream(async_api=async_api, run_manager=run_manager, **kwargs)

    def _call(self, run: BaseRunManager | None, kwargs: Mapping[str, Any], streaming: Streaming | None = None) -> Call:
        cache = cast("TieredCache", self.cache)
        meant: Mapping[str, Any] = {} if self._meant is None else self._meant.metadata
        run_id, metadata = (None, meant) if run is None else (run.run_id, run.metadata)
        call = Call(cache, run_id, metadata, kwargs, tags=self._tags, place=place_of(self), streaming=streaming)
        if self._prefetch is not None:
            call.begun = self._prefetch.begin()
        return call

    def _tell(
        self,
        begun: Begun,
        call: Call,
        messages: Sequence[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        run: BaseRunManager | None,
        *,
        blocking: bool,
    ) -> None:
        """An answer is there: what follows it may be asked ahead."""
        hearers = self._hearers() if run is None else lambda: run.handlers
        begun.answered(Request(self, messages, stop, kwargs, call, hearers, blocking))

    def _hearers(self) -> Callable[[], list[BaseCallbackHandler]]:
        """Finds who hears a stream, of whose run LangChain tells nothing."""
        given = None if self._meant is None else self._meant.callbacks
        here = copy_context()
        return lambda: here.run(CallbackManager.configure, given, self.callbacks).handlers

    def _asking(self, call: Call) -> BaseChatModel:
        """This model as its own class made it, with the call for a cache."""
        limiter = self._meant.rate_limiter if self._meant is not None else self.rate_limiter
        return _as(self._plain, self.model_copy(update={"cache": call, "rate_limiter": limiter}))

    def _meaning(self, config: RunnableConfig) -> Self:
        """A copy that knows whose stream it is, and lets no hit wait for the rate limiter."""
        copy = self.model_copy(update={"rate_limiter": None})
        meant = _Meant(
            {**(config.get("metadata") or {}), **(self.metadata or {})}, self.rate_limiter, config.get("callbacks")
        )
        object.__setattr__(copy, "_meant", meant)  # to pydantic it is neither a field nor private
        return copy


def _as(kind: type[BaseChatModel], model: Model) -> Model:
    """The model as one of a class with the same fields; pydantic has no word for it."""
    object.__setattr__(model, "__class__", kind)
    return model


def _by_token(model: BaseChatModel, run: Any, kwargs: Mapping[str, Any], *, async_api: bool) -> bool:
    """Whether a run is listened to token by token; who listens to events was told of a hit by LangChain."""
    if run is None or model._should_use_protocol_streaming(async_api=async_api, run_manager=run, **kwargs):  # noqa: SLF001 - langchain-core's own rule, which has no public form
        return False
    return model._should_stream(async_api=async_api, run_manager=run, **kwargs)  # noqa: SLF001 - langchain-core's own rule, which has no public form


def _rescued(answers: list[Generation] | None) -> ChatResult | None:
    return None if answers is None else ChatResult(generations=cast("list[ChatGeneration]", answers))


def _replayed(found: ChatResult) -> Iterator[ChatGenerationChunk]:
    """The pieces of a hit; without an id, as those of a provider, for LangChain to give them the run's."""
    message = found.generations[0].message
    return pieces_of(message if isinstance(message, AIMessage) else AIMessage(message.content))
