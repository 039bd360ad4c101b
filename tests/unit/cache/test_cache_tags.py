"""Invalidation by what answers depend on."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.cache.policy import Ttl
from langchain_llmops.cache.tags import Tags
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.context import run_config
from langchain_llmops.core.errors import ConfigurationError, StoreError, StoreUnavailableError
from langchain_llmops.core.types import Identity
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.cache import KEPT, keep, tags_of, texts
from tests.support.models import Hang, ScriptedModel, answer
from tests.support.waiting import until


def kept(cache, *prompts) -> list[bool]:
    return [cache.lookup(prompt, "m") is not None for prompt in prompts]


@pytest.fixture
def cache(make) -> TieredCache:
    cache = make(tags_of=tags_of)
    keep(cache, "a", "b", "a,b", "c")
    return cache


@pytest.mark.parametrize("l2", [True, False])
def test_what_carries_the_tag_goes_and_the_rest_stays(make, l2) -> None:
    cache = make(tags_of=tags_of, l2=l2)
    keep(cache, "a", "b", "a,b", "c")
    cache.invalidate(["a"])
    assert kept(cache, "a", "b", "a,b", "c") == [False, True, False, True]


async def test_async_callers_invalidate_too(cache) -> None:
    await cache.ainvalidate("a")
    assert kept(cache, "a", "b", "a,b", "c") == [False, True, False, True]


def test_another_process_finds_it_gone(cache, make) -> None:
    other = make(tags_of=tags_of)
    assert kept(other, "a", "b") == [True, True]
    cache.invalidate(["a"])
    assert kept(make(tags_of=tags_of), "a", "b") == [False, True]


def test_a_process_that_has_it_in_memory_learns_of_it_in_a_moment(cache, make, clock) -> None:
    other = make(tags_of=tags_of)
    assert kept(other, "a", "b") == [True, True]
    cache.invalidate(["a"])
    clock.pass_s(0.25)
    assert kept(other, "a", "b") == [False, True]


def test_who_asks_without_the_tags_finds_it_gone_as_well(cache, make) -> None:
    cache.invalidate(["a"])
    assert kept(make(), "a", "c") == [False, True]


def test_it_can_be_kept_again_after_that(cache) -> None:
    cache.invalidate(["a"])
    cache.update("a", "m", KEPT)
    assert kept(cache, "a") == [True]


def test_an_answer_asked_for_before_an_invalidation_is_not_found_after_it(cache, make) -> None:
    """The document changed while the model was reading the old one."""
    cache.invalidate(["a"])
    assert cache.lookup("a", "m") is None
    make(tags_of=tags_of).invalidate(["a"])
    cache.update("a", "m", KEPT)
    assert kept(make(tags_of=tags_of), "a") == [False]


def test_tags_may_depend_on_tags(make) -> None:
    cache = make(tags_of=tags_of)
    cache.depend("page", on=["chapter"])
    cache.depend("chapter", on=["book"])
    keep(cache, "page", "chapter", "book", "other")
    cache.invalidate(["chapter"])
    assert kept(cache, "page", "chapter", "book", "other") == [False, False, True, True]
    cache.invalidate(["book"])
    assert kept(cache, "book", "other") == [False, True]


def test_a_circle_of_tags_is_refused(cache) -> None:
    cache.depend("a", on=["b"])
    cache.depend("b", on=["c"])
    for tag, on in (("c", ["a"]), ("a", ["a"])):
        with pytest.raises(ConfigurationError, match=f"tag '{tag}' would depend on itself"):
            cache.depend(tag, on)


@pytest.mark.parametrize("tag", ["", "x" * 201, 3, None])
def test_a_tag_that_is_none_is_refused(cache, tag) -> None:
    with pytest.raises(ConfigurationError, match="a cache tag is a text of 1 to 200 characters"):
        cache.invalidate([tag])


def test_a_tenants_invalidation_leaves_other_tenants_alone(cache, make) -> None:
    other = make(tags_of=tags_of, tenant="other")
    other.update("a", "m", KEPT)
    cache.invalidate(["a"])
    assert kept(other, "a") == [True]


def test_an_invalidation_that_could_not_be_written_says_so(cache, shelf) -> None:
    shelf.broken = True
    with pytest.raises(StoreUnavailableError):
        cache.invalidate(["a"])
    assert kept(cache, "a", "b") == [False, True], "this process knows"


def test_tags_come_with_the_call(make) -> None:
    cache = make()
    model = ScriptedModel(cache=cache)

    def ask(text, *tags):
        config = {"callbacks": [OpsCallbackHandler()], "metadata": {"cache_tags": list(tags)}}
        return model.invoke(text, config)

    ask("hi", "doc:policy")
    ask("hello")
    cache.invalidate(["doc:policy"])
    ask("hi", "doc:policy")
    ask("hello")
    assert model.calls == 3


def test_invalidating_costs_the_same_however_much_carries_the_tag(make, shelf) -> None:
    cache = make(tags_of=lambda prompt, _: ["everybody"])
    costs = []
    for number in (1, 200):
        for prompt in range(number):
            cache.update(str(prompt), "m", KEPT)
        before = shelf.asked
        cache.invalidate(["everybody"])
        costs.append(shelf.asked - before)
    assert costs == [1, 1]


def test_what_share_goes_and_what_stays(make) -> None:
    """A thousand answers of a hundred users: a tag takes one in a hundred, and no other."""
    cache = make(tags_of=lambda prompt, _: [f"user:{int(prompt) % 100}"])
    for prompt in range(1000):
        cache.update(str(prompt), "m", KEPT)
    cache.invalidate(["user:42"])
    assert [prompt for prompt in range(1000) if cache.lookup(str(prompt), "m") is None] == list(range(42, 1000, 100))


names = st.text(max_size=6)


@given(st.lists(st.tuples(names, names, names), min_size=2, max_size=2, unique=True))
def test_tags_of_tenants_and_namespaces_never_share_a_place(two) -> None:
    (one, other) = (Tags(tenant, space, lambda: 0.0).key(tag) for tenant, space, tag in two)
    assert one != other


def test_no_tag_is_in_the_place_of_everything_or_of_the_epoch() -> None:
    tags = Tags("t", "n", lambda: 0.0)
    places = {tags.key(name) for name in ("everything", "epoch", "", "tag", "\x00epoch")}
    assert not places & {tags.everything, tags.epoch}


def test_what_was_asked_ahead_is_trusted_as_long_whoever_asks_in_between(clock) -> None:
    tags = Tags("t", "n", clock)
    tags.saw_epoch(1, clock() + 0.2)
    tags.saw_epoch(1)
    clock.pass_s(0.15)
    assert tags.trusted()
    clock.pass_s(0.1)
    assert not tags.trusted()


@pytest.mark.parametrize("step", [-1000.0, 1000.0])
def test_a_clock_that_was_set_ends_trust_until_the_next_answer(clock, step) -> None:
    tags = Tags("t", "n", clock)
    tags.saw_epoch(1, clock() + 0.2)
    clock.pass_s(step)
    assert not tags.trusted()
    tags.saw_epoch(1)
    assert tags.trusted()


def test_a_hit_of_a_tagged_answer_is_served(cache) -> None:
    assert texts(cache.lookup("a,b", "m")) == ["ok"]


@pytest.mark.parametrize("l2", [True, False])
def test_an_answer_that_was_asked_for_again_in_time_can_be_invalidated_too(make, clock, l2) -> None:
    cache = make(l2=l2, l1_s=10, l2_s=10, stale_s=100, tags_of=lambda prompt, llm_string: ["t"])
    cache._engine._chance = lambda: 1 - 1e-16  # XFetch: as early as can be
    model = ScriptedModel(lambda messages: time.sleep(0.01) or answer("ok"), cache=cache)
    model.invoke("hi")
    clock.pass_s(9.9)
    model.invoke("hi")
    assert model.calls == 2
    cache._engine._chance = lambda: 0.0
    (make() if l2 else cache).invalidate(["t"])
    clock.pass_s(0.25)
    model.invoke("hi")
    assert model.calls == 3


def test_an_answer_that_was_asked_for_again_late_can_be_invalidated_too(make, clock) -> None:
    cache = make(l2=False, l1_s=10, stale_s=100, tags_of=lambda prompt, llm_string: ["t"])
    model = ScriptedModel(cache=cache)
    model.invoke("hi")
    clock.pass_s(20)
    model.invoke("hi")
    cache.invalidate(["t"])
    model.invoke("hi")
    assert model.calls == 3


async def test_who_asks_after_an_invalidation_gets_nothing_that_was_asked_before_it(make) -> None:
    cache = make(tags_of=lambda prompt, llm: ["doc"])
    release = asyncio.Event()

    async def lead() -> None:
        assert await cache.alookup("p", "m") is None
        await release.wait()
        await cache.aupdate("p", "m", KEPT)

    leading = asyncio.create_task(lead())
    await until(lambda: cache.answers._flights._flying)
    await cache.ainvalidate(["doc"])
    assert await asyncio.wait_for(asyncio.create_task(cache.alookup("p", "m")), 5) is None
    release.set()
    await leading
    assert await asyncio.create_task(cache.alookup("p", "m")) is None


async def test_an_answer_asked_for_alone_before_an_invalidation_is_not_kept_after_it(make) -> None:
    cache = make(tags_of=lambda prompt, llm: ["doc"])
    assert await cache.alookup("p", "m") is None
    assert await cache.alookup("p", "m") is None  # it would wait for itself
    await cache.ainvalidate(["doc"])
    await cache.aupdate("p", "m", KEPT)
    assert await asyncio.create_task(cache.alookup("p", "m")) is None
    assert cache.stats()["invalidated:L1"] >= 1


def test_shelves_keep_what_they_are_given_and_forget_it_by_tag(make) -> None:
    cache, other = make(), make()
    drive(cache.blocking_shelves.write({"a:0": b"1", "a:1": b"2"}, ttl_s=10.0, tags=["doc"]))
    assert cache.flush()
    found = drive(other.blocking_shelves.read(["a:1", "a:2", "a:0", "a:1"]))
    assert [None if one is None else one.data for one in found] == [b"2", None, b"1", b"2"]
    other.invalidate(["doc"])
    assert drive(other.blocking_shelves.read(["a:0", "a:1"])) == [None, None]


def test_shelves_refuse_what_was_searched_for_before_an_invalidation(make) -> None:
    cache = make()
    shelves = cache.blocking_shelves
    since = drive(shelves.epoch())
    drive(shelves.write({"a:0": b"1"}, since=since))
    make().invalidate(["another"])
    drive(shelves.write({"a:1": b"2"}, since=since))
    assert [one and one.data for one in drive(shelves.read(["a:0", "a:1"]))] == [b"1", None]
    drive(shelves.write({"a:1": b"2"}, since=drive(shelves.epoch())))
    assert drive(shelves.read(["a:1"]))[0].data == b"2"


@pytest.mark.parametrize("l2", [True, False])
def test_shelves_find_many_in_one_round_trip(make, shelf, l2) -> None:
    cache = make(l2=l2)
    drive(cache.blocking_shelves.write({f"a:{n}": b"%d" % n for n in range(100)}))
    assert cache.flush()
    fresh = make(l2=l2)
    asked = shelf.asked
    found = drive(fresh.blocking_shelves.read([f"a:{n}" for n in range(100)]))
    assert [one is not None for one in found] == [l2] * 100
    assert shelf.asked == asked + (1 if l2 else 0)


def test_who_carries_a_tag_is_served_nothing_that_does_not(make, clock) -> None:
    cache = make()
    model = ScriptedModel(cache=cache)
    tagged = {"metadata": {"cache_tags": ["doc"]}}
    model.invoke("hi")
    model.invoke("hi", tagged)
    assert model.calls == 2
    model.invoke("hi", tagged)
    model.invoke("hi")  # more tags than were asked for are no harm
    assert model.calls == 2
    make().invalidate(["doc"])
    clock.pass_s(1)
    model.invoke("hi", tagged)
    assert model.calls == 3


def test_an_answer_is_fresh_for_as_long_as_the_tags_of_who_asks_say(make, clock) -> None:
    cache = make(ttl=Ttl(l1_s=600, l2_s=600, tags={"live": 5}), tags_of=lambda prompt, llm: ["live", "slow"])
    cache.update("p", "m", KEPT)
    patient = make(ttl=Ttl(l1_s=600, l2_s=600, tags={"slow": 100}), tags_of=lambda prompt, llm: ["slow"])
    patient.update("q", "m", KEPT)
    clock.pass_s(6)
    assert cache.lookup("p", "m") is None
    assert patient.lookup("q", "m") is not None
    hasty = make(ttl=Ttl(l1_s=600, l2_s=600, tags={"slow": 5}), tags_of=lambda prompt, llm: ["slow"])
    assert hasty.lookup("q", "m") is None


async def test_who_carries_a_tag_waits_for_nobody_who_does_not(make) -> None:
    cache = make()
    hang = Hang()
    model = ScriptedModel(hang, "ok", cache=cache)
    hanging = asyncio.create_task(model.ainvoke("hi"))
    await hang.reached.wait()
    found = await asyncio.wait_for(model.ainvoke("hi", {"metadata": {"cache_tags": ["doc"]}}), 5)
    assert found.text == "ok"
    hanging.cancel()
    await asyncio.gather(hanging, return_exceptions=True)


def test_a_tenant_that_runs_name_is_invalidated_and_cleared_alone(make, clock) -> None:
    cache = make()
    model = ScriptedModel(cache=cache)

    def ask(tenant: str) -> int:
        clock.pass_s(1)
        model.invoke("hi", {"metadata": {"tenant_id": tenant, "cache_tags": ["doc"]}})
        return model.calls

    assert (ask("acme"), ask("rival")) == (1, 2)
    make().invalidate(["doc"], tenant="acme")
    assert (ask("rival"), ask("acme")) == (2, 3)
    make().clear(tenant="rival")
    assert (ask("acme"), ask("rival")) == (3, 4)
    make().invalidate(["doc"])
    assert (ask("acme"), ask("rival")) == (5, 6)


def test_a_reply_from_before_an_invalidation_of_this_process_is_not_believed(make, shelf) -> None:
    cache = make(tags_of=lambda prompt, llm: ["doc"])
    cache.update("p", "m", KEPT)
    read = shelf.get_many

    async def late(keys):
        values = await read(keys)
        shelf.get_many = read
        cache.invalidate(["doc"])
        return values

    other = make(tags_of=lambda prompt, llm: ["doc"])
    assert other.lookup("p", "m") is not None
    cache._engine.memory.clear()
    shelf.get_many = late
    assert cache.lookup("p", "m") is None


@pytest.mark.parametrize("tags", ["doc", ["doc"], ("doc",), {"doc"}])
def test_a_tag_is_a_tag_alone_and_among_others(make, tags) -> None:
    cache = make(tags_of=lambda prompt, llm: tags)
    cache.update("p", "m", KEPT)
    cache.invalidate("doc")
    assert cache.lookup("p", "m") is None


@pytest.mark.parametrize("tags", [5, [5], [None], [""], ["x" * 201]])
def test_what_is_no_tag_is_refused_where_it_is_said_and_never_dropped(make, caplog, tags) -> None:
    with pytest.raises(ConfigurationError, match="a cache tag is a text of 1 to 200 characters"):
        run_config(Identity(), metadata={"cache_tags": tags})
    cache = make()
    model = ScriptedModel(cache=cache)
    for _ in range(2):
        model.invoke("hi", {"metadata": {"cache_tags": tags}})
    assert (model.calls, cache.stats()["bypass"]) == (2, 2)
    assert len([1 for record in caplog.records if "a cache tag is a text" in record.message]) == 1


async def test_a_level_without_a_store_for_blocking_callers_says_that_it_cannot_be_invalidated(shelf, clock) -> None:
    cache = TieredCache((shelf, None), clock=clock)
    with pytest.raises(StoreError, match="no store for blocking callers"):
        await asyncio.to_thread(cache.invalidate, ["doc"])
