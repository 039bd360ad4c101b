"""What is in Redis and is no entry of this cache: a miss, counted, never run, never raised."""

from __future__ import annotations

import asyncio
import json
import pickle
import random
import tracemalloc

import orjson
import pytest
import redis
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.load import dumps
from langchain_core.prompts import PromptTemplate

from langchain_llmops.cache.codec import encode
from langchain_llmops.cache.engine import PREFIX
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.core.envelope import CHECKSUM_BYTES, MAGIC, VERSION, ZSTD, Envelope, _checksum
from tests.support.cache import KEPT, texts
from tests.support.models import ScriptedModel

COLOURS = pytest.mark.parametrize("colour", ["sync", "async"])


class Kept:
    """One answer in Redis, where it can be written over, and a cache that has nothing in memory."""

    def __init__(self, url: str) -> None:
        self.client = redis.Redis.from_url(url)
        self.cache = TieredCache.from_urls(url, timeout_s=5.0, lease_s=0, l1_max_bytes=0)
        self.keep("p")
        (self.name,) = self.client.keys(f"{PREFIX}*")
        self.good = self.client.get(self.name)
        opened = Envelope().open(self.good, self.key)
        self.head = opened[: opened.index(b"[")]
        told = json.loads(opened[len(self.head) :].partition(b"\n")[0])
        self.generations = json.dumps(told[4]).encode()

    @property
    def key(self) -> bytes:
        return self.name.removeprefix(PREFIX.encode())

    def keep(self, prompt: str) -> None:
        self.cache.update(prompt, "m", KEPT)
        assert self.cache.flush()

    def sealed(self, content: bytes) -> bytes:
        """As the cache would keep it, with the tags that every entry has."""
        content = content.replace(b"{}]\n", self.generations + b"]\n", 1).replace(b"{},", self.generations + b",", 1)
        return Envelope().seal(self.head + content, self.key)

    def errors(self) -> int:
        return self.cache.stats().get("error:L2", 0)

    async def looked_for(self, stored: bytes, colour: str) -> tuple[list[str] | None, int]:
        """What is found when this is stored, and how many errors that counts."""
        self.client.set(self.name, stored)
        before = self.errors()
        if colour == "sync":
            found = await asyncio.to_thread(self.cache.lookup, "p", "m")
        else:
            found = await self.cache.alookup("p", "m")
        return texts(found), self.errors() - before


@pytest.fixture
def kept(clean_redis_url):
    kept = Kept(clean_redis_url)
    yield kept
    kept.cache.close()
    kept.client.close()


class Trap:
    """Unpickled, it runs."""

    sprung = False

    def __reduce__(self):
        return _spring, ()


def _spring() -> None:
    Trap.sprung = True


def packed(body: object, head: object = (2, 1e9, 1e9, 0.5, {})) -> bytes:
    head, body = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (head, body))
    return head + b"\n+" + body


def bomb(*, tells: bool) -> bytes:
    """A gigabyte of nothing in some 30 KB, in a valid envelope; one that `tells` has its size in its head."""
    packer = zstandard.ZstdCompressor(level=1).compressobj(2**30 if tells else -1)
    some = b"\0" * 2**24
    frame = b"".join(packer.compress(some) for _ in range(64)) + packer.flush()
    return MAGIC + bytes((VERSION, ZSTD)) + _checksum(ZSTD, frame) + frame


PROMPT = dumps(PromptTemplate.from_template("{x}"))
MESSAGE = {"content": "x", "tool_calls": [], "usage": None, "meta": {}, "extra": {}, "name": None}
DEEP = b"[" * 512 + b"]" * 512
RAW = {
    "nothing": b"",
    "noise": random.Random(1).randbytes(500),
    "a pickle": pickle.dumps(Trap()),
    "a prompt of LangChain's": PROMPT.encode(),
    "an answer of LangChain's own caches": dumps(KEPT[0]).encode(),
    "a bomb": bomb(tells=True),
    "a bomb that does not tell its size": bomb(tells=False),
}
SEALED = {
    "a pickle in an envelope": pickle.dumps(Trap()),
    "a prompt in an envelope": PROMPT.encode(),
    "a prompt for a body": packed(f"[{PROMPT}]".encode()),
    "a prompt for a message": packed(f'[{{"text":"x","info":null,"message":{PROMPT}}}]'.encode()),
    "an entry of a later version": packed([], (3, 1e9, 1e9, 0.5, {}, "more")),
    "an entry of a former version": json.dumps({"v": 1, "t": 1e9, "g": 0, "a": []}).encode(),
    "512 lists in each other": packed(DEEP),
    "512 lists for a head": DEEP + b"\n+[]",
    "a message 512 deep in lists": packed(b'[{"text":"x","info":null,"message":%b}]' % DEEP),
}


