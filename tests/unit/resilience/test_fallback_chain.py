"""The fallback chain is a chat model that asks the next one, and never mixes two."""

from __future__ import annotations

import asyncio

import httpx
import openai
import pytest
from langchain.agents import create_agent
from langchain_core import exceptions as core
from langchain_core.callbacks import UsageMetadataCallbackHandler
from langchain_core.messages import HumanMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

from langchain_llmops.core.context import RUNG
from langchain_llmops.core.errors import ConfigurationError, FallbackExhaustedError, MalformedAnswerError, RefusalError
from langchain_llmops.core.types import ErrorKind as Kind
from langchain_llmops.core.types import Identity
from langchain_llmops.resilience.fallback import FallbackChain
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.chains import WHO, ask_astream, ask_stream, first, second
from tests.support.models import Hang, ScriptedModel, answer, tool_call

# every way of asking goes the same way


async def ask_invoke(chain, config):
    return chain.invoke("hi", config).text


async def ask_ainvoke(chain, config):
    return (await chain.ainvoke("hi", config)).text


async def ask_batch(chain, config):
    return chain.batch(["hi"], config)[0].text


WAYS = [ask_invoke, ask_ainvoke, ask_stream, ask_astream, ask_batch]
ways = pytest.mark.parametrize("ask", WAYS, ids=lambda way: way.__name__.removeprefix("ask_"))


@ways
async def test_when_all_is_well_only_the_first_is_asked(ask, chain, config, facts, naps) -> None:
    one, other = first("first"), second()
    assert await ask(chain(one, other), config) == "first"
    assert (one.calls, other.calls, facts.moves, naps) == (1, 0, [], [])
    assert [(call.rung, call.attempt, call.identity) for call in facts.calls] == [(0, 1, WHO)]


@ways
async def test_a_passing_error_is_tried_again_after_a_pause(ask, chain, config, facts, naps) -> None:
    one, other = first(core.ModelRateLimitError("slow"), "first"), second()
    assert await ask(chain(one, other), config) == "first"
    assert (one.calls, other.calls) == (2, 0)
    assert naps == [1.0]
    assert facts.moves == [("retried", "first", Kind.RATE_LIMIT, 2, WHO)]
    assert [(call.attempt, call.error_kind) for call in facts.calls] == [(1, Kind.RATE_LIMIT), (2, None)]


KINDS = {
    "rate limit": (core.ModelRateLimitError("x"), Kind.RATE_LIMIT, 2),
    "timeout": (core.ModelTimeoutError("x"), Kind.TIMEOUT, 2),
    "connection": (core.ModelConnectionError("x"), Kind.UNAVAILABLE, 2),
    "server": (core.ModelAPIError("x"), Kind.UNAVAILABLE, 2),
    "malformed": (MalformedAnswerError("x"), Kind.MALFORMED, 2),
    "httpx": (httpx.ReadTimeout("x"), Kind.TIMEOUT, 2),
    "key": (core.ModelAuthenticationError("x"), Kind.AUTH, 1),
    "permission": (core.ModelPermissionDeniedError("x"), Kind.AUTH, 1),
    "model not there": (core.ModelNotFoundError("x"), Kind.NOT_FOUND, 1),
    "context": (core.ContextOverflowError("x"), Kind.CONTEXT_OVERFLOW, 1),
    "refusal": (RefusalError("x"), Kind.REFUSAL, 1),
}


@ways
@pytest.mark.parametrize(("error", "kind", "asked"), KINDS.values(), ids=KINDS)
async def test_what_another_model_may_not_share_moves_on(ask, error, kind, asked, chain, config, facts) -> None:
    one, other = first(error), second()
    assert await ask(chain(one, other), config) == "second"
    assert (one.calls, other.calls) == (asked, 1)
    assert facts.moves[-1] == ("fell back", "first", "second", kind, WHO)
    assert [call.rung for call in facts.calls] == [0] * asked + [1]


@ways
@pytest.mark.parametrize("error", [core.ModelInvalidRequestError("x"), ValueError("mine"), KeyError("mine")])
async def test_what_no_model_can_help_is_raised_at_once_as_it_is(ask, error, chain, config, facts) -> None:
    one, other = first(error), second()
    with pytest.raises(type(error)) as caught:
        await ask(chain(one, other), config)
    assert caught.value is error
    assert (one.calls, other.calls, facts.moves) == (1, 0, [])


