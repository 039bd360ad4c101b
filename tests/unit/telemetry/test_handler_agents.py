"""Records of whole turns: agents, tools, graphs, chains; parents, traces, and runs that never ended."""

from __future__ import annotations

import asyncio

import pytest
from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ModelRateLimitError
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import ToolException, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt

from langchain_llmops.core.types import ErrorKind, Identity, Usage
from tests.support.models import Hang, ScriptedModel, answer, chunk, lookup, tool_call
from tests.unit.telemetry.conftest import WHO


@tool
def breaks(order_id: str) -> str:
    """Always fails."""
    raise ValueError("database password=hunter2 gone")


def script() -> ScriptedModel:
    return ScriptedModel(answer("", tool_calls=[tool_call("lookup", order_id="7")]), answer("It is shipped."))


ASK = {"messages": [("user", "Where is order 7?")]}


def check_turn(told, handler) -> None:
    assert [record.kind for record in told] == ["model", "tool", "model", "turn"]
    turn = told[-1]
    assert {record.identity for record in told} == {WHO}
    assert {record.trace_id for record in told} == {turn.run_id}
    assert turn.parent_run_id is None
    assert {record.parent_run_id for record in told[:-1]} == {turn.run_id}, "the nearest run that has a record"
    assert [record.node for record in told] == ["model", "tools", "model", None]
    assert len({record.run_id for record in told}) == 4
    assert (told[1].name, told[1].error_kind) == ("lookup", None)
    assert (turn.usage, turn.money) == (Usage(), None), "a turn's tokens are those of its calls"
    assert handler.open_runs == 0


def test_an_agents_turn_is_a_record_per_model_call_tool_call_and_turn(config, told, handler) -> None:
    create_agent(script(), [lookup]).invoke(ASK, config)
    check_turn(told, handler)


async def test_an_async_turn_is_the_same_records(config, told, handler) -> None:
    await create_agent(script(), [lookup]).ainvoke(ASK, config)
    check_turn(told, handler)


def test_a_streamed_turn_is_the_same_records(config, told, handler) -> None:
    list(create_agent(script(), [lookup]).stream(ASK, config, stream_mode="messages"))
    check_turn(told, handler)


async def test_an_async_streamed_turn_is_the_same_records(config, told, handler) -> None:
    async for _ in create_agent(script(), [lookup]).astream(ASK, config, stream_mode="updates"):
        pass
    check_turn(told, handler)


def test_the_same_handler_attached_and_in_the_config_records_once(config, told, handler) -> None:
    agent = create_agent(script(), [lookup]).with_config(callbacks=[handler])
    agent.invoke(ASK, config)
    check_turn(told, handler)


def test_a_thread_of_a_checkpointed_agent_is_the_session(handler, told) -> None:
    agent = create_agent(script(), [lookup], checkpointer=InMemorySaver())
    agent.invoke(ASK, {"callbacks": [handler], "configurable": {"thread_id": "t1"}})
    assert {record.identity for record in told} == {Identity(session="t1")}


def test_two_turns_are_two_traces(config, told) -> None:
    agent = create_agent(ScriptedModel(), [])
    agent.invoke(ASK, config)
    agent.invoke(ASK, config)
    assert len({record.trace_id for record in told}) == 2
    assert len(told.of("turn")) == 2


def test_a_chain_is_a_turn_and_its_links_are_not(config, told, handler) -> None:
    chain = ChatPromptTemplate.from_template("{q}") | ScriptedModel() | StrOutputParser()
    assert chain.invoke({"q": "hi"}, config) == "ok"
    assert [record.kind for record in told] == ["model", "turn"]
    assert handler.open_runs == 0


def test_a_model_alone_is_no_turn(config, told) -> None:
    ScriptedModel().invoke("hi", config)
    assert [record.kind for record in told] == ["model"]


