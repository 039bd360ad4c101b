"""The semantic level over the engine: an answer is found by another wording of its question, then by its key."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from langchain_llmops.cache.asked import Asked
    from langchain_llmops.cache.codec import Entry
    from langchain_llmops.cache.engine import Engine, Found
    from langchain_llmops.cache.fingerprint import Question
    from langchain_llmops.cache.semantic import Near, SemanticLevel

__all__ = ["SEMANTIC", "Meaning"]

SEMANTIC: Final = "semantic"
REMEMBERED: Final = 4096


class Meaning:
    """Looks for equal questions, learns them behind the answer, and knows which run was served which."""

    def __init__(self, level: SemanticLevel, engine: Engine, question_of: Callable[[Asked], Question | None]) -> None:
        self.level = level
        self._engine = engine
        self._question_of = question_of
        self._served: OrderedDict[str, Near] = OrderedDict()
        self._lock = threading.Lock()

    async def find(self, asked: Asked, *, blocking: bool) -> Found | None:
        """A fresh answer to the same question in other words, where the level is one that serves."""
        question = self._question_of(asked)
        if question is not None and not self.level.serves:
            self._engine.later(partial(self._compare, question), blocking=blocking)  # nobody is to wait for a shadow
            return None
        near = None if question is None else await self.level.near(question, blocking=blocking)
        if near is None:
            return None
        look = await self._engine.find((near.key,), asked.tag_keys, blocking=blocking, at_most_s=asked.at_most_s)
        found = look.found.get(near.key)
        if found is None or found.stale:
            self.level.forget(near.key)
            return None
        if asked.caller.run_id is not None:
            self._remember(asked.caller.run_id, near)
        return replace(found, level=SEMANTIC, score=near.score)

    async def _compare(self, question: Question, *, blocking: bool) -> None:
        await self.level.near(question, blocking=blocking)

    def learn(self, asked: Asked, entry: Entry, *, blocking: bool) -> None:
        """The entry answers what was asked, for as long as it is fresh; embedded behind the answer."""
        question = self._question_of(asked)
        if question is not None:
            learn = partial(self.level.learn, question, asked.key, entry.created + entry.ttl_s)
            self._engine.later(learn, blocking=blocking)

    def judge(self, run_id: str, *, right: bool) -> bool:
        """Whether the run was served another question's answer, which is judged thereby; once for each."""
        with self._lock:
            near = self._served.pop(run_id.removeprefix("lc_run--")[:36], None)
        if near is not None:
            self.level.judge(near, right)
        return near is not None

    def _remember(self, run_id: UUID, near: Near) -> None:
        with self._lock:
            self._served[str(run_id)] = near
            if len(self._served) > REMEMBERED:
                self._served.popitem(last=False)
