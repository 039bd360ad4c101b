"""An answer to keep, a store that can break, a clock, and the strings that langchain-core hands to a cache."""

from __future__ import annotations

from functools import cache

from langchain_core.caches import BaseCache
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration
from langchain_openai import ChatOpenAI

from langchain_llmops.core.errors import StoreUnavailableError
from langchain_llmops.core.events import Bus, CallFinished
from langchain_llmops.stores.memory import MemoryKeyValue
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.models import answer

__all__ = ["KEPT", "Clock", "Listener", "Shelf", "hearing", "keep", "request", "tags_of", "texts"]

KEPT = [ChatGeneration(message=answer("ok"))]


def texts(found) -> list[str] | None:
    """What a look has found."""
    return None if found is None else [generation.text for generation in found]


def tags_of(prompt, llm_string) -> list[str]:
    """A prompt is the tags of its answer, with commas between."""
    return prompt.split(",")


def keep(cache, *prompts) -> None:
    """In all levels."""
    for prompt in prompts:
        cache.update(prompt, "m", KEPT)
    assert cache.flush()


def hearing(**options) -> tuple[OpsCallbackHandler, list]:
    """A handler, and the records of the calls that it has heard of."""
    handler, records = OpsCallbackHandler(Bus(), **options), []
    handler.bus.subscribe(lambda event: records.append(event.record) if isinstance(event, CallFinished) else None)
    return handler, records


class Clock:
    """Unix seconds that pass only in `pass_s`."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += seconds


class Shelf:
    """A store of one key-value space, for async and blocking callers alike; `broken` makes every operation fail."""

    url = "memory://"

    def __init__(self, clock: Clock) -> None:
        self.items = MemoryKeyValue(clock)
        self.broken = False
        self.asked = 0
        self.closed = 0

    @property
    def kv(self) -> Shelf:
        return self

    def __getattr__(self, name: str):
        operation = getattr(self.items, name)

        async def call(*args, **kwargs):
            self.asked += 1
            if self.broken:
                raise StoreUnavailableError("the shelf fell down")
            return await operation(*args, **kwargs)

        return call

    async def aclose(self) -> None:
        self.closed += 1


class Listener(BaseCache):
    """Remembers what langchain-core hands to a cache, and answers, so that nobody is asked."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str]] = []

    def lookup(self, prompt, llm_string):
        self.heard.append((prompt, llm_string))
        return [ChatGeneration(message=AIMessage("ok"))]

    def update(self, prompt, llm_string, return_val):
        raise AssertionError("nothing is asked")

    def clear(self, **kwargs):
        raise AssertionError("nothing is kept")


@cache
def _openai() -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", api_key="k")


def request(messages, *, model=None, bound=None, **kwargs) -> tuple[str, str]:
    """`(prompt, llm_string)` of a call of a model, ChatOpenAI unless told otherwise."""
    listener = Listener()
    model = (model or _openai()).model_copy(update={"cache": listener})
    (bound(model) if bound is not None else model).invoke(messages, **kwargs)
    return listener.heard[0]
