"""A cached model is its own class still, answers all ways of asking from one entry, and says so."""

from __future__ import annotations

import asyncio
from functools import reduce
from operator import add

import pytest
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_openai import ChatOpenAI
from langgraph.graph import START, MessagesState, StateGraph

from langchain_llmops.cache.model import CachedChatModel, cached
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.resilience.fallback import FallbackChain
from langchain_llmops.router.model import ModelRouter
from tests.support.models import ScriptedModel, answer, chunk, tool_call
from tests.support.ways import each_first_way, each_stream, each_way

TEXT = "one two  three\n\nfour "


# one entry for all ways of asking


@each_first_way
@each_way
async def test_what_one_way_brought_is_a_hit_for_every_other(make, first, ask) -> None:
    model = ScriptedModel(TEXT)
    both = cached(model, cache=make())
    brought, found = await first(both), await ask(both)
    assert model.calls == 1
    assert brought.text == found.text == TEXT
    assert brought.usage_metadata["input_tokens"] == 10
    assert found.usage_metadata["total_tokens"] == 0
    assert found.response_metadata["llmops_cache"]["saved"]["total_tokens"] == 15
    assert found.response_metadata["finish_reason"] == "stop"
    assert "llmops_cache" not in brought.response_metadata
    assert brought.id != found.id


@each_stream
async def test_a_stream_is_a_hit_for_a_plain_model_with_the_cache(make, ask) -> None:
    cache, model = make(), ScriptedModel(TEXT)
    await ask(cached(model, cache=cache))
    plain = model.model_copy(update={"cache": cache})
    assert plain.invoke("hi").text == TEXT
    assert model.calls == 1


def test_a_batch_is_served_too(cache) -> None:
    model = ScriptedModel(TEXT)
    both = cached(model, cache=cache)
    both.invoke("hi")
    assert [one.text for one in both.batch(["hi", "hi"])] == [TEXT] * 2
    assert both.generate([[HumanMessage("hi")]]).generations[0][0].text == TEXT
    assert model.calls == 1


# what a replayed stream is made of


