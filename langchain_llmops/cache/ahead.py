"""Prefetching for cached models: what they answered is told, and what may come next is asked through them."""

from __future__ import annotations

import asyncio
import json
import os
import time
import weakref
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final, cast

from langchain_core.messages import AIMessage

from langchain_llmops.cache.forms import Form, Forms
from langchain_llmops.cache.outcomes import Answered, Asked
from langchain_llmops.cache.prefetch import Prefetcher
from langchain_llmops.cache.successors import Successors, name_of
from langchain_llmops.core.context import ATTEMPT, PREFETCH, metadata_of, text_from
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.types import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence

    from langchain_core.callbacks import BaseCallbackHandler
    from langchain_core.messages import BaseMessage
    from langchain_core.runnables import RunnableConfig

    from langchain_llmops.cache.call import Call
    from langchain_llmops.cache.model import CachedChatModel
    from langchain_llmops.cache.outcomes import Wanted
    from langchain_llmops.cache.tiered import TieredCache

__all__ = ["Begun", "Prefetching", "Request"]

MOST_BUSY: Final = 4
TOOLS: Final = frozenset(("tools", "functions", "tool_choice", "function_call"))
INPUT_KINDS: Final = {
    "cache_read": "cache_read_tokens",
    "cache_creation": "cache_write_tokens",
    "audio": "audio_input_tokens",
}
OUTPUT_KINDS: Final = {"reasoning": "reasoning_tokens", "audio": "audio_output_tokens"}


@dataclass(slots=True)
class Request:
    """A request that has its answer, and all that it takes to ask the next one in the same way.

    `hearers`: the handlers of its run; `keys`: those of the requests that may follow, by their texts.
    """

    model: CachedChatModel
    messages: Sequence[BaseMessage]
    stop: list[str] | None
    kwargs: Mapping[str, Any]
    call: Call
    hearers: Callable[[], Iterable[BaseCallbackHandler]]
    blocking: bool
    form: Form | None = None
    keys: dict[str, str | None] = field(default_factory=dict)

    @property
    def answer(self) -> AIMessage | None:
        """The message of its answer."""
        message = getattr(self.call.answers[0], "message", None) if self.call.answers else None
        return message if isinstance(message, AIMessage) else None

    @property
    def text(self) -> str | None:
        """What the user said last, if it ends in that."""
        last = self.messages[-1] if self.messages else None
        return last.content if last is not None and last.type == "human" and isinstance(last.content, str) else None

    def has_tools(self, answer: AIMessage) -> bool:
        """Whether asking like this may set something in motion, wherever the tools are bound."""
        bound = (self.kwargs, self.model.__dict__.get("model_kwargs") or {})
        return bool(answer.tool_calls) or any(where[name] for where in bound for name in TOOLS & where.keys())

    def following(self, text: str) -> list[BaseMessage]:
        """The messages of the next request, if that is its text."""
        last = self.messages[-1].model_copy(update={"content": text, "id": None})
        before = self.messages[:-1]
        if self.form is Form.GOES_ON and self.answer is not None:
            before = [*self.messages, self.answer]
        return [*before, last]

    def prompt(self, text: str) -> str:
        """The same as the cache is given it; raises `TypeError` for an answer that JSON cannot hold."""
        if self.call.asked is None:
            raise TypeError("what was not cached has no prompt")
        told = json.loads(self.call.asked.prompt)
        last = {**told[-1], "kwargs": {**told[-1]["kwargs"], "content": text}}
        if self.form is not Form.GOES_ON or self.answer is None:
            return json.dumps([*told[:-1], last])
        seen = self.answer.model_dump(include={"content", "additional_kwargs", "name"})
        return json.dumps([*told, {"lc": 1, "kwargs": {"type": "ai", **seen}}, last])


class Begun:
    """A call on its way; how long it made its caller wait."""

    def __init__(self, owner: Prefetching) -> None:
        self._owner, self._clock = owner, owner.clock
        self._began = self._clock()
        self._waited_s: float | None = None

    @property
    def waited_s(self) -> float:
        """Until now; of a stream, until its pieces came, without what their reader did in between."""
        return self._clock() - self._began if self._waited_s is None else self._waited_s

    def waiting(self, pieces: Iterator[Any]) -> Iterator[Any]:
        """Pieces that are waited for."""
        self._waited_s = self._clock() - self._began
        while True:
            began = self._clock()
            try:
                piece = next(pieces)
            except StopIteration:
                return
            finally:
                self._waited_s += self._clock() - began
            yield piece

    async def awaiting(self, pieces: AsyncIterator[Any]) -> AsyncGenerator[Any]:
        """The same for async callers."""
        self._waited_s = self._clock() - self._began
        async with aclosing(cast("AsyncGenerator[Any]", pieces)):
            while True:
                began = self._clock()
                try:
                    piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                finally:
                    self._waited_s += self._clock() - began
                yield piece

    def end(self) -> None:
        """It is over, however it ended."""
        self._owner.under_way.discard(self)

    def answered(self, request: Request) -> None:
        """It has its answer."""
        self._owner.tell(request, self.waited_s)


