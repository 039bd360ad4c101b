"""Faults repeat exactly for a seed, whatever the order, and a retry draws anew."""

from __future__ import annotations

import asyncio
import random

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.simulator import FaultPlan, SimulatorError, running
from langchain_llmops.simulator.draws import Occasion, Occasions, key_of
from langchain_llmops.simulator.faults import FAULT_KINDS
from langchain_llmops.simulator.types import EmbeddingRequest, Request

KEYS = st.lists(st.sampled_from([b"a", b"b", b"c", b"d"]), max_size=40)


def outcomes(plan, keys):
    """What each key met, in the order of its own requests."""
    occasions, met = Occasions(), {}
    for key in keys:
        met.setdefault(key, []).append(plan.pick(occasions.next(key)))
    return met


@given(KEYS, st.integers(0, 2**31), st.randoms(use_true_random=False))
def test_any_order_of_arrival_meets_the_same_faults(keys, seed, rng):
    plan = FaultPlan.mixed(0.5, seed)
    shuffled = list(keys)
    rng.shuffle(shuffled)
    assert outcomes(plan, keys) == outcomes(plan, shuffled)


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_the_share_of_faults_is_the_rate(seed, rate):
    plan = FaultPlan.mixed(rate, seed)
    hit = sum(plan.pick(Occasion(b"%d" % i)) is not None for i in range(1000))
    assert abs(hit / 1000 - rate) < 0.08  # five standard deviations


def test_seeds_and_repetitions_draw_differently():
    plans = [FaultPlan.mixed(0.5, seed) for seed in (1, 2)]
    by_seed = [[plan.pick(Occasion(b"%d" % i)) for i in range(100)] for plan in plans]
    assert by_seed[0] != by_seed[1]
    assert len({plans[0].pick(Occasion(b"x", nth)) for nth in range(1, 100)}) > 3


def test_the_mix_is_of_faults_that_a_retry_can_mend():
    drawn = [FaultPlan.mixed(1.0, 3).pick(Occasion(b"%d" % i)) for i in range(2000)]
    shares = {kind: drawn.count(kind) / 2000 for kind in set(drawn)}
    expected = {"rate_limit": 0.4, "server_error": 0.2, "unavailable": 0.2, "cut": 0.1, "malformed": 0.1}
    assert shares == pytest.approx(expected, abs=0.05)


def test_the_header_goes_before_the_schedule_and_that_before_the_rates():
    plan = FaultPlan(rates={"slow": 1.0}, schedule={2: "cut"})
    assert plan.pick(Occasion(b"x", ordinal=1)) == "slow"
    assert plan.pick(Occasion(b"x", ordinal=2)) == "cut"
    assert plan.pick(Occasion(b"x", ordinal=2), "hang") == "hang"


def test_a_named_conversation_draws_for_itself():
    one, other = (Request("gpt-4o", ({"role": "user", "content": "hi"},), conversation_id=name) for name in "ab")
    assert key_of(one) != key_of(other)
    assert key_of(EmbeddingRequest("e", ("a",), 8)) != key_of(EmbeddingRequest("e", ("b",), 8))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rates": {"flood": 0.1}}, "unknown fault 'flood'; the kinds are rate_limit"),
        ({"schedule": {1: "flood"}}, "unknown fault 'flood'"),
        ({"rates": {"cut": 1.5}}, "the rate of cut must be between 0 and 1"),
        ({"rates": {"cut": float("nan")}}, "the rate of cut"),
        ({"rates": {"cut": 0.6, "hang": 0.6}}, "add up to 1.2"),
        ({"slow_s": -1}, "slow_s must not be negative"),
    ],
)
def test_a_wrong_plan_is_refused(options, reason):
    with pytest.raises(SimulatorError, match=reason):
        FaultPlan(**options)


def test_a_wrong_rate_of_a_mix_is_refused():
    with pytest.raises(SimulatorError, match="between 0 and 1"):
        FaultPlan.mixed(1.1)


def test_an_unknown_kind_in_the_header_is_a_400_that_names_the_kinds(echo):
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]}
    response = httpx.post(f"{echo.base_url}/chat/completions", json=body, headers={"X-Simulate-Fault": "flood"})
    assert response.status_code == 400
    assert all(kind in response.json()["error"]["message"] for kind in FAULT_KINDS)


@pytest.mark.parametrize("kind", ["refusal", "context_overflow"])
def test_embeddings_pass_over_what_only_a_chat_can_do(kind):
    with running(faults=FaultPlan(rates={kind: 1.0})) as simulator:
        body = {"model": "text-embedding-3-small", "input": "x"}
        assert httpx.post(f"{simulator.base_url}/embeddings", json=body).status_code == 200
    assert simulator.stats.faults == {}


@pytest.mark.parametrize("kind", ["rate_limit", "server_error", "unavailable"])
def test_embeddings_fail_as_chats_do(kind):
    with running(faults=FaultPlan(rates={kind: 1.0})) as simulator:
        body = {"model": "text-embedding-3-small", "input": "x"}
        assert httpx.post(f"{simulator.base_url}/embeddings", json=body).status_code in (429, 500, 503)
    assert simulator.stats.faults == {kind: 1}


async def test_a_concurrent_run_repeats_exactly():
    """Forty conversations at once, each retried until it is answered: the same failures per text, run after run."""

    async def run(shuffle_seed):
        failures = {}

        async def one(client, text):
            while True:
                body = {"model": "gpt-4o", "messages": [{"role": "user", "content": text}]}
                try:
                    response = await client.post("/chat/completions", json=body)
                    response.json()
                    outcome = response.status_code
                except (httpx.TransportError, ValueError) as error:
                    outcome = type(error).__name__
                failures.setdefault(text, []).append(outcome)
                if outcome == 200:
                    return

        texts = [f"question {i}" for i in range(40)]
        random.Random(shuffle_seed).shuffle(texts)
        with running(faults=FaultPlan.mixed(0.5, seed=11)) as simulator:
            async with httpx.AsyncClient(base_url=simulator.base_url) as client:
                await asyncio.gather(*(one(client, text) for text in texts))
        return failures, simulator.stats.faults

    first, second = await run(1), await run(2)
    assert first == second
    assert sum(first[1].values()) == sum(len(tries) - 1 for tries in first[0].values()) > 10
