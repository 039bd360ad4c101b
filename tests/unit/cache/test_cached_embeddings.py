"""No text is embedded twice, a hit is what the provider gave, and nobody suffers for another."""

from __future__ import annotations

import asyncio
import math
from array import array

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableLambda
from langchain_openai import OpenAIEmbeddings

from langchain_llmops.cache.embeddings import CachedEmbeddings
from langchain_llmops.cache.traits import traits_of
from langchain_llmops.cache.vectors import HEADER, decode, encode
from langchain_llmops.core.context import run_config
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import ConfigurationError, MalformedAnswerError
from langchain_llmops.core.types import Identity
from langchain_llmops.simulator import FaultPlan, running
from tests.support.cache import Clock
from tests.support.shelves import MemoryShelves


class Words(Embeddings):
    """Counts its calls; queries differ from documents; refuses a batch with a bad text as providers do."""

    model = "words-1"

    def __init__(self, size: int = 3) -> None:
        self.size = size
        self.calls: list[list[str]] = []
        self.bad: set[str] = set()
        self.error: Exception = ValueError("no such text")
        self.wait_s = 0.0

    def vector(self, text, first=0.0):
        return [first, *(math.sin(len(text) + n) for n in range(self.size - 1))]

    def embed_documents(self, texts):
        self.calls.append(list(texts))
        if self.bad & set(texts):
            raise self.error
        return [self.vector(text) for text in texts]

    def embed_query(self, text):
        self.calls.append([text])
        return self.vector(text, 1.0)

    async def aembed_documents(self, texts):
        await asyncio.sleep(self.wait_s)
        return self.embed_documents(texts)

    async def aembed_query(self, text):
        return self.embed_query(text)


@pytest.fixture
def words() -> Words:
    return Words()


@pytest.fixture
def shelves(clock) -> MemoryShelves:
    return MemoryShelves(clock)


@pytest.fixture
def make(shelves, words):
    def make(embeddings=None, **options):
        return CachedEmbeddings(embeddings or words, shelves, shelves, **{"model": "words-1", **options})

    return make


@pytest.fixture
def together(make):
    """Queries that may share a call."""
    return make(symmetric=True)


async def test_fifty_concurrent_queries_of_thirty_texts_are_one_call_of_thirty_and_one_read(words, shelves, together):
    texts = [f"text {n % 30}" for n in range(50)]
    answers = await asyncio.gather(*map(together.aembed_query, texts))
    assert answers == [words.vector(text) for text in texts]
    assert [len(call) for call in words.calls] == [30]
    assert (len(shelves.reads), len(shelves.writes)) == (1, 1)
    assert together.stats() == {
        "asked": 50, "hit": 0, "miss": 30, "calls": 1, "texts": 30, "stored": 30, "unstored": 0
    }  # fmt: skip


@pytest.fixture
def connect(shelves, http_clients):
    """OpenAI's embeddings on a simulator, bare and cached."""

    def make(simulator):
        inner = OpenAIEmbeddings(
            model="text-embedding-3-small",
            base_url=simulator.base_url,
            api_key="sk-test-key",
            check_embedding_ctx_length=False,
            max_retries=0,
            **http_clients,
        )
        return inner, CachedEmbeddings(inner, shelves, shelves, model=inner.model)

    return make


async def test_openai_is_sent_one_request_for_fifty_concurrent_queries(connect, shelves):
    with running() as simulator:
        inner, cached = connect(simulator)
        texts = [f"where is order {n % 30}" for n in range(50)]
        answers = await asyncio.gather(*map(cached.aembed_query, texts))
        assert simulator.stats.requests == 1
        assert await cached.aembed_documents(texts) == answers
        assert cached.embed_documents(texts) == answers
        assert cached.embed_query(texts[3]) == answers[3]
        assert simulator.stats.requests == 1
        assert await inner.aembed_documents(texts) == answers
    entries = (await shelves.everything()).values()
    assert all(len(data) < 4 * 1536 + 150 for data in entries)


