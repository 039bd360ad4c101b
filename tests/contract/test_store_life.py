"""Opening, closing, loops, threads and forks, on every backend."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import threading
import time
import traceback
import uuid
import warnings
from pathlib import Path

import pytest

from langchain_llmops.core.concurrency import drive, run_sync
from langchain_llmops.stores.base import open_store
from tests.contract.conftest import BACKENDS

COLOURS = pytest.mark.parametrize("blocking", [False, True], ids=["async", "blocking"])
REMOTE = [backend for backend in BACKENDS if backend.name != "memory"]


@pytest.fixture(params=BACKENDS, ids=lambda backend: backend.name)
def url(request):
    return request.getfixturevalue(request.param.fixture)


@pytest.fixture(params=REMOTE, ids=lambda backend: backend.name)
def shared_url(request):
    return request.getfixturevalue(request.param.fixture)


async def use(store, value: bytes = b"value") -> bytes | None:
    """Write and read by whatever the store has; rclone does not replace an object at once, so each has its own."""
    if "objects" in able(store):
        path = f"life/{uuid.uuid4().hex}"
        await store.objects.put(path, value)
        return await store.objects.get(path)
    await store.kv.set("life", value)
    return await store.kv.get("life")


def able(store) -> set[str]:
    return set(next(b for b in BACKENDS if store.url.startswith(SCHEMES[b.name])).capabilities)


SCHEMES = {
    "memory": "memory:", "sqlite": "sqlite:", "redis": "redis:", "redis-cluster": "redis+cluster:",
    "postgresql": "postgresql:", "file": "file:", "s3-rclone": "s3:", "s3-moto": "s3:",
}  # fmt: skip


@COLOURS
def test_opening_touches_nothing_and_shows_no_secret(tmp_path, blocking):
    before = sorted(tmp_path.iterdir()), threading.active_count()
    for url in (
        f"sqlite:///{tmp_path}/a/b.db",
        f"file://{tmp_path}/c",
        "redis://u:canary-1@127.0.0.1:1/0",
        "redis+cluster://u:canary-1@127.0.0.1:1",
        "postgresql://u:canary-1@127.0.0.1:1/x",
        "s3://bucket/p?endpoint=http://127.0.0.1:1&region=r&access_key_id=canary-1&secret_access_key=canary-1&token=canary-1",
    ):
        store = open_store(url, blocking=blocking)
        assert "canary" not in repr(store) + store.url + str(vars(store))
    assert (sorted(tmp_path.iterdir()), threading.active_count()) == before


@COLOURS
def test_a_closed_store_opens_again_when_it_is_used(shared_url, blocking):
    store = open_store(shared_url, blocking=blocking)

    async def twice():
        for value in (b"1", b"2"):
            assert await store.ping() >= 0
            assert await use(store, value) == value
            await store.aclose()
            await store.aclose()

    drive(twice()) if blocking else asyncio.run(twice())


def test_a_blocking_store_never_suspends(url):
    store = open_store(url, blocking=True)
    coroutine = use(store)
    with pytest.raises(StopIteration) as ended:
        coroutine.send(None)
    assert ended.value.value == b"value"
    drive(store.aclose())


def test_every_loop_has_its_own_connections_and_leaves_none_behind(shared_url):
    """Nobody closes the store here: each loop gives its connections back when it ends."""
    store = open_store(shared_url)
    assert asyncio.run(use(store)) == b"value"
    gc.collect()
    before = sockets()
    for number in range(5):
        assert asyncio.run(use(store, str(number).encode())) == str(number).encode()
    gc.collect()
    assert sockets() <= before
    asyncio.run(store.aclose())


def test_loops_of_several_threads_share_one_store(shared_url):
    store = open_store(shared_url)
    results: list[bytes | None] = []

    async def work():
        results.extend(await asyncio.gather(*(use(store) for _ in range(5))))
        await store.aclose()

    threads = [threading.Thread(target=asyncio.run, args=(work(),)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert run_sync(use(store)) == b"value"
    for thread in threads:
        thread.join()
    run_sync(store.aclose())
    assert results == [b"value"] * 20


def test_threads_share_one_blocking_store(url):
    store = open_store(url, blocking=True, timeout_s=20)
    results: list[bytes | None] = []
    threads = [threading.Thread(target=lambda: results.append(drive(use(store)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    drive(store.aclose())
    assert results == [b"value"] * 8


@pytest.fixture(params=[b for b in REMOTE if "kv" in b.capabilities], ids=lambda backend: backend.name)
def kv_url(request):
    return request.getfixturevalue(request.param.fixture)


@COLOURS
def test_a_forked_child_uses_the_store_and_the_parent_goes_on(kv_url, blocking):
    store = open_store(kv_url, blocking=blocking)
    run = drive if blocking else asyncio.run
    with asyncio.Runner() as runner:
        parent = drive if blocking else runner.run
        assert parent(use(store, b"parent")) == b"parent"
        assert in_child(lambda: run(use(store, b"child"))) == 0
        assert in_child(lambda: (run(use(store)), run(store.aclose()))) == 0
        assert parent(use(store, b"again")) == b"again"
        parent(store.aclose())


@COLOURS
def test_an_object_store_used_on_both_sides_of_a_fork_says_so_instead_of_hanging(tmp_path, blocking):
    store = open_store(f"file://{tmp_path}", blocking=blocking)
    run = drive if blocking else asyncio.run
    assert run(use(store)) == b"value"

    def child():
        other = open_store(f"file://{tmp_path}", blocking=blocking)
        for one in (store, other):
            with pytest.raises(Exception, match="both sides of a fork"):
                run(use(one))

    assert in_child(child) == 0
    assert run(use(store)) == b"value"


def test_a_store_that_is_forgotten_ends_its_thread(tmp_path):
    store = open_store(f"sqlite:///{tmp_path}/x.db")
    before = {thread.ident for thread in threading.enumerate()}
    asyncio.run(use(store))
    (own,) = [thread for thread in threading.enumerate() if thread.ident not in before]
    del store
    gc.collect()
    own.join(10)
    assert not own.is_alive()


def in_child(call) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forking with threads
        pid = os.fork()
    if pid == 0:
        try:
            call()
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
            os._exit(1)
        os._exit(0)
    end = time.monotonic() + 30
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail("the forked child hangs")
        time.sleep(0.01)


def sockets() -> int:
    folder = Path("/proc/self/fd")
    if not folder.is_dir():
        pytest.skip("counts sockets in /proc")
    names = []
    for descriptor in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one that was listing
            names.append(str(descriptor.readlink()))
    return sum(name.startswith("socket:") for name in names)
