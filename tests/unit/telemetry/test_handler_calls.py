"""One record per model call: identity, tokens, money, time, errors."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import CallbackManager
from langchain_core.exceptions import ModelRateLimitError, ModelTimeoutError
from langchain_core.language_models import FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from langchain_llmops.core.context import ARM, ATTEMPT, EXPERIMENT, ROUTE, RUNG
from langchain_llmops.core.events import Bus
from langchain_llmops.core.types import ErrorKind, Identity, Money, Usage
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.models import Hang, ScriptedModel, answer
from tests.unit.telemetry.conftest import COST, WHO


def test_a_call_is_one_record_with_who_what_and_how_much(config, told) -> None:
    ScriptedModel().invoke("hi", config)
    record = told.only
    assert (record.kind, record.identity) == ("model", WHO)
    assert (record.provider, record.model) == ("openai", "gpt-4o-mini")
    assert (record.usage, record.money, record.cost_usd) == (Usage(10, 5), COST, COST.total_usd)
    assert (record.estimated, record.unpriced, record.error_kind, record.cache_level) == (False, False, None, None)
    assert (record.finish_reason, record.streamed, record.ttft_s) == ("stop", False, None)
    assert "beta" in record.tags
    assert record.trace_id == record.run_id
    assert record.parent_run_id is None


async def test_an_async_call_is_the_same_record(config, told, handler) -> None:
    await ScriptedModel().ainvoke("hi", config)
    assert (told.only.identity, told.only.usage, told.only.money) == (WHO, Usage(10, 5), COST)
    assert handler.open_runs == 0


def test_langchains_own_fake_model_is_recorded(config, told) -> None:
    GenericFakeChatModel(messages=iter([AIMessage("ok")])).invoke("hi", config)
    assert told.only.identity == WHO
    assert told.only.estimated
    assert told.only.unpriced


def test_the_model_that_answered_is_the_one_that_is_priced(config, told) -> None:
    """A provider may answer with a dated name, or with another model."""
    ScriptedModel(answer(response_metadata={"model_name": "gpt-4o-2024-08-06"})).invoke("hi", config)
    assert told.only.model == "gpt-4o-2024-08-06"
    assert told.only.money == Money(Decimal("0.000025"), Decimal("0.00005"))


def test_a_thread_stands_in_for_a_session(handler, told) -> None:
    ScriptedModel().invoke("hi", {"callbacks": [handler], "metadata": {"thread_id": "t1"}})
    assert told.only.identity == Identity(session="t1")


def test_route_rung_and_attempt_come_from_the_metadata(config, told) -> None:
    config["metadata"] |= {ROUTE: "simple", RUNG: 1, ATTEMPT: 2}
    ScriptedModel().invoke("hi", config)
    assert (told.only.route, told.only.rung, told.only.attempt) == ("simple", 1, 2)


def test_time_is_measured_from_start_to_end(config, told, clock) -> None:
    def slow(_):
        clock.pass_s(2.5)
        return "ok"

    ScriptedModel(slow).invoke("hi", config)
    assert (told.only.started_at, told.only.latency_s) == (1000.0, 2.5)


# failures


def test_a_refused_call_costs_nothing(config, told, handler) -> None:
    with pytest.raises(ModelRateLimitError):
        ScriptedModel(ModelRateLimitError("slow down")).invoke("hi", config)
    record = told.only
    assert (record.error_kind, record.error_class) == (ErrorKind.RATE_LIMIT, "ModelRateLimitError")
    assert (record.money, record.usage, record.cost_usd) == (None, Usage(), 0)
    assert handler.open_runs == 0


def test_a_sibling_that_failed_before_is_a_retry(config, told) -> None:
    """LangChain's own `with_retry` fires no retry event."""
    model = ScriptedModel(ModelRateLimitError("slow"), ModelRateLimitError("slow"), answer())
    retrying = model.with_retry(stop_after_attempt=3, wait_exponential_jitter=False)
    (RunnableLambda(lambda text: text) | retrying).invoke("hi", config)
    assert [record.retries for record in told if record.kind == "model"] == [0, 1, 2]


def test_experiment_and_arm_come_from_the_metadata(config, told) -> None:
    config["metadata"] |= {EXPERIMENT: "prompt", ARM: "b"}
    ScriptedModel().invoke("hi", config)
    assert (told.only.experiment, told.only.arm) == ("prompt", "b")


def test_an_attempt_that_may_have_been_billed_is_priced_apart(config, told) -> None:
    with pytest.raises(ModelTimeoutError):
        ScriptedModel(ModelTimeoutError("too slow")).invoke("how are you today", config)
    record = told.only
    assert record.error_kind is ErrorKind.TIMEOUT
    assert record.estimated
    assert record.usage.input_tokens > 3
    assert record.money == Money(record.usage.input_tokens * Decimal("0.00000015"), Decimal(0))


async def test_a_cancelled_call_of_a_bare_model_is_found_when_it_is_gone(config, told, handler) -> None:
    """LangChain fires no end event for it; nothing above it can end it either."""
    for _ in range(20):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ScriptedModel(Hang()).ainvoke("hi", config), 0.001)
    await asyncio.sleep(0)
    assert handler.open_runs == 0
    assert [record.error_kind for record in told] == [ErrorKind.CANCELLED] * 20
    assert all(record.estimated and record.cost_usd > 0 for record in told)


# tokens that nobody reported, and models without a price


def test_missing_usage_is_estimated_and_says_so(config, told) -> None:
    ScriptedModel(answer("four words of text", usage=None)).invoke("some question of mine", config)
    record = told.only
    assert record.estimated
    assert record.usage.input_tokens >= 4
    assert record.usage.output_tokens >= 4
    assert record.money is not None
    assert record.cost_usd > 0


