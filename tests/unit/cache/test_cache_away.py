"""A second level that is away, broken or full of garbage is a miss and never an error."""

from __future__ import annotations

import asyncio
from itertools import count

import pytest

from langchain_llmops.cache.breaker import LONGEST_PAUSE_S
from langchain_llmops.cache.engine import PREFIX
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.errors import StoreUnavailableError
from tests.support.cache import KEPT, texts
from tests.support.models import ScriptedModel


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_a_second_level_that_is_no_database_is_a_miss_and_said_once(tmp_path, caplog, colour) -> None:
    (tmp_path / "cache.db").write_bytes(b"this is no database" * 100)
    cache = TieredCache.from_urls(f"sqlite:///{tmp_path / 'cache.db'}", l1_max_bytes=0, clock=count(0, 10).__next__)
    model = ScriptedModel(cache=cache)
    for _ in range(3):
        answer = model.invoke("hi") if colour == "sync" else await model.ainvoke("hi")
        assert answer.text
        assert await asyncio.to_thread(cache.flush)
    assert model.calls == 3
    assert len([record for record in caplog.records if "without its level L3" in record.message]) == 1
    await cache.aclose()


def test_a_store_that_is_away_is_a_miss_and_never_an_error(make, shelf) -> None:
    shelf.broken = True
    cache = make()
    model = ScriptedModel(cache=cache)
    assert [model.invoke("hi").text for _ in range(2)] == ["ok", "ok"]
    assert model.calls == 1, "the first level still works"
    assert cache.stats()["error:L2"] == 1
    assert cache.stats()["skipped:L2"] == 1, "the epoch before a hit from memory"


async def test_a_store_that_is_away_is_a_miss_in_async_code(make, shelf) -> None:
    shelf.broken = True
    model = ScriptedModel(cache=make(l1_s=0.001))
    assert (await model.ainvoke("hi")).text == "ok"


def test_a_store_that_is_away_is_left_alone_for_a_while(make, shelf, clock, looks, caplog) -> None:
    shelf.broken = True
    cache = make()
    for number in range(100):
        cache.lookup(str(number), "m")
        cache.update(str(number), "m", KEPT)
    assert shelf.asked == 1
    assert [look.outcome for look in looks].count("error") == 1
    assert cache.stats()["skipped:L2"] >= 99, "every look that did without it"
    assert len(caplog.records) == 1
    shelf.broken = False
    clock.pass_s(LONGEST_PAUSE_S)
    cache.update("p", "m", KEPT)
    assert make().lookup("p", "m") is not None


def test_a_store_that_fails_at_writing_never_loses_the_answer(make, shelf) -> None:
    cache = make()
    cache.lookup("p", "m")
    shelf.broken = True
    cache.update("p", "m", KEPT)
    assert texts(cache.lookup("p", "m")) == ["ok"]


def test_clearing_says_when_it_could_not(make, shelf) -> None:
    cache = make()
    cache.update("p", "m", KEPT)
    shelf.broken = True
    with pytest.raises(StoreUnavailableError):
        cache.clear()


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"LO\x01\x00{", b"\x80\x04."])
async def test_garbage_in_the_store_is_a_miss_and_is_written_over(make, shelf, garbage) -> None:
    cache = make()
    await cache.aupdate("p", "m", KEPT)
    (key,) = [name for name in shelf.items._items if name.startswith(PREFIX)]
    await shelf.items.set(key, garbage)
    other = make()
    assert await other.alookup("p", "m") is None
    assert other.stats()["error:L2"] == 1
    await other.aupdate("p", "m", KEPT)
    assert await other.alookup("p", "m") is not None
    assert await make().alookup("p", "m") is not None


async def test_a_generation_that_is_garbage_is_a_miss_and_never_an_error(make, shelf) -> None:
    cache = make()
    await cache.aupdate("p", "m", KEPT)
    await shelf.items.set(cache._tags.everything, b"not a number")
    assert await make().alookup("p", "m") is None
