"""What is counted once, what is a retry, and what a provider did not mean to say."""

from __future__ import annotations

import asyncio
import time
from contextvars import copy_context
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import CallbackManager
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda, RunnableParallel
from langchain_core.tools import tool
from langgraph.errors import GraphInterrupt

from langchain_llmops.core.types import ErrorKind, Usage
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from langchain_llmops.telemetry.runs import REMEMBERED
from tests.support.models import Hang, ScriptedModel, answer, chunk


class Wrapper(BaseChatModel):
    """Asks other models with its own run's callbacks, and passes on the last answer with `usage` (None: as it is)."""

    inner: list[Any]
    usage: dict[str, Any] | None = None

    @property
    def _llm_type(self) -> str:
        return "wrapper"

    def _generate(self, messages: Any, stop: Any = None, run_manager: Any = None, **kwargs: Any) -> ChatResult:
        below = CallbackManager(
            run_manager.handlers, run_manager.inheritable_handlers, parent_run_id=run_manager.run_id
        )
        for model in self.inner:
            said = model.invoke(messages, {"callbacks": below})
        usage = said.usage_metadata if self.usage is None else (self.usage or None)
        return ChatResult(generations=[ChatGeneration(message=said.model_copy(update={"usage_metadata": usage}))])


def counts(*sums: int) -> dict[str, int]:
    return dict(zip(("input_tokens", "output_tokens", "total_tokens"), (*sums, sum(sums)), strict=True))


PASSED_ON = {"as it is": None, "summed up": counts(30, 15), "not at all": {}}


@pytest.mark.parametrize("usage", PASSED_ON.values(), ids=PASSED_ON)
def test_a_model_that_passes_on_the_tokens_of_others_is_not_counted_again(config, told, handler, usage) -> None:
    inner = [ScriptedModel(answer(usage=(20, 10))), ScriptedModel(answer(usage=(10, 5)))]
    Wrapper(inner=inner, usage=usage).invoke("hi", config)
    assert [record.usage for record in told] == [Usage(20, 10), Usage(10, 5)]
    assert handler.open_runs == 0


def test_a_model_that_asks_another_and_a_provider_of_its_own_is_counted(config, told) -> None:
    Wrapper(inner=[ScriptedModel(answer(usage=(20, 10)))], usage=counts(100, 50)).invoke("hi", config)
    assert [record.usage for record in told] == [Usage(20, 10), Usage(100, 50)]


@pytest.mark.parametrize("name", ["gpt-4o-mini", "aab"])
def test_what_every_piece_of_a_stream_repeats_is_said_once(config, told, name) -> None:
    pieces = [chunk("a", model_name=name, finish_reason="stop") for _ in range(3)]
    list(ScriptedModel([*pieces, chunk(usage=(10, 5))], model_name="x").stream("hi", config))
    assert (told.only.model, told.only.finish_reason) == (name, "stop")


def test_a_name_that_repeats_itself_is_left_alone_without_a_stream(config, told) -> None:
    ScriptedModel(answer(response_metadata={"model_name": "echoecho"})).invoke("hi", config)
    assert told.only.model == "echoecho"


def test_a_stream_that_reports_no_tokens_at_all_is_estimated(config, told) -> None:
    list(ScriptedModel([chunk("four words of text"), chunk(usage=(0, 0))]).stream("hi there", config))
    assert told.only.estimated
    assert told.only.usage.output_tokens >= 4


def test_a_hit_in_langchains_cache_saves_also_where_no_tokens_were_reported(config, told) -> None:
    model = ScriptedModel(answer("four words of text", usage=None), cache=InMemoryCache())
    for _ in range(2):
        model.invoke("hi", config)
    asked, hit = told
    assert (hit.cache_level, hit.cost_usd) == ("other", 0)
    assert hit.saved_usd == asked.cost_usd > 0


# retries


def test_attempts_of_a_chain_without_a_parent_are_retries(config, told) -> None:
    model = ScriptedModel(ConnectionError("x"), ConnectionError("x"), answer())
    for attempt in (1, 2, 3):
        metadata = config["metadata"] | {"llmops_attempt": attempt}
        try:
            model.invoke("hi", config | {"metadata": metadata})
        except ConnectionError:
            assert attempt < 3
    assert [(record.attempt, record.retries) for record in told] == [(1, 0), (2, 1), (3, 2)]


