"""What the checkpoint benchmark puts between a peer and its servers neither adds nor loses anything."""

from __future__ import annotations

import json

import pytest

from tests.benchmarks.checkpoint_proxy import Requests
from tests.benchmarks.checkpoint_redisjson import client, plain
from tests.benchmarks.checkpoint_seed import Mix
from tests.benchmarks.checkpoint_sizes import Weights
from tests.support import servers

STREAM = (
    b"PUT /bucket/a HTTP/1.1\r\nContent-Length: 25\r\n\r\nGET /no/request HTTP/1.1\r\n"[:-1]
    + b"GET /bucket/a HTTP/1.1\r\nHost: x\r\n\r\n"
    + b"DELETE /bucket/a HTTP/1.1\r\ncontent-length: 0\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, len(STREAM)])
def test_every_request_is_counted_once_however_its_bytes_arrive(size):
    seen: list[str] = []
    counted = Requests(seen)
    for start in range(0, len(STREAM), size):
        counted.feed(STREAM[start : start + size])
    assert seen == [f"{method} /bucket/a HTTP/1.1" for method in ("PUT", "GET", "DELETE")]


async def test_a_document_comes_back_from_plain_redis_as_from_redisjson():
    tricky = '{"checkpoint": {"x": 1}, "metadata": "none"}, "metadata": "'
    document = {
        "thread_id": "t",
        "checkpoint": {"channel_values": {"messages": [tricky, {"deep": [1, None]}]}, "metadata": "mine"},
        "metadata": '{"step": 1}',
        "has_writes": False,
    }
    with servers.redis_server() as server:
        async with client(server.url) as redis:
            await redis.json().set("key", "$", document)
            assert await redis.json().get("key") == document
            assert await redis.json().get("key", "$.checkpoint") == [document["checkpoint"]]
            assert await redis.json().get("absent", "$.checkpoint") is None
            pipeline = redis.pipeline(transaction=False)
            pipeline.json().set("other", "$", {"a": 1})
            pipeline.json().merge("key", "$", {"has_writes": True})
            assert await pipeline.execute() == [True, True]
            assert json.loads(await redis.get("other")) == {"a": 1}


def test_a_command_without_a_stand_in_is_refused():
    with pytest.raises(NotImplementedError, match=r"FT\.SEARCH"):
        plain(("FT.SEARCH", "checkpoint", "*"))


def test_every_conversation_of_a_mix_is_in_its_tiers():
    one = Weights(20, hot=10, warm=100, cold=50, rows=2, peers={})
    assert Mix.parse("2,18,80").bytes(one) == pytest.approx((0.2, 20 + 1.6, 40))


@pytest.mark.parametrize("text", ["2,18", "2,18,81", "-2,22,80"])
def test_shares_that_do_not_make_a_hundred_are_refused(text):
    with pytest.raises(ValueError, match="give percent"):
        Mix.parse(text)