async def test_a_hit_is_replayed_in_pieces_of_one_new_message(cache) -> None:
    model = cached(ScriptedModel(TEXT), cache=cache)
    model.invoke("hi")
    once, again = list(model.stream("hi")), [piece async for piece in model.astream("hi")]
    for pieces in (once, again):
        assert all(isinstance(piece, AIMessageChunk) for piece in pieces)
        assert len(pieces) > 3
        assert len({piece.id for piece in pieces}) == 1
        assert [bool(piece.usage_metadata) for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert pieces[-1].chunk_position == "last"
    assert once[0].id != again[0].id


def test_a_long_answer_is_not_replayed_in_thousands_of_pieces(cache) -> None:
    model = cached(ScriptedModel("word " * 5000), cache=cache)
    list(model.stream("hi"))
    pieces = list(model.stream("hi"))
    assert len(pieces) < 60
    assert "".join(piece.text for piece in pieces) == "word " * 5000


@each_first_way
@each_stream
async def test_tool_calls_are_replayed_with_new_ids(make, first, ask) -> None:
    said = answer("Let me see.", tool_calls=[tool_call("lookup", order_id="7"), {**tool_call("other"), "id": "c2"}])
    model = ScriptedModel(said)
    both = cached(model, cache=make(tool_calls=True))
    brought, found = await first(both), await ask(both)
    assert model.calls == 1
    assert [(call["name"], call["args"]) for call in found.tool_calls] == [("lookup", {"order_id": "7"}), ("other", {})]
    assert not {call["id"] for call in brought.tool_calls} & {call["id"] for call in found.tool_calls}
    assert found.text == "Let me see."


def test_blocks_of_content_are_replayed_as_they_were(cache) -> None:
    blocks = [{"type": "text", "text": "a b"}, {"type": "reasoning", "reasoning": "because"}]
    model = cached(ScriptedModel(AIMessage(blocks, response_metadata={"finish_reason": "stop"})), cache=cache)
    model.invoke("hi")
    assert reduce(add, model.stream("hi")).content == blocks


def test_a_consumer_cannot_change_what_is_kept(cache) -> None:
    model = cached(ScriptedModel(answer("x", additional_kwargs={"deep": {"list": [1]}})), cache=cache)
    for _ in range(3):
        for piece in model.stream("hi"):
            assert piece.additional_kwargs.get("deep", {"list": [1]}) == {"list": [1]}
            piece.content = "poison"
            piece.additional_kwargs.get("deep", {"list": []})["list"].append(2)
            piece.response_metadata["finish_reason"] = "length"
    assert model.invoke("hi").text == "x"


def test_who_listens_token_by_token_hears_a_hit_as_a_call(cache) -> None:
    class Ears(BaseCallbackHandler):
        def __init__(self) -> None:
            self.heard = []

        def on_llm_new_token(self, token, *, chunk=None, **kwargs) -> None:
            self.heard.append(chunk.message)

    cold, warm = Ears(), Ears()
    model = cached(ScriptedModel(TEXT), cache=cache)
    list(model.stream("hi", {"callbacks": [cold]}))
    list(model.stream("hi", {"callbacks": [warm]}))
    assert [m.text for ears in (cold, warm) for m in ears.heard if m.text] != []
    assert "".join(m.text for m in cold.heard) == "".join(m.text for m in warm.heard) == TEXT


async def test_events_of_a_hit_are_those_of_a_stream(cache) -> None:
    model = cached(ScriptedModel(TEXT), cache=cache)
    told = [[e async for e in model.astream_events("hi", version="v2")] for _ in range(2)]
    texts = ["".join(e["data"]["chunk"].text for e in one if e["event"] == "on_chat_model_stream") for one in told]
    assert texts == [TEXT, TEXT]


@pytest.mark.filterwarnings("ignore::langchain_core._api.beta_decorator.LangChainBetaWarning")
async def test_the_third_version_of_streaming_is_served_too(cache, config, records) -> None:
    model = ScriptedModel(TEXT)
    both = cached(model, cache=cache)
    for _ in range(2):
        assert both.stream_events("hi", config, version="v3").output.text == TEXT
        stream = await both.astream_events("hi", config, version="v3")
        assert (await stream.output).text == TEXT
    for _ in range(100):
        await asyncio.sleep(0)  # its run ends a little after its output
    assert model.calls == 1
    assert [record.cache_level for record in records] == [None, "L1", "L1", "L1"]


def test_a_graph_that_streams_messages_sees_pieces_of_one_class_cold_and_warm(cache) -> None:
    model = cached(ScriptedModel(TEXT), cache=cache)
    graph = StateGraph(MessagesState)
    graph.add_node("ask", lambda state: {"messages": [model.invoke(state["messages"][-1:])]})
    graph.add_edge(START, "ask")
    runs = [list(graph.compile().stream({"messages": [("user", "hi")]}, stream_mode="messages")) for _ in range(2)]
    for run in runs:
        assert {type(message).__name__ for message, _ in run} == {"AIMessageChunk"}
        assert "".join(message.text for message, _ in run) == TEXT
        assert len({message.id for message, _ in run}) == 1


# accounts


@each_way
async def test_a_hit_costs_nothing_in_every_account(make, ask, config, records) -> None:
    usage = UsageMetadataCallbackHandler()
    named = answer(TEXT, response_metadata={"model_name": "gpt-4o-mini"})
    model = cached(ScriptedModel(named), cache=make())
    for _ in range(3):
        await ask(model, config={**config, "callbacks": [*config["callbacks"], usage]})
    assert usage.usage_metadata["gpt-4o-mini"]["total_tokens"] == 15
    assert [(one.cache_level, float(one.cost_usd) > 0) for one in records] == [
        (None, True),
        ("L1", False),
        ("L1", False),
    ]


@each_way
async def test_a_hit_has_the_id_of_its_run(make, ask, config, records) -> None:
    model = cached(ScriptedModel(TEXT), cache=make())
    for _ in range(2):
        found = await ask(model, config=config)
    assert records[-1].run_id in found.id


@each_stream
async def test_a_hit_does_not_wait_for_the_rate_limiter(make, ask) -> None:
    class Counted(InMemoryRateLimiter):
        def acquire(self, *, blocking=True):
            self.acquired = getattr(self, "acquired", 0) + 1
            return True

        async def aacquire(self, *, blocking=True):
            return self.acquire()

    limiter = Counted()
    model = cached(ScriptedModel(TEXT, rate_limiter=limiter), cache=make())
    for _ in range(3):
        await ask(model)
    assert limiter.acquired == 1


# whose it is


@each_first_way
@each_way
async def test_users_do_not_share_and_need_no_handler(make, first, ask) -> None:
    model = ScriptedModel(lambda messages: answer("yours"))
    mine = cached(model, cache=make(scope="user"))
    for user in ("ada", "bob", "ada"):
        await first(mine, config={"metadata": {"user_id": user}})
        await ask(mine, config={"metadata": {"user_id": user}})
    assert model.calls == 2
    await ask(mine)
    await ask(mine)
    assert model.calls == 4, "a call that names nobody bypasses the cache"


async def test_a_stream_is_kept_for_who_asked_although_others_ask_between_its_pieces(make, config) -> None:
    model = ScriptedModel("of ada")
    mine = cached(model, cache=make(scope="user"))
    async for _ in mine.astream("hi", config):
        await mine.ainvoke("else", {**config, "metadata": {"user_id": "bob"}})
    assert (await mine.ainvoke("hi", config)).response_metadata["llmops_cache"]["level"] == "L1"
    bobs = await mine.ainvoke("hi", {**config, "metadata": {"user_id": "bob"}})
    assert "llmops_cache" not in bobs.response_metadata


# what is kept


BAD = {
    "cut by length": [chunk("x"), chunk(finish_reason="length")],
    "of a provider that always says how it ended, and did not": [chunk("x", model_provider="openai")],
    "failed": [chunk("x"), RuntimeError("broken")],
    "empty": [chunk("", finish_reason="stop")],
}


@pytest.mark.parametrize("script", BAD.values(), ids=BAD)
@each_stream
async def test_a_stream_that_did_not_end_well_is_not_kept(make, ask, script) -> None:
    model, cache = ScriptedModel(script, "good"), make()
    both = cached(model, cache=cache)
    try:
        await ask(both)
    except RuntimeError:
        assert "failed" in [name for name, value in BAD.items() if value is script]
    assert cache.stats().get("stored", 0) == 0
    assert (await ask(both)).text == "good"
    assert model.calls == 2


async def test_an_abandoned_stream_is_not_kept_and_releases_the_next(make) -> None:
    model, cache = ScriptedModel(TEXT), make()
    both = cached(model, cache=cache)
    for _ in both.stream("hi"):
        break
    async for _ in both.astream("hi"):
        break
    await asyncio.sleep(0.01)
    assert cache.stats().get("stored", 0) == 0
    assert (await asyncio.wait_for(both.ainvoke("hi"), 5)).text == TEXT
    assert model.calls == 3


@each_stream
async def test_a_stream_is_stored_once(make, ask) -> None:
    cache = make()
    await ask(cached(ScriptedModel(TEXT), cache=cache))
    assert cache.stats()["stored"] == 1


@each_way
async def test_tool_calls_are_kept_by_policy_only(make, ask) -> None:
    model = ScriptedModel(answer("", tool_calls=[tool_call("lookup")]))
    for options, calls in (({}, 2), ({"tool_calls": True}, 1)):
        model.asked.clear()
        both = cached(model, cache=make(**options))
        await ask(both)
        await ask(both)
        assert model.calls == calls


# still the model it was


def test_a_cached_model_is_of_its_own_class_and_has_its_keys(cache) -> None:
    model = ChatOpenAI(model="gpt-4o-mini", api_key="k")
    both = cached(model, cache=cache)
    assert isinstance(both, ChatOpenAI)
    assert isinstance(both, CachedChatModel)
    assert type(both).__name__ == "ChatOpenAI"
    assert both.profile == model.profile
    assert both.to_json()["id"] == model.to_json()["id"]
    assert both._get_llm_string() == model._get_llm_string()
    assert model.cache is None, "the model that was given stays as it was"
    assert type(cached(both, cache=cache)) is type(both)


def test_changes_to_a_cached_model_are_not_lost(cache) -> None:
    model = cached(ScriptedModel(lambda messages: answer("x")), cache=cache)
    list(model.stream("hi"))
    warmer = model.model_copy(update={"temperature": 0.0})
    assert "llmops_cache" not in reduce(add, warmer.stream("hi")).response_metadata
    assert "llmops_cache" in reduce(add, warmer.stream("hi")).response_metadata


def test_what_is_no_chat_model_is_refused(cache) -> None:
    with pytest.raises(ConfigurationError, match="takes a chat model, not _ChatModelBinding"):
        cached(ScriptedModel().bind(stop=["x"]), cache=cache)


@each_way
async def test_a_router_over_chains_is_cached_below(make, ask) -> None:
    small, large = ScriptedModel("small"), ScriptedModel("large", model_name="gpt-4o")
    router = ModelRouter({"simple": FallbackChain([small, large]), "complex": large})
    both = cached(router, cache=make())
    assert isinstance(both, ModelRouter)
    for _ in range(3):
        assert (await ask(both, "where is my order")).text == "small"
    assert small.calls == 1
    assert router.routes["complex"] is large


@each_way
async def test_a_model_that_cannot_stream_is_cached_all_the_same(make, ask) -> None:
    class Mute(ScriptedModel):
        _stream = BaseChatModel._stream
        _astream = BaseChatModel._astream

    model = Mute(TEXT)
    both = cached(model, cache=make())
    assert [(await ask(both)).text for _ in range(2)] == [TEXT] * 2
    assert model.calls == 1


@each_way
async def test_a_model_that_streams_in_threads_only_is_cached_all_the_same(make, ask) -> None:
    class Threads(ScriptedModel):
        _astream = BaseChatModel._astream

    model = Threads(TEXT)
    both = cached(model, cache=make())
    assert [(await asyncio.wait_for(ask(both), 10)).text for _ in range(2)] == [TEXT] * 2
    assert model.calls == 1
