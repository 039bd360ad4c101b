"""The cache of the facade: its levels, its settings, and the embeddings and retrievers that use it."""

from __future__ import annotations

import json
import sqlite3
import time

import psycopg
import pytest
import redis
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.exceptions import ModelRateLimitError
from langchain_core.retrievers import BaseRetriever
from pydantic import Field

from langchain_llmops import ConfigurationError, LLMOps, Settings, TieredCache, cached, parts
from langchain_llmops.core.types import Identity
from langchain_llmops.simulator import Scripted, running
from tests.support.models import ScriptedModel, answer, tool_call
from tests.support.semantic import ASKED, OTHER

HOUR_S, MINUTES_S = 3600, 300
ROUNDED = 33 / 32  # stores keep entries a little longer, which end by themselves
LEASE = "llmops:cache-lease%"
ENTRY = "llmops:cache:%"


class Words(Embeddings):
    """A model of OpenAI's prices that says nothing of tokens."""

    model = "text-embedding-3-small"

    def __init__(self):
        self.asked = []

    def embed_documents(self, texts):
        self.asked += texts
        return [[1.0, float(len(text))] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


class Pages(BaseRetriever):
    asked: list = Field(default_factory=list)

    def _get_relevant_documents(self, query, *, run_manager):
        self.asked.append(query)
        return [Document(query, metadata={"page": "policy"})]


@pytest.fixture
def open_ops(tmp_path):
    """Suites over one folder, one after another."""

    def open_ops(**options):
        return LLMOps(Settings(state_dir=tmp_path, log_calls="off", **options))

    return open_ops


@pytest.fixture
def records(ops):
    found = []
    ops.bus.subscribe(lambda event: found.append(event.record) if hasattr(event, "record") else None)
    return found


def ask(ops, text="hi", model=None, **named):
    model = ops.models.model(model or ScriptedModel(lambda messages: "ok"))
    return model.invoke(text, ops.config(user_id="u1", session_id="s1", **named))


def level_of(message):
    return message.response_metadata.get("llmops_cache", {}).get("level")


def kept_s(path, pattern=ENTRY):
    """Seconds that the rows of an embedded cache have left."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT CAST(key AS TEXT), expires_at FROM llmops_kv").fetchall()
    return [until - time.time() for key, until in rows if key.startswith(pattern.rstrip("%"))]


# levels


def test_an_answer_outlives_memory_in_redis_and_redis_in_postgres(open_ops, clean_redis_url, postgres_url):
    servers = {"redis_url": clean_redis_url, "postgres_url": postgres_url, "cache_timeout_s": 5}
    levels = []
    for lost in (False, False, True, False):
        if lost:
            with redis.Redis.from_url(clean_redis_url) as client:
                client.flushdb()
        with open_ops(**servers) as ops:
            levels += [level_of(ask(ops)), level_of(ask(ops))]
            assert ops.cache.flush()
    assert levels == [None, "L1", "L2", "L1", "L3", "L1", "L2", "L1"]


def test_each_level_keeps_an_answer_for_its_own_time(open_ops, tmp_path, clean_redis_url, postgres_url):
    for servers in ({}, {"postgres_url": postgres_url, "cache_timeout_s": 5}, {"redis_url": clean_redis_url}):
        with open_ops(**servers) as ops:
            ask(ops)
    assert all(HOUR_S - 60 < left_s <= ROUNDED * HOUR_S for left_s in kept_s(tmp_path / "cache.db"))
    with psycopg.connect(postgres_url) as connection:
        rows = connection.execute("SELECT key, expires_at FROM llmops_kv").fetchall()
    kept = [until - time.time() for key, until in rows if bytes(key).startswith(b"llmops:cache:")]
    assert len(kept) == len(kept_s(tmp_path / "cache.db")) == 1
    assert HOUR_S - 60 < kept[0] <= ROUNDED * HOUR_S
    with redis.Redis.from_url(clean_redis_url) as client:
        (entry,) = [key for key in client.scan_iter() if key.startswith(b"llmops:cache:")]
        assert MINUTES_S - 60 < client.ttl(entry) <= ROUNDED * MINUTES_S


# settings


def test_the_times_of_levels_tags_and_stale_answers_are_those_set(open_ops, tmp_path):
    with open_ops(cache_l3_ttl_s=1000, cache_stale_s=500, cache_tag_ttls={"doc": 100}) as ops:
        ask(ops)
        ask(ops, "about a page", cache_tags=["doc:policy"])
    short, long = sorted(kept_s(tmp_path / "cache.db"))
    assert 540 < short <= ROUNDED * 600
    assert 1440 < long <= ROUNDED * 1500


@pytest.mark.parametrize("name", ["cache_namespace", "cache_prompt_version", "tenant"])
def test_answers_of_another_namespace_version_or_tenant_are_left_behind(open_ops, name):
    levels = []
    for value in ("one", "two", "one"):
        with open_ops(**{name: value}) as ops:
            levels.append(level_of(ask(ops)))
    assert levels == [None, None, "L3"]


CALLS_SEARCH = answer("", tool_calls=[tool_call("search")])
ALLOWED = {
    "an answer at a temperature above 0": ({"temperature": 0.7}, None, {"cache_warm": True}, {}),
    "an answer at no temperature": ({}, None, {}, {"cache_unset_temperature": False}),
    "a long answer": ({}, None, {}, {"cache_max_entry_bytes": 10}),
}


@pytest.mark.parametrize(("options", "_", "kept", "unkept"), ALLOWED.values(), ids=ALLOWED)
def test_what_is_kept_is_what_the_settings_say(open_ops, options, _, kept, unkept):
    with running(Scripted([{"default": {"content": "Hello."}}])) as simulator:
        for settings, level in ((unkept, None), (kept, "L1")):
            with open_ops(**settings) as ops:
                model = ops.models.model(
                    "openai:gpt-4o-mini", base_url=simulator.base_url, api_key="simulated", **options
                )
                assert [level_of(model.invoke("hi")) for _ in range(2)] == [None, level]


@pytest.mark.parametrize(("tools", "level"), [(False, None), ("lookup", None), ("lookup,search", "L1"), (True, "L1")])
def test_answers_that_call_tools_are_kept_for_the_tools_that_are_named(open_ops, tools, level):
    with open_ops(cache_tool_calls=tools) as ops:
        model = ScriptedModel(lambda messages: CALLS_SEARCH)
        assert [level_of(ask(ops, model=model)) for _ in range(2)] == [None, level]


@pytest.mark.parametrize(("lease_s", "leases"), [(0, 0), (3, 1)])
def test_a_lease_is_held_while_a_model_is_asked_unless_it_is_set_to_0(open_ops, tmp_path, lease_s, leases):
    held = []

    def look(messages):
        held.extend(kept_s(tmp_path / "cache.db", LEASE))
        return "ok"

    with open_ops(cache_lease_s=lease_s) as ops:
        ask(ops, model=ScriptedModel(look))
    assert len(held) == leases


def test_every_level_is_given_the_time_that_is_set(open_ops, monkeypatch, clean_redis_url, postgres_url):
    opened = []

    def open_store(url, *, setting, timeout_s, blocking=False):
        opened.append((setting, timeout_s, blocking))
        return real(url, setting=setting, timeout_s=timeout_s, blocking=blocking)

    real = parts.open_store
    with open_ops(redis_url=clean_redis_url, postgres_url=postgres_url, cache_timeout_s=0.3) as ops:
        monkeypatch.setattr(parts, "open_store", open_store)
        ask(ops)
    names = ("LLMOPS_REDIS_URL", "LLMOPS_POSTGRES_URL")
    assert opened == [(name, 0.3, blocking) for name in names for blocking in (False, True)]


# embeddings


def test_a_text_that_was_embedded_is_free_and_says_what_it_saved(ops, records):
    words = Words()
    embeddings = ops.embeddings(words, cache=True)
    first = embeddings.embed_documents(["tents", "lamps"])
    assert embeddings.embed_documents(["tents", "lamps", "stoves"])[:2] == first
    assert words.asked == ["tents", "lamps", "stoves"]
    costs = [(record.cost_usd > 0, record.cache_level, record.saved_usd) for record in records]
    assert costs[:2] == [(True, None, None), (True, None, None)]
    assert (costs[2][0], costs[2][1]) == (False, "L1")
    assert costs[2][2] == records[0].cost_usd
    figures = ops.report().as_dict()
    assert figures["cache"]["hits"] == 1
    assert figures["cache"]["saved_usd"] == float(records[0].cost_usd)
    assert figures["cost_usd"] == float(records[0].cost_usd + records[1].cost_usd)


def test_embeddings_are_cached_only_when_that_is_said(ops, records):
    words = Words()
    for _ in range(2):
        ops.embeddings(words).embed_query("tents")
    assert words.asked == ["tents"] * 2
    assert [record.cache_level for record in records] == [None, None]


def test_vectors_outlive_the_process_in_a_cache_of_ones_own(open_ops, tmp_path):
    words = Words()
    for _ in range(2):
        with open_ops() as ops, TieredCache.from_urls(l3=f"sqlite:///{tmp_path / 'own.db'}") as cache:
            ops.embeddings(words, cache=cache).embed_query("tents")
            assert cache.flush()
    assert words.asked == ["tents"]


def test_who_is_asking_is_said_by_hand_by_a_block_or_by_a_config(ops, records):
    words = Words()
    by_hand = ops.embeddings(words, cache=True, scope="user", identity=Identity(user="a"))
    by_block = ops.embeddings(words, cache=True, scope="user")
    by_hand.embed_query("tents")
    for name in ("a", "b"):
        with ops.as_user(name):
            by_block.embed_query("tents")
    assert words.asked == ["tents"] * 2
    assert [record.identity.user for record in records] == ["a", "a", "b"]


@pytest.mark.parametrize("wrong", [{"cache": "yes"}, {"ttl_s": 5}], ids=str)
def test_wrong_options_of_embeddings_are_one_line(ops, wrong):
    with pytest.raises(ConfigurationError, match=r"^(cache must be True, False or a TieredCache|.* have no ttl_s).*$"):
        ops.embeddings(Words(), **wrong)


# retrievers


def test_a_query_is_searched_once_and_each_time_recorded(ops, records):
    pages = Pages()
    search = ops.retriever(pages, index="pages", tags_of=lambda found: [f"doc:{found.metadata['page']}"])
    for _ in range(3):
        assert search.invoke("tents", ops.config(user_id="u1"))[0].page_content == "tents"
    assert pages.asked == ["tents"]
    assert [record.kind for record in records].count("retriever") == 3 + 1  # the search itself, below the first
    ops.cache.invalidate(["doc:policy"])
    search.invoke("tents")
    assert pages.asked == ["tents"] * 2


def test_a_page_that_changes_while_it_is_searched_for_is_searched_for_again(ops):
    pages = Pages()
    search = ops.retriever(pages, index="pages", cache_tags=["index"])
    object.__setattr__(pages, "asked", changing := Changing(ops))
    for _ in range(3):
        search.invoke("tents")
    assert changing == ["tents"] * 2


class Changing(list):
    """An index that changes while the first search is under way."""

    def __init__(self, ops):
        super().__init__()
        self.ops = ops

    def append(self, query):
        super().append(query)
        if len(self) == 1:
            self.ops.cache.invalidate(["index"])


def test_users_share_no_search_when_answers_are_the_users_own(open_ops):
    pages = Pages()
    with open_ops(cache_scope="user") as ops:
        search = ops.retriever(pages, index="pages")
        for name in ("a", "b", "a"):
            with ops.as_user(name):
                search.invoke("tents")
        search.invoke("tents")
        assert search.stats()["bypass"] == 1
    assert len(pages.asked) == 3


@pytest.mark.parametrize("wrong", [{}, {"index": ""}], ids=str)
def test_a_retriever_without_an_index_is_told_to_name_one(ops, wrong):
    with pytest.raises(ConfigurationError, match=r"^ops.retriever: say what is searched, as in index='.*'$"):
        ops.retriever(Pages(), **wrong)


@pytest.mark.parametrize("wrong", [{"cache": False}, {"cache": 7}, {"ttl": 5}, {"ttl_s": -1}], ids=str)
def test_wrong_options_of_a_retriever_are_one_line(ops, wrong):
    with pytest.raises(ConfigurationError, match=r"^.*$"):
        ops.retriever(Pages(), index="pages", **wrong)


def test_a_cached_model_of_the_facade_replays_a_stream(ops):
    model = cached(ScriptedModel(lambda messages: "ok"), cache=ops.cache)
    texts = ["".join(chunk.text for chunk in model.stream("hi", ops.config(user_id="u1"))) for _ in range(2)]
    assert texts == ["ok", "ok"]
    assert model.calls == 1
    assert json.dumps(ops.cache.stats())


# the semantic level


def test_other_wordings_are_counted_in_shadow_and_served_when_told_to_and_judged_by_feedback(open_ops):
    with open_ops(cache_semantic="shadow") as ops:
        ask(ops, ASKED)
        assert ops.cache.flush()
        assert level_of(ask(ops, OTHER)) is None
        assert ops.cache.flush()
        assert ops.cache.stats()["semantic:would_be"] == 1
    with open_ops(cache_semantic="serve", cache_namespace="n") as ops:
        ask(ops, ASKED)
        assert ops.cache.flush()
        hit = ask(ops, OTHER)
        assert level_of(hit) == "semantic"
        ops.feedback(hit.id, 0.0)
        assert ops.cache.stats()["semantic:wrong"] == 1
        assert ops.report().figures["cache"]["process"]["hit:semantic"] == 1


def test_the_semantic_level_uses_the_embeddings_that_are_given(tmp_path):
    words = Words()
    with LLMOps(
        Settings(state_dir=tmp_path, log_calls="off", cache_semantic="serve"), semantic_embeddings=words
    ) as ops:
        ask(ops, ASKED)
        assert ops.cache.flush()
    assert words.asked == [ASKED]


def test_the_models_of_the_suite_stream_from_the_cache_and_serve_old_answers_when_nobody_answers(open_ops):
    now = [1_000_000.0]
    with open_ops(cache_stale_s=600, cache_l3_ttl_s=10, max_attempts=1) as ops:
        ops.cache._engine.clock = lambda: now[0]
        model = ScriptedModel("ok", ModelRateLimitError())
        chain = ops.fallback(model)
        assert chain.invoke("hi").text == "ok"
        assert "".join(chunk.text for chunk in chain.stream("hi")) == "ok"
        assert model.calls == 1
        now[0] += 11
        hit = chain.invoke("hi")
        assert hit.response_metadata["llmops_cache"]["stale"] is True
