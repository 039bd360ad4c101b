"""The facade as users hold it: every kind of runnable, both colours, embedded and on servers, to the last row."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from prometheus_client import generate_latest
from pydantic import BaseModel

from langchain_llmops import ConfigurationError, LLMOps, Settings
from langchain_llmops.core.errors import FallbackExhaustedError, ThreadOwnerMismatch
from langchain_llmops.simulator import FaultPlan, Scripted, running
from tests.support.models import Hang, ScriptedModel, lookup

SCRIPT = [
    {"when": {"last_role": "tool"}, "reply": {"content": "It is shipped."}},
    {"when": {"contains": "order"}, "reply": {"tool_calls": [{"name": "lookup", "arguments": {"order_id": "1"}}]}},
    {"default": {"content": "Hello."}},
]


class City(BaseModel):
    name: str
    people: int


@pytest.fixture
def simulator():
    with running(Scripted(SCRIPT)) as simulator:
        yield simulator


def router(ops, simulator):
    return ops.router("openai:gpt-4o-mini", "openai:gpt-4o", base_url=simulator.base_url, api_key="simulated")


def me(ops):
    return ops.config(user_id="u1", session_id="s1")


def test_an_agent_a_graph_a_chain_and_a_bare_model_are_all_counted(ops, simulator):
    model = router(ops, simulator)

    def node(state: MessagesState):
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").add_edge("node", END)
    create_agent(model, [lookup], middleware=ops.middleware()).invoke({"messages": [("user", "my order?")]}, me(ops))
    graph.compile().invoke({"messages": [("user", "one")]}, me(ops))
    (ChatPromptTemplate.from_messages([("user", "{x}")]) | model).invoke({"x": "two"}, me(ops))
    model.invoke("three", me(ops))
    figures = ops.report().as_dict()
    assert (figures["model_calls"], figures["tool_calls"], figures["turns"]) == (5, 1, 3)
    assert figures["conversations"] == 1
    assert figures["cost_usd"] > 0
    assert figures["routes"]["simple"]["calls"] == 5
    assert figures["cache"]["in_use"]


def test_async_callers_in_two_event_loops_share_one_stack(settings, simulator):
    async def ask(ops, text):
        agent = create_agent(
            router(ops, simulator), [lookup], middleware=ops.middleware(), checkpointer=ops.checkpointer
        )
        answer = await agent.ainvoke({"messages": [("user", text)]}, me(ops))
        return len(answer["messages"])

    with LLMOps(settings) as ops:
        assert asyncio.run(ask(ops, "hi")) == 2
        assert asyncio.run(ask(ops, "and again")) == 4
        assert ops.report().as_dict()["turns"] == 2


def test_streams_and_batches_are_counted_once_each(ops, simulator):
    assert not ops.report().as_dict()["cache"]["in_use"]
    model = router(ops, simulator)
    assert "".join(chunk.text for chunk in model.stream("streamed", me(ops))) == "Hello."
    model.batch(["a", "b", "c"], me(ops))

    async def astream():
        return "".join([chunk.text async for chunk in model.astream("streamed too", me(ops))])

    assert asyncio.run(astream()) == "Hello."
    figures = ops.report().as_dict()
    assert figures["model_calls"] == 5
    assert figures["estimated_calls"] == 0


def test_a_stream_without_usage_is_estimated_with_its_tools(ops, simulator):
    records = []
    ops.bus.subscribe(lambda event: records.append(event.record) if hasattr(event, "record") else None)
    for stream_usage in (True, False):
        model = ops.models.model(
            "openai:gpt-4o", base_url=simulator.base_url, api_key="simulated", stream_usage=stream_usage
        )
        for _ in model.bind_tools([lookup]).stream("Where is my order?", me(ops)):
            pass
    told, guessed = records
    assert (told.estimated, guessed.estimated) == (False, True)
    assert guessed.usage.input_tokens == pytest.approx(told.usage.input_tokens, rel=0.1)


def test_an_attached_graph_records_once_also_with_config(ops, simulator):
    agent = create_agent(router(ops, simulator), [lookup])
    attached = ops.attach(agent)
    attached.invoke({"messages": [("user", "hi")]}, me(ops))
    attached.invoke({"messages": [("user", "hi there")]})
    figures = ops.report().as_dict()
    assert (figures["model_calls"], figures["turns"]) == (2, 2)


def test_an_attached_model_stays_observed_when_tools_or_a_schema_are_bound(ops, simulator):
    model = ops.attach(ChatOpenAI(model="gpt-4o", base_url=simulator.base_url, api_key="simulated"))
    model.bind_tools([lookup]).invoke("hi")
    create_agent(model, [lookup]).invoke({"messages": [("user", "hi")]}, me(ops))
    with running() as echo:
        ops.attach(ChatOpenAI(model="gpt-4o", base_url=echo.base_url, api_key="k")).with_structured_output(City).invoke(
            "B"
        )
    ops.attach(router(ops, simulator)).invoke("hi", me(ops))
    assert ops.report().as_dict()["model_calls"] == 4


def test_what_the_suite_built_is_recorded_also_without_a_config(ops, simulator):
    router(ops, simulator).invoke("hi")
    agent = create_agent(router(ops, simulator), [lookup], middleware=ops.middleware())
    agent.invoke({"messages": [("user", "hello there")]})
    ops.models.model(ChatOpenAI(model="gpt-4o", base_url=simulator.base_url, api_key="k")).invoke("hi")
    figures = ops.report().as_dict()
    assert figures["model_calls"] == 3
    assert figures["cost_usd"] > 0


def test_only_something_that_runs_can_be_attached(ops):
    with pytest.raises(TypeError, match="takes a model, a chain or a graph"):
        ops.attach("gpt-4o")


def test_structured_output_survives_the_router_and_the_chain(ops, simulator):
    with running() as echo:
        model = ops.router("openai:gpt-4o-mini", "openai:gpt-4o", base_url=echo.base_url, api_key="simulated")
        assert isinstance(model.with_structured_output(City).invoke("Berlin", me(ops)), City)
        agent = create_agent(model, [], middleware=ops.middleware(), response_format=City)
        answer = agent.invoke({"messages": [("user", "Berlin")]}, me(ops))
    assert isinstance(answer["structured_response"], City)


def test_a_state_with_a_class_of_ones_own_comes_back_whole(settings):
    with running() as echo:
        for types, kind in (((City,), City), ((), dict)):
            with LLMOps(settings, allowed_types=types) as ops:
                model = ops.models.model("openai:gpt-4o", base_url=echo.base_url, api_key="simulated")
                agent = create_agent(model, [lookup], response_format=City, checkpointer=ops.checkpointer)
                config = ops.config(user_id="u1", session_id=f"typed-{kind.__name__}")
                agent.invoke({"messages": [("user", "Berlin")]}, config)
            with LLMOps(settings, allowed_types=types) as ops:
                values = ops.checkpointer.get(config)["channel_values"]
            assert isinstance(values["structured_response"], kind)


def test_a_session_of_another_user_is_refused(ops, simulator):
    agent = create_agent(router(ops, simulator), [lookup], checkpointer=ops.checkpointer)
    agent.invoke({"messages": [("user", "hi")]}, me(ops))
    with pytest.raises(ThreadOwnerMismatch):
        agent.invoke({"messages": [("user", "hi")]}, ops.config(user_id="other", session_id="s1"))


def test_failures_are_retried_counted_and_priced_apart(settings):
    plan = FaultPlan(schedule={1: "rate_limit", 2: "malformed", 4: "server_error"})
    with running(faults=plan) as simulator, LLMOps(settings) as ops:
        model = router(ops, simulator)
        model.invoke("first", me(ops))
        model.invoke("second", me(ops))
        figures = ops.report().as_dict()
        text = generate_latest(ops.registry).decode()
    assert figures["model_calls"] == 2
    assert figures["failed_attempts"]["count"] == 3
    assert figures["failed_attempts"]["cost_usd"] > 0
    assert {kind: error["retried"] for kind, error in figures["errors"].items()} == {
        "rate_limit": 1,
        "malformed": 1,
        "unavailable": 1,
    }
    assert 'llmops_retries_total{error_kind="malformed",model="gpt-4o-mini"} 1.0' in text


def test_a_provider_that_is_away_is_left_for_the_next_rung(ops, simulator):
    away = ops.models.model("openai:gpt-4o-mini", base_url="http://127.0.0.1:1/v1", api_key="x", timeout=2)
    here = ops.models.model("openai:gpt-4o", base_url=simulator.base_url, api_key="simulated")
    answer = ops.fallback(away, here).invoke("hi", me(ops))
    assert answer.response_metadata["llmops_rung"] == 1
    errors = ops.report().as_dict()["errors"]["unavailable"]
    assert errors["fell_back"] == 1
    assert errors["cost_usd"] == 0


MISTYPED = {
    "nobody listens": ("http://127.0.0.1:9", "gpt-4o-mini (unavailable at 127.0.0.1:9: Connection refused)"),
    "credentials and a query": (
        "http://ada:hunter2@127.0.0.1:9/v1?key=hunter2",
        "gpt-4o-mini (unavailable at 127.0.0.1:9: Connection refused)",
    ),
    "no such host": ("http://nowhere.invalid/v1", "gpt-4o-mini (unavailable at nowhere.invalid: "),
    "no scheme": ("127.0.0.1:9/v1", "gpt-4o-mini (unavailable: its base_url does not begin with http:// or https://)"),
}


@pytest.mark.parametrize(("base_url", "told"), MISTYPED.values(), ids=MISTYPED)
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream"])
def test_a_mistyped_base_url_is_told_by_its_host_for_every_rung_and_without_secrets(ops, base_url, told, way):
    mistyped = ChatOpenAI(model="gpt-4o-mini", base_url=base_url, api_key="sk-hunter2hunter2")
    refused = ChatOpenAI(model="gpt-4o", base_url="http://127.0.0.1:1/v1", api_key="sk-hunter2hunter2")
    chain = ops.fallback(mistyped, refused)
    with pytest.raises(FallbackExhaustedError) as caught:
        asyncio.run(chain.ainvoke("hi")) if way == "ainvoke" else list(getattr(chain, way)("hi"))
    assert str(caught.value).startswith(f"no model answered: {told}")
    assert str(caught.value).endswith("gpt-4o (unavailable at 127.0.0.1:1: Connection refused)")
    assert "hunter2" not in str(caught.value)


def test_feedback_on_a_cached_answer_finds_its_call(ops, simulator, caplog):
    hits = []
    ops.bus.subscribe(lambda event: hits.append(event.record) if hasattr(event, "record") else None)
    model = router(ops, simulator)
    answers = [model.invoke("hello", me(ops)) for _ in range(2)]
    assert [record.cache_level for record in hits] == [None, "L1"]
    assert hits[1].run_id in answers[1].id
    ops.feedback(answers[1].id, 1.0)
    assert not [line for line in caplog.records if "does not know" in line.message]


def test_cached_answers_never_share_an_id(ops):
    model = ScriptedModel(cache=ops.cache)
    model.invoke("hello", me(ops))
    one = model.generate([[HumanMessage("hello")], [HumanMessage("hello")]], callbacks=ops.callbacks)
    found = [generation[0].message.id for generation in one.generations]
    found += [answer.id for answer in model.batch(["hello"] * 3, me(ops))]
    assert len(set(found)) == 5
    assert model.calls == 1


def test_three_identical_turns_keep_six_messages(ops, simulator):
    agent = create_agent(router(ops, simulator), [lookup], checkpointer=ops.checkpointer)
    for _ in range(3):
        state = agent.invoke({"messages": [HumanMessage("hi")]}, me(ops))
    assert len(state["messages"]) == 6


def test_everything_is_written_at_exit_without_close(tmp_path, simulator):
    code = (
        "from pathlib import Path\n"
        "from langchain_llmops import LLMOps, Settings\n"
        f"ops = LLMOps(Settings(state_dir=Path({str(tmp_path)!r}), log_calls='off'))\n"
        f"where = dict(base_url={simulator.base_url!r}, api_key='simulated')\n"
        "model = ops.router('openai:gpt-4o-mini', 'openai:gpt-4o', **where)\n"
        "model.invoke('hi', ops.config(user_id='u', session_id='s'))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        assert connection.execute("SELECT COUNT(*), MIN(user_id) FROM llmops_calls").fetchone() == (1, "u")
    connection.close()


async def test_calls_that_are_open_at_the_close_are_recorded_as_cut_off(settings):
    hang = Hang()
    with LLMOps(settings) as ops:
        task = asyncio.create_task(ScriptedModel(hang).ainvoke("hi", me(ops)))
        await hang.reached.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    with LLMOps(settings) as ops:
        assert ops.report(since=0).as_dict()["failed_attempts"]["count"] == 1


def test_closing_twice_and_from_another_thread_is_safe(settings, simulator):
    ops = LLMOps(settings)
    router(ops, simulator).invoke("hi", me(ops))
    thread = threading.Thread(target=ops.close)
    thread.start()
    thread.join()
    ops.close()


def test_sync_calls_work_inside_a_running_loop_as_in_a_notebook(settings, simulator):
    async def cell():
        with LLMOps(settings) as ops:
            agent = create_agent(router(ops, simulator), [lookup], checkpointer=ops.checkpointer)
            agent.invoke({"messages": [("user", "hi")]}, me(ops))
            return ops.report().as_dict()["turns"]

    assert asyncio.run(cell()) == 1


def test_the_same_on_redis_postgres_and_s3(tmp_path, simulator, clean_redis_url, postgres_url, s3_url):
    settings = Settings(
        state_dir=tmp_path, redis_url=clean_redis_url, postgres_url=postgres_url, objects_url=s3_url, log_calls="off"
    )
    with LLMOps(settings) as ops:
        agent = create_agent(
            router(ops, simulator), [lookup], middleware=ops.middleware(), checkpointer=ops.checkpointer
        )
        agent.invoke({"messages": [("user", "my order?")]}, me(ops))
        router(ops, simulator).invoke("hi", me(ops))
    with LLMOps(settings) as ops:
        router(ops, simulator).invoke("hi", me(ops))
        figures = ops.report(since=0).as_dict()
        state = ops.checkpointer.get_tuple(me(ops))
    assert (figures["model_calls"], figures["cache"]["by_level"]) == (4, {"L2": 1})
    assert len(state.checkpoint["channel_values"]["messages"]) == 4


def test_a_wrong_setting_is_one_line_with_its_name(monkeypatch):
    monkeypatch.setenv("LLMOPS_MAX_ATTEMPTS", "many")
    with pytest.raises(ConfigurationError, match=r"^LLMOPS_MAX_ATTEMPTS: .*$"):
        LLMOps.from_env()


def test_a_state_folder_that_cannot_be_made_is_named():
    with pytest.raises(ConfigurationError, match="LLMOPS_STATE_DIR: cannot create /proc/nothing"):
        LLMOps(Settings(state_dir="/proc/nothing"))


def test_the_way_of_a_call_is_one_visible_list(ops):
    lines = ops.explain().splitlines()
    assert [line.split()[1] for line in lines] == ["config", "router", "fallback", "cache", "model", "handler", "bus"]


def test_a_variable_that_nothing_reads_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("LLMOPS_STATE_DIR", str(tmp_path))
    monkeypatch.setenv("LLMOPS_CACHE_SCOP", "user")
    LLMOps.from_env().close()
    assert "LLMOPS_CACHE_SCOP is set, and nothing reads it" in caplog.text
    assert len(caplog.records) == 1
