"""The life of a listener: lost connections, idle processes, closed caches and forks."""

from __future__ import annotations

import asyncio
import threading

import pytest
import redis

from langchain_llmops.cache import push
from langchain_llmops.core.concurrency import DOOR
from langchain_llmops.stores.redis_push import RedisLine
from tests.contract.test_store_life import in_child
from tests.support.cache import keep
from tests.support.models import eventually
from tests.support.pushing import listeners, looks, news, until_heard_of, warm
from tests.support.servers import redis_server


def test_a_lost_connection_ends_trust_at_once_and_is_made_anew(process, admin, no_beat, monkeypatch) -> None:
    here = process()
    keep(here, "a")
    there = warm(process(), "a")
    (old,) = listeners(admin)
    untrusted, distrust = threading.Event(), there._tags.distrust
    monkeypatch.setattr(there._tags, "distrust", lambda: (distrust(), untrusted.set()))
    admin.client_kill_filter(_id=old["id"])
    assert untrusted.wait(10)
    here.invalidate(["a"])
    eventually(lambda: there._tags.trusted() or looks(there, "b") != [None])
    until_heard_of(there)
    assert [one["id"] for one in listeners(admin)] != [old["id"]]
    assert looks(there, "a") == [None]


@pytest.mark.parametrize("how", ["pause", "kill"])
def test_a_server_that_hangs_or_died_is_not_trusted_beyond_its_last_answer(process, how) -> None:
    with redis_server() as server:
        cache = process(server.url, timeout_s=0.05)
        cache.clear()
        keep(cache, "a")
        warm(cache, "a")
        getattr(server, how)()
        assert cache._tags._trusted_until - cache._engine.clock() <= 0.25
        cache._engine.clock.pass_s(0.25)
        eventually(lambda: cache._push._listener._pause_s > push.FIRST_PAUSE_S)
        assert not cache._tags.trusted()
        if how == "pause":
            server.resume()
        else:
            server.restart()
        cache._engine.clock.pass_s(10)
        assert looks(cache, "a") == (["L1"] if how == "pause" else [None]), "one that is empty has forgotten"
        until_heard_of(cache)


@pytest.mark.parametrize("deaf", ["ping", "answer", "question"])
def test_a_connection_that_answers_only_one_of_two_is_not_trusted(process, monkeypatch, deaf) -> None:
    keep(process(), "a")
    monkeypatch.setattr(push, "ALIVE_S", 0.05)
    monkeypatch.setattr(push, "LONGEST_PAUSE_S", 0.001)
    cache = process()
    listener, tried, trusted = cache._push._listener, threading.Semaphore(0), []

    async def hangs(*_):
        tried.release()
        await asyncio.Event().wait()

    async def is_lost(*_):
        tried.release()

    if deaf != "question":
        monkeypatch.setattr(RedisLine, "ping", hangs if deaf == "ping" else is_lost)
    else:
        monkeypatch.setattr(listener._kv, "get", hangs)
    monkeypatch.setattr(cache._tags, "saw_epoch", lambda *seen: trusted.append(seen))

    def tries_again() -> bool:
        cache._tags.used = True
        listener.wake()
        return tried.acquire(timeout=0.01)

    for _ in range(3):
        eventually(tries_again)
    assert not trusted


def test_an_idle_process_is_quiet_and_lets_go_in_the_end(process, admin, monkeypatch) -> None:
    keep(process(), "a")
    monkeypatch.setattr(push, "BEAT_S", 0.001)
    quiet = threading.Semaphore(0)
    wanted = push.Listener._wanted

    async def waits(self):
        quiet.release()
        return await wanted(self)

    monkeypatch.setattr(push.Listener, "_wanted", waits)
    cache = warm(process(), "a")
    assert quiet.acquire(timeout=10)
    pings = admin.info("commandstats")["cmdstat_ping"]["calls"]
    cache._tags.distrust()
    assert looks(cache, "a") == ["L1"]
    eventually(lambda: admin.info("commandstats")["cmdstat_ping"]["calls"] > pings)
    assert quiet.acquire(timeout=10), "it was needed, and is quiet again"
    monkeypatch.setattr(push, "QUIET_S", 0.0)
    cache._push.wake()
    eventually(cache._push._listener._task.done)
    eventually(lambda: not listeners(admin))
    warm(cache, "a")


