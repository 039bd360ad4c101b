"""Whatever dies, stops, fills up or is damaged: nothing acknowledged is lost, and no reader goes back in time."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import StoreUnavailableError
from tests.faults.checkpoint_scenes import MOVES, SCENES, played
from tests.support import servers
from tests.support.checkpoints import Caller, config

UNDER_LOAD, MANY, FEW = "PostgreSQL killed under load", 64, 16
SHORT = [(name, kind) for name, scene in SCENES.items() for kind in scene.kinds]


@pytest.mark.parametrize(("name", "kind"), SHORT, ids=[f"{name}, {kind}" for name, kind in SHORT])
async def test_no_fault_loses_what_was_acknowledged(fault_servers, clients, tmp_path, name, kind):
    crowd = MANY if name == UNDER_LOAD else FEW
    run = await played(name, fault_servers, tmp_path, clients, seed=1, kind=kind, clients=crowd)
    assert run.checked.lost == []
    assert run.checked.wrong == []
    assert run.checked.checked > 0
    assert sum(run.counts.values()) > 0, "the fault did not happen"


async def test_redis_that_refuses_from_the_start_costs_only_speed(postgres_url):
    refusing = f"redis://127.0.0.1:{servers.free_port()}/0"
    async with TieredCheckpointSaver.from_urls(hot=refusing, warm=postgres_url) as saver:
        caller = Caller(saver)
        made = await caller.put("t", {"a": 1})
        assert (await caller.get(config("t"))).checkpoint["id"] == made
        await saver.adelete_thread("t")
        assert await caller.get(config("t")) is None


async def test_a_postgresql_that_is_gone_is_an_error_that_names_it_and_never_an_empty_thread():
    with servers.postgres_server() as server:
        async with TieredCheckpointSaver.from_urls(warm=server.url, timeout_s=2.0) as saver:
            caller = Caller(saver)
            made = await caller.put("t", {"a": 1})
            server.kill()
            for call in (caller.get(config("t")), caller.list(config("t")), caller.put("t", {"a": 2}, parent=made)):
                with pytest.raises(StoreUnavailableError, match=r"warm: PostgreSQL at 127\.0\.0\.1:"):
                    await call
            server.restart()
            assert (await _once_there(caller)).checkpoint["id"] == made


async def _once_there(caller: Caller):
    """A server that has just been started refuses for a moment."""
    for _ in range(200):
        with contextlib.suppress(StoreUnavailableError):
            return await caller.get(config("t"))
        await asyncio.sleep(0.05)
    raise AssertionError("PostgreSQL was not usable again")


@pytest.mark.skipif(not MOVES, reason="this checkpointer has no cold tier")
async def test_an_object_store_that_dies_keeps_threads_where_they_are(tmp_path):
    with servers.rclone_s3() as server:
        urls = {"warm": f"sqlite:///{tmp_path}/ck.db", "cold": server.url, "timeout_s": 2.0}
        async with TieredCheckpointSaver.from_urls(**urls) as saver:
            caller = Caller(saver)
            made = [await caller.put(thread, {"a": thread}) for thread in ("warm", "cold")]
            assert await saver.aarchive("cold")
            server.kill()
            for attempt in (saver.aarchive("warm"), saver.aget_tuple(config("cold"))):
                with pytest.raises(StoreUnavailableError, match=r"^cold: "):
                    await attempt
            assert (await caller.get(config("warm"))).checkpoint["id"] == made[0]
            server.restart()
            assert (await caller.get(config("cold"))).checkpoint["id"] == made[1]
