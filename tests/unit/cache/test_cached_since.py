"""What was looked for before an invalidation is not kept after it; and what a cache of vectors tells of its hits."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.runnables import RunnableLambda

from langchain_llmops.cache.embeddings import CachedEmbeddings
from langchain_llmops.cache.retriever import CachedRetriever
from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import Identity


class Searched:
    """Counts what is looked for; `during` happens while the first search is under way."""

    def __init__(self, during) -> None:
        self.during = [during]
        self.count = 0

    def look(self):
        self.count += 1
        if self.during:
            drive(self.during.pop()())


class Words(Embeddings):
    def __init__(self, searched, model=None) -> None:
        self.searched = searched
        if model is not None:
            self.model = model

    def embed_documents(self, texts):
        self.searched.look()
        return [[1.0, float(len(text))] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


def retriever(searched, shelves, **options):
    def search(query):
        searched.look()
        return [Document(query, metadata={"doc": "a"})]

    own = {"index": "pages", "ttl_s": 60, "tags_of": lambda document: [f"doc:{document.metadata['doc']}"]}
    return CachedRetriever(RunnableLambda(search), shelves, shelves, **{**own, **options})


def embeddings(searched, shelves, **options):
    return CachedEmbeddings(Words(searched), shelves, shelves, **{"model": "w", "tags": ["doc:a"], **options})


LOOKS = {
    "retriever": (retriever, lambda made: made.invoke("q"), lambda made: made.ainvoke("q")),
    "documents": (embeddings, lambda made: made.embed_documents(["q"]), lambda made: made.aembed_documents(["q"])),
    "query": (embeddings, lambda made: made.embed_query("q"), lambda made: made.aembed_query("q")),
}
each = pytest.mark.parametrize(("kind", "sync", "awaited"), LOOKS.values(), ids=LOOKS)


async def nothing():
    pass


@each
@pytest.mark.parametrize("tag", ["doc:a", "another"])
def test_what_is_found_while_a_tag_is_invalidated_is_not_kept(kind, sync, awaited, tag, shelves):
    searched = Searched(lambda: shelves.invalidate(tag))
    made = kind(searched, shelves)
    assert sync(made) == sync(made) == sync(made)
    assert (searched.count, shelves.refused) == (2, 1)


@each
async def test_the_same_for_async_callers(kind, sync, awaited, shelves):
    searched = Searched(lambda: shelves.invalidate("doc:a"))
    made = kind(searched, shelves)
    assert await awaited(made) == await awaited(made) == sync(made)
    assert (searched.count, shelves.refused) == (2, 1)


@each
def test_what_was_invalidated_before_a_search_says_nothing_of_it(kind, sync, awaited, shelves):
    drive(shelves.invalidate("doc:a"))
    searched = Searched(nothing)
    made = kind(searched, shelves)
    assert sync(made) == sync(made)
    assert (searched.count, shelves.refused) == (1, 0)


@each
@pytest.mark.parametrize("away", ["raises", "says nothing"])
def test_nothing_is_kept_when_nobody_knows_what_was_invalidated(kind, sync, awaited, away, shelves):
    async def epoch():
        if away == "raises":
            raise OSError

    shelves.epoch = epoch
    searched = Searched(nothing)
    made = kind(searched, shelves)
    assert sync(made) == sync(made)
    assert (searched.count, shelves.writes) == (2, [])
    assert made.stats()["unstored"] == 2


async def test_who_asks_after_an_invalidation_is_not_given_what_was_looked_for_before_it(shelves):
    began, go_on, pages = asyncio.Event(), asyncio.Event(), ["old"]

    async def search(query):
        found = pages[0]
        began.set()
        await go_on.wait()
        return [Document(found)]

    made = CachedRetriever(RunnableLambda(search), shelves, shelves, index="pages", ttl_s=60)
    before = asyncio.create_task(made.ainvoke("q"))
    await began.wait()
    pages[0] = "new"
    await shelves.invalidate("doc:a")
    after = asyncio.create_task(made.ainvoke("q"))
    await asyncio.sleep(0)
    go_on.set()
    assert [(await one)[0].page_content for one in (before, after)] == ["old", "new"]


def test_texts_asked_for_before_and_after_an_invalidation_are_kept_apart(shelves):
    """One batch, refused and halved: its parts are calls of their own."""
    made = embeddings(Searched(lambda: shelves.invalidate("doc:a")), shelves)
    source = made._source("document", blocking=True)
    before, after = drive(source.ask(["x"])), drive(source.ask(["y"]))
    drive(source.keep({"embedding:aa": before[0], "embedding:bb": after[0]}))
    assert shelves.writes == [["embedding:bb"]]


def test_every_caller_is_told_of_its_own_hits_and_of_nothing_else(shelves):
    told = []
    made = embeddings(Searched(nothing), shelves, hit=lambda texts, level, took_s: told.append((texts, level, took_s)))
    made.embed_documents(["a", "b"])
    assert told == []
    made.embed_documents(["c", "b", "a", "b"])
    made.embed_query("a")
    made.embed_query("a")
    assert [(texts, level) for texts, level, _ in told] == [(["b", "a", "b"], "L2"), (["a"], "L2")]
    assert all(took_s > 0 for _, _, took_s in told)


def test_who_is_told_of_hits_cannot_fail_a_call(shelves, caplog):
    made = embeddings(Searched(nothing), shelves, hit=lambda *_: 1 / 0)
    assert made.embed_query("a") == made.embed_query("a")
    assert "a hit could not be told of: ZeroDivisionError" in caplog.text


def test_the_traits_are_those_of_what_a_wrapper_wraps(shelves):
    searched = Searched(nothing)
    wrapped = [CachedEmbeddings(Words(searched), shelves, shelves, raw=Words(searched, name)) for name in ("v1", "v2")]
    for made in (*wrapped, *wrapped):
        made.embed_query("a")
    assert searched.count == 2


def test_embeddings_without_a_name_are_not_cached_unnoticed(shelves):
    with pytest.raises(ConfigurationError, match="^Words names no model: say model=…"):
        CachedEmbeddings(Words(Searched(nothing)), shelves, shelves)


def test_users_named_by_hand_never_share_under_user_scope(shelves):
    searched = Searched(nothing)
    for name in ("ada", "eve", "ada"):
        embeddings(searched, shelves, scope="user", identity=Identity(user=name)).embed_query("a")
    assert searched.count == 2


@pytest.mark.parametrize("wrong", [{"scope": "team"}, {"ttl": 5}, {"ttl_s": "long"}, {"index": 7}], ids=str)
def test_a_wrong_option_of_a_retriever_is_one_line(shelves, wrong):
    with pytest.raises(ConfigurationError, match=rf"^a cached retriever.*{next(iter(wrong))}.*$"):
        retriever(Searched(nothing), shelves, **wrong)


def test_a_wrong_scope_of_embeddings_is_refused(shelves):
    with pytest.raises(ConfigurationError, match="scope shared, user or session"):
        embeddings(Searched(nothing), shelves, scope="team")