async def test_a_rate_limit_fails_the_batch_once_and_keeps_nothing(connect, shelves):
    with running(faults=FaultPlan(schedule={1: "rate_limit"})) as simulator:
        _, cached = connect(simulator)
        failed = await asyncio.gather(*(cached.aembed_query(f"t{n}") for n in range(9)), return_exceptions=True)
        assert all(isinstance(error, openai.RateLimitError) for error in failed)
        assert simulator.stats.requests == 1
        assert not shelves.writes
        assert len(await cached.aembed_query("t0")) == 1536
        assert simulator.stats.requests == 2


async def test_a_text_that_openai_refuses_fails_its_caller_alone(connect):
    with running() as simulator:
        _, cached = connect(simulator)
        texts = [*(f"t{n}" for n in range(31)), ""]
        answers = await asyncio.gather(*map(cached.aembed_query, texts), return_exceptions=True)
        assert isinstance(answers[-1], openai.BadRequestError)
        assert all(len(vector) == 1536 for vector in answers[:-1])
        assert simulator.stats.requests == 1 + 2 * 5


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.integers(0, 9), max_size=6)), max_size=12), st.booleans())
def test_any_mix_of_calls_gives_what_the_provider_gives_and_asks_for_each_text_once(calls, symmetric):
    """Queries and documents, at the same time and after one another, async and sync."""
    words, shelves = Words(), MemoryShelves(Clock())
    cached = CachedEmbeddings(words, shelves, shelves, model="w", symmetric=symmetric, max_batch=4)

    async def call(is_query, texts):
        if is_query:
            return [await cached.aembed_query(text) for text in texts]
        return await cached.aembed_documents(texts)

    def truth(is_query, texts):
        return [words.vector(text, float(is_query and not symmetric)) for text in texts]

    asked = [(is_query, ["x" * n for n in texts]) for is_query, texts in calls]

    async def everything():
        return await asyncio.gather(*(call(*one) for one in asked))

    assert asyncio.run(everything()) == [truth(*one) for one in asked]
    distinct = {(is_query and not symmetric, text) for is_query, texts in asked for text in texts}
    assert sum(map(len, words.calls)) == len(distinct)
    before = len(words.calls)
    for is_query, texts in asked:
        found = [cached.embed_query(text) for text in texts] if is_query else cached.embed_documents(texts)
        assert found == truth(is_query, texts)
    assert len(words.calls) == before


@settings(max_examples=100)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_a_hit_is_the_vector_that_the_provider_gave_to_the_last_bit(vector):
    shelves = MemoryShelves(Clock())

    class One(Words):
        def embed_documents(self, texts):
            self.calls.append(texts)
            return [vector for _ in texts]

    cached = CachedEmbeddings(One(), shelves, shelves, model="one")
    first, second = cached.embed_documents(["a"]), cached.embed_documents(["a"])
    assert [number.hex() for number in first[0]] == [number.hex() for number in vector]
    assert [number.hex() for number in second[0]] == [number.hex() for number in vector]
    assert cached.stats()["calls"] == 1


async def test_queries_and_documents_of_an_asymmetric_model_are_kept_apart(words, make):
    cached = make()
    for _ in range(2):
        assert await cached.aembed_query("a") == words.vector("a", 1.0)
        assert await cached.aembed_documents(["a"]) == [words.vector("a", 0.0)]
        assert cached.embed_query("a") == words.vector("a", 1.0)
    assert words.calls == [["a"], ["a"]]


def test_only_openais_own_methods_are_taken_to_be_symmetric():
    class Instructed(OpenAIEmbeddings):
        def embed_query(self, text, **more):
            return super().embed_query(f"query: {text}", **more)

    openai = {"model": "text-embedding-3-small", "api_key": "k"}
    assert traits_of(OpenAIEmbeddings(**openai))["symmetric"]
    assert not traits_of(Instructed(**openai))["symmetric"]
    assert not traits_of(Words())["symmetric"]
    assert traits_of(OpenAIEmbeddings(**openai)) != traits_of(OpenAIEmbeddings(**openai, dimensions=256))