def test_two_caches_of_a_process_each_hear(process, admin, no_beat, monkeypatch) -> None:
    here = process()
    keep(here, "a")
    both = [warm(process(), "a") for _ in range(2)]
    assert len(listeners(admin)) == 2
    heard = [news(cache, monkeypatch) for cache in both]
    here.invalidate(["a"])
    assert all(one.acquire(timeout=10) for one in heard)
    assert [looks(cache, "a") for cache in both] == [[None], [None]]


def test_a_closed_cache_leaves_no_task_no_thread_and_no_connection(process, admin) -> None:
    def tasks() -> set:
        return asyncio.all_tasks(DOOR.loop())

    keep(process(), "a")
    before, threads = tasks(), set(threading.enumerate())
    cache = warm(process(), "a")
    assert tasks() - before
    assert listeners(admin)
    cache.close()
    assert not {task for task in tasks() - before if "push" in task.get_name() or "_hear" in str(task.get_coro())}
    assert set(threading.enumerate()) == threads
    eventually(lambda: not listeners(admin))
    assert looks(cache, "a") == ["L1"], "and opens again when it is used"


async def test_a_cache_is_closed_on_the_librarys_own_loop_too(process, admin) -> None:
    keep(process(), "a")
    cache = process()
    await cache.alookup("a", "m")

    async def inside() -> None:
        cache._push.wake()
        await cache.aclose()

    await DOOR.cross(inside())
    assert cache._push._listener._task.done()
    await asyncio.to_thread(eventually, lambda: not listeners(admin))


def test_a_cache_that_nobody_asked_starts_nothing(process, admin) -> None:
    cache = process()
    keep(cache, "a")
    cache.invalidate(["a"])
    assert cache._push._listener._task is None
    cache.close()
    assert not listeners(admin)


def test_a_forked_child_has_a_listener_of_its_own_or_asks(process, admin, no_beat) -> None:
    here = process()
    keep(here, "a", "b")
    cache = warm(process(), "a", "b")
    parents = {one["id"] for one in listeners(admin)}

    def child() -> None:
        assert cache._push._listener._task is None
        assert not cache._tags.trusted(), "what the parent hears is not heard here"
        here.invalidate(["a"])
        assert looks(cache, "a") == [None]
        assert looks(cache, "b") != [None]
        until_heard_of(cache)
        assert looks(cache, "b") == ["L1"]
        assert len(listeners(admin)) == 2

    assert in_child(child) == 0
    eventually(lambda: {one["id"] for one in listeners(admin)} == parents)
    eventually(lambda: looks(cache, "a") == [None])


def test_a_server_that_forbids_to_publish_or_to_listen_is_asked_instead(process) -> None:
    with redis_server() as server:
        with redis.Redis.from_url(server.url) as admin:
            admin.acl_setuser("mute", enabled=True, passwords=["+p"], keys=["*"], categories=["+@all"],
                              commands=["-publish", "-subscribe"])  # fmt: skip
        url = f"redis://mute:p@127.0.0.1:{server.port}"
        here, there = process(url), process(url)
        keep(here, "a")
        assert looks(there, "a", "a") == ["L2", "L1"]
        here.invalidate(["a"])
        assert here.stats()["error:L2"] == 1
        there._engine.clock.pass_s(0.25)
        assert looks(there, "a") == [None]


def test_more_tags_than_a_message_holds_are_asked_for(process, no_beat, monkeypatch) -> None:
    here = process()
    keep(here, "a")
    there = warm(process(), "a")
    heard = news(there, monkeypatch)
    here.invalidate(["a", *map(str, range(push.MOST_KEYS))])
    here.invalidate(["b"])
    assert heard.acquire(timeout=10)
    assert "error:L2" not in there.stats()
    there._engine.clock.pass_s(0.25)
    assert looks(there, "a") == [None]
