"""A Redis that dies, hangs, is full or refuses: callers get their answers all the while, and the cache comes back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from itertools import count

import pytest
import redis

from langchain_llmops.cache.model import cached
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.errors import StoreError
from tests.support.cache import texts
from tests.support.models import DEADLINE_S, ScriptedModel
from tests.support.servers import redis_server

HIT_OF_L2 = "hit:L2"
ERRORS = "error:L2"
DEADLINE_OF_A_LEVEL_S = 0.05
COLOURS = pytest.mark.parametrize("colour", ["sync", "async"])


class Clock:
    """The machine's, and as much later as it is told: what a cache waits out in seconds passes at once."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server():
    with redis_server() as server:
        yield server


@pytest.fixture
def opened(clock):
    """Makes caches that are closed in the end."""
    made = []

    def opened(url: str, **options) -> TieredCache:
        made.append(TieredCache.from_urls(url, clock=clock, **options))
        return made[-1]

    yield opened
    for cache in made:
        cache.close()


@contextlib.contextmanager
def killed(server, client):
    server.kill()
    yield
    server.restart()


@contextlib.contextmanager
def stopped(server, client):
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextlib.contextmanager
def slow_to_write(server, client):
    client.execute_command("CLIENT PAUSE", 60_000, "WRITE")
    yield
    client.execute_command("CLIENT UNPAUSE")


@contextlib.contextmanager
def full(server, client):
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1mb")
    client.config_set("maxmemory", "1")
    yield
    client.config_set("maxmemory", "0")


@contextlib.contextmanager
def a_replica(server, client):
    client.replicaof("127.0.0.1", "1")
    yield
    client.replicaof("NO", "ONE")


@contextlib.contextmanager
def denied(server, client):
    client.execute_command("ACL SETUSER", "default", "-set", "-mget")
    yield
    client.execute_command("ACL SETUSER", "default", "+@all")


FAULTS = [killed, stopped, slow_to_write, full, a_replica, denied]
each_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)


async def ask(model, question: str, colour: str) -> str:
    """A sync caller asks on a thread, which nothing but a wait for the server could hold up."""
    if colour == "async":
        return (await model.ainvoke(question)).text
    return (await asyncio.to_thread(model.invoke, question)).text


@contextlib.asynccontextmanager
async def during(fault, server):
    with contextlib.closing(redis.Redis.from_url(server.url)) as client, contextlib.ExitStack() as stack:
        await asyncio.to_thread(stack.enter_context, fault(server, client))
        yield
        await asyncio.to_thread(stack.close)


async def comes_back(cache, other, clock, colour: str) -> bool:
    """Whether what is asked through one cache is found by another in their Redis again, some seconds later."""
    model, questions = ScriptedModel(cache=cache), count()
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        question = f"again {next(questions)}"
        await ask(model, question, colour)
        await asyncio.to_thread(cache.flush)
        before = other.stats().get(HIT_OF_L2, 0)
        await ask(ScriptedModel(cache=other), question, colour)
        if other.stats().get(HIT_OF_L2, 0) > before:
            return True
        clock.ahead_s += 1
    return False


@COLOURS
@each_fault
async def test_each_call_has_its_answer_during_the_fault_and_the_cache_works_after_it(
    fault, colour, server, opened, clock
) -> None:
    cache, other = opened(server.url), opened(server.url)
    model = ScriptedModel(lambda messages: messages[-1].text.upper(), cache=cache)
    assert await ask(model, "before", colour) == "BEFORE"
    assert await asyncio.to_thread(cache.flush)
    async with during(fault, server):
        # these end although the fault has not
        for number in range(6):
            assert await ask(model, f"during {number}", colour) == f"DURING {number}"
        assert model.calls == 7
        for _ in range(3):
            assert await ask(model, "during 5", colour) == "DURING 5"
        assert model.calls == 7, "memory serves what was asked during the fault"
        assert await asyncio.to_thread(cache.flush, DEADLINE_S)
        assert cache.stats()[ERRORS] > 0
    assert await comes_back(cache, other, clock, colour)


@COLOURS
@pytest.mark.parametrize("fault", [stopped, slow_to_write], ids=lambda fault: fault.__name__)
async def test_the_first_call_through_a_redis_that_hangs_waits_for_a_few_deadlines_and_not_for_seconds(
    fault, colour, server, opened
) -> None:
    cache = opened(server.url)
    model = ScriptedModel(cache=cache)
    await ask(model, "before", colour)
    assert await asyncio.to_thread(cache.flush)
    async with during(fault, server):
        before = time.monotonic()
        await ask(model, "hi", colour)
        assert time.monotonic() - before < 40 * DEADLINE_OF_A_LEVEL_S


@each_fault
async def test_many_at_once_each_have_their_answer_during_the_fault(fault, server, opened, clock) -> None:
    cache, other = opened(server.url), opened(server.url)
    model = ScriptedModel(lambda messages: messages[-1].text.upper(), cache=cache)
    async with during(fault, server):
        names = [f"q{number}" for number in range(100)] * 2
        asked = [ask(model, name, "sync" if place % 10 == 0 else "async") for place, name in enumerate(names)]
        assert await asyncio.gather(*asked) == [name.upper() for name in names]
    assert await comes_back(cache, other, clock, "async")


