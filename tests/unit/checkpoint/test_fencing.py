"""With `fencing="strict"` a process that another has overtaken cannot write; going back in time on purpose can."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from langchain_llmops.core.errors import CheckpointConflict, CheckpointError, StoreConflictError
from tests.support.checkpoints import COLOURS
from tests.support.combinations import HOMES, from_fixtures
from tests.support.writers import Writer, opened_writers

MODES = [(home, colour) for home in HOMES for colour in COLOURS]


@pytest.fixture(params=MODES, ids=lambda one: f"{one[0]}-{one[1]}")
async def writers(request, tmp_path):
    """Two strict processes that have read the same head."""
    home, colour = request.param
    async with opened_writers(from_fixtures(home, request, tmp_path), colour, fencing="strict") as opened:
        await opened[0].advance(log=["start"])
        for writer in opened:
            await writer.read()
        yield opened


async def test_one_writer_is_never_refused(writers):
    one, _ = writers
    for turn in range(4):
        await one.write(("log", turn))
        await one.advance(log=[turn])
    await one.read()
    await one.write(("log", "on"))
    await one.advance(log=["on"])

    assert len(await one.listed()) == 6


async def test_an_overtaken_put_is_refused_and_leaves_nothing(writers):
    one, other = writers
    head = await other.advance(log=["other"])
    before = await other.listed()

    with pytest.raises(CheckpointConflict, match="'t'") as refused:
        await one.advance(log=["one"])

    assert isinstance(refused.value, CheckpointError)
    assert isinstance(refused.value, StoreConflictError)
    assert "\n" not in str(refused.value)
    for writer in writers:
        assert await writer.listed() == before
        assert await writer.newest() == (head, {"log": ["other"]})


async def test_an_overtaken_put_with_an_older_id_is_refused_too(writers):
    one, other = writers
    late = one.prepare(log=["late"])
    await other.advance(log=["other"])

    with pytest.raises(CheckpointConflict):
        await one.put(late)

    assert late.id not in await other.listed()


async def test_overtaken_writes_never_change_what_the_winner_went_on_from(writers):
    one, other = writers
    shared = one.head["id"]
    await other.write(("log", "winner's"), at=shared)
    head = await other.advance(log=["other"])

    with suppress(CheckpointConflict):
        await one.write(("log", "too late"), at=shared)

    for writer in writers:
        assert (await writer.at(shared)).pending_writes == [("task", "log", "winner's")]
        assert (await writer.at(head)).pending_writes == []
        assert await writer.newest() == (head, {"log": ["other"]})


async def test_a_refused_process_stays_refused_until_it_reads_the_head(writers):
    one, other = writers
    await other.advance(log=["other"])
    stale = one.head
    for _ in range(2):
        with pytest.raises(CheckpointConflict):
            await one.advance(log=["one"])
        one.head = stale

    assert await one.read() == {"log": ["other"]}
    made = await one.advance(log=["other", "one"])

    assert await other.newest() == (made, {"log": ["other", "one"]})
    with pytest.raises(CheckpointConflict):
        await other.advance(log=["other", "again"])


async def test_going_back_by_an_explicit_id_may_branch_and_go_on(writers):
    one, other = writers
    past = one.head["id"]
    await other.advance(log=["other"])

    assert await one.go_back(past) == {"log": ["start"]}
    await one.write(("log", "branch"), at=past, task="branch")
    branch = await one.advance(log=["branch"])
    await one.write(("log", "more"))
    on = await one.advance(log=["branch", "on"])

    listed = await other.listed()
    assert (listed[branch][0], listed[on][0]) == (past, branch)
    assert await other.newest() == (on, {"log": ["branch", "on"]})
    with pytest.raises(CheckpointConflict):
        await other.advance(log=["other", "on"])  # the branch has overtaken it


async def test_a_put_again_by_its_own_process_is_no_conflict(writers):
    one, _ = writers
    made = one.prepare(log=[1])
    await one.put(made)
    await one.put(made)
    child = one.prepare(log=[1, 2])
    await one.put(child)
    await one.put(made)  # its answer may have been lost, and a child been put meanwhile
    one.head = child.made
    await one.advance(log=[1, 2, 3])

    assert [values["log"] for _, values in (await one.listed()).values()] == [[1, 2, 3], [1, 2], [1], ["start"]]


async def test_writes_of_a_step_may_come_after_its_own_processes_next_put(writers):
    one, _ = writers
    step = one.head["id"]
    await one.advance(log=["next"])
    await one.write(("log", "in the background"), at=step)

    assert (await one.at(step)).pending_writes == [("task", "log", "in the background")]


async def test_writes_may_come_before_their_checkpoint(writers):
    one, other = writers
    made = one.prepare(log=["one"])
    await one.write(("log", "early"), at=made.id)
    await one.put(made)

    assert (await other.at(made.id)).pending_writes == [("task", "log", "early")]


async def test_of_many_writers_at_one_head_exactly_one_goes_on(writers):
    for _ in range(4):
        heads = [await writer.read() for writer in writers]
        assert heads[0] == heads[1]
        length = len(heads[0]["log"])
        prepared = [(w, w.prepare(log=[*heads[0]["log"], f"{place} " + "x" * 200])) for place, w in enumerate(writers)]
        done = await asyncio.gather(*(writer.put(one) for writer, one in prepared), return_exceptions=True)

        refused = [one for one in done if isinstance(one, BaseException)]
        assert [type(one) for one in refused] == [CheckpointConflict]
        (won,) = (one for one in done if isinstance(one, str))
        newest = [await writer.newest() for writer in writers]
        assert newest[0] == newest[1]
        assert newest[0][0] == won
        assert len(newest[0][1]["log"]) == length + 1


async def test_of_two_runs_of_one_process_at_one_head_exactly_one_goes_on(writers):
    one, other = writers
    again = Writer(one.saver, one.caller.colour)
    for turn in range(4):
        for writer in (one, again):
            await writer.read()
        done = await asyncio.gather(*(w.advance(log=[turn]) for w in (one, again)), return_exceptions=True)
        assert [type(d) for d in done if not isinstance(d, str)] == [CheckpointConflict]
    assert len(await other.listed()) == 5


async def test_of_two_processes_that_begin_a_thread_one_goes_on(writers):
    beginners = [Writer(writer.saver, writer.caller.colour, thread="new") for writer in writers]
    for writer in beginners:
        assert await writer.read() is None
    await beginners[0].advance(log=["first"])

    with pytest.raises(CheckpointConflict, match="'new'"):
        await beginners[1].advance(log=["second"])

    assert (await beginners[1].newest())[1] == {"log": ["first"]}


async def test_namespaces_are_fenced_each_for_itself(writers):
    one, other = writers
    inner = Writer(one.saver, one.caller.colour, ns="inner:1")
    await inner.advance(log=["inner"])
    await other.advance(log=["other"])
    await inner.advance(log=["inner", "on"])

    with pytest.raises(CheckpointConflict):
        await one.advance(log=["one"])
    assert (await inner.newest())[1] == {"log": ["inner", "on"]}


async def test_moving_a_thread_between_tiers_overtakes_nobody(writers):
    one, other = writers
    assert await other.caller.call("archive", "t")
    made = await one.advance(log=["start", "one"])
    assert await other.newest() == (made, {"log": ["start", "one"]})

    await one.caller.call("archive", "t")
    await other.read()
    await one.caller.call("restore", "t")
    on = await other.advance(log=["on"])
    assert await one.newest() == (on, {"log": ["on"]})


async def test_a_copy_and_its_source_are_fenced_apart(writers):
    one, other = writers
    await other.caller.call("copy_thread", "t", "copied")
    await other.advance(log=["other"])
    copied = Writer(one.saver, one.caller.colour, thread="copied")
    await copied.read()
    await copied.advance(log=["copied"])

    with pytest.raises(CheckpointConflict):
        await one.advance(log=["one"])


async def test_without_fencing_nobody_is_refused(request, tmp_path):
    async with opened_writers(from_fixtures(HOMES[0], request, tmp_path), "async", fencing="off") as (one, other):
        await one.advance(log=["start"])
        await other.read()
        await other.advance(log=["other"])
        await one.write(("log", "late"))
        await one.advance(log=["one"])
        assert len(await other.listed()) == 3
