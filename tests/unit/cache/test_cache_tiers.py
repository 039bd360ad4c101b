"""The LLM cache as LangChain uses it: what is kept, for whom, how long, and what happens when its store is away."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from itertools import count
from typing import Annotated, TypedDict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages

from langchain_llmops.cache.tiered import PAUSE_AFTER_ERROR_S, PREFIX, TieredCache
from langchain_llmops.core.context import CURRENT_METADATA
from langchain_llmops.core.errors import ConfigurationError, StoreUnavailableError
from langchain_llmops.core.types import Identity
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.models import ScriptedModel, answer, tool_call

KEPT = [ChatGeneration(message=answer("ok"))]


def texts(found) -> list[str] | None:
    return None if found is None else [generation.text for generation in found]


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


class Chat(TypedDict):
    messages: Annotated[list, add_messages]


def test_three_identical_turns_of_a_chat_keep_six_messages(cache) -> None:
    """A hit that repeats its message id would replace the earlier answer."""
    model = ScriptedModel(cache=cache)
    graph = StateGraph(Chat)
    graph.add_node("answer", lambda state: {"messages": [model.invoke([state["messages"][-1]])]})
    graph.add_edge(START, "answer")
    chat = graph.compile(checkpointer=InMemorySaver())
    for _ in range(3):
        state = chat.invoke({"messages": [HumanMessage("hi")]}, {"configurable": {"thread_id": "t"}})
    assert model.calls == 1
    assert [message.type for message in state["messages"]] == ["human", "ai"] * 3
    assert len({message.id for message in state["messages"]}) == 6


def test_the_first_answer_is_the_models_own(cache) -> None:
    first = ScriptedModel(answer(id="mine"), cache=cache).invoke("hi")
    assert "llmops_cache" not in first.response_metadata
    assert first.usage_metadata["input_tokens"] == 10


# who shares


def ask(model, **metadata):
    handler = OpsCallbackHandler()
    return model.invoke("hi", {"callbacks": [handler], "metadata": metadata})


def test_by_default_everybody_of_a_tenant_shares(cache) -> None:
    model = ScriptedModel(cache=cache)
    for user in ("ada", "eve", "bob"):
        ask(model, user_id=user)
    assert model.calls == 1


def test_users_never_share_under_user_scope(make) -> None:
    model = ScriptedModel(cache=make(scope="user"))
    for user in ("ada", "eve", "ada", "eve"):
        ask(model, user_id=user, session_id="same")
    assert model.calls == 2


def test_sessions_never_share_under_session_scope(make) -> None:
    model = ScriptedModel(cache=make(scope="session"))
    for session in ("s1", "s2", "s1", "s2"):
        ask(model, user_id="ada", session_id=session)
    ask(model, user_id="ada", thread_id="s1")
    assert model.calls == 2


def test_two_users_with_one_name_for_a_session_do_not_share_it(make) -> None:
    model = ScriptedModel(cache=make(scope="session"))
    for user in ("ada", "eve"):
        ask(model, user_id=user, session_id="main")
    assert model.calls == 2


def test_tenants_that_runs_name_never_share(make) -> None:
    model = ScriptedModel(cache=make())
    for tenant in ("acme", "rival", "acme"):
        ask(model, tenant_id=tenant, user_id="ada")
    assert model.calls == 2


@pytest.mark.parametrize("colour", ["sync", "async"])
async def test_a_second_level_that_is_no_database_is_a_miss_and_said_once(tmp_path, caplog, colour) -> None:
    (tmp_path / "cache.db").write_bytes(b"this is no database" * 100)
    cache = TieredCache.from_urls(f"sqlite:///{tmp_path / 'cache.db'}", l1_max_bytes=0, clock=count(0, 10).__next__)
    model = ScriptedModel(cache=cache)
    for _ in range(3):
        answer = model.invoke("hi") if colour == "sync" else await model.ainvoke("hi")
        assert answer.text
    assert model.calls == 3
    assert len([record for record in caplog.records if "without its second level" in record.message]) == 1
    await cache.aclose()


async def test_scopes_hold_for_tasks_that_run_at_once(make) -> None:
    model = ScriptedModel(lambda messages: "ok", cache=make(scope="user"))
    handler = OpsCallbackHandler()
    configs = [{"callbacks": [handler], "metadata": {"user_id": f"u{n % 10}"}} for n in range(10)]
    await asyncio.gather(*(model.ainvoke("hi", config) for config in configs))
    await asyncio.gather(*(model.ainvoke("hi", config) for config in configs))
    assert model.calls == 10


def test_tenants_and_namespaces_never_share(make) -> None:
    model = ScriptedModel()
    for cache in (make(), make(tenant="b"), make(namespace="v2"), make(tenant="b", namespace="v2")):
        model.model_copy(update={"cache": cache}).invoke("hi")
    assert model.calls == 4


@pytest.mark.parametrize("scope", ["user", "session"])
def test_a_call_that_names_nobody_bypasses_a_scoped_cache(make, scope, looks) -> None:
    cache = make(scope=scope)
    model = ScriptedModel(cache=cache)
    for _ in range(2):
        model.invoke("hi")
        ask(model)
    assert model.calls == 4
    assert {look.outcome for look in looks} == {"bypass"}
    assert cache.stats()["l1_entries"] == 0


def test_a_look_tells_who_asked(cache, looks) -> None:
    ask(ScriptedModel(cache=cache), user_id="ada")
    assert looks[0].identity == Identity(user="ada")


# what is not kept


NOT_KEPT = {
    "cut off": answer("half an ans", finish="length"),
    "filtered": answer("x", finish="content_filter"),
    "cut off by Anthropic": answer("x", finish=None, response_metadata={"stop_reason": "max_tokens"}),
    "refused by Anthropic": answer("x", finish=None, response_metadata={"stop_reason": "refusal"}),
    "cut off by Gemini": answer("x", finish="MAX_TOKENS"),
    "filtered by Gemini": answer("x", finish="SAFETY"),
    "stopped by Bedrock": answer("x", finish=None, response_metadata={"stopReason": "guardrail_intervened"}),
    "incomplete by Responses": answer("x", finish=None, response_metadata={"status": "incomplete"}),
    "refused": answer("", additional_kwargs={"refusal": "I cannot"}),
    "refused in a block": answer([{"type": "refusal", "refusal": "I cannot"}]),
    "empty": answer(""),
    "a list of nothing": answer([]),
    "a broken tool call": answer(
        "x", invalid_tool_calls=[{"name": "f", "args": "{", "id": "1", "error": None, "type": "invalid_tool_call"}]
    ),
    "a tool call": answer("", tool_calls=[tool_call("lookup", q="1")]),
    "a tool call with words": answer("let me see", tool_calls=[tool_call("lookup", q="1")]),
    "what JSON cannot hold": answer("x", additional_kwargs={"raw": object()}),
}


@pytest.mark.parametrize("said", NOT_KEPT.values(), ids=NOT_KEPT)
def test_an_answer_not_worth_repeating_is_not_kept(said, cache, shelf) -> None:
    model = ScriptedModel(said, cache=cache)
    assert [model.invoke("hi").content for _ in range(2)] == [said.content] * 2
    assert model.calls == 2
    assert cache.stats()["l1_entries"] == 0
    assert shelf.items._items == {}


def test_an_answer_that_holds_itself_is_given_but_not_kept(cache) -> None:
    extra: dict = {}
    extra["self"] = extra
    cache.update("p", "m", [ChatGeneration(message=AIMessage("x", additional_kwargs={"loop": extra}))])
    assert cache.lookup("p", "m") is None


def test_tool_calls_are_kept_when_asked(make) -> None:
    model = ScriptedModel(answer("", tool_calls=[tool_call("lookup", q="1")]), cache=make(tool_calls=True))
    first, again = model.invoke("hi"), model.invoke("hi")
    assert model.calls == 1
    assert again.tool_calls[0]["args"] == first.tool_calls[0]["args"]
    assert again.tool_calls[0]["id"] != first.tool_calls[0]["id"]


@pytest.mark.parametrize(("temperature", "calls"), [(None, 1), (0.0, 1), (0.7, 2)])
def test_answers_meant_to_vary_are_not_kept(cache, temperature, calls) -> None:
    model = ScriptedModel(temperature=temperature, cache=cache)
    model.invoke("hi")
    model.invoke("hi")
    assert model.calls == calls


def test_a_text_models_answer_is_kept_unless_it_was_cut(cache) -> None:
    model = FakeListLLM(responses=["one", "two"], cache=cache)
    assert [model.invoke("hi"), model.invoke("hi")] == ["one", "one"]
    cache.update("p", "m", [Generation(text="")])
    cache.update("q", "m", [Generation(text="half", generation_info={"finish_reason": "length"})])
    assert cache.lookup("p", "m") is None
    assert cache.lookup("q", "m") is None


def test_of_several_answers_one_bad_one_spoils_them_all(cache) -> None:
    cache.update("p", "m", [*KEPT, ChatGeneration(message=answer("x", finish="length"))])
    assert cache.lookup("p", "m") is None


# bounds


def test_memory_is_bounded_in_bytes_and_the_longest_unused_goes_first(make) -> None:
    cache = make(l2=False, l1_max_bytes=1000)
    for name in "abc":
        cache.update(name, "m", [Generation(text=name)])
    size = cache.stats()["l1_bytes"] // 3
    cache = make(l2=False, l1_max_bytes=3 * size)
    for name in "abc":
        cache.update(name, "m", [Generation(text=name)])
    cache.lookup("a", "m")
    cache.update("d", "m", [Generation(text="d")])
    assert [texts(cache.lookup(name, "m")) for name in "abcd"] == [["a"], None, ["c"], ["d"]]
    assert cache.stats()["l1_bytes"] == 3 * size


operations = st.lists(st.tuples(st.sampled_from(["put", "get", "clear"]), st.integers(0, 5), st.integers(0, 400)))


@settings(max_examples=50)
@given(operations)
def test_memory_never_exceeds_its_bound_and_its_count_is_true(steps) -> None:
    cache = TieredCache(l1_max_bytes=600)
    for name, place, length in steps:
        if name == "put":
            cache.update(str(place), "m", [Generation(text="x" + "é" * length)])
        elif name == "get":
            cache.lookup(str(place), "m")
        else:
            cache.clear()
        held = sum(len(data) for data, _ in cache._l1._entries.values())
        assert cache.stats()["l1_bytes"] == held <= 600


def test_an_answer_larger_than_memory_is_kept_below_it_only(make, shelf) -> None:
    cache = make(l1_max_bytes=100)
    cache.update("p", "m", [Generation(text="".join(map(chr, range(0x4E00, 0x5000))))])
    assert cache.stats()["l1_entries"] == 0
    assert cache.lookup("p", "m")[0].text.startswith("\u4e00")
    assert cache.stats()["hit:L2"] == 1


def test_each_level_has_its_own_time_to_live(make, clock) -> None:
    cache = make(l1_ttl_s=60, l2_ttl_s=3600)
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
    cache = make(l1_ttl_s=60, l2_ttl_s=100)
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


# when the store is away


def test_a_store_that_is_away_is_a_miss_and_never_an_error(make, shelf) -> None:
    shelf.broken = True
    cache = make()
    model = ScriptedModel(cache=cache)
    assert [model.invoke("hi").text for _ in range(2)] == ["ok", "ok"]
    assert model.calls == 1, "the first level still works"
    assert cache.stats()["error:L2"] == 1


async def test_a_store_that_is_away_is_a_miss_in_async_code(make, shelf) -> None:
    shelf.broken = True
    model = ScriptedModel(cache=make(l1_ttl_s=0.001))
    assert (await model.ainvoke("hi")).text == "ok"


def test_a_store_that_is_away_is_left_alone_for_a_while(make, shelf, clock, looks) -> None:
    shelf.broken = True
    cache = make()
    for number in range(100):
        cache.lookup(str(number), "m")
        cache.update(str(number), "m", KEPT)
    assert shelf.asked == 1
    assert [look.outcome for look in looks].count("error") == 1
    shelf.broken = False
    clock.pass_s(PAUSE_AFTER_ERROR_S)
    cache.update("p", "m", KEPT)
    assert make().lookup("p", "m") is not None


def test_a_store_that_fails_at_writing_never_loses_the_answer(make, shelf) -> None:
    cache = make()
    cache.lookup("p", "m")
    shelf.broken = True
    cache.update("p", "m", KEPT)
    assert texts(cache.lookup("p", "m")) == ["ok"]


def test_clearing_says_when_it_could_not(make, shelf) -> None:
    cache = make()
    cache.update("p", "m", KEPT)
    shelf.broken = True
    with pytest.raises(StoreUnavailableError):
        cache.clear()


@pytest.mark.parametrize("garbage", [b"", b"garbage", b"LO\x01\x00{", b"\x80\x04."])
async def test_garbage_in_the_store_is_a_miss_and_is_written_over(make, shelf, garbage) -> None:
    cache = make()
    await cache.aupdate("p", "m", KEPT)
    (key,) = [name for name in shelf.items._items if name.startswith(PREFIX)]
    await shelf.items.set(key, garbage)
    other = make()
    assert await other.alookup("p", "m") is None
    assert other.stats()["error:L2"] == 1
    await other.aupdate("p", "m", KEPT)
    assert await other.alookup("p", "m") is not None
    assert await make().alookup("p", "m") is not None


async def test_a_generation_that_is_garbage_is_a_miss_and_never_an_error(make, shelf) -> None:
    cache = make()
    await cache.aupdate("p", "m", KEPT)
    await shelf.items.set(cache._generation_key, b"not a number")
    assert await make().alookup("p", "m") is None


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
        assert texts(await asyncio.to_thread(other.lookup, "p", "m")) == ["ok"]
        await asyncio.to_thread(other.update, "q", "m", KEPT)
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


def test_identity_is_read_from_the_context_of_the_call(make) -> None:
    cache = make(scope="user")

    def as_user(name: str, call, *args):
        context = contextvars.copy_context()
        context.run(CURRENT_METADATA.set, {"user_id": name})
        return context.run(call, *args)

    as_user("ada", cache.update, "p", "m", KEPT)
    assert as_user("ada", cache.lookup, "p", "m") is not None
    assert as_user("eve", cache.lookup, "p", "m") is None
    assert cache.lookup("p", "m") is None


def test_a_scope_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="scope must be one of shared, user, session, not 'team'"):
        TieredCache(scope="team")
