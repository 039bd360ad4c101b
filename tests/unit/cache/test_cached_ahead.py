"""A cached model has the likely next request answered before it comes, and lets nobody hear or pay of it unmarked."""

from __future__ import annotations

import os
import random
from functools import reduce
from operator import add

import pytest
from langchain_core.messages import SystemMessage
from langchain_core.tools import tool

from langchain_llmops.cache.ahead import Prefetching
from langchain_llmops.cache.model import cached
from langchain_llmops.cache.payoff import Verdict
from langchain_llmops.core.context import acting_for
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.types import Identity
from langchain_llmops.resilience.fallback import FallbackChain
from tests.support.ahead import LATENCY_S, Desk, landed
from tests.support.models import Hang, ScriptedModel, answer, eventually, lookup, tool_call
from tests.support.ways import ainvoke, each_way, stream

each_form = pytest.mark.parametrize("chat", [False, True], ids=["alone", "goes on"])


@pytest.fixture
def desk(cache, clock) -> Desk:
    return Desk(cache, clock)


# what is asked


@each_way
@each_form
async def test_what_sessions_had_in_common_is_a_hit_when_it_comes(cache, clock, ask, chat) -> None:
    desk = Desk(cache, clock, ask=ask, chat=chat)
    await desk.teach("abc")
    issued, calls = desk.count("issued"), desk.raw.calls
    assert await desk.walk("new", "abc") == [False, True, True]
    assert desk.raw.calls == calls + 3
    assert desk.count("issued") == issued + 2
    assert desk.count("used") >= 2
    assert desk.count("saved_s") > 0.9 * 2 * LATENCY_S
    assert 0 < desk.count("spent_usd") < 0.001
    assert (desk.count("precision"), desk.count("errors")) == (1.0, 0)


async def test_the_history_of_a_chat_is_part_of_what_is_asked_and_not_of_what_is_learnt(cache, clock) -> None:
    desk = Desk(cache, clock, chat=True)
    for n in range(3):
        await desk.walk(f"s{n}", [f"I am number {n}", "ä 😀", "b"])
        clock.pass_s(1_000.0)
    assert await desk.walk("new", ["I am somebody else", "ä 😀", "b"]) == [False, False, True]


async def test_a_streamed_answer_in_the_history_is_the_answer_that_was_expected(cache, clock) -> None:
    desk = Desk(cache, clock)
    piece = []

    def form(before, text):
        return [*piece, ("user", text)]

    async def keep(model, messages, config):
        said = await stream(model, messages, config)
        piece[:] = [*messages, said]
        return said

    desk.form, desk.ask = form, keep
    for n in range(4):
        piece.clear()
        hits = await desk.walk(f"s{n}", "ab")
        clock.pass_s(1_000.0)
    assert hits == [False, True]


async def test_examples_before_a_request_stand_before_what_is_asked_ahead_too(cache, clock) -> None:
    def form(before, text):
        return [SystemMessage("Be kind."), ("user", "x"), ("ai", "X"), ("user", text)]

    desk = Desk(cache, clock, form=form)
    await desk.teach()
    assert await desk.walk("new", "ab") == [False, True]


async def test_nothing_is_asked_where_nobody_knows_what_will_stand_before_it(cache, clock) -> None:
    def form(before, text):
        return [*before[-3:], ("user", text)]

    desk = Desk(cache, clock, form=form)
    await desk.teach("abcde", times=5)
    asked_of_a_chat_that_begins = desk.count("issued")
    assert desk.count("skipped:unaskable") > 0
    assert asked_of_a_chat_that_begins <= 2


async def test_bound_models_copies_and_chains_learn_together(cache, clock, desk) -> None:
    bound = desk.model.bind(stop=["x"]).bound.model_copy()
    await desk.teach(model=bound)
    assert await desk.walk("new", "ab") == [False, True]
    chain = cached(FallbackChain([desk.raw]), cache=cache, prefetch=desk.prefetching)
    await desk.walk("another", "a", model=chain)
    assert desk.count("skipped:cached") == 1


async def test_what_is_asked_ahead_is_asked_with_the_same_arguments(cache, clock) -> None:
    desk = Desk(cache, clock)
    bound = desk.model.bind(stop=["x"], seed=7)
    await desk.teach(model=bound)
    assert await desk.walk("new", "ab", model=bound) == [False, True]
    assert desk.raw.asked[-1][1] == {"seed": 7}


# for whom


