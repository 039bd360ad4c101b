"""Unmodified LangChain programs and LangSmith's own client against `llmops traces`."""

from __future__ import annotations

import asyncio
import re
from decimal import Decimal

import httpx
import langsmith
import pytest
from langchain.agents import create_agent
from langchain_core.tools import tool
from langchain_core.tracers.langchain import LangChainTracer
from langchain_openai import ChatOpenAI
from langsmith import Client, traceable
from langsmith.utils import LangSmithNotFoundError

from langchain_llmops.recorder.running import running as recording
from langchain_llmops.simulator import Latency, Scripted, running
from tests.support.langsmith import variables
from tests.support.models import eventually, lookup

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::langsmith.utils.LangSmithWarning")

SCRIPT = [
    {"when": {"last_role": "tool"}, "reply": {"content": "It is shipped."}},
    {"when": {"contains": "broken"}, "reply": {"tool_calls": [{"name": "refund", "arguments": {"order_id": "1"}}]}},
    {"when": {"contains": "order"}, "reply": {"tool_calls": [{"name": "lookup", "arguments": {"order_id": "1"}}]}},
    {"default": {"content": "Hello."}},
]


@tool
def refund(order_id: str) -> str:
    """Give the money back."""
    raise RuntimeError("the till is empty")


@pytest.fixture(scope="module")
def recorder():
    with recording() as recorder:
        yield recorder


@pytest.fixture
def client(request, recorder):
    """LangSmith's client in one of its ways to send."""
    sends = getattr(request, "param", "compressed")
    with variables({"LANGSMITH_DISABLE_RUN_COMPRESSION": "true"} if sends == "multipart" else {}):
        automatic = sends != "single"
        client = Client(api_url=recorder.url, api_key="local", web_url=recorder.url, auto_batch_tracing=automatic)
        yield client
        client.cleanup()


@pytest.fixture(scope="module")
def simulator():
    with running(Scripted(SCRIPT), latency=Latency(ttft_s=0.0, token_s=0.0)) as simulator:
        yield simulator


def config(client, project) -> dict:
    metadata = {"user_id": "u1", "thread_id": project}
    return {"callbacks": [LangChainTracer(client=client, project_name=project)], "metadata": metadata}


def model(simulator, **options) -> ChatOpenAI:
    return ChatOpenAI(model="gpt-4o-mini", base_url=simulator.base_url, api_key="x", stream_usage=True, **options)


def listed(client, project) -> list:
    client.flush()
    return list(client.list_runs(project_name=project))


async def asked(simulator, question, config, *, stream: bool) -> None:
    """Its own client: the one that ChatOpenAI keeps outlives the loop with open sockets."""
    async with httpx.AsyncClient() as sockets:
        agent = create_agent(model(simulator, http_async_client=sockets), [lookup])
        if not stream:
            await agent.ainvoke(question, config)
            return
        async for _ in agent.astream(question, config, stream_mode="messages"):
            pass


WAYS = [("compressed", "invoke"), ("compressed", "stream"), ("compressed", "ainvoke"), ("compressed", "astream")]
WAYS += [("multipart", "invoke"), ("single", "stream")]


@pytest.mark.parametrize(("client", "way"), WAYS, indirect=["client"])
def test_an_agents_trace_is_whole_and_readable_by_langsmiths_client(client, recorder, simulator, way, request):
    project = request.node.name
    agent = create_agent(model(simulator), [lookup])
    question = {"messages": [("user", "Where is my order?")]}
    if way == "invoke":
        agent.invoke(question, config(client, project))
    elif way == "stream":
        list(agent.stream(question, config(client, project)))
    else:
        asyncio.run(asked(simulator, question, config(client, project), stream=way == "astream"))
    runs = listed(client, project)
    assert sorted(run.name for run in runs) == sorted(
        ["LangGraph", "model", "ChatOpenAI", "tools", "lookup", "model", "ChatOpenAI"]
    )
    assert {run.status for run in runs} == {"success"}
    assert {run.extra["metadata"]["user_id"] for run in runs} == {"u1"}
    for run in (run for run in runs if run.run_type == "llm"):  # priced by the list, as the client sends tokens alone
        cost = (Decimal(run.prompt_tokens) * 15 + Decimal(run.completion_tokens) * 60) / 10**8
        assert run.total_cost == cost > 0
    assert {run.total_cost for run in runs if run.run_type != "llm"} == {None}
    root = next(run for run in runs if run.parent_run_id is None)
    tree = client.read_run(root.id, load_child_runs=True)
    assert [run.name for run in tree.child_runs] == ["model", "tools", "model"]
    assert httpx.get(root.url).status_code == 200
    assert "It is shipped." in httpx.get(f"{recorder.url}/threads/{project}").text
    assert recorder.problems == []


