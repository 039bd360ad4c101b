"""No acknowledged checkpoint is lost, and no reader goes back in time, whatever dies."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import StoreError, StoreUnavailableError
from tests.support import servers
from tests.support.checkpoints import Caller, checkpoint, config, until

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
SEEDS = range(4)


@pytest.fixture(params=["embedded", "servers"])
def urls(request, tmp_path):
    if request.param == "embedded":
        return {"hot": "memory://", "warm": f"sqlite:///{tmp_path}/ck.db", "cold": f"file://{tmp_path}/cold"}
    fixtures = {"hot": "clean_redis_url", "warm": "postgres_url", "cold": "s3_url"}
    return {tier: request.getfixturevalue(name) for tier, name in fixtures.items()}


def facts_of(ledger: Path) -> list[dict]:
    """Whole lines only: the last one may have been cut by the kill, and was not acknowledged then."""
    return [json.loads(line) for line in ledger.read_bytes().split(b"\n")[:-1]] if ledger.exists() else []


def killed_after(lines: int, ledger: Path, seed: int, urls: dict) -> list[dict]:
    command = [sys.executable, "-m", "tests.faults.checkpoint_writer", str(ledger), str(seed), json.dumps(urls)]
    writer = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        end = time.monotonic() + DEADLINE_S
        while len(facts_of(ledger)) < lines:
            assert writer.poll() is None, writer.stderr.read().decode()
            assert time.monotonic() < end, "the writer did not get far enough in time"
            time.sleep(0.005)
    finally:
        writer.send_signal(signal.SIGKILL)
        writer.wait(DEADLINE_S)
        writer.stderr.close()
    return facts_of(ledger)


async def check(saver: TieredCheckpointSaver, facts: list[dict]) -> None:
    """Every acknowledged fact is read back byte for byte, and no head is older than the newest of them."""
    newest: dict[str, str] = {}
    for fact in facts:
        found = await saver.aget_tuple(config(fact["thread"], "", fact["id"]))
        assert found is not None, fact
        if fact["op"] == "put":
            assert found.checkpoint["channel_values"] == {"log": fact["log"], "step": fact["step"]}
            newest[fact["thread"]] = max(newest.get(fact["thread"], ""), fact["id"])
        else:
            task = f"task{fact['task']}"
            assert (task, "log", fact["log"]) in found.pending_writes
            assert (task, "step", fact["step"]) in found.pending_writes
            assert [write[0] for write in found.pending_writes] == sorted(write[0] for write in found.pending_writes)
    for thread, head in newest.items():
        assert (await saver.aget_tuple(config(thread))).checkpoint["id"] >= head
        listed = [one.checkpoint["id"] async for one in saver.alist(config(thread))]
        assert listed == sorted(listed, reverse=True)


@pytest.mark.parametrize("seed", SEEDS)
async def test_a_killed_writer_loses_nothing_it_was_told_is_stored(tmp_path, urls, seed):
    ledger = tmp_path / "ledger"
    for kill in range(2):
        killed_after(random.Random(seed).randrange(40, 200) * (kill + 1), ledger, seed * 10 + kill, urls)
    facts = facts_of(ledger)
    async with TieredCheckpointSaver.from_urls(**urls) as saver:
        await check(saver, facts)
        assert (await saver.astats()).checkpoints >= sum(fact["op"] == "put" for fact in facts)


class Traffic:
    """Puts and reads on some threads until told to stop; every answer is checked against what was acknowledged."""

    def __init__(self, saver: TieredCheckpointSaver, threads: int = 4) -> None:
        self._caller = Caller(saver)
        self._threads = threads
        self._going = True
        self.facts: list[dict] = []
        self.failures: list[str] = []

    async def run(self, *, may_fail: bool = False) -> None:
        await asyncio.gather(*(self._talk(f"t{number}", may_fail) for number in range(self._threads)))

    async def passed(self, more: int) -> None:
        """Until so many more puts were acknowledged."""
        goal = len(self.facts) + more
        await until(lambda: len(self.facts) >= goal)

    def stop(self) -> None:
        self._going = False

    async def _talk(self, thread: str, may_fail: bool) -> None:
        head, step = None, 0
        while self._going:
            step += 1
            try:
                found = await self._caller.get(config(thread))
                assert head is None or found is not None, "a thread that exists was not found"
                assert head is None or found.checkpoint["id"] >= head, "a reader went back in time"
                made = checkpoint({"log": f"{thread} {step}", "step": step}, {"log": str(step), "step": str(step)})
                await self._caller.put(thread, made=made, parent=head)
            except StoreError as error:
                if not may_fail:
                    raise
                self.failures.append(type(error).__name__)
                await asyncio.sleep(0.01)
                continue
            head = made["id"]
            self.facts.append({"op": "put", "thread": thread, "id": head, "step": step, "log": f"{thread} {step}"})


async def test_redis_killed_flushed_and_empty_again_loses_nothing_and_raises_nothing(postgres_url, tmp_path):
    import redis

    with servers.redis_server() as server:
        async with TieredCheckpointSaver.from_urls(hot=server.url, warm=postgres_url, timeout_s=2.0) as saver:
            traffic = Traffic(saver)
            running = asyncio.create_task(traffic.run())
            await traffic.passed(40)
            with redis.Redis.from_url(server.url) as client:
                for _ in range(5):
                    client.flushall()
                    await traffic.passed(8)
            server.kill()
            await traffic.passed(40)
            server.restart()
            saver._tiers._hot._paused_until = 0.0
            await traffic.passed(40)
            traffic.stop()
            await running
            stats = await saver.astats()
            assert stats.hot_errors >= 1
            assert stats.hot_hits >= 1
            await check(saver, traffic.facts)


async def test_redis_that_does_not_answer_costs_a_moment_not_the_call(postgres_url):
    with servers.redis_server() as server:
        async with TieredCheckpointSaver.from_urls(hot=server.url, warm=postgres_url, hot_timeout_s=0.1) as saver:
            traffic = Traffic(saver)
            running = asyncio.create_task(traffic.run())
            await traffic.passed(20)
            server.pause()
            try:
                await traffic.passed(40)
            finally:
                server.resume()
            traffic.stop()
            await running
            assert (await saver.astats()).hot_errors >= 1
            await check(saver, traffic.facts)


async def test_redis_that_refuses_from_the_start_costs_only_speed(postgres_url):
    refusing = f"redis://127.0.0.1:{servers.free_port()}/0"
    async with TieredCheckpointSaver.from_urls(hot=refusing, warm=postgres_url) as saver:
        caller = Caller(saver)
        made = await caller.put("t", {"a": 1})
        assert (await caller.get(config("t"))).checkpoint["id"] == made
        await saver.adelete_thread("t")
        assert (await saver.astats()).hot_errors == 1


async def test_postgresql_killed_under_load_raises_and_loses_nothing(clean_redis_url):
    with servers.postgres_server() as server:
        async with TieredCheckpointSaver.from_urls(hot=clean_redis_url, warm=server.url, timeout_s=2.0) as saver:
            traffic = Traffic(saver, threads=16)
            running = asyncio.create_task(traffic.run(may_fail=True))
            await traffic.passed(100)
            server.kill()
            await until(lambda: bool(traffic.failures))
            with pytest.raises(StoreUnavailableError, match=r"warm: PostgreSQL at 127\.0\.0\.1:"):
                await saver.aget_tuple(config("t0"))
            server.restart()
            await traffic.passed(100)
            traffic.stop()
            await running
            await check(saver, traffic.facts)


async def test_an_object_store_that_dies_keeps_threads_where_they_are(tmp_path):
    with servers.rclone_s3() as server:
        urls = {"warm": f"sqlite:///{tmp_path}/ck.db", "cold": server.url, "timeout_s": 2.0}
        async with TieredCheckpointSaver.from_urls(**urls) as saver:
            caller = Caller(saver)
            made = [await caller.put(thread, {"a": thread}) for thread in ("warm", "cold")]
            assert await saver.aarchive("cold")
            server.kill()
            for attempt in (saver.aarchive("warm"), saver.aget_tuple(config("cold")), saver.adelete_thread("cold")):
                with pytest.raises(StoreUnavailableError, match=r"^cold: "):
                    await attempt
            assert (await caller.get(config("warm"))).checkpoint["id"] == made[0]
            server.restart()
            assert (await caller.get(config("cold"))).checkpoint["id"] == made[1]