@each_way
async def test_what_is_asked_for_one_user_is_a_hit_for_no_other(make, clock, ask) -> None:
    desk = Desk(make(scope="user"), clock, ask=ask)
    await desk.teach(user="ada")
    await desk.walk("of ada", "a", user="ada")
    assert await desk.walk("of bob", "b", user="bob") == [False]
    assert await desk.walk("of ada", "b", user="ada") == [True]
    desk.clock.pass_s(1_000.0)
    before = desk.count("issued")
    await desk.walk("of bob too", "a", user="bob")
    assert desk.count("issued") == before  # nobody learns from ada


async def test_whoever_a_block_acts_for_is_who_is_asked_for(make, clock) -> None:
    desk = Desk(make(scope="user"), clock, ask=ainvoke)
    for n in range(4):
        with acting_for(Identity(user="ada", session=str(n))):
            hits = []
            for text in "ab":
                said = await desk.model.ainvoke(text)
                hits.append("llmops_cache" in said.response_metadata)
                await landed(desk.prefetching)
        clock.pass_s(1_000.0)
    assert hits == [False, True]


async def test_groups_of_users_learn_apart(cache, clock) -> None:
    desk = Desk(cache, clock, group_of=lambda metadata: metadata["user_id"][0])
    await desk.teach(user="ada")
    await desk.walk("one", "a", user="bob")
    assert desk.count("open") == 0
    clock.pass_s(1_000.0)
    await desk.walk("two", "a", user="ann")
    assert desk.count("open") == 1


async def test_sessions_of_one_name_are_apart_where_their_users_are(desk) -> None:
    for _ in range(5):
        await desk.walk("main", "a", user="ada")
        await desk.walk("main", "b", user="bob")
        desk.clock.pass_s(1_000.0)
    assert desk.count("issued") == 0


# what is never asked


async def test_requests_with_tools_and_answers_that_call_them_are_never_asked_ahead(make, clock) -> None:
    desk = Desk(make(tool_calls=True), clock)
    bound = desk.model.bind_tools([lookup])
    await desk.teach(model=bound, times=5)
    schema = desk.model.bind(tools=[{"type": "function", "function": {"name": tool(lookup.func).name}}])
    await desk.teach(model=schema, times=5)
    desk.raw.script[:] = [answer("", tool_calls=[tool_call("lookup", order_id="1")])]
    await desk.teach("xy", times=5)
    assert (desk.count("issued"), desk.raw.calls) == (0, 30)


@pytest.mark.parametrize(
    "said",
    [{"model": ScriptedModel("ok", model_name="nobody's")}, {"model": ScriptedModel(answer("ok", usage=None))}],
    ids=["no price", "no usage"],
)
async def test_what_has_no_price_is_never_asked_ahead(cache, clock, said) -> None:
    desk = Desk(cache, clock, **said)
    await desk.teach(times=5)
    assert desk.count("issued") == 0


async def test_nothing_is_asked_while_many_calls_are_under_way(cache, clock) -> None:
    desk = Desk(cache, clock, max_busy=0)
    await desk.teach()
    calls = desk.model.stream("long")
    next(calls)
    assert await desk.walk("new", "ab") == [False, False]
    assert desk.count("skipped:busy") == 1
    calls.close()
    clock.pass_s(1_000.0)
    assert await desk.walk("newer", "ab") == [False, True]


# what it may cost


async def test_no_more_is_spent_than_the_budget_allows(cache, clock) -> None:
    budget = 0.000_06  # for one answer at once, and twelve more in an hour
    desk = Desk(cache, clock, chat=True, budget_usd_per_hour=budget, verdict=lambda: Verdict(trickle=1_000))
    began = clock()
    spent = []
    for n in range(100):
        clock.pass_s(60.0)
        await desk.walk(f"s{n}", [f"I am {n}", "a", "b"] if n < 5 else [f"I am {n}", "a"])
        spent.append((clock(), desk.count("spent_usd")))
    assert clock() - began > 3_600
    assert desk.count("skipped:budget") > 50
    assert desk.count("spent_usd") > 0
    for start, before in spent:
        assert max(usd for at, usd in spent if at <= start + 3_600) - before <= budget


async def test_on_traffic_without_any_order_it_stops_by_itself(make, clock) -> None:
    guessing = {"min_probability": 0.0, "usd_per_second": 0.000_001, "verdict": lambda: Verdict(pause_s=1e9)}
    desk = Desk(make(l1_s=10.0, l2_s=20.0), clock, budget_usd_per_hour=100.0, **guessing)
    dice = random.Random(7)
    for n in range(60):
        await desk.walk(f"s{n}", dice.choices("abcdefgh", k=4))
        clock.pass_s(60.0)
    assert (desk.count("stops"), desk.count("stopped")) == (1, 1)
    issued = desk.count("issued")
    assert 0 < issued < 60
    await desk.walk("after", dice.choices("abcdefgh", k=40))
    assert desk.count("issued") == issued


# failures and ends


