"""Pending writes are complete and in the order of live execution, wherever they are read from."""

from __future__ import annotations

import asyncio
import random

import pytest
from langgraph.checkpoint.base import WRITES_IDX_MAP, writes_sort_key
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, SCHEDULED

from tests.support.checkpoints import COLOURS, config
from tests.support.combinations import HOMES, from_fixtures
from tests.support.writers import opened_writers

TASKS = 64
SPECIAL = (ERROR, SCHEDULED, INTERRUPT, RESUME)


@pytest.fixture(params=[(home, colour) for home in HOMES for colour in COLOURS], ids=lambda one: f"{one[0]}-{one[1]}")
async def processes(request, tmp_path):
    """Three processes over one thread, of which the first has put a checkpoint."""
    home, colour = request.param
    async with opened_writers(from_fixtures(home, request, tmp_path), colour, count=3) as opened:
        await opened[0].advance(log=["start"])
        yield opened


def a_fan_out(seed: int) -> list[tuple[str, str, list[tuple[str, int | str]]]]:
    """Tasks as (id, path, writes), in no order: paths that do not sort as their numbers do, and equal ones."""
    shuffled = random.Random(seed)
    paths = ["", "~__pregel_pull, a", *(f"~__pregel_push, {n}" for n in range(30))]
    tasks = []
    for number in range(TASKS):
        task = f"{shuffled.getrandbits(64):016x}"
        writes = [("log", f"{number}:{n}" + "x" * 200 * (n % 2)) for n in range(number % 4 + 1)]
        tasks.append((task, shuffled.choice(paths), writes))
    return tasks


def in_order(tasks) -> list[tuple[str, str, str]]:
    """What a reader must find, by LangGraph's own key."""
    keyed = [
        (writes_sort_key(path, task, WRITES_IDX_MAP.get(channel, place)), (task, channel, value))
        for task, path, writes in tasks
        for place, (channel, value) in enumerate(writes)
    ]
    return [write for _, write in sorted(keyed)]


async def everywhere(processes, checkpoint_id: str):
    """The writes by every way of reading, on every tier: (where, writes)."""
    first, second, third = processes
    thread = first.thread

    async def read(writer, where):
        latest = await writer.caller.get(config(thread))
        (listed,) = await writer.caller.list(config(thread), limit=1)
        yield f"{where}, newest", latest.pending_writes
        yield f"{where}, newest again", (await writer.caller.get(config(thread))).pending_writes
        yield f"{where}, by id", (await writer.at(checkpoint_id)).pending_writes
        yield f"{where}, listed", listed.pending_writes

    for writer, where in ((first, "in the process that wrote"), (second, "in another process")):
        async for found in read(writer, where):
            yield found
    assert await first.caller.call("archive", thread)
    async for found in read(third, "restored from an archive, in a process that never read it"):
        yield found
    async for found in read(first, "restored from an archive, in the process that wrote"):
        yield found
    await first.caller.call("copy_thread", thread, "copied")
    yield "in a copy", (await second.caller.get(config("copied"))).pending_writes


@pytest.mark.parametrize("seed", range(2))
async def test_the_writes_of_64_tasks_at_once_are_all_there_in_order_on_every_tier(processes, seed):
    tasks = a_fan_out(seed)
    first = processes[0]

    await asyncio.gather(
        *(
            writer.caller.write("t", first.head["id"], *writes, task=task, path=path)
            for (task, path, writes), writer in zip(tasks, processes * TASKS, strict=False)
        )
    )

    expected = in_order(tasks)
    assert len(expected) == TASKS * 2.5
    async for where, found in everywhere(processes, first.head["id"]):
        assert found == expected, where


async def test_a_fan_out_before_its_checkpoint_is_found_with_it(processes):
    tasks = a_fan_out(3)
    first, second, _ = processes
    prepared = first.prepare(log=["later"])
    await asyncio.gather(*(first.caller.write("t", prepared.id, *w, task=task, path=path) for task, path, w in tasks))
    assert await second.newest() == (prepared.parent, {"log": ["start"]})
    assert await second.at(prepared.id) is None

    await first.put(prepared)

    async for where, found in everywhere(processes, prepared.id):
        assert found == in_order(tasks), where


async def test_writes_before_the_first_checkpoint_of_a_thread_make_no_thread_to_read(processes):
    first, second, _ = processes
    await first.caller.write("new", "1f000000-0000-6000-8000-000000000001", ("log", "early"))
    for writer in (first, second):
        assert await writer.caller.get(config("new")) is None
        assert await writer.caller.list(config("new")) == []