@pytest.mark.parametrize(
    "other", [{"model": "words-2"}, {"variant": "256"}, {"namespace": "b"}, {"tenant": "b"}, {"scope": "user"}]
)
async def test_two_models_or_tenants_never_share(words, make, other):
    config = run_config(Identity(user="u1"))
    for options in ({}, other):
        cached = make(**options)
        await RunnableLambda(cached.aembed_documents).ainvoke(["a"], config)
    assert words.calls == [["a"], ["a"]]


async def test_users_of_two_tenants_are_never_in_one_call(words, make):
    cached = make(symmetric=True)
    ask = RunnableLambda(cached.aembed_query)
    tenants = [run_config(Identity(tenant=f"t{n % 2}")) for n in range(10)]
    await asyncio.gather(*(ask.ainvoke("same", config) for config in tenants))
    assert words.calls == [["same"], ["same"]]


async def test_under_user_scope_a_call_that_names_nobody_bypasses_the_cache(words, make, shelves):
    cached = make(scope="user")
    assert await cached.aembed_query("a") == cached.embed_query("a") == words.vector("a", 1.0)
    assert len(words.calls) == cached.stats()["bypass"] == 2
    assert not shelves.reads


async def test_callers_cannot_poison_one_another(words, together):
    one, two = await asyncio.gather(together.aembed_query("a"), together.aembed_query("a"))
    one[0] = 99.0
    third = await together.aembed_query("a")
    third[0] = 98.0
    assert two == words.vector("a") == await together.aembed_query("a") == together.embed_query("a")
    assert len(words.calls) == 1


@pytest.mark.parametrize("answer", [[], [[1.0]], [[1.0]] * 3, [[1.0], [1.0, 2.0]], [[], []], None, [["a"], ["b"]], 7])
async def test_another_number_or_shape_of_vectors_is_a_typed_error_and_keeps_nothing(words, make, shelves, answer):
    words.embed_documents = lambda texts: answer
    with pytest.raises(MalformedAnswerError):
        await make().aembed_documents(["a", "b"])
    with pytest.raises(MalformedAnswerError):
        make().embed_documents(["a", "b"])
    assert not shelves.writes


async def test_a_vector_that_is_no_number_is_given_and_not_kept(words, make, shelves):
    words.embed_documents = lambda texts: [[float("nan"), 1.0]]
    cached = make()
    assert math.isnan((await cached.aembed_documents(["a"]))[0][0])
    assert not shelves.writes
    assert cached.stats()["unstored"] == 1


HOSTILE = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-3],
    "foreign": lambda data: b"\x80\x04K\x01.",
    "flipped": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "sealed but empty": lambda data: Envelope().seal(b""),
    "too few numbers": lambda data: Envelope().seal(HEADER.pack(1, b"d", 3) + bytes(16)),
    "a bomb": lambda data: Envelope().seal(HEADER.pack(1, b"f", 2**24) + bytes(2**26)),
    "no number": lambda data: Envelope().seal(HEADER.pack(1, b"f", 3) + b"\xff" * 12),
    "another type": lambda data: Envelope().seal(HEADER.pack(1, b"u", 3) + bytes(12)),
    "a later version": lambda data: Envelope().seal(HEADER.pack(2, b"f", 3) + bytes(12)),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_or_damaged_bytes_are_a_miss(words, make, shelves, change):
    assert await make().aembed_documents(["a"]) == [words.vector("a")]
    await shelves.spoil(change)
    cached = make()
    assert await cached.aembed_documents(["a"]) == [words.vector("a")]
    assert cached.stats()["damaged"] == 1
    assert cached.embed_documents(["a"]) == [words.vector("a")]
    assert len(words.calls) == 2


async def test_an_encrypted_entry_that_was_moved_to_another_text_is_a_miss(words, make, shelves):
    cached = make(envelope=Envelope(keys={"k": b"k" * 32}))
    await cached.aembed_documents(["a", "bb"])
    (one, two) = await shelves.everything()
    await shelves.items.set(one, await shelves.items.get(two))
    assert await cached.aembed_documents(["a", "bb"]) == [words.vector("a"), words.vector("bb")]
    assert cached.stats()["damaged"] == 1


