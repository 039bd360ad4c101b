"""A store that fails is left alone, and one caller at a time finds out whether it works again."""

from __future__ import annotations

import pytest

from langchain_llmops.cache.breaker import FIRST_PAUSE_S, LATE_IN_A_ROW, LONGEST_PAUSE_S, Breaker

DOWN = RuntimeError("down")


@pytest.fixture
def told() -> list[Exception]:
    return []


@pytest.fixture
def breaker(clock, told) -> Breaker:
    return Breaker(clock, told.append)


def test_an_error_opens_it_at_once(breaker, clock, told) -> None:
    assert breaker.admits()
    breaker.failed(DOWN)
    assert breaker.is_open()
    assert not breaker.admits()
    assert told == [DOWN]


def test_late_answers_open_it_only_when_there_are_some_in_a_row(breaker, clock) -> None:
    for number in range(3 * LATE_IN_A_ROW):
        clock.pass_s(1)
        breaker.late(clock.now - 0.05, DOWN)
        assert not breaker.is_open()
        if number % (LATE_IN_A_ROW - 1):
            breaker.worked()
    for _ in range(LATE_IN_A_ROW):
        clock.pass_s(1)
        breaker.late(clock.now - 0.05, DOWN)
    assert breaker.is_open()


def test_late_answers_of_one_moment_count_as_one(breaker, clock) -> None:
    began = clock.now
    clock.pass_s(0.05)
    for _ in range(500):
        breaker.late(began, DOWN)
    assert not breaker.is_open()


def test_after_a_pause_one_probe_is_let_through_and_its_success_closes_it(breaker, clock) -> None:
    breaker.failed(DOWN)
    clock.pass_s(FIRST_PAUSE_S)
    assert [breaker.admits() for _ in range(3)] == [True, False, False]
    breaker.worked()
    assert [breaker.admits() for _ in range(3)] == [True, True, True]


def test_a_probe_that_never_tells_is_followed_by_another(breaker, clock) -> None:
    breaker.failed(DOWN)
    for _ in range(3):
        clock.pass_s(FIRST_PAUSE_S)
        assert [breaker.admits() for _ in range(2)] == [True, False]


def test_pauses_grow_to_the_longest_and_begin_anew_when_something_worked(breaker, clock, told) -> None:
    pauses = []
    for _ in range(7):
        breaker.failed(DOWN)
        passed = 0.0
        while breaker.is_open():
            clock.pass_s(0.125)
            passed += 0.125
        pauses.append(passed)
        assert breaker.admits()
    assert pauses[:4] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S, 8 * FIRST_PAUSE_S]
    assert pauses[4:] == [LONGEST_PAUSE_S] * 3
    assert told == [DOWN], "an outage is told of once"
    breaker.worked()
    breaker.failed(DOWN)
    clock.pass_s(FIRST_PAUSE_S)
    assert not breaker.is_open()
    assert told == [DOWN, DOWN]


def test_a_clock_that_is_set_back_does_not_leave_it_open(breaker, clock) -> None:
    breaker.failed(DOWN)
    clock.pass_s(-3600)
    assert not breaker.is_open()
    breaker.failed(DOWN)
    assert breaker.is_open()


def test_what_stands_under_another_is_open_with_it_and_not_the_other_way(breaker, clock, told) -> None:
    changes = Breaker(clock, told.append, under=breaker)
    changes.failed(DOWN)
    assert changes.is_open()
    assert breaker.admits(), "who refuses a change can still be read"
    changes.worked()
    breaker.failed(DOWN)
    assert not changes.admits()


def test_late_answers_do_not_open_what_has_more_time(breaker, clock, told) -> None:
    changes = Breaker(clock, told.append, under=breaker)
    for _ in range(LATE_IN_A_ROW):
        clock.pass_s(1)
        breaker.late(clock.now, DOWN)
    assert (breaker.admits(), changes.admits()) == (False, True)
    breaker.failed(DOWN)
    assert not changes.admits()
