"""Several processes on one thread: the head never goes back, and what a loser wrote stays to be found."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.checkpoints import COLOURS
from tests.support.combinations import HOMES, from_fixtures
from tests.support.writers import opened_writers


@pytest.fixture(params=[(home, colour) for home in HOMES for colour in COLOURS], ids=lambda one: f"{one[0]}-{one[1]}")
async def writers(request, tmp_path):
    """Two processes, one after the other at the head of a thread with a log and a profile."""
    home, colour = request.param
    async with opened_writers(from_fixtures(home, request, tmp_path), colour) as opened:
        await opened[0].advance(log=["start"], profile={"name": "Ann"})
        for writer in opened:
            await writer.read()
        yield opened


async def see(writers, expected) -> None:
    """Every process sees this head."""
    for writer in writers:
        assert await writer.newest() == expected
        assert next(iter(await writer.listed())) == expected[0]


async def test_a_late_put_never_rolls_the_head_back(writers):
    one, other = writers
    late = one.prepare(log=["start", "late"])
    root = late.parent
    newer = await other.advance(log=["start", "newer"])

    await one.put(late)

    await see(writers, (newer, {"log": ["start", "newer"], "profile": {"name": "Ann"}}))
    assert (await other.listed())[late.id] == (root, {"log": ["start", "late"], "profile": {"name": "Ann"}})


async def test_a_late_put_behind_many_newer_ones_stays_listed_in_its_place(writers):
    one, other = writers
    late = one.prepare(log=["late"])
    newer = [await other.advance(log=["start", turn]) for turn in range(5)]

    await one.put(late)

    assert list(await one.listed()) == [*newer[::-1], late.id, late.parent]
    assert list(await other.listed()) == [*newer[::-1], late.id, late.parent]


async def test_a_stale_writer_with_a_newer_id_takes_the_head_and_the_other_branch_stays(writers):
    one, other = writers
    root = one.head["id"]
    first = await other.advance(log=["start", "first"])
    stale = await one.advance(log=["start", "stale"])

    await see(writers, (stale, {"log": ["start", "stale"], "profile": {"name": "Ann"}}))
    listed = await other.listed()
    assert {listed[first][0], listed[stale][0]} == {root}
    assert listed[first][1] == {"log": ["start", "first"], "profile": {"name": "Ann"}}


async def test_two_branches_of_one_head_never_see_each_others_values(writers):
    branches = [[], []]
    for turn in range(8):
        for place, writer in enumerate(writers):
            values = {"log": [*writer.head["channel_values"]["log"], f"{place}:{turn}"], f"only {place}": turn}
            branches[place].append((await writer.advance(**values), writer.head["channel_values"]))

    for writer in writers:
        listed = await writer.listed()
        for branch in branches:
            assert [(made, listed[made][1]) for made, _ in branch] == branch
    assert branches[0][-1][1] == {
        "log": ["start", *(f"0:{turn}" for turn in range(8))],
        "profile": {"name": "Ann"},
        "only 0": 7,
    }


async def test_concurrent_writers_lose_nothing_and_the_greatest_id_is_the_head(writers):
    prepared = [(writer, writer.prepare(log=["start", n])) for n in range(12) for writer in writers]

    await asyncio.gather(*(writer.put(one) for writer, one in prepared))

    expected = {one.id: (one.parent, one.made["channel_values"]) for _, one in prepared}
    newest = max(expected)
    await see(writers, (newest, expected[newest][1]))
    listed = await writers[0].listed()
    assert {made: listed[made] for made in expected} == expected


async def test_an_equal_put_again_changes_nothing(writers):
    one, other = writers
    made = one.prepare(log=["start", 1])
    await one.put(made)
    before = await other.listed()

    for writer in (one, other, one):
        await writer.put(made)

    assert await other.listed() == before
    await see(writers, (made.id, {"log": ["start", 1], "profile": {"name": "Ann"}}))


async def test_an_equal_put_again_below_children_leaves_them_and_the_head(writers):
    one, other = writers
    made = one.prepare(log=["start", 1])
    await one.put(made)
    for turn in range(2, 5):
        await one.advance(log=["start", *range(1, turn + 1)])
    before = await one.listed()
    await other.read()

    await one.put(made)
    await other.put(made)

    for writer in writers:
        assert await writer.listed() == before
        assert await writer.newest() == (next(iter(before)), before[next(iter(before))][1])


async def test_another_put_of_an_id_replaces_it(writers):
    one, other = writers
    made = one.prepare(log=["start", 1], extra="x" * 500)
    await one.put(made)
    await one.newest()
    await other.newest()

    await other.put(made.changed(log=["start", "again"], extra="y" * 500))

    await see(writers, (made.id, {"log": ["start", "again"], "extra": "y" * 500, "profile": {"name": "Ann"}}))
    assert list(await one.listed()) == [made.id, made.parent]


@pytest.mark.parametrize("versions", ["old versions", "new versions"])
async def test_another_put_of_an_id_never_changes_its_children(writers, versions):
    one, other = writers
    made = one.prepare(log=[f"entry {n} " + "x" * 300 for n in range(6)], extra="e" * 300)
    await one.put(made)
    child = await one.advance(log=[*one.head["channel_values"]["log"], "child"])
    grandchild = await one.advance(extra="f" * 300)
    before = await one.listed()

    new = {name: other.saver.get_next_version(None, None) for name in ("log", "extra")}
    await other.put(made.changed(new if versions == "new versions" else None, log=["rewritten"], extra="g" * 300))

    for writer in writers:
        after = await writer.listed()
        assert after[made.id][1]["log"] == ["rewritten"]
        assert {name: after[name] for name in (child, grandchild)} == {
            name: before[name] for name in (child, grandchild)
        }
        assert await writer.newest() == (grandchild, before[grandchild][1])
    assert await one.advance(log=["on"]) == (await other.newest())[0]
    assert (await other.newest())[1] == {"log": ["on"], "extra": "f" * 300, "profile": {"name": "Ann"}}


async def test_a_put_again_keeps_the_writes_that_were_pending(writers):
    one, other = writers
    made = one.prepare(log=["start", 1])
    await one.put(made)
    await one.write(("log", "pending"))

    await one.put(made)
    await other.put(made.changed(log=["start", "again"]))

    for writer in writers:
        assert (await writer.at(made.id)).pending_writes == [("task", "log", "pending")]


async def test_one_put_repeated_by_many_at_once_is_stored_once(writers):
    one, _ = writers
    made = one.prepare(log=["start", 1])
    await asyncio.gather(*(writer.put(made) for writer in writers * 6))
    await one.advance(log=["start", 1, 2])
    before = await one.listed()

    await asyncio.gather(*(writer.put(made) for writer in writers * 6))

    for writer in writers:
        assert list(before) == list(await writer.listed())
        assert await writer.listed() == before


async def test_writes_go_to_the_branch_they_name(writers):
    one, other = writers
    loser = await one.advance(log=["loser"])
    winner = await other.advance(log=["winner"])

    await one.write(("log", "of the loser"), at=loser)
    await other.write(("log", "of the winner"), at=winner)

    for writer in writers:
        assert (await writer.at(loser)).pending_writes == [("task", "log", "of the loser")]
        assert (await writer.at(winner)).pending_writes == [("task", "log", "of the winner")]


async def test_the_same_task_of_two_processes_writes_once(writers):
    one, other = writers
    await other.write(("log", "first"))
    await one.write(("log", "second"))

    for writer in writers:
        assert (await writer.at(writer.head["id"])).pending_writes == [("task", "log", "first")]


async def test_a_losers_branch_can_be_taken_up_again(writers):
    one, other = writers
    loser = await one.advance(log=["loser"])
    await other.advance(log=["winner"])

    assert await other.read(loser) == {"log": ["loser"], "profile": {"name": "Ann"}}
    taken = await other.advance(log=["loser", "on"])

    await see(writers, (taken, {"log": ["loser", "on"], "profile": {"name": "Ann"}}))
    assert (await one.listed())[taken][0] == loser


async def test_a_head_that_moved_is_read_by_who_had_it_in_its_hot_tier(writers):
    for turn in range(6):
        writer = writers[turn % 2]
        await writer.read()
        made = await writer.advance(log=[*writer.head["channel_values"]["log"], turn])
        await see(writers, (made, {"log": ["start", *range(turn + 1)], "profile": {"name": "Ann"}}))


@pytest.mark.parametrize("gone", ["deleted", "run deleted", "pruned away"])
async def test_a_put_whose_parent_another_process_removed_is_whole(writers, gone):
    one, other = writers
    await one.advance(log=["start", "x" * 400])
    if gone == "deleted":
        await other.caller.call("delete_thread", "t")
    elif gone == "run deleted":
        await one.put(one.prepare(log=["start", "y" * 400]), run_id="r")
        await other.caller.call("delete_for_runs", ["r"])
    else:
        late = one.head
        await other.read()
        await other.advance(log=["other"])
        await other.caller.call("prune", ["t"])
        one.head = late

    expected = {"log": ["on"], "profile": {"name": "Ann"}}
    made = await one.advance(log=["on"])

    await see(writers, (made, expected))


async def test_a_put_again_below_another_parent_leaves_the_children_as_they_were(writers):
    one, other = writers
    logs = [[f"{kind}{turn}" + "x" * 300 for turn in range(20)] for kind in ("a", "b")]
    roots = [await writer.advance(log=log) for writer, log in zip(writers, logs, strict=True)]
    made = one.prepare(count=1)
    await one.put(made)
    child = await one.advance(count=2)
    moved = made.changed(log=logs[1], profile=other.head["channel_values"]["profile"])
    moved.parent = roots[1]
    moved.made["channel_versions"]["log"] = other.head["channel_versions"]["log"]

    await other.put(moved)

    for writer in writers:
        listed = await writer.listed()
        assert (listed[made.id][0], listed[made.id][1]["log"]) == (roots[1], logs[1])
        assert (listed[child][0], listed[child][1]["log"]) == (made.id, logs[0])
