"""The hot tier is a copy that may be lost, late, stale or brought back from the past, and is never believed wrongly."""

from __future__ import annotations

import asyncio
import copy

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver

from langchain_llmops.checkpoint.hot import Recent
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.checkpoint.schema import Place
from langchain_llmops.stores.base import open_store
from tests.support.checkpoints import Caller, FaultyStore, checkpoint, config, facts, until


def values(found):
    return found.checkpoint["channel_values"]


async def test_the_next_turn_reads_what_the_last_put_left(caller, tiers):
    first = await caller.put("t", {"a": 1})
    unchanged = checkpoint({"a": 1, "b": 2}, {"a": "1", "b": "2"})
    await caller.call("put", config("t", "", first), unchanged, {"step": 1}, {"b": "2"})

    assert values(await caller.get(config("t"))) == {"a": 1, "b": 2}
    stats = await caller.call("stats")
    assert (stats.hot_hits, stats.hot_misses, stats.hot_errors) == (1, 0, 0)
    assert stats.bytes_by_tier["hot"] == sum(len(value) for value, _ in tiers["hot"].items.values())


async def test_a_reader_fills_what_nobody_left(caller, tiers):
    made = await caller.put("t", {"a": 1})
    await caller.write("t", made, ("a", 2))

    for _ in range(3):
        assert (await caller.get(config("t"))).pending_writes == [("t", "a", 2)]
    stats = await caller.call("stats")
    assert (stats.hot_hits, stats.hot_misses) == (2, 1)


async def test_a_slow_reader_never_fills_over_a_newer_put(caller, tiers):
    await caller.put("t", {"a": 1})
    tiers["hot"].items.clear()

    with tiers["hot"].holding("set"):
        reading = asyncio.create_task(caller.get(config("t")))
        await tiers["hot"].waiting("set")
        writing = asyncio.create_task(caller.put("t", made=checkpoint({"a": 2}, {"a": "2"})))
        await until(lambda: tiers["hot"].count("set") == 3)
    assert values(await reading) == {"a": 1}
    await writing

    assert values(await caller.get(config("t"))) == {"a": 2}


async def test_fills_that_arrive_in_the_wrong_order_serve_nobody_the_past(caller, tiers):
    await caller.put("t", {"a": 1})
    old = copy.copy(tiers["hot"].items)
    await caller.put("t", made=checkpoint({"a": 2}, {"a": "2"}))
    tiers["hot"].items.update(old)

    assert values(await caller.get(config("t"))) == {"a": 2}
    assert (await caller.call("stats")).hot_misses == 1


async def test_a_write_after_the_fill_is_seen(caller, tiers):
    made = await caller.put("t", {"a": 1})
    assert (await caller.get(config("t"))).pending_writes == []
    await caller.write("t", made, ("a", 2))

    assert (await caller.get(config("t"))).pending_writes == [("t", "a", 2)]


async def test_a_write_between_a_readers_questions_makes_no_fill(saver, tiers, monkeypatch):
    """The reader has seen the thread's row; before it reads the writes, one more is stored."""
    caller = Caller(saver)
    made = await caller.put("t", {"a": 1})
    tiers["hot"].items.clear()
    warm = saver._tiers.warm
    read = warm.parts

    async def overtaken(*args):
        monkeypatch.setattr(warm, "parts", read)
        await saver.aput_writes(config("t", "", made), [("a", 2)], "t")
        return await read(*args)

    monkeypatch.setattr(warm, "parts", overtaken)
    await caller.get(config("t"))
    assert tiers["hot"].items == {}
    assert (await caller.get(config("t"))).pending_writes == [("t", "a", 2)]


async def test_rows_removed_between_a_readers_questions_are_read_again(saver, tiers, monkeypatch):
    caller = Caller(saver)
    await caller.put("t", {"a": 1})
    tiers["hot"].items.clear()
    warm = saver._tiers.warm
    read = warm.parts

    async def overtaken(*args):
        monkeypatch.setattr(warm, "parts", read)
        await saver.aarchive("t")
        return await read(*args)

    monkeypatch.setattr(warm, "parts", overtaken)
    assert values(await caller.get(config("t"))) == {"a": 1}


async def test_a_deleted_thread_leaves_nothing_behind_for_its_successor(caller, tiers):
    await caller.put("t", {"secret": 1})
    left = copy.copy(tiers["hot"].items)
    await caller.call("delete_thread", "t")
    assert tiers["hot"].items == {}
    tiers["hot"].items.update(left)

    assert await caller.get(config("t")) is None
    await caller.put("t", {"new": 2})
    tiers["hot"].items.update(left)
    assert values(await caller.get(config("t"))) == {"new": 2}


async def test_errors_of_the_hot_tier_are_counted_misses(caller, tiers):
    tiers["hot"].fail("get", "set", "delete")
    await caller.put("t", {"a": 1})

    assert values(await caller.get(config("t"))) == {"a": 1}
    await caller.call("delete_thread", "t")
    assert await caller.get(config("t")) is None
    stats = await caller.call("stats")
    assert stats.hot_errors == 1  # then it was left alone
    assert stats.hot_hits == 0