@COLOURS
@pytest.mark.parametrize("stored", RAW.values(), ids=RAW)
async def test_what_is_no_entry_is_a_counted_miss_and_is_never_run(stored, colour, kept) -> None:
    assert await kept.looked_for(stored, colour) == (None, 1)
    assert not Trap.sprung


@COLOURS
@pytest.mark.parametrize("content", SEALED.values(), ids=SEALED)
async def test_what_is_no_entry_within_an_envelope_is_a_counted_miss_and_is_never_run(content, colour, kept) -> None:
    assert await kept.looked_for(kept.sealed(content), colour) == (None, 1)
    assert not Trap.sprung


def test_the_trap_works() -> None:
    pickle.loads(pickle.dumps(Trap()))  # noqa: S301 - ours
    assert Trap.sprung
    Trap.sprung = False


async def test_an_entry_that_was_cut_anywhere_is_a_counted_miss(kept) -> None:
    for place in range(1, len(kept.good)):
        assert await kept.looked_for(kept.good[:place], "async") == (None, 1)
    assert await kept.looked_for(kept.good, "async") == (["ok"], 0)


@COLOURS
async def test_an_entry_copied_from_another_key_is_a_counted_miss(colour, kept) -> None:
    kept.keep("another question")
    (other,) = {*kept.client.keys(f"{PREFIX}*")} - {kept.name}
    assert await kept.looked_for(kept.client.get(other), colour) == (None, 1)


@COLOURS
async def test_a_key_that_holds_no_text_at_all_is_a_miss(colour, kept) -> None:
    kept.client.delete(kept.name)
    kept.client.rpush(kept.name, "a list")
    look = asyncio.to_thread(kept.cache.lookup, "p", "m") if colour == "sync" else kept.cache.alookup("p", "m")
    assert await look is None
    model = ScriptedModel("paid for", cache=kept.cache)
    said = await model.ainvoke("p") if colour == "async" else await asyncio.to_thread(model.invoke, "p")
    assert said.text == "paid for"


@pytest.mark.parametrize("tells", [True, False])
async def test_a_bomb_is_refused_before_it_takes_its_gigabyte(kept, tells) -> None:
    stored = bomb(tells=tells)
    assert len(stored) < 100_000
    tracemalloc.start()
    try:
        assert await kept.looked_for(stored, "async") == (None, 1)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


async def test_a_bad_entry_is_written_over_by_the_next_answer(kept) -> None:
    assert await kept.looked_for(b"bad", "async") == (None, 1)
    await kept.cache.aupdate("p", "m", KEPT)
    assert await asyncio.to_thread(kept.cache.flush)
    assert texts(await kept.cache.alookup("p", "m")) == ["ok"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
wrong = st.tuples(st.sampled_from(sorted(MESSAGE)), anything)
bodies = wrong.map(lambda odd: [{"text": None, "info": None, "message": {**MESSAGE, odd[0]: odd[1]}}])
others = st.tuples(st.sampled_from(["text", "info", "message"]), anything).map(
    lambda odd: [{"text": "x", "info": None, "message": MESSAGE, odd[0]: odd[1]}]
)
heads = st.tuples(st.integers(0, 4), anything).map(
    lambda odd: [*[2, 1e9, 1e9, 0.5, {}][: odd[0]], odd[1], *[2, 1e9, 1e9, 0.5, {}][odd[0] + 1 :]]
)


@given(heads, bodies | others)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
def test_a_wrong_type_in_any_field_is_never_raised_and_what_is_served_is_whole(kept, head, body) -> None:
    for stored in (packed(body), packed(encode(KEPT)[1:], head), packed(body, head)):
        kept.client.set(kept.name, kept.sealed(stored))
        for generation in kept.cache.lookup("p", "m") or ():
            assert isinstance(generation.text, str)
            orjson.dumps(generation.model_dump(mode="json", warnings="error"))


async def test_an_entry_as_they_are_made_here_is_served(kept) -> None:
    """Or none of the above would say anything."""
    right = packed([{"text": None, "info": None, "message": MESSAGE}])
    assert await kept.looked_for(kept.sealed(right), "async") == (["x"], 0)
    right = packed(encode(KEPT)[1:])
    assert await kept.looked_for(kept.sealed(right), "async") == (["ok"], 0)


@pytest.mark.parametrize("created", ["nan", "inf", 1e17, True, "-inf", -1e300])
async def test_an_entry_that_was_made_at_no_time_is_not_served(created, kept) -> None:
    stored = packed(encode(KEPT)[1:], (2, created, 1e6, 0.5, {}))
    assert (await kept.looked_for(kept.sealed(stored), "async"))[0] is None


def test_the_checksum_is_where_this_file_believes() -> None:
    sealed = Envelope().seal(b"x")
    assert sealed == MAGIC + bytes((VERSION, 0)) + _checksum(0, b"x") + b"x"
    assert len(_checksum(0, b"x")) == CHECKSUM_BYTES
