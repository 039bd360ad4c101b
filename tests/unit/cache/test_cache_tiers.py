"""The LLM cache as LangChain uses it: what it gives back, how much it keeps and for how long, and what clears it."""

from __future__ import annotations

import asyncio
import logging

from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.outputs import Generation

from langchain_llmops.cache.tiered import TieredCache
from tests.support.cache import KEPT, texts
from tests.support.models import ScriptedModel, answer

# a second question costs nothing


def test_a_repeated_question_is_asked_once(cache, looks) -> None:
    model = ScriptedModel(cache=cache)
    assert [model.invoke("hi").text for _ in range(3)] == ["ok"] * 3
    assert model.calls == 1
    assert [(look.outcome, look.level) for look in looks] == [("miss", None), ("hit", "L1"), ("hit", "L1")]
    assert {name: cache.stats()[name] for name in ("hit:L1", "miss", "stored", "l1_entries")} == {
        "hit:L1": 2, "miss": 1, "stored": 1, "l1_entries": 1
    }  # fmt: skip


async def test_a_repeated_question_is_asked_once_in_async_code(cache) -> None:
    model = ScriptedModel(cache=cache)
    assert [(await model.ainvoke("hi")).text for _ in range(3)] == ["ok"] * 3
    assert model.calls == 1


async def test_sync_and_async_callers_share_what_is_kept(cache) -> None:
    model = ScriptedModel(cache=cache)
    model.invoke("hi")
    await model.ainvoke("hi")
    assert model.calls == 1


def test_another_process_finds_it_in_the_second_level(make, looks) -> None:
    ScriptedModel(cache=make()).invoke("hi")
    elsewhere, model = make(), ScriptedModel()
    hits = [model.model_copy(update={"cache": elsewhere}).invoke("hi") for _ in range(2)]
    assert model.calls == 0
    assert [hit.response_metadata["llmops_cache"]["level"] for hit in hits] == ["L2", "L1"]
    assert [look.level for look in looks[1:]] == ["L2", "L1"]


def test_a_hit_says_how_old_it_is(cache, clock) -> None:
    model = ScriptedModel(cache=cache)
    model.invoke("hi")
    clock.pass_s(12.5)
    assert model.invoke("hi").response_metadata["llmops_cache"]["age_s"] == 12.5


def test_tokens_of_a_hit_are_counted_as_none(cache) -> None:
    usage = UsageMetadataCallbackHandler()
    model = ScriptedModel(answer(response_metadata={"model_name": "m"}), cache=cache)
    for _ in range(3):
        model.invoke("hi", {"callbacks": [usage]})
    assert usage.usage_metadata["m"]["total_tokens"] == 15


def test_changing_a_hit_never_changes_the_next_one(cache) -> None:
    blocks = [{"type": "text", "text": "ok"}]
    model = ScriptedModel(answer(blocks, response_metadata={"nested": {"a": [1]}}), cache=cache)
    for _ in range(3):
        message = model.invoke("hi")
        assert message.content == blocks == [{"type": "text", "text": "ok"}]
        assert message.response_metadata["nested"] == {"a": [1]}
        message.content[0]["text"] = "poisoned"
        message.response_metadata["nested"]["a"].append(2)
        message.additional_kwargs["x"] = 1
        blocks = [{"type": "text", "text": "ok"}]


def test_the_first_answer_is_the_models_own(cache) -> None:
    first = ScriptedModel(answer(id="mine"), cache=cache).invoke("hi")
    assert "llmops_cache" not in first.response_metadata
    assert first.usage_metadata["input_tokens"] == 10


# bounds


def test_an_answer_larger_than_memory_is_kept_below_it_only(make, shelf) -> None:
    cache = make(l1_max_bytes=100)
    cache.update("p", "m", [Generation(text="".join(map(chr, range(0x4E00, 0x5000))))])
    assert cache.stats()["l1_entries"] == 0
    assert cache.lookup("p", "m")[0].text.startswith("\u4e00")
    assert cache.stats()["hit:L2"] == 1