async def test_a_hot_tier_that_hangs_costs_one_timeout_and_is_left_alone(tiers):
    async with TieredCheckpointSaver(**tiers, hot_timeout_s=0.01) as saver:
        with tiers["hot"].holding("set"), tiers["hot"].holding("get"):
            caller = Caller(saver)
            await caller.put("t", {"a": 1})
            assert values(await caller.get(config("t"))) == {"a": 1}
        assert len(tiers["hot"].calls) == 1
        assert (await saver.astats()).hot_errors == 1


async def test_damaged_entries_are_counted_misses(caller, tiers):
    await caller.put("t", {"a": 1})
    for damaged in (b"", b"LO\x01\x00msgpack\0\x93", b"LO\x01\x01\x28\xb5", b"foreign"):
        for key in tiers["hot"].items:
            tiers["hot"].items[key] = (damaged, None)
        assert values(await caller.get(config("t"))) == {"a": 1}
    assert (await caller.call("stats")).hot_errors == 4


async def test_without_a_hot_tier_everything_works(urls):
    async with TieredCheckpointSaver.from_urls(**{**urls, "hot": None}) as saver:
        caller = Caller(saver)
        made = await caller.put("t", {"a": 1})
        assert (await caller.get(config("t"))).checkpoint["id"] == made
        assert (await saver.astats()).bytes_by_tier["hot"] == 0


async def test_a_second_process_that_never_saw_the_thread_still_answers_right(urls, tiers):
    """Its memory of channel values is empty, so its put leaves no entry, and no wrong one."""
    async with TieredCheckpointSaver(**tiers) as one, TieredCheckpointSaver(**tiers) as two:
        first = await Caller(one).put("t", {"a": 1})
        made = checkpoint({"a": 1, "b": 2}, {"a": "1", "b": "2"})
        await two.aput(config("t", "", first), made, {"step": 1}, {"b": "2"})
        for saver in (one, two, one):
            assert values(await saver.aget_tuple(config("t"))) == {"a": 1, "b": 2}


def test_remembered_values_are_bounded_and_forgotten_with_the_epoch():
    recent = Recent(max_bytes=500)
    places = [Place(str(number), bytes([number]), b"") for number in range(3)]
    for place in places:
        recent.keep(place, 1, {b"k": b"x" * 200})

    assert recent.complete(places[0], 1, [b"k"], {}) is None
    assert recent.complete(places[2], 1, [b"k", b"n"], {b"n": None}) == {b"k": b"x" * 200, b"n": None}
    assert recent.complete(places[2], 2, [b"k"], {}) is None


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 1), st.integers(0, 5)),
        st.tuples(st.just("write"), st.integers(0, 1), st.integers(0, 5)),
        st.tuples(st.just("get"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("delete"), st.integers(0, 1), st.just(0)),
        st.tuples(st.just("archive"), st.integers(0, 1), st.just(0)),
        st.tuples(st.sampled_from(["lose", "snapshot", "bring back", "fail", "heal"]), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, seed=st.integers(0, 3))
async def test_whatever_the_hot_tier_does_answers_are_those_of_the_model(steps, seed):
    hot = FaultyStore(open_store("memory://"))
    async with TieredCheckpointSaver(open_store("memory://"), hot, open_store("memory://"), clock=lambda: 0.0) as saver:
        saver._tiers._hot._clock = iter(range(0, 10_000_000, 10)).__next__  # no pause outlasts a step
        model, snapshot, heads = InMemorySaver(), {}, {}
        for number, (step, thread, detail) in enumerate(steps):
            name = f"t{thread}"
            if step == "put":
                made = checkpoint({"a": number, "b": detail}, {"a": str(number), "b": f"b{detail}"})
                put = (config(name, "", heads.get(name)), made, {"step": number}, made["channel_versions"])
                await saver.aput(*put)
                model.put(*put)
                heads[name] = made["id"]
            elif step == "write" and name in heads:
                await saver.aput_writes(config(name, "", heads[name]), [("a", number)], f"task{detail}")
                model.put_writes(config(name, "", heads[name]), [("a", number)], f"task{detail}")
            elif step == "delete":
                await saver.adelete_thread(name)
                model.delete_thread(name)
                heads.pop(name, None)
            elif step == "archive":
                await saver.aarchive(name)
            elif step == "lose":
                hot.items.clear()
            elif step == "snapshot":
                snapshot = copy.copy(hot.items)
            elif step == "bring back":
                hot.items.update(snapshot)
            elif step == "fail":
                hot.fail("get", "set", "delete")
            elif step == "heal":
                hot.heal()
            assert facts(await saver.aget_tuple(config(name))) == facts(model.get_tuple(config(name)))


def test_the_rule_is_written_where_it_is_kept():
    import langchain_llmops.checkpoint.hot as room

    assert len((room.__doc__ or "").splitlines()) <= 15