async def test_the_first_write_wins_whoever_comes_again_and_wherever_it_is_read(processes):
    first, second, third = processes
    at = first.head["id"]
    await first.write(("log", "first"), ("other", 1), at=at)
    await second.newest()
    for writer in (second, first, third):
        await writer.write(("log", "again"), ("other", 2), ("third", 3), at=at)
        await writer.write(("log", "fewer"), at=at)

    async for where, found in everywhere(processes, at):
        assert found == [("task", "log", "first"), ("task", "other", 1), ("task", "third", 3)], where


async def test_of_equal_writes_at_once_one_wins_whole_and_is_the_same_everywhere(processes):
    at = processes[0].head["id"]
    await asyncio.gather(*(processes[n % 3].write(("log", f"{n}"), ("other", f"{n}"), at=at) for n in range(24)))

    found = (await processes[0].at(at)).pending_writes
    assert [write[:2] for write in found] == [("task", "log"), ("task", "other")]
    assert found[0][2] == found[1][2]
    async for where, again in everywhere(processes, at):
        assert again == found, where


async def test_special_channels_are_replaced_and_sorted_before_the_others(processes):
    first, second, third = processes
    at = first.head["id"]
    await first.write(("log", "kept"), at=at)
    for n, writer in enumerate((first, second, third, first)):
        for channel in SPECIAL:
            await writer.write((channel, f"{channel} {n}"), at=at)
    await second.write((INTERRUPT, "both"), (RESUME, "at once"), at=at)

    expected = [
        ("task", RESUME, "at once"),
        ("task", INTERRUPT, "both"),
        ("task", SCHEDULED, f"{SCHEDULED} 3"),
        ("task", ERROR, f"{ERROR} 3"),
        ("task", "log", "kept"),
    ]
    async for where, found in everywhere(processes, at):
        assert found == expected, where


async def test_a_special_channel_named_twice_in_one_call_keeps_the_last(processes):
    first = processes[0]
    at = first.head["id"]
    await first.write((RESUME, "a"), (RESUME, "b"), at=at)
    await asyncio.gather(
        *(writer.write((ERROR, 1), (ERROR, 2), at=at, task=f"t{n}") for n, writer in enumerate(processes))
    )

    expected = [("t0", ERROR, 2), ("t1", ERROR, 2), ("t2", ERROR, 2), ("task", RESUME, "b")]
    async for where, found in everywhere(processes, at):
        assert found == expected, where


async def test_special_writes_among_others_are_replaced_and_the_others_not_as_by_langgraphs_saver(processes):
    first = processes[0]
    at, model = first.head["id"], InMemorySaver()
    model.put(config("t"), first.head, {"source": "loop", "step": 1, "parents": {}}, first.head["channel_versions"])
    calls = [
        [(INTERRUPT, "first")],
        [(INTERRUPT, "second"), ("log", 1)],
        [("log", 2), (ERROR, "late"), ("log", 3)],
        [(ERROR, "later"), (RESUME, "r")],
    ]
    for writer, writes in zip(processes * 2, calls, strict=False):
        await writer.write(*writes, at=at)
        model.put_writes(config("t", "", at), writes, "task")

    expected = model.get_tuple(config("t")).pending_writes
    assert len(expected) == 6
    async for where, found in everywhere(processes, at):
        assert found == expected, where


async def test_writes_of_two_tasks_and_of_two_checkpoints_stay_apart(processes):
    first, second, _ = processes
    older = first.head["id"]
    newer = await first.advance(log=["next"])
    await second.write(("log", "a"), at=older, task="a")
    await first.write(("log", "b"), at=older, task="b")
    await second.write(("log", "c"), at=newer, task="a")

    for writer in processes:
        assert (await writer.at(older)).pending_writes == [("a", "log", "a"), ("b", "log", "b")]
        assert (await writer.at(newer)).pending_writes == [("a", "log", "c")]


async def test_a_write_is_seen_by_whoever_had_the_checkpoint_in_its_hot_tier(processes):
    first, second, third = processes
    at = first.head["id"]
    for n, writer in enumerate((second, third, first, second)):
        for reader in processes:
            assert len((await reader.caller.get(config("t"))).pending_writes) == n
        await writer.write(("log", n), at=at, task=f"task {n}")

    for reader in processes:
        assert [value for _, _, value in (await reader.caller.get(config("t"))).pending_writes] == [0, 1, 2, 3]
