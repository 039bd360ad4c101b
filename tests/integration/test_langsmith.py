"""With tracing on, the real langsmith client tells a local recorder who asked, the route, the cache level, the cost."""

from __future__ import annotations

import asyncio
import json
import threading
from decimal import Decimal

import httpx
import langsmith
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import Embeddings
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.langchain import wait_for_all_tracers
from langchain_openai import ChatOpenAI

from langchain_llmops.ledger.tree import trace_tree
from langchain_llmops.recorder.running import running as recording
from langchain_llmops.simulator import Scripted, running
from tests.support.langsmith import opened, traced_to
from tests.support.models import Hang, ScriptedModel, lookup

SCRIPT = [
    {"when": {"last_role": "tool"}, "reply": {"content": "Order 10231 is shipped."}},
    {"when": {"contains": "order"}, "reply": {"tool_calls": [{"name": "lookup", "arguments": {"order_id": "10231"}}]}},
    {"default": {"content": "Hello."}},
]


@pytest.fixture
def recorder():
    with recording() as recorder, traced_to(recorder.url, "llmops-tests"):
        yield recorder


@pytest.fixture
def simulator():
    with running(Scripted(SCRIPT)) as simulator:
        yield simulator


@pytest.fixture
def ops(recorder, tmp_path):
    with opened(tmp_path) as ops:
        yield ops


def settled(ops) -> None:
    ops.callbacks[1].client.flush()
    wait_for_all_tracers()


def router(ops, simulator):
    return ops.router("openai:gpt-4o-mini", "openai:gpt-4o", base_url=simulator.base_url, api_key="simulated")


def metadata_of(run: dict) -> dict:
    return (run.get("extra") or {}).get("metadata") or {}


def check_identity(recorder) -> None:
    for run in recorder.runs():
        metadata = metadata_of(run)
        named = (metadata.get("user_id"), metadata.get("session_id"), metadata.get("thread_id"))
        assert named == ("u1", "s1", "s1"), run["name"]
        assert metadata.get("request_id"), run["name"]


def model_metadata(recorder) -> list[dict]:
    return [metadata_of(run) for run in recorder.runs(run_type="llm")]


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_every_run_of_an_agents_trace_carries_the_identity_and_model_runs_the_facts(ops, recorder, simulator, colour):
    agent = create_agent(router(ops, simulator), [lookup], middleware=ops.middleware(), checkpointer=ops.checkpointer)
    question = {"messages": [("user", "Where is my order?")]}
    if colour == "sync":
        agent.invoke(question, ops.config(user_id="u1", session_id="s1"))
    else:
        asyncio.run(agent.ainvoke(question, ops.config(user_id="u1", session_id="s1")))
    settled(ops)
    assert {run["run_type"] for run in recorder.runs()} >= {"chain", "llm", "tool"}
    check_identity(recorder)
    told = model_metadata(recorder)
    assert [facts["llmops_route"] for facts in told] == ["simple", "simple"]
    assert [facts["llmops_cache_level"] for facts in told] == ["miss", "miss"]
    for facts in told:
        usage = facts["usage_metadata"]
        exact = (Decimal(usage["input_tokens"]) * 15 + Decimal(usage["output_tokens"]) * 60) / 10**8
        assert Decimal(facts["llmops_cost_usd"]) == exact
        assert usage["total_cost"] == pytest.approx(float(exact), abs=1e-12)
    assert set(recorder.encodings) >= {"zstd"}
    assert recorder.problems == []


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_the_ledgers_tree_is_the_same_with_tracing_on(ops, recorder, simulator, colour):
    """LangChain's middleware puts runs of LangSmith's own between the agent and its models: no handler is told."""
    agent = create_agent(router(ops, simulator), [lookup], middleware=[ModelRetryMiddleware(), *ops.middleware()])
    embeddings = ops.embeddings(Flat(), provider="openai", model="text-embedding-3-small")
    inner = RunnableLambda(lambda _: embeddings.embed_query("tents"))
    traced = langsmith.traceable(lambda config: inner.invoke("x", config), name="mine")
    graph = RunnableLambda(lambda x, config: traced(config) and agent.invoke(x, config))
    question, config = {"messages": [("user", "Where is my order?")]}, ops.config(user_id="u1", session_id="s1")
    if colour == "sync":
        graph.invoke(question, config)
    else:
        asyncio.run(agent.ainvoke(question, config))
    (turn,) = asyncio.run(tree(ops, config["metadata"]["request_id"]))
    kinds = ["model", "tool", "model"]
    assert [step.call.kind for step in turn.children] == (["embedding", *kinds] if colour == "sync" else kinds)
    assert turn.cost_usd > 0
    settled(ops)
    assert "ModelRetryMiddleware.wrap_model_call" in {run["name"].replace("awrap", "wrap") for run in recorder.runs()}


class Flat(Embeddings):
    def embed_documents(self, texts):
        return [[1.0] for _ in texts]

    def embed_query(self, text):
        return [1.0]


async def tree(ops, request):
    await ops.ledger.aflush()
    return await trace_tree(await ops.ledger.sql(), request)


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
    assert len(recorder.runs(run_type="llm")) == 1
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


