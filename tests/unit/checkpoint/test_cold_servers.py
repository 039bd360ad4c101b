"""The same moves on real servers: PostgreSQL, and two S3 stores (one ignores conditions and ranges)."""

from __future__ import annotations

import asyncio

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.concurrency import drive
from langchain_llmops.stores.base import open_store
from tests.support.archives import conversation, listed, rows, tier
from tests.support.checkpoints import Caller, config, facts


@pytest.fixture(params=["s3_url", "moto_prefix"])
def cold_url(request):
    if request.param == "s3_url":
        return request.getfixturevalue("s3_url")
    url = request.getfixturevalue("moto_url")
    return url.replace("?", f"/{request.node.name.partition('[')[0]}?", 1)


@pytest.fixture
def saver(cold_url, postgres_url):
    with TieredCheckpointSaver.from_urls(warm=postgres_url, cold=cold_url, hot=None) as made:
        yield made


def stored(cold_url) -> list[str]:
    store = open_store(cold_url, blocking=True)

    async def paths():
        return [path async for path, _ in store.objects.list("")]

    return sorted(drive(paths()))


async def test_a_thread_goes_cold_comes_back_by_halves_and_goes_cold_again(saver, cold_url):
    caller = Caller(saver)
    before = await conversation(caller)
    assert await saver.aarchive("t") is True
    assert stored(cold_url) == sorted(path for (path,) in rows(saver, "object", "path"))
    assert len(stored(cold_url)) == 2

    assert facts(await saver.aget_tuple(config("t"))) == before[1]
    assert tier(saver) == "mixed"
    late = await caller.put("t", {"a": "more " * 100}, parent=before[1][1]["id"])
    await caller.write("t", before[3][1]["id"], ("log", "late"), ("__error__", "new"), task="task2", path="~1")
    assert await saver.aarchive("t") is True
    assert len(stored(cold_url)) == 2
    assert [facts(one) async for one in saver.alist(None)][1:3] == before[:2]
    assert tier(saver) == "cold"

    after = await listed(caller)
    assert after[0][1]["id"] == late
    assert [one for one in after if one[1]["id"] not in (late, before[3][1]["id"])] == [
        one for one in before if one is not before[3]
    ]
    assert stored(cold_url) == rows(saver, "object") == rows(saver, "cold_run") == []


async def test_movers_puts_readers_and_deletions_at_once_leave_every_thread_whole(saver, cold_url, postgres_url):
    others = [TieredCheckpointSaver.from_urls(warm=postgres_url, cold=cold_url, hot=None) for _ in range(2)]
    caller = Caller(saver)
    heads = {}
    for place in range(4):
        await conversation(caller, f"t{place}", turns=2)
        heads[f"t{place}"] = await caller.put(f"t{place}", {"a": 0})

    async def writes(thread):
        made = [heads[thread]]
        for turn in range(6):
            made.append(await caller.put(thread, {"a": turn}, parent=made[-1]))
            found = await caller.get(config(thread))
            assert found.checkpoint["id"] == made[-1]
        return made

    async def moves(one):
        return [await one.aarchive(f"t{place}") for _ in range(4) for place in range(4)]

    made, *_, gone = await asyncio.gather(
        asyncio.gather(*(writes(f"t{place}") for place in range(3))), *map(moves, others), saver.adelete_thread("t3")
    )

    assert gone is None
    for place, ids in enumerate(made):
        kept = [one[1]["id"] for one in await listed(caller, f"t{place}") if not one[0]["checkpoint_ns"]]
        assert kept[:7] == ids[::-1]
        assert len(kept) == 9
    assert await saver.aget_tuple(config("t3")) is None
    await saver.asweep()
    assert [state for (state,) in rows(saver, "object", "state") if state in ("copying", "copied", "live")] == []
    assert stored(cold_url) == []
    for one in others:
        await one.aclose()


async def test_an_idle_sweep_and_retention_work_on_servers(cold_url, postgres_url):
    now = [1_000_000.0]
    options = {"warm_s": 60.0, "retention_s": 600.0, "clock": lambda: now[0]}
    with TieredCheckpointSaver.from_urls(warm=postgres_url, cold=cold_url, hot=None, **options) as saver:
        await conversation(Caller(saver))
        assert await saver.apin("t", 100.0) is True
        now[0] += 90
        assert (await saver.asweep()).archived == 0
        now[0] += 90
        swept = await saver.asweep()
        assert (swept.archived, swept.failures) == (1, ())
        assert len(stored(cold_url)) == 2
        now[0] += 600
        swept = await saver.asweep()
        assert (swept.deleted, swept.failures) == (1, ())
        assert stored(cold_url) == rows(saver, "thread") == rows(saver, "object") == []
