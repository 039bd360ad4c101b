"""Messages between processes over Redis and Redis Cluster: a line that was lost stays lost, and says so."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

import pytest
import redis

from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import StoreAuthError, StoreUnavailableError
from langchain_llmops.stores.base import Channels, open_store
from tests.support.servers import free_port, redis_server


@pytest.fixture(params=["redis_url", "redis_cluster_url"])
async def store(request):
    store = open_store(request.getfixturevalue(request.param))
    yield store
    await store.aclose()


@pytest.fixture
def admin(clean_redis_url):
    with redis.Redis.from_url(clean_redis_url, decode_responses=True) as admin:
        yield admin


def listeners(admin) -> list[dict]:
    return admin.client_list(_type="pubsub")


@pytest.mark.parametrize("url", ["memory://", "sqlite:///x.db", "postgresql://h/x", "file:///tmp"])
def test_stores_without_channels_have_no_such_capability(url) -> None:
    assert not isinstance(open_store(url), Channels)


async def test_what_is_published_in_the_block_is_heard_and_nothing_else_is(store) -> None:
    await store.publish("c", b"before")
    async with store.listen("c") as line:
        await store.publish("other", b"not ours")
        for number in range(20):
            await store.publish("c", b"\x00\xff%d" % number)
        heard = [await asyncio.wait_for(line.receive(), 10) for _ in range(20)]
    assert sorted(heard) == sorted(b"\x00\xff%d" % number for number in range(20)), "nodes of a cluster keep no order"


async def test_a_ping_that_meets_the_loss_of_its_line_is_an_error_of_ours_or_goes_out(store) -> None:
    async with store.listen("c") as line:
        pinged, _ = await asyncio.gather(line.ping(), line._connection.disconnect(nowait=True), return_exceptions=True)
    assert pinged is None or isinstance(pinged, StoreUnavailableError)


async def test_all_who_listen_hear(store) -> None:
    async with store.listen("c") as one, store.listen("c") as other:
        await store.publish("c", b"m")
        assert [await asyncio.wait_for(line.receive(), 10) for line in (one, other)] == [b"m", b"m"]


async def test_a_ping_is_answered_after_what_was_published_before_it(store) -> None:
    async with store.listen("c") as line:
        await line.ping()
        assert await asyncio.wait_for(line.receive(), 10) is None


def test_blocking_callers_publish_too(redis_url) -> None:
    blocking = open_store(redis_url, blocking=True)

    async def listen() -> bytes | None:
        store = open_store(redis_url)
        async with store.listen("c") as line:
            drive(blocking.publish("c", b"m"))
            return await asyncio.wait_for(line.receive(), 10)

    assert asyncio.run(listen()) == b"m"
    drive(blocking.aclose())


async def test_databases_of_one_server_do_not_hear_each_other(redis_url) -> None:
    parts = urlsplit(redis_url)
    here, there = (open_store(parts._replace(path=f"/{number}").geturl()) for number in (14, 15))
    async with here.listen("c") as line:
        await there.publish("c", b"theirs")
        await here.publish("c", b"ours")
        assert await asyncio.wait_for(line.receive(), 10) == b"ours"
    await here.aclose()
    await there.aclose()


async def test_a_line_that_was_cut_says_so_and_is_never_made_anew(redis_url, admin) -> None:
    store = open_store(redis_url)
    async with store.listen("c") as line:
        (client,) = listeners(admin)
        admin.client_kill_filter(_id=client["id"])
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await asyncio.wait_for(line.receive(), 10)
            with pytest.raises(StoreUnavailableError):
                await line.ping()
        assert not listeners(admin)
    await store.aclose()


@pytest.mark.parametrize("how", ["end", "error", "cancelled"])
async def test_a_block_that_is_left_leaves_no_connection(redis_url, admin, how) -> None:
    store = open_store(redis_url)
    inside = asyncio.Event()

    async def listen() -> None:
        async with store.listen("c") as line:
            inside.set()
            if how == "cancelled":
                await line.receive()
            if how == "error":
                raise ValueError(how)

    task = asyncio.create_task(listen())
    await inside.wait()
    if how == "cancelled":
        task.cancel()
    await asyncio.wait([task])
    async with asyncio.timeout(10):
        while listeners(admin):
            await asyncio.sleep(0)
    assert isinstance(task.exception(), ValueError) if how == "error" else task.cancelled() is (how == "cancelled")
    await store.aclose()


async def test_a_server_that_is_away_or_refuses_is_said_as_everywhere() -> None:
    store = open_store(f"redis://127.0.0.1:{free_port()}", setting="S")
    with pytest.raises(StoreUnavailableError, match="S: Redis at"):
        async with store.listen("c"):
            raise AssertionError("nobody is there")
    with redis_server(password="right") as server:
        wrong = open_store(server.url.replace("right", "wrong"), setting="S")
        with pytest.raises(StoreAuthError, match="refused the credentials"):
            async with wrong.listen("c"):
                raise AssertionError("it was let in")
        with redis.Redis.from_url(server.url) as admin:
            admin.acl_setuser(
                "mute", enabled=True, passwords=["+p"], commands=["-@all", "+hello", "+client", "+select"]
            )
        mute = open_store(f"redis://mute:p@127.0.0.1:{server.port}", setting="S")
        with pytest.raises(StoreAuthError, match="denied this user a command"):
            async with mute.listen("c"):
                raise AssertionError("it was subscribed")
        await mute.aclose()