@ways
async def test_when_nobody_answers_the_last_cause_is_chained_and_no_providers_words_are_told(
    ask, chain, config
) -> None:
    secret = "Incorrect API key provided: sk-abcdefghijklmnop"
    last = core.ModelAuthenticationError(secret)
    with pytest.raises(FallbackExhaustedError) as caught:
        await ask(chain(first(core.ModelRateLimitError(secret)), second(last)), config)
    assert str(caught.value) == "no model answered: first (rate_limit), second (auth)"
    assert caught.value.__cause__ is last
    assert not caught.value.is_retryable


@ways
async def test_where_a_request_went_is_told_without_its_credentials(ask, chain) -> None:
    request = httpx.Request("POST", "https://ada:hunter2@api.example:8443/v1?key=hunter2")
    refused = openai.AuthenticationError("hunter2", response=httpx.Response(401, request=request), body=None)
    unsent = httpx.ConnectError("without a request")
    with pytest.raises(FallbackExhaustedError) as caught:
        await ask(chain(first(unsent), second(refused), attempts=1), None)
    assert str(caught.value) == "no model answered: first (unavailable), second (auth at api.example:8443)"


@ways
async def test_the_answer_says_which_rung_gave_it(ask, chain) -> None:
    built = chain(first(RefusalError("x")), second())
    message = (await built.ainvoke("hi")) if ask in (ask_invoke, ask_ainvoke, ask_batch) else None
    if message is None:
        message, *rest = list(built.stream("hi"))
        for piece in rest:
            message += piece
    assert message.response_metadata[RUNG] == 1


def test_a_wish_of_the_provider_is_waited_for(chain, naps) -> None:
    response = httpx.Response(429, headers={"retry-after": "7"}, request=httpx.Request("POST", "http://p"))
    limited = openai.RateLimitError("slow", response=response, body=None)
    chain(first(limited, "first")).invoke("hi")
    assert naps == [7.0]


def test_pauses_grow_and_the_next_rung_is_asked_without_one(chain, naps) -> None:
    chain(first(core.ModelTimeoutError("x")), second(), attempts=4).invoke("hi")
    assert naps == [1.0, 2.0, 4.0, 0.0]


# refusals in an answer


def test_a_refusal_in_the_answer_moves_on(chain, facts) -> None:
    refusal = answer("", additional_kwargs={"refusal": "I cannot help with that"})
    assert chain(first(refusal), second()).invoke("hi").text == "second"
    assert facts.moves == [("fell back", "first", "second", Kind.REFUSAL, Identity())]


async def test_when_everyone_refuses_the_refusal_is_chained(chain) -> None:
    refusal = answer("", additional_kwargs={"refusal": "secret words"})
    with pytest.raises(FallbackExhaustedError) as caught:
        await chain(first(refusal), second(refusal)).ainvoke("hi")
    assert isinstance(caught.value.__cause__, RefusalError)
    assert "secret" not in f"{caught.value} {caught.value.__cause__}"


# callers who leave


async def test_cancelling_the_caller_is_no_reason_to_ask_another_model(chain, facts) -> None:
    hang, other = Hang(), second()
    task = asyncio.create_task(chain(first(hang), other).ainvoke("hi"))
    await hang.reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (other.calls, facts.moves) == (0, [])


def test_an_interrupt_is_no_reason_to_ask_another_model(chain) -> None:
    other = second()
    with pytest.raises(KeyboardInterrupt):
        chain(first(KeyboardInterrupt()), other).invoke("hi")
    assert other.calls == 0


# tools, structured output, chains and agents


class City(BaseModel):
    """A city."""

    name: str


@tool
def lookup(q: str) -> str:
    """Look something up."""
    return f"{q} shipped"


def test_tools_are_bound_to_every_rung(chain) -> None:
    one, other = first(RefusalError("x")), second()
    built = chain(one, other)
    built.bind_tools([lookup], tool_choice="any").invoke("hi")
    for model in (one, other):
        assert model.asked[0][1] == {"tools": ["lookup"], "tool_choice": "any"}
    built.invoke("hi")
    assert one.asked[1][1] == {}, "binding changes a copy"