def test_each_level_has_its_own_time_to_live(make, clock) -> None:
    cache = make(l1_s=60, l2_s=3600)
    cache.update("p", "m", KEPT)
    clock.pass_s(59)
    cache.lookup("p", "m")
    clock.pass_s(2)
    cache.lookup("p", "m")
    clock.pass_s(3700)
    assert cache.lookup("p", "m") is None
    stats = cache.stats()
    assert (stats["hit:L1"], stats["hit:L2"], stats["miss"]) == (1, 1, 1)


def test_an_answer_does_not_outlive_the_second_level_by_moving_to_the_first(make, clock) -> None:
    cache = make(l1_s=60, l2_s=100)
    cache.update("p", "m", KEPT)
    clock.pass_s(99)
    assert cache.lookup("p", "m") is not None
    clock.pass_s(2)
    assert cache.lookup("p", "m") is None


# clearing


def test_clearing_forgets_everything_for_everybody_of_the_tenant(make) -> None:
    here, there, other = make(), make(), make(tenant="other")
    for cache in (here, there, other):
        cache.update("p", "m", KEPT)
        assert cache.lookup("p", "m") is not None
    here.clear()
    assert here.lookup("p", "m") is None
    assert make().lookup("p", "m") is None
    assert there.lookup("something else", "m") is None  # whoever asks the store learns of it
    assert there.lookup("p", "m") is None
    assert other.lookup("p", "m") is not None


async def test_clearing_works_in_async_code_and_twice(make) -> None:
    cache = make()
    for _ in range(2):
        await cache.aupdate("p", "m", KEPT)
        assert await cache.alookup("p", "m") is not None
        await cache.aclear()
        assert await cache.alookup("p", "m") is None


def test_what_is_kept_after_clearing_is_found(make) -> None:
    cache = make()
    cache.clear()
    cache.update("p", "m", KEPT)
    assert cache.lookup("p", "m") is not None
    assert make().lookup("p", "m") is not None


def test_clearing_without_a_second_level(make) -> None:
    cache = make(l2=False)
    cache.update("p", "m", KEPT)
    cache.clear()
    assert cache.lookup("p", "m") is None
    cache.update("p", "m", KEPT)
    assert cache.lookup("p", "m") is not None


async def test_a_clear_while_a_model_is_asked_is_not_undone_by_its_answer(make) -> None:
    """The answer belongs to the time before: whoever cleared must not find it."""
    asking, clearing = make(), make()
    assert await asking.alookup("p", "m") is None
    await clearing.aclear()
    await asking.aupdate("p", "m", KEPT)
    assert await clearing.alookup("p", "m") is None


# the rest


def test_a_cache_closes_its_stores(make, shelf) -> None:
    with make() as cache:
        cache.update("p", "m", KEPT)
    assert shelf.closed >= 1


def test_from_urls_without_a_store_is_memory_alone() -> None:
    with TieredCache.from_urls(scope="user", clock=lambda: 1.0) as cache:
        assert cache.lookup("p", "m") is None


async def test_from_urls_opens_one_database_for_both_kinds_of_caller(tmp_path) -> None:
    url = f"sqlite:///{tmp_path / 'cache.db'}"
    cache, other = TieredCache.from_urls(url), TieredCache.from_urls(url)
    try:
        await cache.aupdate("p", "m", KEPT)
        assert await asyncio.to_thread(cache.flush)
        assert texts(await asyncio.to_thread(other.lookup, "p", "m")) == ["ok"]
        await asyncio.to_thread(other.update, "q", "m", KEPT)
        assert await asyncio.to_thread(other.flush)
        assert texts(await cache.alookup("q", "m")) == ["ok"]
    finally:
        await cache.aclose()
        await other.aclose()


def test_a_reader_of_looks_that_fails_never_reaches_the_call(make, bus, caplog) -> None:
    def broken(_) -> None:
        raise RuntimeError

    bus.subscribe(broken)
    with caplog.at_level(logging.CRITICAL):
        assert ScriptedModel(cache=make()).invoke("hi").text == "ok"
