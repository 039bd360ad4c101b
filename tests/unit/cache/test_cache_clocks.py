"""Clocks that are set: nothing is served past its time, nothing stays for ever, and nobody waits for what is over."""

from __future__ import annotations

import pytest

from langchain_llmops.cache.engine import AHEAD_S
from langchain_llmops.cache.tiered import TieredCache
from tests.support.cache import KEPT, Shelf, texts
from tests.support.models import ScriptedModel

DAY_S = 86_400.0
STEPS = pytest.mark.parametrize("step_s", [-365 * DAY_S, -3 * AHEAD_S, -1.0, 1.0, 365 * DAY_S])


class Lasting(Shelf):
    """Keeps what it is given for ever, as a database may whose own clock stands still."""

    async def set_many(self, items, ttl_s=None) -> None:
        await self.items.set_many(items)


def look(cache, prompt="p"):
    return texts(cache.lookup(prompt, "m"))


@pytest.mark.parametrize("step_s", [-365 * DAY_S, -3 * AHEAD_S, -1.0, 1.0, 365 * DAY_S])
def test_what_is_past_its_time_before_a_step_is_past_it_after_it(step_s, make, clock) -> None:
    cache = make(l1_s=100, l2_s=100)
    cache.update("p", "m", KEPT)
    clock.pass_s(101)
    assert look(cache) is None
    clock.pass_s(step_s)
    assert look(cache) is None
    assert look(make(l1_s=100, l2_s=100)) is None


@pytest.mark.parametrize("l2", [True, False])
def test_a_step_forward_ends_what_is_fresh(l2, make, clock) -> None:
    cache = make(l2=l2, l1_s=100, l2_s=100)
    cache.update("p", "m", KEPT)
    clock.pass_s(DAY_S)
    assert look(cache) is None


@pytest.mark.parametrize("step_s", [-365 * DAY_S, -DAY_S, -AHEAD_S - 1])
def test_a_store_that_forgets_nothing_pins_nothing_when_the_clock_is_set_back(step_s, clock) -> None:
    shelf = Lasting(clock)
    cache = TieredCache((shelf, shelf), clock=clock, lease_s=0)
    cache.update("p", "m", KEPT)
    assert cache.flush()
    clock.pass_s(step_s)
    other = TieredCache((shelf, shelf), clock=clock, lease_s=0)
    assert look(other) is None, "how old it is nobody can tell"
    other.update("p", "m", KEPT)
    assert other.flush()
    for _ in range(3):
        assert look(TieredCache((shelf, shelf), clock=clock, lease_s=0)) == ["ok"]
        clock.pass_s(99)
    clock.pass_s(4)
    assert look(TieredCache((shelf, shelf), clock=clock, lease_s=0)) is None


@pytest.mark.parametrize("ahead_s", [1.0, AHEAD_S - 1])
def test_hosts_whose_clocks_differ_a_little_share(ahead_s, make, clock) -> None:
    make().update("p", "m", KEPT)
    clock.pass_s(-ahead_s)
    cache = make()
    (found,) = cache.lookup("p", "m")
    assert found.message.response_metadata["llmops_cache"]["age_s"] == 0.0


@STEPS
def test_a_level_that_was_away_is_asked_again_after_any_step(step_s, make, shelf, clock) -> None:
    shelf.broken = True
    cache = make()
    cache.lookup("p", "m")
    shelf.broken = False
    clock.pass_s(step_s)
    for number in range(70):  # a minute and more
        cache.update(str(number), "m", KEPT)
        if look(make(), str(number)):
            break
        clock.pass_s(1)
    else:
        pytest.fail("the level was never asked again")


@STEPS
def test_an_invalidation_is_seen_after_any_step(step_s, make, clock) -> None:
    def tagged(**options):
        return make(tags_of=lambda prompt, llm_string: ["t"], **options)

    here, there = tagged(), tagged()
    here.update("p", "m", KEPT)
    there.lookup("p", "m")
    clock.pass_s(step_s)
    here.invalidate(["t"])
    clock.pass_s(0.25)
    assert look(there) is None
    here.update("p", "m", KEPT)
    assert look(there) == ["ok"]


@STEPS
def test_calls_go_on_and_are_cached_after_any_step(step_s, make, clock) -> None:
    cache = make(lease_s=3.0)
    model = ScriptedModel(cache=cache)
    model.invoke("hi")
    clock.pass_s(step_s)
    for _ in range(3):
        assert model.invoke("hi").text == "ok"
    assert model.calls <= 2
