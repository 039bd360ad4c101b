"""Answers near and past their time: asked for again by one caller, while the others are served."""

from __future__ import annotations

import asyncio
import os

import pytest

from langchain_llmops.cache.policy import Ttl
from langchain_llmops.cache.tiered import TieredCache
from tests.support.cache import KEPT, Shelf, texts
from tests.support.models import ScriptedModel, answer


def chance(cache: TieredCache, number: float) -> None:
    cache._engine._chance = lambda: number


@pytest.mark.parametrize("lease_s", [0, 3.0])
def test_an_answer_that_took_long_is_asked_for_again_before_its_end(make, clock, lease_s) -> None:
    cache = make(l1_s=100, l2_s=100, lease_s=lease_s)

    def taking_20_s(messages):
        for flight in cache.answers._flights._flying.values():
            flight.began -= 20
        return answer("old" if model.calls == 1 else "new")

    model = ScriptedModel(taking_20_s, cache=cache)
    model.invoke("hi")
    clock.pass_s(50)
    chance(cache, 0.0)  # the least early there is: at the end
    assert model.invoke("hi").text == "old"
    chance(cache, 0.99)  # 4.6 times what asking took, which is more than what is left
    assert model.invoke("hi").text == "new"
    chance(cache, 0.0)
    assert model.invoke("hi").text == "new"
    assert model.calls == 2


async def test_past_its_time_one_asks_and_the_rest_get_the_old_one(make, clock) -> None:
    cache = make(l1_s=100, l2_s=100, stale_s=50)
    await cache.aupdate("p", "m", KEPT)
    clock.pass_s(120)
    asking = asyncio.create_task(ask_slowly(cache))
    await asyncio.sleep(0.01)
    (hit,) = await asyncio.create_task(cache.alookup("p", "m"))
    assert hit.message.response_metadata["llmops_cache"]["stale"] is True
    assert await asking is None
    assert cache.stats()["stale"] == 1


async def ask_slowly(cache):
    found = await cache.alookup("p", "m")
    await asyncio.sleep(0.1)
    return found


def test_past_its_stale_time_it_is_gone(make, clock) -> None:
    cache = make(l1_s=100, l2_s=100, stale_s=50)
    cache.update("p", "m", KEPT)
    clock.pass_s(151)
    assert cache.lookup("p", "m") is None
    assert make(l1_s=100, l2_s=100, stale_s=50).lookup("p", "m") is None


def test_the_third_level_serves_while_the_second_is_away(make, clock, bus, shelf) -> None:
    third = Shelf(clock)
    cache = TieredCache((shelf, shelf), (third, third), clock=clock, bus=bus, lease_s=0)
    shelf.broken = True
    cache.update("p", "m", KEPT)
    assert cache.flush()
    assert texts(cache.lookup("p", "m")) == ["ok"]
    assert cache.stats()["hit:L1"] == 1
    other = TieredCache((shelf, shelf), (third, third), clock=clock, bus=bus, lease_s=0)
    assert [texts(other.lookup("p", "m")) for _ in range(2)] == [["ok"], ["ok"]]
    assert {name: count for name, count in other.stats().items() if name.startswith("hit")} == {
        "hit:L3": 1,
        "hit:L1": 1,
    }


async def test_a_forked_child_waits_for_nobody_that_its_parent_waits_for(make) -> None:
    cache = make(l2=False)
    leading = asyncio.create_task(ask_slowly(cache))
    await asyncio.sleep(0.01)
    child = os.fork()
    if not child:
        right = False
        try:
            right = cache.lookup("p", "m") is None and cache.flush(1.0)
        finally:
            os._exit(not right)
    assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == 0
    await leading


@pytest.mark.parametrize(
    ("tags", "seconds"),
    [((), 100), (("doc:policy",), 10), (("doc:",), 10), (("doc",), 10), (("doc:law:7",), 5), (("docs:1", "x"), 100)],
    ids=str,
)
def test_a_time_is_given_to_one_tag_or_to_all_of_its_kind(tags, seconds) -> None:
    ttl = Ttl(tags={"doc": 10, "doc:law:7": 5})
    assert min(100, ttl.at_most(tags)) == seconds