def test_a_text_model_is_counted_too(config, told) -> None:
    FakeListLLM(responses=["an answer of some words"]).invoke("a question of some words", config)
    record = told.only
    assert record.kind == "model"
    assert record.estimated
    assert record.usage.input_tokens >= 5
    assert record.usage.output_tokens >= 5


def test_a_model_without_a_price_is_unpriced_and_not_free(config, told) -> None:
    ScriptedModel(model_name="my-own-model", provider="vllm").invoke("hi", config)
    assert told.only.unpriced
    assert told.only.money is None
    assert told.only.usage == Usage(10, 5)


# cache hits


def test_langchains_own_cache_hit_costs_nothing_and_saves(config, told) -> None:
    model = ScriptedModel(cache=InMemoryCache())
    model.invoke("hi", config)
    model.invoke("hi", config)
    missed, hit = told
    assert (missed.cache_level, missed.money) == (None, COST)
    assert (hit.cache_level, hit.money, hit.cost_usd, hit.usage) == ("other", Money(), 0, Usage())
    assert (hit.saved, hit.saved_usd) == (Usage(10, 5), COST.total_usd)


def test_our_own_cache_hit_costs_nothing_and_saves(config, told) -> None:
    saved = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
    meta = {"llmops_cache": {"level": "L2", "age_s": 3.0, "saved": saved}}
    ScriptedModel(answer(usage=(0, 0), response_metadata=meta)).invoke("hi", config)
    hit = told.only
    assert (hit.cache_level, hit.money, hit.usage) == ("L2", Money(), Usage())
    assert (hit.saved, hit.saved_usd) == (Usage(10, 5), COST.total_usd)


def test_a_hit_of_a_model_without_a_price_saves_an_unknown_sum(config, told) -> None:
    meta = {"llmops_cache": {"level": "L1", "age_s": 0.0, "saved": None}}
    ScriptedModel(answer(usage=(0, 0), response_metadata=meta), model_name="my-own").invoke("hi", config)
    assert (told.only.saved_usd, told.only.money) == (None, Money())


def test_a_hit_saves_what_the_tier_would_have_cost(config, told) -> None:
    meta = {"llmops_cache": {"level": "L1", "age_s": 0.0, "saved": answer(usage=(1000, 0)).usage_metadata}}
    flex = answer(usage=(0, 0), response_metadata={**meta, "service_tier": "flex"})
    ScriptedModel(flex, model_name="o3").invoke("hi", config)
    assert told.only.saved_usd == Decimal("0.001")


# many at once


def test_a_batch_is_one_record_per_input(config, told) -> None:
    ScriptedModel().batch(["a", "b", "c"], config)
    assert len(told) == 3
    assert len({record.run_id for record in told}) == 3
    assert {record.identity for record in told} == {WHO}


def test_generate_with_two_prompts_is_two_records(handler, told) -> None:
    ScriptedModel().generate([[HumanMessage("a")], [HumanMessage("b")]], callbacks=[handler])
    assert [record.usage for record in told] == [Usage(10, 5)] * 2
    assert len({record.prompt_hash for record in told}) == 2


def test_fifty_threads_lose_no_record_and_mix_no_identity(handler, told) -> None:
    model = ScriptedModel()

    def call(number: int) -> None:
        model.invoke("hi", {"callbacks": [handler], "metadata": {"user_id": f"u{number}"}})

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(call, range(50)))
    assert {record.identity.user for record in told} == {f"u{number}" for number in range(50)}
    assert len(told) == 50
    assert handler.open_runs == 0


async def test_fifty_tasks_lose_no_record_and_mix_no_identity(handler, told) -> None:
    model = ScriptedModel()
    calls = (model.ainvoke("hi", {"callbacks": [handler], "metadata": {"user_id": f"u{n}"}}) for n in range(50))
    await asyncio.gather(*calls)
    assert sorted(record.identity.user for record in told) == sorted(f"u{n}" for n in range(50))
    assert handler.open_runs == 0


def test_the_same_handler_given_twice_records_once(handler, told) -> None:
    model = ScriptedModel(callbacks=[handler])
    manager = CallbackManager(handlers=[handler], inheritable_handlers=[handler])
    attached = model.with_config(callbacks=manager)
    attached.invoke("hi", {"callbacks": [handler]})
    assert len(told) == 1
    assert handler.open_runs == 0


def test_two_handlers_record_each_for_itself(bus, told) -> None:
    handlers = [OpsCallbackHandler(bus), OpsCallbackHandler(bus)]
    ScriptedModel().invoke("hi", {"callbacks": handlers})
    assert len(told) == 2


def test_runs_that_name_no_tenant_are_the_handlers(bus, told) -> None:
    handler = OpsCallbackHandler(bus, tenant="acme")
    for metadata in ({}, {"user_id": "u1"}, {"tenant_id": "other"}):
        ScriptedModel().invoke("hi", {"callbacks": [handler], "metadata": metadata})
    assert [record.identity.tenant for record in told] == ["acme", "acme", "other"]


def test_a_failing_reader_never_reaches_the_caller(config, bus) -> None:
    def broken(_) -> None:
        raise RuntimeError("disk full")

    bus.subscribe(broken)
    assert ScriptedModel().invoke("hi", config).text == "ok"
    assert sum(bus.failures.values()) == 1


def test_a_handler_works_alone(told) -> None:
    handler = OpsCallbackHandler()
    handler.bus.subscribe(told)
    assert isinstance(handler.bus, Bus)
    ScriptedModel().invoke("hi", {"callbacks": [handler]})
    assert told.only.money == COST
