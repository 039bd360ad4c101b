"""A saver opens by itself on first use, is shared by its copies, and says so when it is closed."""

from __future__ import annotations

import asyncio
import copy

import pytest
from langchain_core.messages import HumanMessage

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import CheckpointError, StoreError
from tests.support.checkpoints import COLOURS, Caller, checkpoint, config, until
from tests.support.combinations import HOMES, from_fixtures
from tests.support.connections import connections
from tests.support.graphs import AT, Runner, chat_graph

TOLD = {"source": "loop", "step": 1, "parents": {}}
MADE = checkpoint({"a": 1})
CALLS = {
    "get_tuple": (config("t"),),
    "put": (config("t"), MADE, TOLD, MADE["channel_versions"]),
    "put_writes": (config("t", "", MADE["id"]), [("a", 1)], "task"),
    "delete_thread": ("t",),
    "delete_for_runs": (["r"],),
    "copy_thread": ("t", "u"),
    "prune": (["t"],),
    "archive": ("t",),
    "archive_idle": (0.0,),
    "restore": ("t",),
    "stats": (),
    "explain": ("t",),
    "verify": (),
    "sweep": (),
    "pin": ("t", 60.0),
    "delete_user": ("ann",),
}


@pytest.fixture(params=HOMES, ids=str)
def urls(request, tmp_path):
    return from_fixtures(request.param, request, tmp_path)


@pytest.mark.parametrize("colour", COLOURS)
async def test_one_that_nobody_opened_serves_a_graph(urls, colour):
    saver = TieredCheckpointSaver.from_urls(**urls)
    runner = Runner(chat_graph(checkpointer=saver), colour)
    for turn in range(3):
        answer = await runner.invoke({"messages": [HumanMessage("hi", id=f"h{turn}")]})
    assert len(answer["messages"]) == 6
    assert len(await runner.history()) == 9
    await saver.aclose()


def test_making_one_and_compiling_with_it_connects_to_nothing(urls):
    before = connections(urls)
    graph = chat_graph(checkpointer=TieredCheckpointSaver.from_urls(**urls))
    assert connections(urls).within(before)
    with graph.checkpointer:
        graph.invoke({"messages": [HumanMessage("hi")]}, AT)
        assert connections(urls).warm > before.warm


@pytest.mark.parametrize("colour", COLOURS)
async def test_copies_read_each_others_writes_and_close_together(urls, colour):
    saver = TieredCheckpointSaver.from_urls(**urls)
    copies = [saver, copy.copy(saver), saver.with_allowlist([("some.module", "Type")]), copy.copy(copy.copy(saver))]
    callers = [Caller(one, colour) for one in copies]
    for n, caller in enumerate(callers):
        made = await caller.put("t", {"n": n})
        await caller.write("t", made, ("n", n))
        for other in callers:
            found = await other.get(config("t"))
            assert (found.checkpoint["channel_values"], found.pending_writes) == ({"n": n}, [("t", "n", n)])
    held = connections(urls)
    await asyncio.gather(*(caller.get(config("t")) for caller in callers * 8))
    assert connections(urls).hot - held.hot < len(copies) * 8

    await copies[2].aclose()
    for caller in callers:
        with pytest.raises(CheckpointError, match="closed"):
            await caller.get(config("t"))


@pytest.mark.parametrize("closes", ["aa", "ss", "as", "sa"])
async def test_closing_twice_is_closing_once_and_leaves_no_connection(urls, closes):
    before = connections(urls)
    saver = TieredCheckpointSaver.from_urls(**urls)
    for colour in COLOURS:
        made = await Caller(saver, colour).put("t", {"a": 1})
        assert (await Caller(saver, colour).get(config("t"))).checkpoint["id"] == made
    for how in closes:
        await (saver.aclose() if how == "a" else asyncio.to_thread(saver.close))
    await until(lambda: connections(urls).within(before))


@pytest.mark.parametrize("colour", COLOURS)
async def test_every_use_after_closing_is_one_clear_error(urls, colour):
    saver = TieredCheckpointSaver.from_urls(**urls)
    caller = Caller(saver, colour)
    await caller.put("t", {"a": 1})
    await saver.aclose()
    for name, arguments in CALLS.items():
        with pytest.raises(CheckpointError, match="closed") as refused:
            await caller.call(name, *arguments)
        assert "\n" not in str(refused.value), name
    for attempt in (caller.list(config("t")), caller.list(None)):
        with pytest.raises(CheckpointError, match="closed"):
            await attempt
    with pytest.raises(CheckpointError, match="closed"):
        await caller.call("get_delta_channel_history", config=config("t"), channels=["a"])


@pytest.mark.parametrize("colour", COLOURS)
async def test_calls_in_flight_when_it_closes_are_done_or_refused(urls, colour):
    before = connections(urls)
    saver = TieredCheckpointSaver.from_urls(**urls)
    caller = Caller(saver, colour)
    await caller.put("t", {"a": 0})
    calls = [asyncio.ensure_future(caller.put(f"t{n}", {"a": n, "b": "x" * 500})) for n in range(40)]
    await asyncio.sleep(0)
    await saver.aclose()
    done = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(one) for one in done} <= {str, CheckpointError, StoreError}, done
    await until(lambda: connections(urls).within(before))

    async with TieredCheckpointSaver.from_urls(**urls) as again:
        for n, made in enumerate(done):
            found = await again.aget_tuple(config(f"t{n}"))
            assert found is not None or not isinstance(made, str)
            assert found is None or found.checkpoint["channel_values"] == {"a": n, "b": "x" * 500}