def test_a_retriever_is_recorded_as_one(config, told, handler) -> None:
    class Shelf(BaseRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            if query == "broken":
                raise TimeoutError("index away")
            return []

    Shelf().invoke("books", config)
    with pytest.raises(TimeoutError):
        Shelf().invoke("broken", config)
    assert [(record.kind, record.error_kind) for record in told] == [
        ("retriever", None),
        ("retriever", ErrorKind.TIMEOUT),
    ]
    assert handler.open_runs == 0


# failures


def test_a_tool_that_raises_is_one_failed_call_and_one_failed_turn(config, told, handler) -> None:
    model = ScriptedModel(answer("", tool_calls=[tool_call("breaks", order_id="7")]))
    with pytest.raises(ValueError, match="gone"):
        create_agent(model, [breaks]).invoke(ASK, config)
    failed = [(record.kind, record.error_class) for record in told if record.error_kind]
    assert failed == [("tool", "ValueError"), ("turn", "ValueError")]
    assert "hunter2" not in repr(list(told))
    assert handler.open_runs == 0


def test_a_tool_that_reports_an_error_is_a_failed_call_of_a_turn_that_went_well(config, told) -> None:
    @tool
    def polite(order_id: str) -> str:
        """Fails politely."""
        raise ToolException("no such order")

    polite.handle_tool_error = True
    model = ScriptedModel(answer("", tool_calls=[tool_call("polite", order_id="7")]), answer("Sorry."))
    create_agent(model, [polite]).invoke(ASK, config)
    assert [(record.kind, record.error_class) for record in told if record.error_kind] == [("tool", "ToolMessage")]
    assert told.of("turn")[0].error_kind is None


def test_a_tool_message_of_success_is_no_error(handler, told) -> None:
    call = {**tool_call("lookup", order_id="7")}
    message = lookup.invoke(call, {"callbacks": [handler]})
    assert isinstance(message, ToolMessage)
    assert told.only.error_kind is None


def test_a_model_that_fails_ends_the_turn_as_failed(config, told, handler) -> None:
    with pytest.raises(ModelRateLimitError):
        create_agent(ScriptedModel(ModelRateLimitError()), []).invoke(ASK, config)
    assert [(record.kind, record.error_kind) for record in told] == [
        ("model", ErrorKind.RATE_LIMIT),
        ("turn", ErrorKind.RATE_LIMIT),
    ]
    assert handler.open_runs == 0


async def _cancel_in_the_model(run, hang: Hang) -> None:
    task = asyncio.create_task(run)
    await hang.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_an_interrupt_for_a_human_is_no_failure(config, told, handler) -> None:
    @tool
    def ask(question: str) -> str:
        """Ask a human."""
        return interrupt(question)

    model = ScriptedModel(answer("", tool_calls=[tool_call("ask", question="ok?")]), answer("done"))
    agent = create_agent(model, [ask], checkpointer=InMemorySaver())
    config["configurable"] = {"thread_id": "t"}
    agent.invoke(ASK, config)
    agent.invoke(Command(resume="yes"), config)
    assert [record.error_kind for record in told] == [None] * len(told)
    assert [record.outcome for record in told.of("tool")] == ["interrupted", None]
    assert handler.open_runs == 0


class KeepsIds(BaseCallbackHandler):
    def __init__(self) -> None:
        self.ids = []

    def on_chat_model_start(self, serialized, messages, *, run_id, **kwargs) -> None:
        self.ids.append(run_id)


async def test_a_cancelled_turn_leaves_no_open_run_and_may_have_cost(config, told, handler) -> None:
    hang = Hang()
    await _cancel_in_the_model(create_agent(ScriptedModel(hang), []).ainvoke(ASK, config), hang)
    assert handler.open_runs == 0
    (model,) = told.of("model")
    assert (model.error_kind, model.error_class, model.estimated) == (ErrorKind.CANCELLED, "CancelledError", True)
    assert model.money is not None
    assert [record.error_kind for record in told.of("turn")] == [ErrorKind.CANCELLED]


async def test_fifty_cancelled_chains_leave_no_open_run(config, told, handler) -> None:
    hangs = [Hang() for _ in range(50)]
    chains = [RunnableLambda(lambda x: x) | ScriptedModel(hang) for hang in hangs]
    tasks = [asyncio.create_task(chain.ainvoke("hi", config)) for chain in chains]
    await asyncio.gather(*(hang.reached.wait() for hang in hangs))
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert handler.open_runs == 0
    assert [record.error_kind for record in told.of("model")] == [ErrorKind.CANCELLED] * 50


def test_a_run_open_for_more_than_a_day_is_swept_and_its_late_end_changes_nothing(config, told, handler, clock) -> None:
    stream = ScriptedModel([chunk("one"), chunk("two")]).stream("hi", config)
    next(stream)
    clock.pass_s(90_000)
    ScriptedModel().invoke("hi", config)
    assert handler.open_runs == 0
    assert [record.error_kind for record in told] == [ErrorKind.CANCELLED, None]
    list(stream)
    assert len(told) == 2


def test_a_long_turn_below_the_limit_is_left_alone(config, told, handler, clock) -> None:
    stream = ScriptedModel([chunk("one"), chunk(finish_reason="stop", usage=(10, 5))]).stream("hi", config)
    next(stream)
    clock.pass_s(80_000)
    ScriptedModel().invoke("hi", config)
    list(stream)
    assert [record.error_kind for record in told] == [None, None]


async def test_what_goes_on_in_the_background_after_its_parent_is_not_given_up(config, told, handler) -> None:
    go, tasks = asyncio.Event(), []

    async def wait(_):
        await go.wait()
        return "done"

    async def start(_):
        tasks.append(asyncio.create_task((RunnableLambda(wait) | ScriptedModel()).ainvoke("later")))
        await asyncio.sleep(0)
        return "started"

    await RunnableLambda(start).ainvoke("hi", config)
    go.set()
    await asyncio.gather(*tasks)
    assert [record.error_kind for record in told] == [None, None]
    assert handler.open_runs == 0


async def test_an_orphan_whose_id_somebody_holds_is_given_up_after_a_while(config, told, handler, clock) -> None:
    """LangChain's own tracer never lets go of an id."""
    hang, tracer = Hang(), KeepsIds()
    config["callbacks"].append(tracer)

    async def start(_):
        task = asyncio.create_task(ScriptedModel(hang).ainvoke("hi"))
        await hang.reached.wait()
        task.cancel()
        await asyncio.wait([task])

    await RunnableLambda(start).ainvoke("hi", config)
    assert handler.open_runs == 1
    clock.pass_s(301)
    assert handler.open_runs == 0
    assert [record.error_kind for record in told.of("model")] == [ErrorKind.CANCELLED]


def test_an_end_without_a_start_is_no_record(handler, told) -> None:
    """A handler attached in the middle of a run hears only its end."""
    import uuid

    from langchain_core.outputs import LLMResult

    handler.on_llm_end(LLMResult(generations=[]), run_id=uuid.uuid4())
    handler.on_tool_end("x", run_id=uuid.uuid4())
    handler.on_chain_error(ValueError(), run_id=uuid.uuid4())
    handler.on_llm_new_token("x", run_id=uuid.uuid4())
    assert list(told) == []


def test_an_answer_without_a_generation_is_still_a_record(handler, told) -> None:
    import uuid

    from langchain_core.outputs import LLMResult

    run = uuid.uuid4()
    handler.on_chat_model_start({}, [[HumanMessage("hi")]], run_id=run, metadata={})
    handler.on_llm_end(LLMResult(generations=[]), run_id=run)
    assert told.only.estimated
    assert told.only.unpriced