async def test_shelves_that_fail_are_a_miss_and_lose_no_answer(words, together, shelves):
    shelves.broken = True
    assert await together.aembed_query("a") == words.vector("a")
    assert together.embed_query("a") == words.vector("a")
    assert together.stats()["stored"] == 0


async def test_vectors_of_another_size_are_never_mixed_nor_believed(words, make):
    old = make()
    await old.aembed_documents(["a", "b"])
    words.size = 5
    mixed = make()  # a new process: it cannot know yet
    assert {len(vector) for vector in await mixed.aembed_documents(["a", "c"])} == {5}
    assert {len(vector) for vector in await mixed.aembed_documents(["b"])} == {5}
    assert len(mixed.embed_documents(["b"])[0]) == 5
    words.size = 3
    assert {len(vector) for vector in make().embed_documents(["d", "a"])} == {3}


async def test_one_bad_text_fails_those_who_asked_for_it_and_nobody_else(words, together):
    words.bad = {"bad"}
    asked = [*(f"t{n}" for n in range(30)), "bad", "bad"]
    answers = await asyncio.gather(*map(together.aembed_query, asked), return_exceptions=True)
    assert [text for text, answer in zip(asked, answers, strict=True) if answer is words.error] == ["bad", "bad"]
    assert answers[:30] == [words.vector(text) for text in asked[:30]]
    assert len(words.calls) <= 2 * 5 + 1
    words.bad = set()
    assert await together.aembed_query("bad") == words.vector("bad")


async def test_a_text_shared_with_a_caller_whose_other_text_is_bad_is_still_answered(words, together):
    words.bad = {"bad"}
    failing, good = await asyncio.gather(
        together.aembed_documents(["a", "bad"]), together.aembed_query("a"), return_exceptions=True
    )
    assert failing is words.error
    assert good == words.vector("a")


async def test_a_provider_that_refuses_everything_is_not_asked_for_each_text(words, together):
    words.bad = {f"t{n}" for n in range(200)}
    answers = await asyncio.gather(*map(together.aembed_query, words.bad), return_exceptions=True)
    assert set(answers) == {words.error}
    assert len(words.calls) < 40


async def test_one_callers_own_bad_list_is_asked_for_once(words, together):
    words.bad = {"bad"}
    with pytest.raises(ValueError):
        await together.aembed_documents(["a", "b", "bad"])
    assert len(words.calls) == 1


async def test_a_cancelled_caller_takes_nobody_along_and_loses_no_answer(words, together):
    words.wait_s = 0.02
    first = asyncio.create_task(together.aembed_query("a"))
    others = [asyncio.create_task(together.aembed_query(text)) for text in ("a", "b")]
    await asyncio.sleep(0.005)
    first.cancel()
    assert await asyncio.gather(*others) == [words.vector("a"), words.vector("b")]
    with pytest.raises(asyncio.CancelledError):
        await first
    alone = asyncio.create_task(together.aembed_query("c"))
    await asyncio.sleep(0.005)
    alone.cancel()
    assert await together.aembed_query("c") == words.vector("c")
    assert words.calls == [["a", "b"], ["c"]]


def test_a_loop_that_ends_in_the_middle_leaves_a_cache_that_works_in_the_next(words, together):
    words.wait_s = 60

    async def leave():
        left = asyncio.create_task(together.aembed_query("a"))
        await asyncio.sleep(0.01)
        assert not left.done()

    asyncio.run(leave())
    words.wait_s = 0
    assert asyncio.run(together.aembed_query("a")) == words.vector("a")
    assert asyncio.run(together.aembed_query("a")) == words.vector("a")
    assert together.embed_query("a") == words.vector("a")
    assert words.calls == [["a"]]


