"""The check behind the fault tests finds what it looks for: it is shown savers that lose, mix up and bring back."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from random import Random

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from tests.support.acknowledged import Ledger
from tests.support.canonical import digest_of
from tests.support.checkpoints import config
from tests.support.readback import check
from tests.support.talking import Client


class Altered:
    """A saver whose answers somebody alters."""

    def __init__(self, saver, alter) -> None:
        self._saver = saver
        self._alter = alter

    async def alist(self, asked, **more):
        for found in self._alter([found async for found in self._saver.alist(asked, **more)]):
            yield found

    async def aget_tuple(self, asked):
        if "checkpoint_id" in asked["configurable"]:
            found = await self._saver.aget_tuple(asked)
            return next(iter(self._alter([found])), None)
        return next(iter([one async for one in self.alist(asked)]), None)


@pytest.fixture
async def told(tmp_path):
    """A saver, a client that talked on thread `t` and a ledger of it."""
    saver, ledger = InMemorySaver(), Ledger(tmp_path / "ledger")
    client = Client(saver, ledger, Random(3))
    for _ in range(3):
        await client.turn("t")
    await client.turn("t", "child:1")
    for task in ("a", "b", "c"):
        await client.write("t", task=task)
    yield saver, client, ledger
    ledger.close()


def read(ledger):
    return Path(ledger.path).read_bytes()


def with_writes(found, change):
    return found._replace(pending_writes=change(list(found.pending_writes)))


def with_values(found, **values):
    channel_values = {**found.checkpoint["channel_values"], **values}
    return found._replace(checkpoint={**found.checkpoint, "channel_values": channel_values})


NO_PARENT = {"configurable": {"checkpoint_id": "0"}}
LIES = {
    "nothing is there": (lambda found: [], "the head is None"),
    "the newest is lost": (lambda found: found[1:], "the head is"),
    "an older one is lost": (lambda found: found[:1] + found[2:], "not listed"),
    "one is there twice": (lambda found: [*found, *found[:1]], "not newest first"),
    "oldest first": (lambda found: found[::-1], "the head is"),
    "a value is altered": (lambda found: [with_values(one, step=99) for one in found], "not what was put"),
    "a value is empty": (lambda found: [with_values(one, messages=[]) for one in found], "not what was put"),
    "a parent is altered": (lambda found: [one._replace(parent_config=NO_PARENT) for one in found], "not what was put"),
    "metadata is altered": (lambda found: [one._replace(metadata={}) for one in found], "not what was put"),
    "a write is lost": (lambda found: [with_writes(one, lambda w: w[:-1]) for one in found], "is not there"),
    "writes are mixed up": (lambda found: [with_writes(one, lambda w: w[::-1]) for one in found], "out of order"),
    "a write is there twice": (lambda found: [with_writes(one, lambda w: w + w[:1]) for one in found], "nobody made"),
    "a write is altered": (
        lambda found: [with_writes(one, lambda w: [(*each[:2], "other") for each in w]) for one in found],
        "nobody made",
    ),
}


async def test_a_saver_that_keeps_everything_is_not_blamed(told):
    saver, _, ledger = told
    done = await check(saver, ledger.path)
    assert done.bad == []
    assert done.acknowledged == ledger.acknowledged > 10
    assert done.checked > done.acknowledged


@pytest.mark.parametrize("lie", LIES)
async def test_a_saver_that_lies_is_found_out(told, lie):
    saver, _, ledger = told
    alter, said = LIES[lie]
    done = await check(Altered(saver, alter), ledger.path)
    assert any(said in one for one in done.bad), done.bad


async def test_what_was_never_acknowledged_may_be_there_or_not_but_not_altered(told):
    saver, client, ledger = told
    kept, size = copy.deepcopy(saver.storage), len(read(ledger))
    await client.put("t")
    begun, acknowledged, _ = read(ledger)[size:].split(b"\n")
    assert b'"ack"' in acknowledged
    os.truncate(ledger.path, size + len(begun) + 1)
    assert (await check(saver, ledger.path)).bad == []
    altered = Altered(saver, lambda found: [with_values(found[0], step=0), *found[1:]])
    assert any("not what was put" in one for one in (await check(altered, ledger.path)).bad)
    saver.storage = kept
    assert (await check(saver, ledger.path)).bad == []


async def test_a_thread_that_comes_back_after_its_removal_is_found_out(told):
    saver, client, ledger = told
    kept = [found async for found in saver.alist(config("t", None))]
    await client.delete("t")
    assert (await check(saver, ledger.path)).bad == []

    class Back(Altered):
        async def alist(self, asked, **more):
            for found in kept:
                yield found

    done = await check(Back(saver, lambda found: found), ledger.path)
    assert any("came back" in one for one in done.wrong)


async def test_a_removal_that_was_cut_in_the_middle_is_found_out(told):
    saver, _, ledger = told
    ledger.begin("delete_thread", thread="t")
    assert (await check(saver, ledger.path)).bad == []
    half = Altered(saver, lambda found: found[:2])
    assert any("half done" in one for one in (await check(half, ledger.path)).wrong)


async def test_a_reader_that_goes_back_in_time_is_noted(told):
    saver, client, ledger = told
    await client.read("t")
    client._caller.saver = Altered(saver, lambda found: found[1:])
    await client.read("t")
    assert any("a reader saw" in one for one in (await check(saver, ledger.path)).wrong)


def test_the_digest_of_equal_content_is_equal_and_of_other_content_is_not():
    assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1})
    values = ({"a": 1}, {"a": "1"}, {"a": [1]}, {"a": 1.0}, {"a": None}, {}, [], "", b"", None)
    assert len({digest_of(value) for value in values}) == len(values)
