"""A query is searched once while what it found is fresh, near and not invalidated, and never for somebody else."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.vectorstores import VectorStore

from langchain_llmops.cache.retriever import CachedRetriever
from langchain_llmops.core.context import acting_for, run_config
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import Identity
from tests.support.cache import Clock
from tests.support.models import DEADLINE_S
from tests.support.pages import page
from tests.support.shelves import MemoryShelves


async def test_a_query_is_searched_once_by_sync_and_async_callers(make_retriever, pages):
    cached = make_retriever()
    expected = list(pages.found)
    assert cached.invoke("q") == await cached.ainvoke("q") == cached.invoke("q") == expected
    assert (await cached.abatch(["q", "r"])) == cached.batch(["q", "r"]) == [expected, expected]
    assert pages.asked == ["q", "r"]
    assert cached.stats() == {"miss": 2, "stored": 2, "hit": 5}


async def test_concurrent_callers_search_once(make_retriever, pages):
    cached = make_retriever()
    answers = await asyncio.gather(*(cached.ainvoke("q") for _ in range(50)))
    assert all(answer == pages.found for answer in answers)
    assert pages.asked == ["q"]


def test_concurrent_threads_search_once(make_retriever, pages):
    entered, gate = threading.Event(), threading.Event()

    def slow(query):
        pages.asked.append(query)
        entered.set()
        assert gate.wait(DEADLINE_S)
        return pages.found

    cached = make_retriever(RunnableLambda(slow))
    with ThreadPoolExecutor(20) as pool:
        callers = [pool.submit(cached.invoke, "q") for _ in range(20)]
        assert entered.wait(DEADLINE_S)
        gate.set()
        assert all(caller.result(DEADLINE_S) == pages.found for caller in callers)
    assert pages.asked == ["q"]


async def test_callers_cannot_poison_one_another_nor_the_retriever(make_retriever, pages):
    cached = make_retriever()
    before = [document.model_copy(deep=True) for document in pages.found]
    for _ in range(2):
        one, two = await asyncio.gather(cached.ainvoke("q"), cached.ainvoke("q"))
        assert one == two == before
        assert not {id(document.metadata) for document in one} & {id(document.metadata) for document in two}
        for answer in (one, two):
            answer[0].metadata["doc"] = answer[0].page_content = "poison"
            answer.pop()
    assert cached.invoke("q") == before == pages.found


def test_a_result_is_searched_again_when_its_time_is_over(make_retriever, pages, clock):
    cached = make_retriever(ttl_s=10)
    cached.invoke("q")
    clock.pass_s(9.9)
    cached.invoke("q")
    assert len(pages.asked) == 1
    clock.pass_s(0.2)
    cached.invoke("q")
    assert len(pages.asked) == 2


def test_a_caller_says_how_old_a_result_may_be_and_leaves_a_fresh_one_to_the_others(make_retriever, pages, clock):
    cached = make_retriever()
    cached.invoke("q")
    clock.pass_s(5)
    cached.invoke("q", max_age_s=5)
    cached.bind(max_age_s=6).invoke("q")
    assert len(pages.asked) == 1
    cached.invoke("q", max_age_s=4)
    assert len(pages.asked) == 2
    cached.invoke("q", max_age_s=0)
    assert len(pages.asked) == 2
    clock.pass_s(3)
    make_retriever(max_age_s=2).invoke("q", max_age_s=50)  # what the retriever promises, no caller can undo
    assert pages.asked == ["q", "q", "q"]


async def test_whoever_wants_it_fresh_is_not_given_what_another_waits_for(make_retriever, pages, clock):
    cached = make_retriever()
    await cached.ainvoke("q")
    clock.pass_s(5)
    await asyncio.gather(cached.ainvoke("q"), cached.ainvoke("q", max_age_s=1))
    assert len(pages.asked) == 2


@pytest.mark.parametrize("tag", ["doc:a", "doc:b", "index"])
def test_the_tag_of_any_document_invalidates_the_result(make_retriever, pages, shelves, tag):
    cached = make_retriever(
        tags_of=lambda document: [f"doc:{document.metadata['doc']}"], cache_tags=["index"], min_score=0.5
    )
    cached.invoke("q")
    asyncio.run(shelves.invalidate("doc:c"))
    cached.invoke("q")
    assert len(pages.asked) == 1
    asyncio.run(shelves.invalidate(tag))
    cached.invoke("q")
    assert len(pages.asked) == 2


def test_a_result_whose_tags_fail_is_given_and_not_kept(make_retriever, pages, shelves):
    cached = make_retriever(tags_of=lambda document: [document.metadata["missing"]])
    assert cached.invoke("q") == pages.found
    assert not shelves.writes
    assert cached.stats() == {"miss": 1, "unstored": 1}


def test_what_is_not_near_is_left_out_of_a_miss_and_of_a_hit_and_a_lower_bound_finds_it_again(make_retriever, pages):
    near = make_retriever(min_score=0.5)
    assert near.invoke("q") == near.invoke("q") == pages.found[:1]
    assert make_retriever(min_score=0.4).invoke("q") == pages.found
    assert len(pages.asked) == 1


@pytest.mark.parametrize("found", [[], [page("far", 0.1)], [page("odd", float("nan"))]])
def test_a_result_with_nothing_near_is_kept_briefly(make_retriever, pages, clock, found):
    pages.found = found
    cached = make_retriever(min_score=0.5, empty_ttl_s=5)
    assert cached.invoke("q") == cached.invoke("q") == []
    assert len(pages.asked) == 1
    clock.pass_s(5.1)
    pages.found = [page("new", 0.8)]
    assert cached.invoke("q") == pages.found
    clock.pass_s(50)
    assert cached.invoke("q") == pages.found
    assert len(pages.asked) == 2


def test_an_empty_result_can_be_left_unkept(make_retriever, pages):
    pages.found = []
    cached = make_retriever(empty_ttl_s=0)
    assert cached.invoke("q") == cached.invoke("q") == []
    assert len(pages.asked) == 2


def test_what_has_no_score_stays_and_is_told_once(make_retriever, pages, caplog):
    pages.found = [page("a"), page("b", "good")]
    cached = make_retriever(min_score=0.5)
    assert cached.invoke("q") == cached.invoke("q") == pages.found
    assert make_retriever(min_score=0.5, score_of=lambda document: 1 / 0).invoke("q") == pages.found
    assert len(caplog.records) == 2
    assert cached.stats()["unscored"] >= 4


def test_a_distance_is_a_score_when_turned_round(make_retriever, pages):
    assert (
        make_retriever(min_score=-0.5, score_of=lambda document: -document.metadata["score"]).invoke("q")
        == pages.found[1:]
    )


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"index": "a"}, {"index": "b"}),
        ({"namespace": "a"}, {"namespace": "b"}),
        ({"tenant": "a"}, {"tenant": "b"}),
        ({}, {"scope": "user"}),
    ],
)
def test_two_indexes_or_tenants_never_share(make_retriever, pages, one, two):
    config = run_config(Identity(user="u"))
    make_retriever(**one).invoke("q", config)
    make_retriever(**two).invoke("q", config)
    assert len(pages.asked) == 2


@pytest.mark.parametrize("name", ["tenant", "user", "session"])
async def test_under_a_scope_nobody_is_given_what_another_was(make_retriever, pages, name):
    cached = make_retriever(scope="shared" if name == "tenant" else name)
    common = {"user": "u"} if name == "session" else {}
    configs = [run_config(Identity(**{**common, name: value})) for value in ("one", "two")]
    for config in configs * 2:
        await cached.ainvoke("q", config)
        cached.invoke("q", config)
    assert len(pages.asked) == 2
    for config in configs:
        await RunnableLambda(cached.invoke).ainvoke("q", config)  # as within a chain
    assert len(pages.asked) == 2


def test_a_block_says_who_asks_and_nobody_bypasses(make_retriever, pages, shelves):
    cached = make_retriever(scope="user")
    with acting_for(Identity(user="u")):
        cached.invoke("q")
        cached.invoke("q")
    assert len(pages.asked) == 1
    reads = len(shelves.reads)
    assert cached.invoke("q") == cached.invoke("q") == pages.found
    assert len(pages.asked) == 3
    assert len(shelves.reads) == reads
    assert cached.stats()["bypass"] == 2


def test_what_changes_the_search_changes_the_key(make_retriever, pages):
    cached = make_retriever()
    cached.invoke("q")
    cached.invoke("q", k=2)
    cached.invoke("q", k=2)
    cached.invoke("q", filter={"a": 1, "b": [2]})
    cached.invoke("q", filter={"b": [2], "a": 1})
    pages.k = 5
    cached.invoke("q")
    assert len(pages.asked) == 4
    for _ in range(2):
        cached.invoke("q", filter=lambda document: True)  # has no key
    assert len(pages.asked) == 6


class Store(VectorStore):
    """Finds the first pages."""

    def similarity_search(self, query, k=4, **options):
        return [page(f"{query} {n}") for n in range(k)]

    @classmethod
    def from_texts(cls, texts, embedding, metadatas=None, **options):
        raise NotImplementedError


def test_the_retriever_of_a_vector_store_works_as_it_does_without(shelves):
    bare = Store().as_retriever(search_kwargs={"k": 2})
    cached = CachedRetriever(bare, shelves, shelves, index="store", ttl_s=60)
    assert cached.invoke("q") == cached.invoke("q") == bare.invoke("q")
    assert cached.stats() == {"miss": 1, "stored": 1, "hit": 1}
    assert len(cached.invoke("q", k=3)) == 3
    bare.search_kwargs["k"] = 1
    assert len(cached.invoke("q")) == 1


def test_a_retriever_that_a_config_changes_is_refused(make_retriever, pages):
    with pytest.raises(ConfigurationError, match="as configured"):
        make_retriever(pages.configurable_fields(k=ConfigurableField(id="k")))


@pytest.mark.parametrize("wrong", [{"ttl_s": 0}, {"empty_ttl_s": -1}, {"index": ""}])
def test_wrong_options_are_refused(make_retriever, wrong):
    with pytest.raises(ConfigurationError):
        make_retriever(**wrong)
    with pytest.raises(ConfigurationError):
        make_retriever("pages")


async def test_a_retriever_that_fails_raises_to_all_and_nothing_is_kept(make_retriever, pages, shelves):
    pages.error = [ConnectionError("no index")]
    cached = make_retriever(stale_if_error=True)
    failed = await asyncio.gather(*(cached.ainvoke("q") for _ in range(5)), return_exceptions=True)
    assert failed == pages.error * 5
    assert len(pages.asked) == 5  # as without a cache, and at the same time
    assert not shelves.writes
    pages.error = []
    assert cached.invoke("q") == pages.found


async def test_a_leader_that_is_cancelled_hangs_nobody(make_retriever, pages):
    reached = asyncio.Event()
    hang = [True]

    async def search(query):
        reached.set()
        while hang:
            hang.pop()
            await asyncio.Event().wait()
        return pages.found

    cached = make_retriever(RunnableLambda(search))
    first = asyncio.create_task(cached.ainvoke("q"))
    await reached.wait()
    second = asyncio.create_task(cached.ainvoke("q"))
    await asyncio.sleep(0)
    first.cancel()
    assert await asyncio.wait_for(second, DEADLINE_S) == pages.found


def test_what_is_past_its_time_is_given_while_the_retriever_fails_if_that_is_wanted(
    make_retriever, pages, shelves, clock
):
    shelves.stale_s = 100
    make_retriever(ttl_s=10).invoke("q")
    clock.pass_s(20)
    pages.error = [ConnectionError("no index")]
    assert make_retriever(ttl_s=10, stale_if_error=True).invoke("q") == pages.found
    with pytest.raises(ConnectionError):
        make_retriever(ttl_s=10).invoke("q")
    with pytest.raises(ConnectionError):
        make_retriever(ttl_s=10, stale_if_error=True).invoke("q", max_age_s=15)
    pages.error = []
    make_retriever(ttl_s=10, stale_if_error=True).invoke("q")
    assert len(pages.asked) == 5


def test_shelves_that_fail_are_a_miss(make_retriever, pages, shelves):
    shelves.broken = True
    assert make_retriever().invoke("q") == make_retriever().invoke("q") == pages.found
    assert len(pages.asked) == 2


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_hit_is_never_older_than_allowed_nor_of_an_invalidated_document(data):
    """Against a model: what the index held at some moment that is recent enough, and after the last invalidation."""
    clock = Clock()
    shelves, history = MemoryShelves(clock), [(clock.now, 0)]
    cached = CachedRetriever(
        RunnableLambda(lambda query: [page(f"v{history[-1][1]}", doc="d")]),
        shelves,
        shelves,
        index="i",
        ttl_s=10,
        tags_of=lambda document: [document.metadata["doc"]],
    )
    told = clock.now
    for step in data.draw(st.lists(st.sampled_from(["ask", "ask fresh", "change", "tell", "wait"]), max_size=25)):
        if step == "wait":
            clock.pass_s(data.draw(st.floats(0, 8)))
        elif step == "change":
            history.append((clock.now, history[-1][1] + 1))
        elif step == "tell":
            asyncio.run(shelves.invalidate("d"))
            told = clock.now
        else:
            since = max(told, clock.now - (3 if step == "ask fresh" else 10))
            (found,) = cached.invoke("q", **({"max_age_s": 3} if step == "ask fresh" else {}))
            at_least = [version for moment, version in history if moment < since]
            assert int(found.page_content[1:]) >= max(at_least, default=0)


def test_a_trace_shows_the_search_below_the_cached_one_and_a_hit_without(make_retriever):
    class Starts(BaseCallbackHandler):
        def __init__(self):
            self.runs = []

        def on_retriever_start(self, serialized, query, *, run_id, parent_run_id=None, **more):
            self.runs.append((run_id, parent_run_id, more["metadata"].get("user_id")))

    starts, cached = Starts(), make_retriever()
    for _ in range(2):
        cached.invoke("q", {"callbacks": [starts], "metadata": {"user_id": "u"}})
    outer, inner, hit = starts.runs
    assert (outer[1], inner[1], hit[1]) == (None, outer[0], None)
    assert inner[2] == "u"