class _Ahead(Begun):
    """A call that nobody waits for yet."""

    request: Request | None = None

    def answered(self, request: Request) -> None:
        self.request = request


_AHEAD: ContextVar[_Ahead | None] = ContextVar("llmops_asked_ahead", default=None)


class Prefetching:
    """Has cached models ask the likely next request before it comes: `cached(model, cache=cache, prefetch=…)`.

    After every answer, fresh or cached, streamed or not, it looks at what mostly followed that request in other
    sessions, and asks it through the cache if that is worth more than it costs; see `Prefetcher` for where it pays.
    Learnt apart are tenants, users and sessions as the cache's scope says, models with all their parameters, system
    messages and what `group_of` tells. It is asked with the metadata of the request before it, in an empty context
    (nothing of the caller's context variables, callbacks or traces), marked with the tag and the metadata
    `llmops_prefetch`; only handlers with a true `hears_prefetches` hear of it, as those of the suite. Never asked are
    requests with tools, of models without a price or with answers without usage, and such whose form no one can know,
    as a history that is trimmed.

    Sync callers' models are asked in a thread, which goes on to the end of a call that is closed or timed out.

    Args:
        budget_usd_per_hour: the most that may be spent in any hour, by this process.
        usd_per_second: what it is worth that a user need not wait for a second: without it, nothing is asked.
        group_of: users that behave alike, from the metadata of a run; all those of an owner by default.
        prices: `ops.prices`; built-in ones when None.
        max_busy: nothing is asked ahead while more calls than that are under way; `idle` in place of it says whether.
        name: of its figures in `cache.stats()`: `prefetch:issued`.
        options: further arguments of `Prefetcher`, such as `min_probability`, `max_in_flight` and `verdict`.
    """

    def __init__(
        self,
        *,
        budget_usd_per_hour: float,
        usd_per_second: float = 0.001,
        group_of: Callable[[Mapping[str, Any]], object] | None = None,
        prices: PriceBook | None = None,
        max_busy: int = MOST_BUSY,
        idle: Callable[[], bool] | None = None,
        successors: Successors | None = None,
        name: str = "prefetch",
        clock: Callable[[], float] = time.monotonic,
        **options: Any,
    ) -> None:
        self.clock = clock
        self.under_way: set[Begun] = set()
        self._group_of = group_of
        self._prices = prices or PriceBook()
        self._name = name
        self._forms = Forms()
        self._cache: TieredCache | None = None
        self._prefetcher = Prefetcher(
            successors or Successors(),
            self._ask,
            budget_usd_per_hour=budget_usd_per_hour,
            usd_per_second=usd_per_second,
            key=self._key,
            cached=self._cached,
            clock=clock,
            idle=idle or (lambda: len(self.under_way) <= max_busy),
            **options,
        )
        ref = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (reset := ref()) and reset())

    def over(self, cache: TieredCache) -> None:
        """Work for models of a cache, until that is closed; raises `ConfigurationError` for a second cache."""
        if self._cache is None:
            cache.report(self._name, self._prefetcher.stats, self._prefetcher.aclose)
            self._prefetcher.live_at_most(cache.fresh_s)
            self._cache = cache
        elif self._cache is not cache:
            raise ConfigurationError("one Prefetching works for one cache: make another for another")

    def is_over(self, cache: TieredCache) -> bool:
        """Whether it works for this cache."""
        return self._cache is cache

    def begin(self) -> Begun:
        """A call begins: one of a caller's, or one that is asked ahead."""
        ahead = _AHEAD.get()
        if ahead is not None:
            return ahead
        begun = Begun(self)
        self.under_way.add(begun)
        return begun

    def tell(self, request: Request, waited_s: float) -> None:
        """A request has its answer; never raises, never waits."""
        try:
            answered = self._answered(request, waited_s)
        except Exception as error:  # noqa: BLE001 - `group_of` is a stranger's, and the call it belongs to must not fail
            self._prefetcher.failed(error)
        else:
            if answered is not None:
                self._prefetcher.answered(answered)

    def stats(self) -> dict[str, float | None]:
        """As of `Prefetcher`."""
        return self._prefetcher.stats()

    def close(self) -> None:
        """Start nothing more and cancel what runs; the cache's own end does it too."""
        self._prefetcher.close()

    def _answered(self, request: Request, waited_s: float) -> Answered | None:
        asked, answer = request.call.asked, request.answer
        if asked is None or answer is None:  # what is not cached cannot be asked ahead
            return None
        metadata, who = asked.caller.metadata or {}, asked.who
        own = "" if self._group_of is None else text_from(self._group_of(metadata))
        system = takewhile(lambda message: message.type == "system", request.messages)
        group = name_of(asked.owner, asked.llm_string, own, *(str(message.content) for message in system))
        session = None
        if who is not None and (who.session or who.user):
            session = f"{who.user or ''}\n{who.session or ''}"
        text = request.text
        unfit = text is None or request.has_tools(answer)
        if unfit:
            self._forms.interrupt(group, session)
        else:
            request.form = self._forms.learn(group, session, request.messages, answer)
        return Answered(
            group=group,
            text=text or "",
            key=asked.key,
            session=session,
            hit=request.call.hit,
            took_s=waited_s,
            cost_usd=None if unfit else self._usd(request, answer),
            tools=unfit,
            context=request,
        )

    def _key(self, wanted: Wanted) -> str | None:
        """The cache's key of what may come next; None when that is not known."""
        request: Request = wanted.after.context
        before = request.call.asked
        if request.form is None or before is None or self._cache is None:
            return None
        try:
            asked = self._cache.requests.asked(request.prompt(wanted.text), before.llm_string, before.caller)
        except (TypeError, ValueError):  # the answer holds what JSON cannot
            return None
        key = request.keys[wanted.text] = None if asked is None else asked.key
        return key

    def _cached(self, key: str) -> bool:
        return self._cache is not None and self._cache.holds(key)

    async def _ask(self, wanted: Wanted) -> Asked:
        request: Request = wanted.after.context
        ahead = _Ahead(self)
        _AHEAD.set(ahead)
        model = request.model.model_copy(update={"callbacks": None})
        messages, config = request.following(wanted.text), _config(request)
        if request.blocking:  # an async client that this loop has used would be lost to the caller's own loop
            await asyncio.to_thread(model.invoke, messages, config, stop=request.stop, **request.kwargs)
        else:
            await model.ainvoke(messages, config, stop=request.stop, **request.kwargs)
        done = ahead.request
        if done is None or done.answer is None:
            return Asked(stored=False)
        if done.call.hit:
            return Asked(hit=True)
        return Asked(self._usd(done, done.answer), stored=done.call.kept)

    def _usd(self, request: Request, answer: AIMessage) -> float | None:
        """What the model takes for an answer, on a hit as well."""
        told = answer.response_metadata
        usage: Any = answer.usage_metadata
        if request.call.hit:
            usage = told.get("llmops_cache", {}).get("saved")
        if not usage:
            return None
        asked = request.call.asked
        metadata = (asked.caller.metadata if asked is not None else None) or {}
        if "ls_model_name" not in metadata:  # LangChain tells a stream nothing of its run
            metadata = request.model._get_ls_params(stop=request.stop, **request.kwargs)  # noqa: SLF001 - LangChain's own way
        model = told.get("model_name") or told.get("model") or metadata.get("ls_model_name")
        provider, tier = metadata.get("ls_provider"), told.get("service_tier")
        rates = self._prices.rates(text_from(model), provider=provider, tier=tier if isinstance(tier, str) else None)
        return None if rates is None else float(rates.cost(_usage(usage)).total_usd)

    def _after_fork(self) -> None:
        """A forked child runs none of its parent's calls."""
        self.under_way = set()
        self._forms.after_fork()


def _usage(said: Mapping[str, Any]) -> Usage:
    """LangChain's usage metadata as ours."""
    parts = {
        kinds[kind]: tokens
        for kinds, told in ((INPUT_KINDS, "input_token_details"), (OUTPUT_KINDS, "output_token_details"))
        for kind, tokens in (said.get(told) or {}).items()
        if kind in kinds and tokens
    }
    return Usage(said.get("input_tokens") or 0, said.get("output_tokens") or 0, **parts)


def _config(request: Request) -> RunnableConfig:
    """The config of what is asked ahead: the identity of the request before it, and no callbacks of the user's."""
    asked = request.call.asked
    named = {} if asked is None or asked.who is None else metadata_of(asked.who)
    said = {} if asked is None else {**(asked.caller.metadata or {}), **named}
    said.pop(ATTEMPT, None)
    return {
        "callbacks": [one for one in request.hearers() if getattr(one, "hears_prefetches", False)],
        "metadata": {**said, PREFETCH: True},
        "tags": [PREFETCH],
    }
