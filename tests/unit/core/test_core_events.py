"""The bus: every reader is told, and a reader that fails hurts nobody."""

from __future__ import annotations

import logging

import pytest

from langchain_llmops.core.events import Bus, CacheLooked, Event
from langchain_llmops.core.types import Identity

HIT = CacheLooked("hit", "L1", Identity(user="u"))


class Broken:
    def __call__(self, event: Event) -> None:
        raise RuntimeError("disk full")


def test_readers_are_told_in_order_of_subscription() -> None:
    bus, told = Bus(), []
    bus.subscribe(lambda event: told.append(("first", event)))
    bus.subscribe(lambda event: told.append(("second", event)))
    bus.publish(HIT)
    assert told == [("first", HIT), ("second", HIT)]


def test_a_failing_reader_hurts_nobody_is_counted_and_logged_once(caplog) -> None:
    bus, told = Bus(), []
    bus.subscribe(Broken())
    bus.subscribe(told.append)
    with caplog.at_level(logging.ERROR, "langchain_llmops"):
        for _ in range(5):
            bus.publish(HIT)
    assert told == [HIT] * 5
    assert bus.failures == {"Broken": 5}
    assert len(caplog.records) == 1
    assert "(RuntimeError: disk full)" in caplog.text
    assert "Broken" in caplog.text


def test_two_failing_readers_are_counted_apart() -> None:
    def worse(event: Event) -> None:
        raise ValueError

    bus = Bus()
    bus.subscribe(Broken())
    bus.subscribe(worse)
    bus.publish(HIT)
    assert sorted(bus.failures.values()) == [1, 1]


def test_an_interrupt_is_not_swallowed() -> None:
    def interrupted(event: Event) -> None:
        raise KeyboardInterrupt

    bus = Bus()
    bus.subscribe(interrupted)
    with pytest.raises(KeyboardInterrupt):
        bus.publish(HIT)


def test_a_reader_can_leave_even_while_it_is_told() -> None:
    bus, told = Bus(), []

    def once(event: Event) -> None:
        told.append(event)
        leave()

    leave = bus.subscribe(once)
    bus.subscribe(told.append)
    bus.publish(HIT)
    bus.publish(HIT)
    leave()
    assert told == [HIT] * 3


def test_events_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        HIT.outcome = "miss"  # type: ignore[misc] # that it is frozen is what is tested
