"""Whether the next request of a conversation goes on with it or stands alone, learnt for every group."""

from __future__ import annotations

import threading
from collections import OrderedDict
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.messages import BaseMessage

__all__ = ["Form", "Forms"]

MOST_GROUPS: Final = 1_000
MOST_SESSIONS: Final = 10_000
WINDOW: Final = 64  # sightings after which a group's counts are halved: how fast a new habit replaces an old one


class Form(IntEnum):
    """What stands before a user's next text."""

    GOES_ON = 0
    """All that was asked, and its answer."""
    ALONE = 1
    """What stood before the text that was asked: a system message, examples, or nothing."""
    OTHER = 2
    """Something that nobody can know before: a history that was trimmed, say, or documents that were looked up."""


class _Shape(NamedTuple):
    """As much of a request and its answer as tells, in constant time, which form the next one has."""

    length: int
    text: int
    before: int
    answer: int


class Forms:
    """In which form requests follow each other in each group; bounded, and safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, list[int]] = OrderedDict()
        self._last: OrderedDict[tuple[str, str], _Shape] = OrderedDict()

    def learn(
        self, group: str, session: str | None, messages: Sequence[BaseMessage], answer: BaseMessage
    ) -> Form | None:
        """See a request and its answer; the form that most requests of the group have, None if that is not known."""
        before = _mark(messages[-2]) if len(messages) > 1 else 0
        shape = _Shape(len(messages), _mark(messages[-1]), before, _mark(answer))
        with self._lock:
            counts = self._counts.setdefault(group, [0, 0, 0])
            self._counts.move_to_end(group)
            if len(self._counts) > MOST_GROUPS:
                self._counts.popitem(last=False)
            if session is not None:
                last = self._last.pop((group, session), None)
                self._last[group, session] = shape
                if len(self._last) > MOST_SESSIONS:
                    self._last.popitem(last=False)
                if last is not None and last.text != shape.text:
                    _count(counts, _form(last, shape))
            best = max(Form.GOES_ON, Form.ALONE, key=counts.__getitem__)
            return best if 2 * counts[best] > sum(counts) else None

    def interrupt(self, group: str, session: str | None) -> None:
        """What comes next in this session does not follow from what came before."""
        if session is not None:
            with self._lock:
                self._last.pop((group, session), None)

    def after_fork(self) -> None:
        """Another thread may have held the lock."""
        self._lock = threading.Lock()


def _count(counts: list[int], form: Form) -> None:
    counts[form] += 1
    if sum(counts) >= WINDOW:
        counts[:] = [count // 2 for count in counts]


def _form(last: _Shape, shape: _Shape) -> Form:
    if shape.length == last.length + 2 and shape.before == last.answer:
        return Form.GOES_ON
    if shape.length == last.length and shape.before == last.before:
        return Form.ALONE
    return Form.OTHER


def _mark(message: BaseMessage) -> int:
    return hash(str(message.content))