async def test_what_is_asked_for_while_an_answer_is_being_kept_is_asked_for_once(words, together, shelves):
    kept, write = asyncio.Event(), shelves.write

    async def slow_write(items, **options):
        await kept.wait()
        await write(items, **options)

    shelves.write = slow_write
    assert await together.aembed_query("a") == words.vector("a")  # not kept yet
    assert await together.aembed_query("a") == words.vector("a")
    kept.set()
    assert len(words.calls) == 1


async def test_who_is_alone_waits_for_no_window_and_who_comes_next_leaves_by_its_end(words, make):
    alone = make(symmetric=True, window_s=3600)
    assert await alone.aembed_query("a") == words.vector("a")
    words.wait_s = 0.02
    first = asyncio.create_task(alone.aembed_query("b"))
    await asyncio.sleep(0.005)
    rest = [asyncio.create_task(alone.aembed_query(text)) for text in ("c", "dd")]
    await asyncio.gather(first, *rest)  # leaves when the first call ends, however long the window
    assert words.calls == [["a"], ["b"], ["c", "dd"]]


async def test_a_batch_is_bounded_and_one_callers_list_is_never_divided(words, make):
    cached = make(symmetric=True, max_batch=4)
    await asyncio.gather(*(cached.aembed_query("x" * n) for n in range(10)))
    assert sorted(map(len, words.calls)) == [2, 4, 4]
    await cached.aembed_documents(["y" * n for n in range(1, 10)])
    assert len(words.calls[-1]) == 9
    await asyncio.gather(*(cached.aembed_documents([f"{n} {m}" for m in range(3)]) for n in range(3)))
    assert [len(call) for call in words.calls[-3:]] == [3, 3, 3]


async def test_callers_who_come_in_turns_of_the_loop_one_after_another_are_one_call(words, together):
    async def late(turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        await together.aembed_query(f"{turns}")

    await asyncio.gather(*map(late, range(6)))
    assert [len(call) for call in words.calls] == [6]


def test_a_vector_is_as_short_as_it_can_be_without_loss():
    short, long = (encode(array("d", [x] * 9), "k", Envelope(keys={"k": b"k" * 32})) for x in (0.5, 0.1))
    assert decode(short, "k", envelope := Envelope(keys={"k": b"k" * 32})) == array("d", [0.5] * 9)
    assert envelope.open(short, b"k")[1:2] == b"f"
    assert envelope.open(long, b"k")[1:2] == b"d"


async def test_nothing_is_left_behind(words, together):
    await asyncio.gather(*(together.aembed_query(f"{n}") for n in range(5)))
    await asyncio.sleep(0.01)
    together.embed_query("z")
    assert not together._threads
    assert not await together._lines.get()


async def test_no_text_and_what_is_no_text(words, make, shelves):
    cached = make()
    assert await cached.aembed_documents([]) == cached.embed_documents([]) == []
    assert not words.calls
    words.embed_documents = lambda texts: [[1.0] for _ in texts]
    assert cached.embed_documents([{"image": "a.png"}, None]) == [[1.0], [1.0]]
    assert await cached.aembed_documents(["\ud800", "a\x00b"]) == [[1.0], [1.0]]
    assert all(key.startswith("embedding:") for keys in shelves.reads for key in keys)


async def test_an_invalidated_or_expired_vector_is_asked_for_again(words, make, shelves, clock):
    cached = make(tags=["model:words-1"], ttl_s=10)
    await cached.aembed_documents(["a"])
    await shelves.invalidate("model:words-1")
    await cached.aembed_documents(["a"])
    shelves.stale_s = 100
    clock.pass_s(11)
    await cached.aembed_documents(["a"])
    clock.pass_s(11)
    await cached.aembed_documents(["a"])
    assert len(words.calls) == 4


@pytest.mark.parametrize("wrong", [{"model": ""}, {"max_batch": 0}, {"window_s": -1}])
def test_wrong_options_are_refused(make, wrong):
    with pytest.raises(ConfigurationError):
        make(**wrong)
    with pytest.raises(ConfigurationError):
        make("openai:text-embedding-3-small")