async def test_a_function_of_the_callers_that_raises_never_reaches_the_call(cache, clock, caplog) -> None:
    desk = Desk(cache, clock, group_of=lambda metadata: metadata["nothing"])
    assert await desk.walk("s", "ab") == [False, False]
    assert desk.count("errors") == 2
    assert len(caplog.messages) == 1


async def test_a_provider_that_fails_ahead_fails_nobody(cache, clock) -> None:
    desk = Desk(cache, clock)
    await desk.teach()
    said = [desk.say, ValueError("no"), desk.say]
    desk.raw.script[:] = [desk.say] * desk.raw.calls + said
    assert await desk.walk("new", "ab") == [False, False]
    assert (desk.count("errors"), desk.count("wasted")) == (1, 1)


async def test_closing_the_cache_cancels_what_is_asked_ahead(cache, clock) -> None:
    desk = Desk(cache, clock, ask=ainvoke)
    await desk.teach()
    hang = Hang()
    desk.raw.script[:] = [desk.say] * (desk.raw.calls + 1) + [hang]
    await desk.model.ainvoke(desk.form([], "a"), {"metadata": {"user_id": "ada", "session_id": "new"}})
    await hang.reached.wait()
    assert desk.count("in_flight") == 1
    await cache.aclose()
    assert (desk.count("in_flight"), desk.count("cancelled")) == (0, 1)
    desk.raw.script[:] = [desk.say]
    clock.pass_s(1_000.0)
    assert await desk.walk("newer", "ab") == [False, False]


async def test_an_answer_that_may_not_be_kept_is_paid_and_wasted(cache, clock) -> None:
    desk = Desk(cache, clock)
    await desk.teach()
    spent = desk.count("spent_usd")
    cut = answer("cut", finish="length", usage=(1000, 500))
    desk.raw.script[:] = [desk.say] * (desk.raw.calls + 1) + [cut, desk.say]
    assert await desk.walk("new", "a") == [False]
    assert (desk.count("wasted"), desk.count("open")) == (1, 0)
    assert desk.count("spent_usd") - spent == pytest.approx(1000 * 0.15e-6 + 500 * 0.6e-6)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_calls(cache, clock) -> None:
    desk = Desk(cache, clock)
    calls = desk.model.stream("long")
    next(calls)
    assert len(desk.prefetching.under_way) == 1
    child = os.fork()
    if child == 0:  # pragma: no cover - another process
        os._exit(len(desk.prefetching.under_way))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    calls.close()
    assert len(desk.prefetching.under_way) == 0


class OfThreads(ScriptedModel):
    """A model whose async client belongs to another loop."""

    async def _agenerate(self, *args, **kwargs):
        raise AssertionError("Event loop is closed")


@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_a_program_without_an_event_loop_has_it_too(cache, clock, way) -> None:
    desk = Desk(cache, clock, model=OfThreads())
    desk.raw.script[:] = [desk.say]
    for n in range(4):
        hits = []
        for text in "ab":
            said = getattr(desk.model, way)(text, {"metadata": {"user_id": "ada", "session_id": str(n)}})
            hits.append("llmops_cache" in (said if way == "invoke" else reduce(add, said)).response_metadata)
            eventually(lambda: not desk.count("in_flight"))
        clock.pass_s(1_000.0)
    assert hits == [False, True]
    assert desk.count("errors") == 0


async def test_a_model_that_is_given_another_cache_asks_nothing_ahead_through_the_first(make, clock) -> None:
    desk = Desk(make(), clock)
    elsewhere = cached(desk.model, cache=make())
    await desk.teach(model=elsewhere, times=5)
    assert desk.count("issued") == 0
    assert await desk.walk("new", "ab", model=cached(desk.model, cache=desk.cache)) == [False, False]
    await desk.teach(model=cached(desk.model, cache=desk.cache))
    assert desk.count("issued") > 0


def test_one_prefetching_works_for_one_cache_and_a_name_is_given_once(make) -> None:
    one, other, prefetching = make(), make(), Prefetching(budget_usd_per_hour=1.0)
    cached(ScriptedModel(), cache=one, prefetch=prefetching)
    cached(ScriptedModel(), cache=one, prefetch=prefetching)
    with pytest.raises(ConfigurationError, match="one cache"):
        cached(ScriptedModel(), cache=other, prefetch=prefetching)
    with pytest.raises(ConfigurationError, match="name="):
        cached(ScriptedModel(), cache=one, prefetch=Prefetching(budget_usd_per_hour=1.0))
    cached(ScriptedModel(), cache=one, prefetch=Prefetching(budget_usd_per_hour=1.0, name="menu"))
    assert {"prefetch:issued", "menu:issued"} <= one.stats().keys()
