"""Two versions of the library over one Redis, and answers that are very long."""

from __future__ import annotations

import contextlib
import json
import random

import pytest
import redis
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration

from langchain_llmops.cache import codec, engine, fingerprint, lease, tags
from langchain_llmops.cache.codec import encode
from langchain_llmops.cache.policy import Policy
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.envelope import Envelope
from tests.support.cache import KEPT, texts
from tests.support.models import ScriptedModel

COLOURS = pytest.mark.parametrize("colour", ["sync", "async"])
LONG = 10_000_000


@pytest.fixture
def client(clean_redis_url):
    with contextlib.closing(redis.Redis.from_url(clean_redis_url)) as client:
        yield client


@pytest.fixture
def opened(clean_redis_url, client):
    made = []

    def opened(**options) -> TieredCache:
        own = {"timeout_s": 5.0, "lease_s": 0, "tags_of": tags_of, **options}
        made.append(TieredCache.from_urls(clean_redis_url, **own))
        return made[-1]

    yield opened
    for cache in made:
        cache.close()


def tags_of(prompt, llm_string):
    return ["t"]


def said(text: str) -> list[ChatGeneration]:
    return [ChatGeneration(message=AIMessage(text))]


def keep(cache: TieredCache, text: str) -> None:
    cache.update("p", "m", said(text))
    assert cache.flush()


@contextlib.contextmanager
def next_version(monkeypatch):
    """Within it a cache is made, and works, as the version after this one would."""
    with monkeypatch.context() as patch:
        for module in (engine, lease, tags):
            patch.setattr(module, "PREFIX", module.PREFIX.replace(":2:", ":3:"))
        patch.setattr(codec, "VERSION", 3)
        patch.setattr(fingerprint, "VERSION", "3")
        yield


def test_every_name_in_redis_says_its_version(opened, client) -> None:
    names, cache = set(), opened(lease_s=60.0)
    ScriptedModel(lambda messages: [names.update(client.keys("*")), "ok"][1], cache=cache).invoke("hi")
    cache.invalidate(["t"])
    assert cache.flush()
    names.update(client.keys("*"))
    modules = engine, tags, lease
    assert {name.decode().rpartition(":")[0] + ":" for name in names} == {module.PREFIX for module in modules}
    assert all(module.PREFIX.endswith(":2:") for module in modules)


def test_two_versions_work_side_by_side_and_neither_reads_what_the_other_keeps(opened, monkeypatch) -> None:
    now = opened(l1_max_bytes=0)
    keep(now, "now")
    with next_version(monkeypatch):
        then = opened(l1_max_bytes=0)
        assert then.lookup("p", "m") is None
        keep(then, "then")
        assert texts(then.lookup("p", "m")) == ["then"]
        assert "error:L2" not in then.stats()
    assert texts(now.lookup("p", "m")) == ["now"]
    with next_version(monkeypatch):
        then.invalidate(["t"])
        assert then.lookup("p", "m") is None
    assert texts(now.lookup("p", "m")) == ["now"], "what another version invalidates is its own"
    with next_version(monkeypatch):
        keep(then, "then again")
    now.clear()
    assert now.lookup("p", "m") is None
    with next_version(monkeypatch):
        assert texts(then.lookup("p", "m")) == ["then again"]
    assert "error:L2" not in now.stats()


def test_a_format_of_another_version_under_the_same_name_is_a_counted_miss_on_both_sides(opened, monkeypatch) -> None:
    now, then = opened(l1_max_bytes=0), opened(l1_max_bytes=0)
    keep(now, "now")
    with monkeypatch.context() as patch:
        patch.setattr(codec, "VERSION", 3)
        assert then.lookup("p", "m") is None
        assert then.stats()["error:L2"] == 1
        keep(then, "then")
        assert texts(then.lookup("p", "m")) == ["then"]
    assert now.lookup("p", "m") is None
    assert now.stats()["error:L2"] == 1
    keep(now, "now")
    assert texts(now.lookup("p", "m")) == ["now"]


def test_what_the_former_version_keeps_is_neither_read_nor_touched(opened, client) -> None:
    """Version 1 kept whole entries in JSON, and one counter as the generation of all."""
    cache = opened(l1_max_bytes=0)
    keep(cache, "ok")
    (name,) = client.keys(f"{engine.PREFIX}*")
    former = Envelope().seal(json.dumps({"v": 1, "t": 1e9, "g": 0, "a": [{"text": "old", "info": None}]}).encode())
    theirs = {
        name.replace(b":2:", b":1:"): former,
        b"llmops:cache-generation:1:" + name.rpartition(b":")[2][:32]: b"7",
    }
    client.mset(theirs)
    client.delete(name)
    assert cache.lookup("p", "m") is None
    assert "error:L2" not in cache.stats()
    keep(cache, "ok")
    cache.clear()
    assert client.mget([*theirs]) == [*theirs.values()]
    client.set(name, former)
    keep(cache, "ok")
    assert texts(cache.lookup("p", "m")) == ["ok"]
    client.set(name, former)
    before = cache.stats().get("error:L2", 0)
    assert cache.lookup("p", "m") is None
    assert cache.stats()["error:L2"] == before + 1


# answers that are very long


def text_of(length: int) -> str:
    return random.Random(2).randbytes(length // 2).hex()


async def look(cache: TieredCache, colour: str):
    return cache.lookup("p", "m") if colour == "sync" else await cache.alookup("p", "m")


async def put(cache: TieredCache, colour: str, answers) -> None:
    if colour == "sync":
        cache.update("p", "m", answers)
    else:
        await cache.aupdate("p", "m", answers)
    assert cache.flush(30)


@COLOURS
async def test_ten_megabytes_are_not_kept_unless_asked_for(colour, opened, client) -> None:
    cache = opened()
    await put(cache, colour, said(text_of(LONG)))
    assert await look(cache, colour) is None
    assert cache.stats()["unkept"] == 1
    assert "stored" not in cache.stats()
    assert not client.keys(f"{engine.PREFIX}*")


@COLOURS
async def test_ten_megabytes_pass_through_all_levels_where_they_are_asked_for(colour, opened, client, tmp_path) -> None:
    def large(**options) -> TieredCache:
        return opened(policy=Policy(max_bytes=2 * LONG), l3=f"sqlite:///{tmp_path / 'cache.db'}", **options)

    long = text_of(LONG)
    cache = large()
    await put(cache, colour, said(long))
    assert cache.stats()["l1_entries"] == 0, "it is more than a tenth of what memory may hold"
    for level, forget in (("L2", None), ("L3", client.flushdb)):
        if forget is not None:
            forget()
        for cache in (large(), large(l1_max_bytes=30 * LONG)):
            (found,) = await look(cache, colour)
            assert found.text == long
            assert found.message.response_metadata["llmops_cache"]["level"] in (level, "L2")
            assert cache.stats()["l1_entries"] == (1 if cache._engine.memory._max_bytes > 10 * LONG else 0)
            assert cache.flush(30)
    assert cache.stats()["hit:L2"] == 1, "what was found in the database came up again"
    assert texts(await look(cache, colour)) == [long]
    assert cache.stats()["hit:L1"] == 1


def test_the_bound_is_that_of_the_answer_as_it_is_kept(opened) -> None:
    size = len(encode(KEPT))
    for bound, kept in ((size, True), (size - 1, False)):
        cache = opened(policy=Policy(max_bytes=bound), namespace=str(bound))
        cache.update("p", "m", KEPT)
        assert (cache.lookup("p", "m") is not None) is kept
