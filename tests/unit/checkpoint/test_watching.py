"""Figures for metrics: read behind the scrape, and never by it."""

from __future__ import annotations

import os
import threading

import pytest

from langchain_llmops.checkpoint.watching import AT_MOST, EVERY_S, Standing, watch_checkpointer
from langchain_llmops.core.errors import StoreUnavailableError


class Figures:
    """A reading that a test can hold, fail and count."""

    def __init__(self) -> None:
        self.readings = 0
        self.seconds = 0.0
        self.now = 1000.0
        self.error: Exception | None = None
        self.may_go = threading.Event()
        self.may_go.set()

    def clock(self) -> float:
        return self.now

    async def read(self) -> dict[str, float]:
        assert self.may_go.wait(30)
        self.readings += 1
        self.now += self.seconds
        if self.error is not None:
            raise self.error
        return {"conversations:warm": float(self.readings)}


@pytest.fixture
def figures():
    return Figures()


@pytest.fixture
def standing(figures):
    made = Standing(figures.read, clock=figures.clock)
    yield made
    figures.may_go.set()
    made.close()


def told(standing) -> dict[str, float]:
    standing.now()
    standing.wait()
    return standing.now()


def test_nobody_waits_for_the_first_figures(standing, figures):
    figures.may_go.clear()
    assert standing.now() == {}
    assert standing.now() == {}
    figures.may_go.set()
    standing.wait()
    assert standing.now() == {"conversations:warm": 1.0}
    assert figures.readings == 1


def test_figures_are_read_again_when_they_are_old_and_only_then(standing, figures):
    assert told(standing) == {"conversations:warm": 1.0}
    figures.now += EVERY_S - 1
    assert told(standing) == {"conversations:warm": 1.0}
    figures.now += 1
    assert told(standing) == {"conversations:warm": 2.0}


def test_figures_that_take_long_are_read_less_often(standing, figures):
    figures.seconds = 10.0
    told(standing)
    figures.now += 10.0 / AT_MOST - 1
    assert told(standing) == {"conversations:warm": 1.0}
    figures.now += 1
    assert told(standing) == {"conversations:warm": 2.0}


def test_a_database_that_is_gone_leaves_the_last_figures_and_is_logged_once(standing, figures, caplog):
    told(standing)
    figures.error = StoreUnavailableError("the test made it fail")
    for _ in range(3):
        figures.now += EVERY_S
        assert told(standing) == {"conversations:warm": 1.0}
    assert standing.errors == 3
    assert len(caplog.records) == 1
    figures.error = None
    figures.now += EVERY_S
    assert told(standing) == {"conversations:warm": 5.0}


def test_nothing_is_read_once_it_is_closed_until_it_is_opened_again(standing, figures):
    standing.close()
    assert told(standing) == {}
    assert figures.readings == 0
    standing.open()
    assert told(standing) == {"conversations:warm": 1.0}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
def test_a_forked_process_reads_for_itself(standing, figures):
    figures.may_go.clear()
    standing.now()
    child = os.fork()
    if child == 0:
        figures.may_go.set()
        os._exit(0 if told(standing) == {"conversations:warm": 1.0} else 1)
    figures.may_go.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_every_count_has_a_series():
    series = {}
    counts = {"conversations:cold": 2, "bytes:hot": 7, "hot:hit": 1, "mover:archived": 3, "orphans": 4, "refused": 5}
    watch_checkpointer(lambda name, _, read, **how: series.update({name: (read, how)}), lambda: counts)
    assert {name: read() for name, (read, _) in series.items()} == {
        "llmops_conversations_stored": {"cold": 2.0},
        "llmops_conversation_bytes_stored": {"hot": 7.0},
        "llmops_checkpoint_orphans_stored": 4.0,
        "llmops_checkpoint_hot": {"hit": 1.0},
        "llmops_checkpoint_mover": {"archived": 3.0},
        "llmops_checkpoint_refused_writes": 5.0,
    }
    assert {name for name, (_, how) in series.items() if how.get("counter")} == {
        "llmops_checkpoint_hot",
        "llmops_checkpoint_mover",
        "llmops_checkpoint_refused_writes",
    }


def test_an_error_that_is_not_ours_is_not_hidden_and_the_next_figures_are_read(figures, standing, monkeypatch):
    seen = []
    monkeypatch.setattr(threading, "excepthook", lambda found: seen.append(found.exc_type))
    figures.error = ZeroDivisionError()
    told(standing)
    assert seen == [ZeroDivisionError]
    figures.error = None
    figures.now += EVERY_S
    assert told(standing) == {"conversations:warm": 2.0}