@pytest.fixture
def live(told) -> OpsCallbackHandler:
    handler = OpsCallbackHandler()
    handler.bus.subscribe(told)
    return handler


def test_a_call_that_began_before_another_failed_is_no_retry_of_it(live, told) -> None:
    def slow(_):
        time.sleep(0.05)
        return "ok"

    def broken(_):
        raise ConnectionError("x")

    both = RunnableParallel(a=ScriptedModel(slow), b=RunnableLambda(lambda _: None) | ScriptedModel(broken))
    same = RunnableParallel(a=ScriptedModel(slow), b=ScriptedModel(broken))
    for graph in (both, same):
        with pytest.raises((ConnectionError, ValueError)):
            graph.invoke("hi", {"callbacks": [live]})
    assert {record.retries for record in told.of("model")} == {0}


def test_another_question_after_a_failure_is_no_retry(config, told) -> None:
    model = ScriptedModel(ConnectionError("x"), answer(), answer())

    def ask(_):
        with pytest.raises(ConnectionError):
            model.invoke("one")
        return [model.invoke("two"), model.invoke("one")]

    RunnableLambda(ask).invoke("go", config)
    assert [record.retries for record in told.of("model")] == [0, 0, 1]


def test_a_tool_called_after_it_was_interrupted_for_a_human_is_no_retry(config, told) -> None:
    @tool
    def approve(what: str) -> str:
        """Ask a human."""
        raise GraphInterrupt

    def ask_twice(_):
        for _again in range(2):
            with pytest.raises(GraphInterrupt):
                approve.invoke({"what": "a refund"})

    RunnableLambda(ask_twice).invoke("go", config)
    assert [(record.retries, record.outcome) for record in told.of("tool")] == [(0, "interrupted")] * 2


# strange and unfinished runs


def test_what_a_chain_left_behind_belongs_to_its_trace(config, told, handler) -> None:
    late = []

    def leave(_):
        ScriptedModel().invoke("now")
        late.append(copy_context())

    RunnableLambda(leave).invoke("go", config)
    assert handler.open_runs == 0
    late[0].run(ScriptedModel().invoke, "later")
    now, turn, later = told
    assert later.trace_id == turn.run_id == now.trace_id
    assert later.parent_run_id == turn.run_id
    assert handler.open_runs == 0


def test_ended_chains_are_remembered_within_bounds(config, handler) -> None:
    chain = RunnableLambda(lambda _: None) | RunnableLambda(lambda _: None)
    for _ in range(REMEMBERED + 50):
        chain.invoke("go", config)
    assert len(handler._runs._ended) <= REMEMBERED


def test_a_strangers_route_becomes_text_and_numbers_stay_numbers(config, told) -> None:
    strange = {"llmops_route": ["a"], "llmops_arm": 7, "llmops_rung": "first", "llmops_attempt": True}
    ScriptedModel().invoke("hi", config | {"metadata": strange})
    record = told.only
    assert (record.route, record.arm, record.rung, record.attempt, record.retries) == ("['a']", "7", None, None, 0)


async def test_what_is_open_at_the_close_is_recorded_as_cut_off(config, told, handler) -> None:
    hangs = [Hang() for _ in range(3)]
    tasks = [asyncio.create_task(ScriptedModel(hang).ainvoke("hi", config)) for hang in hangs]
    await asyncio.gather(*[hang.reached.wait() for hang in hangs])
    handler.close()
    assert [record.error_kind for record in told] == [ErrorKind.CANCELLED] * 3
    assert all(record.estimated and record.cost_usd > 0 for record in told)
    assert handler.open_runs == 0
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len(told) == 3


def test_a_text_that_is_too_long_to_keep_is_counted_and_told_once(told, bus, caplog) -> None:
    handler = OpsCallbackHandler(bus, keep_content=True)
    for _ in range(2):
        ScriptedModel().invoke([HumanMessage("short"), HumanMessage("x" * 300_000)], {"callbacks": [handler]})
    ScriptedModel().invoke("short", {"callbacks": [handler]})
    assert handler.cut == 2
    assert sum("is cut in recorded content" in line.message for line in caplog.records) == 1
    assert [len(record.content) > 262_144 for record in told] == [True, True, False]
