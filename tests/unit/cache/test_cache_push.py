"""What one process invalidates is pushed to the memory of all; what is lost on the way is asked for.

On a clock that stands still, what was trusted once is trusted for ever: no caller asks, and with no beat after the
first nobody does, so that only a message can bring the news.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from langchain_llmops.cache import push
from langchain_llmops.stores.redis import RedisStore
from tests.support.cache import keep
from tests.support.models import eventually
from tests.support.pushing import asked, looks, news, until_heard_of, warm


@pytest.fixture
def no_message(monkeypatch):
    async def lost(self, channel, message):
        pass

    monkeypatch.setattr(RedisStore, "publish", lost)


def test_who_listens_does_not_ask(process, admin, no_beat) -> None:
    keep(process(), "a")
    cache = warm(process(), "a")
    before = asked(admin)
    assert looks(cache, *["a"] * 50) == ["L1"] * 50
    assert asked(admin) == before
    cache._engine.clock.pass_s(0.25)
    assert looks(cache, "a") == ["L1"]
    assert asked(admin) == before + 1, "but one that was not heard of for long"


def test_the_look_after_a_message_finds_it_gone_and_the_rest_stays(process, admin, no_beat, monkeypatch) -> None:
    here = process()
    keep(here, "a", "b")
    there = warm(process(), "a", "b")
    heard = news(there, monkeypatch)
    before = asked(admin)
    here.invalidate(["a"])
    assert heard.acquire(timeout=10)
    assert looks(there, "b") == ["L1"]
    assert asked(admin) == before
    assert looks(there, "a") == [None]


async def test_async_callers_push_too(process, no_beat, monkeypatch) -> None:
    here = process()
    keep(here, "a")
    there = warm(process(), "a")
    heard = news(there, monkeypatch)
    await here.ainvalidate(["a"])
    assert await asyncio.to_thread(heard.acquire, timeout=10)
    assert looks(there, "a") == [None]
    await here.aclose()


def test_what_no_message_told_is_found_out_without_a_caller_that_asks(process, admin, no_message) -> None:
    """Its sender died, may not publish, or is of a version that does not."""
    here = process()
    keep(here, "a")
    there = warm(process(), "a")
    here.invalidate(["a"])
    before = asked(admin)
    eventually(lambda: there._tags.trusted() and not there._tags._known)
    assert asked(admin) == before
    assert looks(there, "a") == [None]


def test_a_change_that_no_message_told_is_not_hidden_by_a_later_message(process, monkeypatch) -> None:
    here = process()
    keep(here, "a", "b")
    there = warm(process(), "a", "b")
    with monkeypatch.context() as lost:
        lost.setattr(push.Push, "tell", _told_nobody)
        here.invalidate(["a"])
    here.invalidate(["b"])
    eventually(lambda: there._tags.trusted() and not there._tags._known)
    assert looks(there, "a", "b") == [None, None]


async def _told_nobody(self, changed, *, blocking):
    pass


@pytest.mark.parametrize("other", [{"namespace": "other"}, {"tenant": "other"}])
def test_namespaces_and_tenants_do_not_hear_each_other(process, no_beat, monkeypatch, other) -> None:
    here, foreign = process(), process(**other)
    for cache in (here, foreign):
        keep(cache, "a")
    there = warm(process(), "a")
    heard = news(there, monkeypatch)
    known = dict(there._tags._known)
    foreign.invalidate(["a"])
    foreign.clear()
    here.invalidate(["b"])
    assert heard.acquire(timeout=10)
    assert not heard.acquire(blocking=False), "theirs were published before ours"
    assert there._tags._known == known
    assert looks(there, "a") == ["L1"]


HOSTILE = {
    "empty": b"",
    "binary": b"\x80\x04\x95\xff",
    "pickle": b"cos\nsystem\n(S'exit 1'\ntR.",
    "a number": b"1",
    "a list": b"[1]",
    "no version": b'{"changed": {"%s": 5}}',
    "a later version": b'{"v": 2, "changed": {"%s": 5}}',
    "no changes": b'{"v": 1}',
    "a list of changes": b'{"v": 1, "changed": ["%s"]}',
    "a text": b'{"v": 1, "changed": {"%s": "5"}}',
    "a truth": b'{"v": 1, "changed": {"%s": true}}',
    "a fraction": b'{"v": 1, "changed": {"%s": 5.5}}',
    "below zero": b'{"v": 1, "changed": {"%s": -5}}',
    "too large": b'{"v": 1, "changed": {"%s": 9223372036854775808}}',
    "far too large": b'{"v": 1, "changed": {"%s": ' + b"9" * 10_000 + b"}}",
    "one of several": b'{"v": 1, "changed": {"%s": 5, "x": null}}',
    "deep": b'{"v": 1, "changed": ' + b"[" * 100_000,
    "too many": json.dumps({"v": 1, "changed": {str(n): n for n in range(1001)}}).encode(),
    "too long": b'{"v": 1, "changed": {"%s": 5}}' + b" " * 200_000,
}


@pytest.mark.parametrize("message", HOSTILE.values(), ids=HOSTILE)
def test_a_message_that_is_not_ours_changes_nothing_and_is_counted(
    process, admin, no_beat, monkeypatch, message
) -> None:
    here = process()
    keep(here, "a", "b")
    there = warm(process(), "a", "b")
    heard = news(there, monkeypatch)
    known = dict(there._tags._known)
    admin.publish(_channel(admin), message.replace(b"%s", there._tags.key("a").encode()))
    here.invalidate(["b"])
    assert heard.acquire(timeout=10), "it still listens"
    assert there.stats()["error:L2"] == 1
    assert {**there._tags._known, there._tags.key("b"): known[there._tags.key("b")]} == known
    assert looks(there, "a", "b") == ["L1", None]


def test_no_message_makes_memory_grow(process, admin, no_beat, monkeypatch) -> None:
    keep(process(), "a")
    there = warm(process(), "a")
    heard = news(there, monkeypatch)
    known = dict(there._tags._known)
    admin.publish(_channel(admin), json.dumps({"v": 1, "changed": {str(n): n for n in range(1000)}}))
    assert heard.acquire(timeout=10)
    assert there._tags._known == known


def _channel(admin) -> bytes:
    (channel,) = admin.pubsub_channels()
    assert channel.startswith(b"llmops:cache-tag:2:")
    return channel


def test_an_invalidation_in_the_gap_before_a_subscription_is_found_out_before_trust(process, monkeypatch) -> None:
    """First the subscription, then the question: in between, and before, nothing is trusted."""
    here = process()
    keep(here, "a")
    there = process()
    assert looks(there, "a") == ["L2"]
    there._tags.distrust()
    listener, order = there._push._listener, []
    listen, get = listener._channels.listen, listener._kv.get

    class Gap:
        def __init__(self, channel) -> None:
            self._line = listen(channel)

        async def __aenter__(self):
            await asyncio.to_thread(here.invalidate, ["a"])
            line = await self._line.__aenter__()
            order.append(("subscribed", there._tags._trusted_until > there._engine.clock()))
            return line

        async def __aexit__(self, *error):
            return await self._line.__aexit__(*error)

    async def asks(key):
        order.append((key, there._tags._trusted_until > there._engine.clock()))
        return await get(key)

    monkeypatch.setattr(listener._channels, "listen", Gap)
    monkeypatch.setattr(listener._kv, "get", asks)
    listener.wake()
    until_heard_of(there)
    assert order[:2] == [("subscribed", False), (there._tags.epoch, False)]
    assert looks(there, "a") == [None]