@pytest.mark.parametrize("include_raw", [False, True])
async def test_structured_output_comes_from_whichever_rung_answers(chain, include_raw) -> None:
    said = answer("", tool_calls=[tool_call("City", name="Oslo")])
    built = chain(first(core.ModelTimeoutError("x")), second(said)).with_structured_output(
        City, include_raw=include_raw
    )
    for found in (built.invoke("hi"), await built.ainvoke("hi")):
        assert (found["parsed"] if include_raw else found) == City(name="Oslo")


def test_a_refusal_of_structured_output_moves_on(chain) -> None:
    refusal = answer("", additional_kwargs={"refusal": "no"})
    said = answer("", tool_calls=[tool_call("City", name="Oslo")])
    built = chain(first(refusal), second(said)).with_structured_output(City, include_raw=True)
    assert built.invoke("hi")["parsed"] == City(name="Oslo")


def test_a_chain_goes_into_lcel_and_agents(chain, config, facts) -> None:
    lcel = ChatPromptTemplate.from_template("{q}") | chain(first(RefusalError("x")), second()) | StrOutputParser()
    assert lcel.invoke({"q": "hi"}) == "second"
    script = [answer("", tool_calls=[tool_call("lookup", q="7")]), answer("done")]
    agent = create_agent(chain(first(core.ModelAPIError("x")), second(*script), attempts=1), [lookup])
    state = agent.invoke({"messages": [("user", "hi")]}, config)
    assert state["messages"][-1].text == "done"
    assert [call.rung for call in facts.calls] == [0, 1, 0, 1]
    assert {move[-1] for move in facts.moves if move[-1] != Identity()} == {WHO}


def test_usage_is_counted_once(chain) -> None:
    for call in (
        lambda model, config: model.invoke("hi", config),
        lambda model, config: list(model.stream("hi", config)),
        lambda model, config: create_agent(model, []).invoke({"messages": [("user", "hi")]}, config),
    ):
        usage = UsageMetadataCallbackHandler()
        told = {"response_metadata": {"model_name": "m"}}
        call(chain(first(core.ModelAPIError("x")), second(answer("ok", **told)), attempts=1), {"callbacks": [usage]})
        assert usage.usage_metadata["m"]["total_tokens"] == 15


def test_our_records_count_the_old_way_in_once_too(chain, bus, facts) -> None:
    chain(first(core.ModelAPIError("x")), second(), attempts=1).generate(
        [[HumanMessage("hi")]], callbacks=[OpsCallbackHandler(bus)]
    )
    assert [(call.model, call.rung, call.error_kind) for call in facts.calls] == [
        ("first", 0, Kind.UNAVAILABLE),
        ("second", 1, None),
    ]


# what a chain is


def test_a_chain_of_chains_asks_them_in_order(chain) -> None:
    inner = chain(first(RefusalError("x")), first(core.ModelAPIError("x")))
    assert chain(inner, second()).invoke("hi").text == "second"


def test_a_chain_names_and_profiles_itself_after_its_first_rung(chain) -> None:
    model = ChatOpenAI(model="gpt-4o", api_key="k")
    built = chain(model, second())
    assert built.model_name == "gpt-4o"
    assert built.profile == model.profile
    assert built.cache is False


def test_the_rungs_stay_as_they_were(chain) -> None:
    one = first("first")
    chain(one).invoke("hi")
    assert one.metadata is None or RUNG not in one.metadata


def test_an_answer_that_is_kept_elsewhere_is_not_changed(chain) -> None:
    kept = answer("ok")
    marked = chain(ScriptedModel(lambda _: kept)).invoke("hi")
    assert RUNG in marked.response_metadata
    assert RUNG not in kept.response_metadata


def test_a_chain_without_rungs_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="^a fallback chain needs at least one model$"):
        FallbackChain([])


async def test_many_tasks_share_a_chain(chain) -> None:
    flaky = ScriptedModel(lambda _: core.ModelAPIError("x"), model_name="first")
    built = chain(flaky, second(), attempts=1)
    answers = await asyncio.gather(*(built.ainvoke("hi") for _ in range(50)))
    assert {message.text for message in answers} == {"second"}
