"""No text is embedded twice, a hit is what the provider gave, and nobody suffers for another."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.runnables import RunnableLambda

from langchain_llmops.cache.embeddings import CachedEmbeddings
from langchain_llmops.core.context import run_config
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import Identity
from tests.support.cache import Clock
from tests.support.shelves import MemoryShelves
from tests.support.words import Words


@pytest.fixture
def together(make_embeddings):
    """Queries that may share a call."""
    return make_embeddings(symmetric=True)


async def test_fifty_concurrent_queries_of_thirty_texts_are_one_call_of_thirty_and_one_read(words, shelves, together):
    texts = [f"text {n % 30}" for n in range(50)]
    answers = await asyncio.gather(*map(together.aembed_query, texts))
    assert answers == [words.vector(text) for text in texts]
    assert [len(call) for call in words.calls] == [30]
    assert (len(shelves.reads), len(shelves.writes)) == (1, 1)
    assert together.stats() == {
        "asked": 50, "hit": 0, "miss": 30, "calls": 1, "texts": 30, "stored": 30, "unstored": 0
    }  # fmt: skip


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


async def test_queries_and_documents_of_an_asymmetric_model_are_kept_apart(words, make_embeddings):
    cached = make_embeddings()
    for _ in range(2):
        assert await cached.aembed_query("a") == words.vector("a", 1.0)
        assert await cached.aembed_documents(["a"]) == [words.vector("a", 0.0)]
        assert cached.embed_query("a") == words.vector("a", 1.0)
    assert words.calls == [["a"], ["a"]]


@pytest.mark.parametrize(
    "other", [{"model": "words-2"}, {"variant": "256"}, {"namespace": "b"}, {"tenant": "b"}, {"scope": "user"}]
)
async def test_two_models_or_tenants_never_share(words, make_embeddings, other):
    config = run_config(Identity(user="u1"))
    for options in ({}, other):
        cached = make_embeddings(**options)
        await RunnableLambda(cached.aembed_documents).ainvoke(["a"], config)
    assert words.calls == [["a"], ["a"]]


async def test_users_of_two_tenants_are_never_in_one_call(words, make_embeddings):
    cached = make_embeddings(symmetric=True)
    ask = RunnableLambda(cached.aembed_query)
    tenants = [run_config(Identity(tenant=f"t{n % 2}")) for n in range(10)]
    await asyncio.gather(*(ask.ainvoke("same", config) for config in tenants))
    assert words.calls == [["same"], ["same"]]


async def test_under_user_scope_a_call_that_names_nobody_bypasses_the_cache(words, make_embeddings, shelves):
    cached = make_embeddings(scope="user")
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


async def test_shelves_that_fail_are_a_miss_and_lose_no_answer(words, together, shelves):
    shelves.broken = True
    assert await together.aembed_query("a") == words.vector("a")
    assert together.embed_query("a") == words.vector("a")
    assert together.stats()["stored"] == 0


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


async def test_who_is_alone_waits_for_no_window_and_who_comes_next_leaves_by_its_end(words, make_embeddings):
    alone = make_embeddings(symmetric=True, window_s=3600)
    assert await alone.aembed_query("a") == words.vector("a")
    words.wait_s = 0.02
    first = asyncio.create_task(alone.aembed_query("b"))
    await asyncio.sleep(0.005)
    rest = [asyncio.create_task(alone.aembed_query(text)) for text in ("c", "dd")]
    await asyncio.gather(first, *rest)  # leaves when the first call ends, however long the window
    assert words.calls == [["a"], ["b"], ["c", "dd"]]


async def test_a_batch_is_bounded_and_one_callers_list_is_never_divided(words, make_embeddings):
    cached = make_embeddings(symmetric=True, max_batch=4)
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


async def test_nothing_is_left_behind(words, together):
    await asyncio.gather(*(together.aembed_query(f"{n}") for n in range(5)))
    await asyncio.sleep(0.01)
    together.embed_query("z")
    assert not together._threads
    assert not await together._lines.get()


async def test_no_text_and_what_is_no_text(words, make_embeddings, shelves):
    cached = make_embeddings()
    assert await cached.aembed_documents([]) == cached.embed_documents([]) == []
    assert not words.calls
    words.embed_documents = lambda texts: [[1.0] for _ in texts]
    assert cached.embed_documents([{"image": "a.png"}, None]) == [[1.0], [1.0]]
    assert await cached.aembed_documents(["\ud800", "a\x00b"]) == [[1.0], [1.0]]
    assert all(key.startswith("embedding:") for keys in shelves.reads for key in keys)


async def test_an_invalidated_or_expired_vector_is_asked_for_again(words, make_embeddings, shelves, clock):
    cached = make_embeddings(tags=["model:words-1"], ttl_s=10)
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
def test_wrong_options_are_refused(make_embeddings, wrong):
    with pytest.raises(ConfigurationError):
        make_embeddings(**wrong)
    with pytest.raises(ConfigurationError):
        make_embeddings("openai:text-embedding-3-small")
