"""A server that accepts connections and says nothing costs no more than an answer that is late."""

from __future__ import annotations

import pytest
import redis

from langchain_llmops.stores import wire_blocking
from langchain_llmops.stores.wire import CONNECT_S, Endpoint
from langchain_llmops.stores.wire_blocking import BlockingWires

ANSWER_S = 0.01


class Time:
    now = 0.0

    @classmethod
    def monotonic(cls) -> float:
        return cls.now


@pytest.fixture
def given(monkeypatch) -> list[float]:
    """The seconds that each connection was given."""
    given = []

    def opened(endpoint, timeout_s):
        given.append(timeout_s)
        raise TimeoutError

    monkeypatch.setattr(wire_blocking, "_opened", opened)
    monkeypatch.setattr(wire_blocking, "time", type("Own", (Time,), {}))
    return given


def asked(wires) -> None:
    with pytest.raises(redis.TimeoutError):
        wires.ask([("PING",)], ANSWER_S, again=True)


def test_a_connection_is_given_the_time_of_an_answer_while_the_server_is_silent(given) -> None:
    wires = BlockingWires(Endpoint("127.0.0.1", 1, 0))
    asked(wires)
    asked(wires)
    assert given == [CONNECT_S, ANSWER_S]


def test_a_server_that_takes_long_to_connect_to_is_given_its_time_again(given) -> None:
    """Were the short time given for ever, no connection would be made to it again."""
    wires = BlockingWires(Endpoint("127.0.0.1", 1, 0))
    for _ in range(4):
        asked(wires)
        wire_blocking.time.now += 0.6 * wire_blocking.SILENT_S
    assert given == [CONNECT_S, ANSWER_S, CONNECT_S, ANSWER_S]
