"""A lease is its holder's alone: who stalled for longer than it lasts neither prolongs nor ends another's."""

from __future__ import annotations

import asyncio

import pytest

from langchain_llmops.cache.lease import FREE, PREFIX
from tests.support.models import ScriptedModel, answer
from tests.support.waiting import until

LEASE_S = 0.03
OTHERS = b"another process"


@pytest.fixture
async def asking(make, shelf):
    """A cache whose call is at the provider, that call, and what holds it there; its lease is another's by now."""
    cache, go_on = make(lease_s=LEASE_S), asyncio.Event()

    class Held(ScriptedModel):
        async def _agenerate(self, *args, **kwargs):
            self.asked.append(([], {}))
            await go_on.wait()
            return await super()._agenerate(*args, **kwargs)

    model = Held(answer(), cache=cache)
    task = asyncio.create_task(model.ainvoke("hi"))
    await until(lambda: model.asked)
    return cache, task, go_on


async def test_a_lease_that_another_has_by_now_is_neither_prolonged_nor_ended(asking, shelf) -> None:
    cache, task, go_on = asking
    (flight,) = cache.answers._flights._led.values()
    await shelf.set_many({PREFIX + flight.key: OTHERS}, 60.0)
    await until(lambda: flight.lease is None)  # the next renewal finds it
    go_on.set()
    await task
    assert await shelf.get_many([PREFIX + flight.key]) == [OTHERS]


@pytest.mark.parametrize("unkept", [True, False])
async def test_a_lease_is_given_back_by_its_holder_alone(asking, shelf, unkept) -> None:
    cache, task, go_on = asking
    (flight,) = cache.answers._flights._led.values()
    leases = cache.answers._leases
    lease = flight.lease
    await shelf.set_many({PREFIX + flight.key: OTHERS}, 60.0)
    await leases.give_back(flight, unkept=unkept, blocking=False)
    assert await shelf.get_many([PREFIX + flight.key]) == [OTHERS]
    flight.lease = lease
    await shelf.set_many({PREFIX + flight.key: lease}, 60.0)
    await leases.give_back(flight, unkept=unkept, blocking=False)
    assert await shelf.get_many([PREFIX + flight.key]) == [FREE if unkept else None]
    go_on.set()
    await task


async def test_a_lease_that_ran_out_unseen_is_taken_again(asking, shelf) -> None:
    cache, task, go_on = asking
    (flight,) = cache.answers._flights._led.values()
    await shelf.delete(PREFIX + flight.key)

    async def back() -> bool:
        return await shelf.get_many([PREFIX + flight.key]) == [flight.lease]

    async with asyncio.timeout(10):
        while not await back():
            await asyncio.sleep(0.001)
    go_on.set()
    await task


async def test_where_no_lease_can_be_had_nothing_is_looked_for_again(make, shelf) -> None:
    cache = make(lease_s=3.0)
    shelf.broken = True
    assert await cache.alookup("p", "m") is None
    assert [cache.stats()[name] for name in ("error:L2", "skipped:L2")] == [1, 1], "one look and one claim"