@COLOURS
async def test_what_is_streamed_arrives_during_the_fault(colour, server, opened) -> None:
    model = cached(ScriptedModel("a b c"), cache=opened(server.url))
    async with during(stopped, server):
        for _ in range(2):
            if colour == "async":
                pieces = [piece.text async for piece in model.astream("hi")]
            else:
                pieces = await asyncio.to_thread(lambda: [piece.text for piece in model.stream("hi")])
            assert "".join(pieces) == "a b c"
    assert model.calls == 1


async def test_a_redis_that_dies_in_the_middle_of_traffic_and_comes_back_empty_harms_no_call(
    server, opened, clock
) -> None:
    cache = opened(server.url, l1_max_bytes=0)
    model = ScriptedModel(lambda messages: messages[-1].text.upper(), cache=cache)
    halt, done = asyncio.Event(), 0

    async def traffic(caller: int) -> None:
        nonlocal done
        for number in count():
            question = f"{caller} {number % 20} x"
            assert await ask(model, question, "sync" if caller == 0 else "async") == question.upper()
            done += 1
            if halt.is_set():
                return

    async def some_more(calls: int) -> None:
        until = done + calls
        while done < until:
            await asyncio.sleep(0.001)

    async def events() -> None:
        try:
            for _ in range(2):
                await some_more(100)
                await asyncio.to_thread(server.kill)
                await some_more(100)
                await asyncio.to_thread(server.restart)
                clock.ahead_s += 60
        finally:
            halt.set()

    await asyncio.gather(events(), *map(traffic, range(8)))
    assert cache.stats()[ERRORS] > 0
    assert await comes_back(cache, opened(server.url), clock, "async")


@COLOURS
async def test_an_answer_that_was_paid_for_arrives_although_redis_died_while_the_provider_was_asked(
    colour, server, opened
) -> None:
    cache = opened(server.url)

    def dying(messages):
        server.kill()
        return "paid for"

    model = ScriptedModel(dying, cache=cache)
    assert [await ask(model, "hi", colour) for _ in range(2)] == ["paid for"] * 2
    assert model.calls == 1


async def test_a_process_whose_redis_hangs_waits_for_no_other_process(server, opened) -> None:
    """Who cannot see the others' leases asks for itself."""
    model = ScriptedModel("ok")
    callers = [model.model_copy(update={"cache": opened(server.url)}) for _ in range(4)]
    async with during(stopped, server):
        answers = await asyncio.gather(*(ask(caller, "hi", "async") for caller in callers for _ in range(20)))
    assert set(answers) == {"ok"}
    assert model.calls <= 4, "each process still makes one call for all of its callers"


@COLOURS
@each_fault
async def test_an_invalidation_that_redis_cannot_take_says_so_and_is_done_when_it_is_said_again(
    fault, colour, server, opened
) -> None:
    async def invalidate() -> None:
        await (cache.ainvalidate(["t"]) if colour == "async" else asyncio.to_thread(cache.invalidate, ["t"]))

    cache, other = [opened(server.url, tags_of=lambda prompt, llm_string: ["t"]) for _ in range(2)]
    model = ScriptedModel("old", "new", cache=cache)
    assert await ask(model, "hi", colour) == "old"
    assert await asyncio.to_thread(cache.flush)
    async with during(fault, server):
        with pytest.raises(StoreError):
            await invalidate()
    await invalidate()
    assert await ask(model, "hi", colour) == "new"
    assert await ask(ScriptedModel("newer", cache=other), "hi", colour) != "old"


async def test_a_cache_closes_while_redis_hangs(server) -> None:
    cache = TieredCache.from_urls(server.url)
    async with during(stopped, server):
        await ask(ScriptedModel(cache=cache), "hi", "async")
        await cache.aclose()
        await asyncio.to_thread(cache.close)


@COLOURS
async def test_a_node_of_a_cluster_that_is_asked_as_a_single_server_is_a_miss(
    colour, redis_cluster_url, opened
) -> None:
    cache = opened(redis_cluster_url.replace("redis+cluster", "redis"))
    model = ScriptedModel(lambda messages: messages[-1].text.upper(), cache=cache)
    for number in range(10):
        assert [await ask(model, f"q{number}", colour) for _ in range(2)] == [f"Q{number}"] * 2
    assert model.calls == 10, "memory serves the second"
    assert cache.stats()[ERRORS] > 0
    assert HIT_OF_L2 not in cache.stats()


@COLOURS
async def test_a_cluster_is_a_second_level(colour, redis_cluster_url, opened) -> None:
    cache = opened(redis_cluster_url, timeout_s=5.0, namespace=colour)
    for number in range(20):
        await ask(ScriptedModel(cache=cache), f"q{number}", colour)
    assert await asyncio.to_thread(cache.flush)
    other = opened(redis_cluster_url, timeout_s=5.0, namespace=colour)
    model = ScriptedModel(cache=other)
    await asyncio.gather(*(ask(model, f"q{number}", colour) for number in range(20)))
    assert model.calls == 0
    assert other.stats()[HIT_OF_L2] == 20
    assert ERRORS not in {**cache.stats(), **other.stats()}


async def test_a_server_that_is_no_redis_is_a_miss(opened) -> None:
    async def nonsense(reader, writer) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 100)
        writer.close()

    async with await asyncio.start_server(nonsense, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        cache = opened(f"redis://127.0.0.1:{port}/0")
        for colour in ("sync", "async"):
            assert await ask(ScriptedModel("ok", cache=cache), colour, colour) == "ok"
        assert cache.stats()[ERRORS] > 0
        assert texts(await cache.alookup("p", "m")) is None