@pytest.mark.parametrize("way", ["install", "observe"])
def test_what_is_observed_without_a_word_in_the_code_is_traced_once_with_its_cost(ops, recorder, simulator, way):
    model = ChatOpenAI(model="gpt-4o-mini", base_url=simulator.base_url, api_key="simulated")
    chain = ChatPromptTemplate.from_messages([("user", "{text}")]) | model | StrOutputParser()
    if way == "install":
        ops.install()
        chain.batch([{"text": "hi"}, {"text": "ho"}])
        ops.uninstall()
    else:
        with ops.observe():
            chain.batch([{"text": "hi"}, {"text": "ho"}])
    settled(ops)
    told = model_metadata(recorder)
    assert len(told) == 2
    assert all(Decimal(facts["llmops_cost_usd"]) > 0 for facts in told)
    assert len(recorder.runs()) == 8


async def test_a_cancelled_call_is_ended_in_the_trace_too(ops, recorder):
    """LangChain sends no end event for it, and LangSmith would show it as running for ever."""
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ScriptedModel(Hang()).ainvoke("hi", ops.config(user_id="u1", session_id="s1")), 0.01)
    await asyncio.sleep(0)
    assert ops.handler.open_runs == 0
    await asyncio.to_thread(settled, ops)
    told = recorder.runs(run_type="llm")
    assert len(told) == 3
    assert all("cancelled" in run["error"] and run["end_time"] for run in told)


def test_a_trace_that_ended_is_forgotten(ops, recorder, simulator):
    agent = create_agent(router(ops, simulator), [lookup], middleware=ops.middleware())
    for _ in range(5):
        agent.invoke({"messages": [("user", "Where is my order?")]}, ops.config(user_id="u1", session_id="s1"))
        list(router(ops, simulator).stream("hello", ops.config(user_id="u1", session_id="s1")))
    tracer = ops.callbacks[1]
    assert (tracer.run_map, tracer.order_map, tracer.run_has_token_event_map) == ({}, {}, {})


def test_a_masked_trace_names_nobody_in_inputs_outputs_metadata_or_tags(recorder, simulator, tmp_path):
    who = "ada@example.com"
    with opened(tmp_path, trace_anonymize=True) as ops:
        config = ops.config(user_id=who, session_id="s1", tags=[f"customer:{who}"], note=f"asked by {who}")
        router(ops, simulator).invoke(f"I am {who}, card 4111 1111 1111 1111, key sk-abcdefghijklmnop", config)
        settled(ops)
    (run,) = recorder.runs()
    sent = json.dumps(run)
    for secret in (who, "4111", "abcdefghijklmnop"):
        assert secret not in sent
    assert metadata_of(run)["user_id"].startswith("anon-")
    assert any(tag == "customer:<email>" for tag in run["tags"])


def test_project_and_retention_are_those_of_the_settings(recorder, simulator, tmp_path):
    with opened(tmp_path, trace_project="shop", trace_retention="long") as ops:
        create_agent(router(ops, simulator), []).invoke({"messages": [("user", "hello")]}, ops.config(user_id="u1"))
        settled(ops)
    runs = recorder.runs()
    assert {run["session_name"] for run in runs} == {"shop"}
    assert all("retention:long" in run["tags"] for run in runs)


@pytest.mark.parametrize(("rate", "kept"), [(0.0, 0), (1.0, 3)])
def test_whole_traces_are_sampled_and_the_ledger_has_them_all(recorder, simulator, tmp_path, rate, kept):
    with opened(tmp_path, trace_sample_rate=rate, cache=False) as ops:
        for _ in range(3):
            router(ops, simulator).invoke("hello", ops.config(user_id="u1"))
        settled(ops)
        assert ops.report().as_dict()["model_calls"] == 3
    assert len(recorder.runs()) == kept


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_feedback_reaches_the_ledger_and_the_trace_and_a_link_shows_it(ops, recorder, simulator, colour):
    seen = []
    ops.bus.subscribe(lambda event: seen.append(event) if type(event).__name__ == "CallFinished" else None)
    router(ops, simulator).invoke("hello", ops.config(user_id="u1", session_id="s1"))
    run_id = seen[0].record.run_id
    settled(ops)
    if colour == "sync":
        ops.feedback(run_id, 0.5, comment="so so")
    else:
        asyncio.run(ops.afeedback(run_id, 0.5, comment="so so"))
    settled(ops)
    told = list(ops.callbacks[1].client.list_feedback(run_ids=[run_id]))
    assert [(one.key, one.score, one.comment) for one in told] == [("user_score", 0.5, "so so")]
    ops.feedback(seen[0].record.identity.request, 1, key="by_request")
    settled(ops)
    assert {one.key for one in ops.callbacks[1].client.list_feedback(run_ids=[run_id])} == {"user_score", "by_request"}
    link = ops.share_link(run_id)
    assert link.startswith(recorder.url)
    assert run_id in httpx.get(link, follow_redirects=True).text


def test_feedback_is_kept_when_langsmith_is_away(ops, caplog, monkeypatch):
    monkeypatch.setattr(ops.callbacks[1].client, "api_url", "http://127.0.0.1:1")
    ops.feedback("01a1fe06-6a00-755e-bad8-060453533d31", 1)
    assert "LangSmith did not take the feedback" in caplog.text
