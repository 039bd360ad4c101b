"""Who hears of what is asked ahead: the suite's own handlers, by name, and none of the user's."""

from __future__ import annotations

import asyncio

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler, get_usage_metadata_callback
from langgraph.graph import START, MessagesState, StateGraph

from langchain_llmops import LLMOps, Settings
from langchain_llmops.core.concurrency import run_sync
from langchain_llmops.core.context import PREFETCH
from langchain_llmops.ledger.filters import Filter
from langchain_llmops.ledger.spend import spend_by
from langchain_llmops.middleware.caching import CacheMiddleware
from langchain_llmops.telemetry.installed import Installation
from tests.support.ahead import Desk, landed
from tests.support.models import ScriptedModel, answer, eventually
from tests.support.ways import each_way


class Ears(BaseCallbackHandler):
    """Remembers what was asked and every token."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def on_chat_model_start(self, serialized, messages, **kwargs) -> None:
        self.heard.append(messages[0][-1].text)

    def on_llm_new_token(self, token, **kwargs) -> None:
        self.heard.append(token)

    def on_llm_end(self, response, **kwargs) -> None:
        self.heard.append("end")


@each_way
async def test_no_callback_of_the_users_hears_of_a_prefetch(cache, clock, ask) -> None:
    with_config, in_model = Ears(), Ears()
    raw = ScriptedModel(callbacks=[in_model])
    desk = Desk(cache, clock, ask=ask, model=raw)
    named = {"model_name": "gpt-4o-mini"}
    raw.script[:] = [lambda messages: answer(desk.say(messages), response_metadata=named)]
    await desk.teach()
    asked = raw.calls
    with_config.heard, in_model.heard = [], []
    with get_usage_metadata_callback() as usage:
        await desk.walk("new", "a", config={"callbacks": [with_config]})
    assert raw.calls == asked + 2
    assert desk.count("open") == 1
    for ears in (with_config, in_model):
        assert [heard for heard in ears.heard if heard == "b" or heard.startswith("about b")] == []
        assert (ears.heard[0], ears.heard.count("end")) == ("a", 1)
    assert usage.usage_metadata["gpt-4o-mini"]["total_tokens"] == 15


async def test_nothing_of_a_prefetch_reaches_the_stream_of_a_graph(cache, clock) -> None:
    desk = Desk(cache, clock)

    async def node(state):
        return {"messages": [await desk.model.ainvoke(state["messages"][-1:])]}

    graph = StateGraph(MessagesState)
    graph.add_node("ask", node)
    graph.add_edge(START, "ask")
    compiled, streamed = graph.compile(), []
    for n in range(4):
        streamed = []
        for text in "ab":
            config = {"configurable": {"thread_id": str(n)}, "metadata": {"user_id": "ada"}}
            asked = {"messages": [("user", text)]}
            streamed += [piece.text async for piece, _ in compiled.astream(asked, config, stream_mode="messages")]
            await landed(desk.prefetching)
        clock.pass_s(1_000.0)
    assert desk.count("used") >= 1
    assert "".join(streamed) == "about aabout b"


@each_way
async def test_a_prefetch_is_recorded_as_one_for_whom_it_was_made(cache, clock, ask, handler, records) -> None:
    desk = Desk(cache, clock, ask=ask)
    config = {"callbacks": [handler]}
    await desk.teach(config=config)
    records.clear()
    await desk.walk("new", "ab", user="bob", config=config)
    eventually(lambda: len(records) == 3)
    ahead = next(record for record in records if record.tags)
    used = next(record for record in records if record.cache_level)
    asked = next(record for record in records if record not in (ahead, used))
    assert (asked.tags, ahead.tags, used.tags) == ((), (PREFETCH,), ())
    assert (ahead.identity.user, ahead.identity.session) == ("bob", "new")
    assert float(ahead.cost_usd) == pytest.approx(float(asked.cost_usd))
    assert (ahead.parent_run_id, ahead.trace_id == asked.trace_id) == (None, False)
    assert float(used.cost_usd) == 0
    assert used.saved_usd == ahead.cost_usd


@each_way
@pytest.mark.parametrize("where", ["block", "everywhere"])
async def test_an_observed_program_records_its_prefetches_once(cache, clock, ask, where, handler, records) -> None:
    installation = Installation(handler)
    desk = Desk(cache, clock, ask=ask)
    await desk.teach()
    if where == "block":
        with installation.block():
            await desk.walk("new", "a")
    else:
        installation.install()
        try:
            await desk.walk("new", "a")
        finally:
            installation.uninstall()
    eventually(lambda: len(records) == 2)
    assert sorted(record.tags for record in records) == [(), (PREFETCH,)]


def test_callbacks_of_a_program_without_an_event_loop_hear_nothing_either(cache, clock) -> None:
    desk, ears, named = Desk(cache, clock), Ears(), {"model_name": "gpt-4o-mini"}
    desk.raw.script[:] = [lambda messages: answer(desk.say(messages), response_metadata=named)]
    for n in range(4):
        for text in "ab" if n < 3 else "a":
            ears.heard.clear()
            with get_usage_metadata_callback() as usage:
                who = {"user_id": "ada", "session_id": str(n)}
                desk.model.invoke(text, {"callbacks": [ears], "metadata": who})
                eventually(lambda: not desk.count("in_flight"))
        clock.pass_s(1_000.0)
    assert desk.count("issued") == 2
    assert ears.heard == ["a", "end"]
    assert usage.usage_metadata["gpt-4o-mini"]["total_tokens"] == 15


async def test_an_agent_without_tools_asks_ahead_through_its_middleware(cache, clock) -> None:
    desk = Desk(cache, clock)
    agent = create_agent(desk.model, tools=[], middleware=[CacheMiddleware(cache)])
    for n in range(4):
        hits = []
        for text in "ab":
            config = {"metadata": {"user_id": "ada", "session_id": str(n)}}
            said = await agent.ainvoke({"messages": [("user", text)]}, config)
            hits.append("llmops_cache" in said["messages"][-1].response_metadata)
            await landed(desk.prefetching)
        clock.pass_s(1_000.0)
    assert hits == [False, True]


def test_the_ledger_tells_what_prefetches_cost(tmp_path, clock) -> None:
    with LLMOps(Settings(state_dir=tmp_path)) as ops:
        desk = Desk(ops.cache, clock, prices=ops.prices)
        for n in range(4):
            config = {"callbacks": ops.callbacks}
            asyncio.run(desk.walk(f"s{n}", "ab", config=config))
            ops.cache.clear()
            clock.pass_s(1_000.0)
        assert desk.count("issued") == 2
        ops.ledger.flush()
        found = run_sync(_by_tag(ops))
        assert found[PREFETCH].calls == 2
        assert float(found[PREFETCH].cost_usd) == pytest.approx(desk.count("spent_usd"))
        assert found[None].calls == 8


async def _by_tag(ops):
    return {one.key: one for one in await spend_by(await ops.ledger.sql(), "tag", Filter())}
