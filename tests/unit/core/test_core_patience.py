"""A deadline that measures whom a loop waits for, and not the loop."""

from __future__ import annotations

from langchain_llmops.core.patience import STROKES, Patience

TIMEOUT_S = 1.0


class Loop:
    """Timers that fire when told, as late as told."""

    def __init__(self) -> None:
        self.timers: list[tuple[float, object]] = []

    def call_later(self, delay_s, call) -> None:
        self.timers.append((delay_s, call))

    def fire(self) -> None:
        timers, self.timers = self.timers, []
        for _, call in timers:
            call()


class Caller:
    def __init__(self) -> None:
        self.over = self.expired = False

    def is_over(self) -> bool:
        return self.over

    def expire(self) -> None:
        self.over = self.expired = True


def test_who_waits_expires_after_all_strokes_and_not_before() -> None:
    loop, caller = Loop(), Caller()
    Patience(loop, TIMEOUT_S).watch(caller)
    for _ in range(STROKES):
        assert loop.timers[0][0] == TIMEOUT_S / STROKES
        loop.fire()
        assert not caller.expired
    loop.fire()
    assert caller.expired
    assert not loop.timers, "a loop that waits for nobody is left alone"


def test_a_stroke_that_comes_late_counts_as_one() -> None:
    """However long the loop was blocked: an answer still has its turns to be taken in."""
    loop, caller = Loop(), Caller()
    Patience(loop, TIMEOUT_S).watch(caller)
    loop.fire()  # after a minute, say
    assert not caller.expired
    caller.over = True
    loop.fire()
    assert not caller.expired
    assert not loop.timers


def test_each_has_its_own_time() -> None:
    loop, first, second = Loop(), Caller(), Caller()
    patience = Patience(loop, TIMEOUT_S)
    patience.watch(first)
    for _ in range(STROKES // 2):
        loop.fire()
    patience.watch(second)
    for _ in range(STROKES // 2 + 1):
        loop.fire()
    assert (first.expired, second.expired) == (True, False)
    for _ in range(STROKES // 2):
        loop.fire()
    assert second.expired