def test_a_tool_that_raises_is_shown_where_it_failed(client, recorder, simulator, request):
    project = request.node.name
    with pytest.raises(RuntimeError, match="till"):
        create_agent(model(simulator), [refund]).invoke({"messages": [("user", "broken")]}, config(client, project))
    failed = {run.name for run in listed(client, project) if run.error}
    assert failed == {"LangGraph", "tools", "refund"}
    assert {run.name for run in client.list_runs(project_name=project, error=True)} == failed
    assert {run.name for run in client.list_runs(project_name=project, error=False)} == {"model", "ChatOpenAI"}
    page = httpx.get(recorder.url, params={"errors": "1", "project": project}).text
    assert re.findall(r"class='state (\w+)'", page) == ["error"]
    page = httpx.get(recorder.url + re.search(r"href='(/traces/[^']+)'", page)[1]).text
    assert "<p class=error>RuntimeError(&#x27;the till is empty&#x27;)</p>" in page


def test_a_cancelled_call_stays_open_and_hurts_nothing(client, recorder, request):
    project = request.node.name

    async def cancel() -> None:
        async with httpx.AsyncClient() as sockets:
            slow = model(stalled, http_async_client=sockets)
            task = asyncio.create_task(slow.ainvoke("hello", config(client, project)))
            await asyncio.to_thread(eventually, lambda: stalled.stats.as_dict()["requests"] == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    with running(latency=Latency(ttft_s=60.0)) as stalled:
        asyncio.run(cancel())
    (run,) = listed(client, project)
    assert (run.status, run.end_time) == ("pending", None)
    assert "open" in httpx.get(f"{recorder.url}/traces/{run.trace_id}").text


def test_feedback_projects_and_links_work_through_the_client(client, recorder, request):
    project = request.node.name

    @traceable(client=client, project_name=project, enabled=True)
    def work(x):
        return {"y": x}

    with langsmith.tracing_context(enabled=True):
        work(1)
    (run,) = listed(client, project)
    client.create_feedback(run_id=run.id, trace_id=run.trace_id, key="good", score=0.5, comment="so so")
    client.flush()
    (feedback,) = client.list_feedback(run_ids=[run.id])
    assert (feedback.key, feedback.score, feedback.comment) == ("good", 0.5, "so so")
    client.update_feedback(feedback.id, score=1)
    assert client.read_feedback(feedback.id).score == 1
    assert "<span title='so so'>good 1</span>" in httpx.get(f"{recorder.url}/traces/{run.trace_id}").text
    client.delete_feedback(feedback.id)
    assert list(client.list_feedback(run_ids=[run.id])) == []
    assert httpx.get(client.share_run(run.id), follow_redirects=True).status_code == 200
    client.update_run(run.id, tags=["later"])
    client.flush()
    assert client.read_run(run.id).tags == ["later"]
    assert client.create_project(project + "-new").id == client.read_project(project_name=project + "-new").id
    assert project in {found.name for found in client.list_projects()}


def test_what_was_never_sent_is_not_found(client):
    with pytest.raises(LangSmithNotFoundError):
        client.read_run("00000000-0000-4000-8000-000000000000")
    assert not client.has_project("nowhere")


def test_a_long_list_of_runs_is_read_to_its_end(client, recorder, request):
    project = request.node.name
    runs = [
        {"id": f"00000000-0000-4000-8000-{n:012d}", "name": f"n{n}", "run_type": "chain", "session_name": project,
         "start_time": f"2026-01-01T00:00:{n % 60:02d}Z"} for n in range(230)
    ]  # fmt: skip
    assert httpx.post(f"{recorder.url}/runs/batch", json={"post": runs}).status_code == 202
    assert sorted(run.name for run in listed(client, project)) == sorted(run["name"] for run in runs)
