"""With tracing on, an installed suite traces every context of the process, once, into the project that was named."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import langsmith
import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain_core.callbacks import CallbackManager
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.langchain import wait_for_all_tracers

from langchain_llmops.recorder.running import running as recording
from tests.support.langsmith import opened, traced_to
from tests.support.models import ScriptedModel, chunk

ADA = "I am ada@example.com"


@pytest.fixture
def recorder():
    with recording() as recorder, traced_to(recorder.url, "of-the-environment"):
        yield recorder


@pytest.fixture
def ops(recorder, tmp_path):
    with opened(tmp_path) as ops:
        yield ops


def model(*script) -> ScriptedModel:
    return ScriptedModel(*script, model_name="gpt-4o")


def left_in(ops) -> list[int]:
    tracer = ops.callbacks[1]
    orders = tracer.order_map
    every = (orders, orders._tops, orders._below, orders.again, tracer.run_map, tracer._external_run_ids)
    return [len(one) for one in every]


def test_a_bare_thread_is_traced_masked_with_its_cost_into_our_project(recorder, tmp_path) -> None:
    with opened(tmp_path, trace_anonymize=True, trace_project="mine") as ops:
        ops.install()
        thread = threading.Thread(target=lambda: model().invoke(ADA))
        thread.start()
        thread.join()
    (run,) = recorder.runs()
    assert (run["session_name"], str(run["total_cost"])) == ("mine", "0.000075")
    assert "ada@example.com" not in str(run)


async def test_requests_beside_the_lifespan_that_installs_are_traced_masked_too(recorder, tmp_path) -> None:
    with opened(tmp_path, trace_anonymize=True, trace_project="mine") as ops:

        async def lifespan() -> None:
            ops.install()

        await asyncio.create_task(lifespan())
        await asyncio.create_task(model().ainvoke(ADA))
        await asyncio.to_thread(ops.callbacks[1].client.flush)
        (run,) = recorder.runs()
    assert (run["session_name"], str(run["total_cost"])) == ("mine", "0.000075")
    assert "ada@example.com" not in str(run)


async def test_a_task_of_the_installed_time_is_langchains_own_after_it(recorder, tmp_path) -> None:
    with opened(tmp_path, trace_project="mine") as ops:
        begin = asyncio.Event()

        async def late() -> None:
            await begin.wait()
            await model().ainvoke("late")

        ops.install()
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
        ops.uninstall()
        begin.set()
        await task
        assert ops.report().as_dict()["model_calls"] == 0
    (run,) = recorder.runs()
    assert run["session_name"] == "of-the-environment"


def test_what_langsmith_is_told_not_to_trace_is_not_traced(ops, recorder) -> None:
    ops.install()
    with langsmith.tracing_context(enabled=False):
        model().invoke("secret")
    ops.callbacks[1].client.flush()
    assert recorder.runs() == []
    assert ops.report().as_dict()["model_calls"] == 1


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_nothing_is_kept_of_requests_under_langsmiths_own_decorator(ops, recorder, colour) -> None:
    chain = RunnableLambda(lambda text: text) | model()

    @langsmith.traceable
    def handle(text: str) -> None:
        chain.invoke(text, ops.config(user_id="u1"))
        chain.invoke(text, ops.config(user_id="u1"))

    @langsmith.traceable
    async def ahandle(text: str) -> None:
        await asyncio.gather(*(chain.ainvoke(text, ops.config(user_id="u1")) for _ in range(3)))

    for _ in range(5):
        handle("hi") if colour == "sync" else asyncio.run(ahandle("hi"))
    assert left_in(ops) == [0] * 6


def test_nothing_is_kept_of_traced_functions_within_a_run_or_of_agents_with_traced_middleware(ops, recorder) -> None:
    inner = langsmith.traceable(lambda: model().invoke("hi"), name="inner")
    for _ in range(5):
        RunnableLambda(lambda _: inner()).invoke("x", ops.config(user_id="u1"))
        agent = create_agent(model(), [], middleware=[ModelRetryMiddleware()])
        agent.invoke({"messages": [("user", "hi")]}, ops.config(user_id="u1"))
    assert left_in(ops) == [0] * 6


def test_threads_of_one_traced_function_make_one_trace(ops, recorder) -> None:
    """Each call that ends takes out what LangChain noted of the function; the others must find it all the same."""

    def one(context) -> None:
        with langsmith.tracing_context(parent=context):
            for _ in range(20):
                model().invoke("hi", ops.config(user_id="u1"))

    @langsmith.traceable
    def handle() -> str:
        tree = langsmith.get_current_run_tree()
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(one, [tree] * 8))
        return str(tree.id)

    root = handle()
    ops.callbacks[1].client.flush()
    wait_for_all_tracers()
    calls = recorder.runs(run_type="llm")
    assert len(calls) == 160
    assert {(run["trace_id"], run["parent_run_id"]) for run in calls} == {(root, root)}
    assert left_in(ops) == [0] * 6


def test_a_run_that_starts_after_anothers_end_took_out_its_function_is_in_the_same_trace(ops, recorder) -> None:
    @langsmith.traceable
    def handle() -> str:
        prepared = CallbackManager.configure(inheritable_callbacks=ops.callbacks)
        model().invoke("between", ops.config(user_id="u1"))
        prepared.on_chain_start({}, {"input": "x"}, name="late").on_chain_end({"output": "y"})
        return str(langsmith.get_current_run_tree().id)

    root = handle()
    (late,) = [run for run in sent(ops, recorder) if run["name"] == "late"]
    assert (late["trace_id"], late["parent_run_id"]) == (root, root)
    assert left_in(ops) == [0] * 6


@pytest.mark.parametrize("way", ["config", "install"])
@pytest.mark.parametrize("call", ["invoke", "stream"])
def test_an_attached_model_in_an_agent_with_a_key_of_its_own_is_traced_once(ops, recorder, caplog, way, call) -> None:
    """LangChain copies the tracer to add the key to what it sends."""
    agent = create_agent(ops.attach(model([chunk("a"), chunk("b", usage=(10, 5))])), [])
    config = {"configurable": {"locale": "de", "thread_id": "t"}}
    if way == "config":
        config = ops.config(user_id="u1", thread_id="t")
        config["configurable"]["locale"] = "de"
    else:
        ops.install()
    question = {"messages": [("user", "hi")]}
    agent.invoke(question, config) if call == "invoke" else list(agent.stream(question, config))
    ops.callbacks[1].client.flush()
    assert caplog.text == ""
    assert ops.report().as_dict()["model_calls"] == 1
    (run,) = recorder.runs(run_type="llm")
    assert run["status"] == "success"
    assert run["extra"]["metadata"]["locale"] == "de"
    assert recorder.problems == []


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_chain_with_the_callbacks_in_two_configs_is_traced_once(ops, recorder, caplog, colour) -> None:
    """LangChain adds two lists up, and tells a handler in both of them everything twice."""
    chain = (RunnableLambda(lambda text: text) | model()).with_config(ops.config(user_id="u1"))
    if colour == "sync":
        chain.invoke("hi", ops.config(user_id="u1"))
    else:
        asyncio.run(chain.ainvoke("hi", ops.config(user_id="u1")))
    assert sorted(run["run_type"] for run in sent(ops, recorder)) == ["chain", "chain", "llm"]
    assert all(run["status"] == "success" for run in recorder.runs())
    assert (caplog.text, recorder.problems, left_in(ops)) == ("", [], [0] * 6)


@pytest.mark.parametrize("way", ["config", "install"])
@pytest.mark.parametrize("setting", [None, "of-the-settings"])
def test_the_project_is_the_contexts_then_the_settings_then_the_environments(recorder, tmp_path, way, setting) -> None:
    with opened(tmp_path, trace_project=setting) as ops:
        if way == "install":
            ops.install()
        config = ops.config(user_id="u1") if way == "config" else {}
        agent = create_agent(model(), [], middleware=[ModelRetryMiddleware()])
        with langsmith.tracing_context(project_name="of-the-context"):
            agent.invoke({"messages": [("user", "in the context")]}, config)
            inside = {run["session_name"] for run in sent(ops, recorder)}
        model().invoke("outside", config)
        outside = {run["session_name"] for run in sent(ops, recorder)} - inside
    assert (inside, outside) == ({"of-the-context"}, {setting or "of-the-environment"})


def test_a_trace_stays_in_the_project_it_started_in(ops, recorder) -> None:
    @langsmith.traceable(project_name="of-the-function")
    def handle() -> None:
        with langsmith.tracing_context(project_name="of-the-context"):
            assert ops.callbacks[1].project_name == "of-the-function"
            model().invoke("hi", ops.config(user_id="u1"))

    handle()
    assert {run["session_name"] for run in sent(ops, recorder)} == {"of-the-function"}


def sent(ops, recorder) -> list[dict]:
    ops.callbacks[1].client.flush()
    wait_for_all_tracers()
    return recorder.runs()
