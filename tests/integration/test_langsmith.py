"""With tracing on, the real langsmith client tells a local recorder who asked, the route, the cache level, the cost."""

from __future__ import annotations

import asyncio
import threading
from decimal import Decimal

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_core.tracers.langchain import wait_for_all_tracers
from langchain_openai import ChatOpenAI
from langsmith import Client
from langsmith import utils as langsmith_utils

from langchain_llmops import LLMOps, Settings
from langchain_llmops.simulator import Scripted, running
from tests.support.langsmith_server import langsmith_recorder, metadata_of

SCRIPT = [
    {"when": {"last_role": "tool"}, "reply": {"content": "Order 10231 is shipped."}},
    {"when": {"contains": "order"}, "reply": {"tool_calls": [{"name": "lookup", "arguments": {"order_id": "10231"}}]}},
    {"default": {"content": "Hello."}},
]


@tool
def lookup(order_id: str) -> str:
    """Look up an order."""
    return f"{order_id} shipped"


@pytest.fixture
def recorder(monkeypatch):
    with langsmith_recorder() as recorder:
        monkeypatch.setenv("LANGSMITH_TRACING", "true")
        monkeypatch.setenv("LANGSMITH_ENDPOINT", recorder.url)
        monkeypatch.setenv("LANGSMITH_API_KEY", "lsv2_pt_test")
        monkeypatch.setenv("LANGSMITH_PROJECT", "llmops-tests")
        langsmith_utils.get_env_var.cache_clear()
        yield recorder
    langsmith_utils.get_env_var.cache_clear()


@pytest.fixture
def simulator():
    with running(Scripted(SCRIPT)) as simulator:
        yield simulator


@pytest.fixture
def ops(recorder, tmp_path):
    with LLMOps(Settings(state_dir=tmp_path, log_calls="off")) as ops:
        tracer = ops.callbacks[1]
        tracer.client = Client(api_url=recorder.url, api_key="lsv2_pt_test", auto_batch_tracing=True)
        yield ops
        tracer.client.cleanup()


def settled(ops) -> None:
    ops.callbacks[1].client.flush()
    wait_for_all_tracers()


def router(ops, simulator):
    return ops.router("openai:gpt-4o-mini", "openai:gpt-4o", base_url=simulator.base_url, api_key="simulated")


def check_identity(recorder) -> None:
    for run in recorder.runs.values():
        metadata = metadata_of(run)
        named = (metadata.get("user_id"), metadata.get("session_id"), metadata.get("thread_id"))
        assert named == ("u1", "s1", "s1"), run["name"]
        assert metadata.get("request_id"), run["name"]


def model_metadata(recorder) -> list[dict]:
    runs = sorted(recorder.of_type("llm"), key=lambda run: run["start_time"])
    return [metadata_of(run) for run in runs]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_every_run_of_an_agents_trace_carries_the_identity_and_model_runs_the_facts(ops, recorder, simulator, colour):
    agent = create_agent(router(ops, simulator), [lookup], middleware=ops.middleware(), checkpointer=ops.checkpointer)
    question = {"messages": [("user", "Where is my order?")]}
    if colour == "sync":
        agent.invoke(question, ops.config(user_id="u1", session_id="s1"))
    else:
        asyncio.run(agent.ainvoke(question, ops.config(user_id="u1", session_id="s1")))
    settled(ops)
    assert {run["run_type"] for run in recorder.runs.values()} >= {"chain", "llm", "tool"}
    check_identity(recorder)
    told = model_metadata(recorder)
    assert [facts["llmops_route"] for facts in told] == ["simple", "simple"]
    assert [facts["llmops_cache_level"] for facts in told] == ["miss", "miss"]
    for facts in told:
        usage = facts["usage_metadata"]
        exact = (Decimal(usage["input_tokens"]) * 15 + Decimal(usage["output_tokens"]) * 60) / 10**8
        assert Decimal(facts["llmops_cost_usd"]) == exact
        assert usage["total_cost"] == pytest.approx(float(exact), abs=1e-12)
    assert recorder.encodings >= {"zstd"}
    assert recorder.problems == []


def test_a_cache_hit_is_traced_as_free_with_its_level(ops, recorder, simulator):
    model = router(ops, simulator)
    for _ in range(2):
        model.invoke("hello", ops.config(user_id="u1", session_id="s1"))
    settled(ops)
    check_identity(recorder)
    miss, hit = model_metadata(recorder)
    assert (miss["llmops_cache_level"], hit["llmops_cache_level"]) == ("miss", "L1")
    assert Decimal(hit["llmops_cost_usd"]) == 0
    assert hit["usage_metadata"]["total_cost"] == 0
    assert hit["usage_metadata"]["total_tokens"] == 0


def test_an_lcel_chain_and_its_stream_are_traced_alike(ops, recorder, simulator):
    chain = ChatPromptTemplate.from_messages([("user", "{text}")]) | router(ops, simulator) | StrOutputParser()
    assert "".join(chain.stream({"text": "hi"}, ops.config(user_id="u1", session_id="s1"))) == "Hello."
    settled(ops)
    check_identity(recorder)
    (facts,) = model_metadata(recorder)
    assert facts["llmops_route"] == "simple"
    assert Decimal(facts["llmops_cost_usd"]) > 0


def test_attaching_and_configuring_trace_a_run_once(ops, recorder, simulator):
    seen = []
    ops.bus.subscribe(seen.append)
    attached = ops.attach(router(ops, simulator))
    attached.invoke([HumanMessage("hello")], ops.config(user_id="u1", session_id="s1"))
    settled(ops)
    assert len(recorder.of_type("llm")) == 1
    assert sum(type(event).__name__ == "CallFinished" for event in seen) == 1


def test_install_observes_runs_that_were_given_nothing_even_in_threads(ops, simulator):
    seen = []
    ops.bus.subscribe(seen.append)
    model = ChatOpenAI(model="gpt-4o-mini", base_url=simulator.base_url, api_key="simulated")
    ops.install()
    thread = threading.Thread(target=model.invoke, args=("in a thread",))
    thread.start()
    thread.join()
    model.invoke("hello", ops.config(user_id="u1", session_id="s1"))
    ops.uninstall()
    model.invoke("unseen")
    finished = [event for event in seen if type(event).__name__ == "CallFinished"]
    assert len(finished) == 2
    assert isinstance(ops.handler, BaseCallbackHandler)
