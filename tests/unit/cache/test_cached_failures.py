"""What a failing provider means for a cached model: what is remembered, what an old answer is good for."""

from __future__ import annotations

import asyncio

import pytest
from langchain_core.exceptions import ContextOverflowError, ModelInvalidRequestError

from langchain_llmops.cache import flight
from langchain_llmops.cache.model import cached
from langchain_llmops.cache.policy import Policy
from tests.support.models import ScriptedModel, chunk
from tests.support.ways import astream, each_first_way, each_stream, each_way


class OverflowedError(ContextOverflowError):
    code = "context_length_exceeded"

    def __init__(self, message, *, response) -> None:
        super().__init__(message)
        self.message, self.status_code, self.response = message, 400, response


@each_first_way
@each_way
async def test_what_was_too_long_is_not_sent_again_for_a_while(make, clock, first, ask, config, records) -> None:
    model = ScriptedModel(OverflowedError("too long: SECRET", response=["SECRET"]))
    both = cached(model, cache=make())
    with pytest.raises(OverflowedError):
        await first(both, config=config)
    with pytest.raises(OverflowedError, match="not sent again") as again:
        await ask(both, config=config)
    assert model.calls == 1
    assert again.value.status_code == 400
    assert "SECRET" not in str(vars(again.value)) + str(again.value)
    assert [record.error_class for record in records] == ["OverflowedError"] * 2
    clock.pass_s(31)
    with pytest.raises(OverflowedError, match="SECRET"):
        await ask(both)
    assert model.calls == 2


@each_way
async def test_no_other_failure_is_remembered(make, ask) -> None:
    model = ScriptedModel(ModelInvalidRequestError("wrong"), "good")
    both = cached(model, cache=make())
    with pytest.raises(ModelInvalidRequestError):
        await ask(both)
    assert (await ask(both)).text == "good"


@each_way
async def test_nothing_is_remembered_where_the_policy_says_so(make, ask) -> None:
    model = ScriptedModel(OverflowedError("too long", response=None))
    both = cached(model, cache=make(policy=Policy(refused_s=0)))
    for _ in range(2):
        with pytest.raises(OverflowedError, match="^too long$"):
            await ask(both)
    assert model.calls == 2


async def test_fifty_that_are_too_long_at_once_are_sent_once(make, monkeypatch) -> None:
    monkeypatch.setattr(flight, "LOOK_SELDOM_S", 60)
    model = ScriptedModel(OverflowedError("too long", response=None))
    both = cached(model, cache=make())
    ways = [both.ainvoke("hi"), *(astream(both) for _ in range(24)), *(both.ainvoke("hi") for _ in range(25))]
    failed = await asyncio.gather(*ways, return_exceptions=True)
    assert {type(one) for one in failed} == {OverflowedError}
    assert model.calls == 1


@pytest.mark.parametrize("l2", [True, False])
@each_first_way
@each_way
async def test_an_answer_past_its_time_is_served_while_the_provider_is_down(
    make, clock, first, ask, l2, config, records
) -> None:
    model = ScriptedModel("old", ConnectionError("down"), ConnectionError("down"), "new")
    both = cached(model, cache=make(l2=l2, l1_s=10, l2_s=10, stale_s=100))
    await first(both)
    clock.pass_s(20)
    found = await ask(both, config=config)
    assert found.text == "old"
    assert found.response_metadata["llmops_cache"]["stale"]
    assert found.response_metadata["llmops_cache"]["age_s"] == 20
    assert found.usage_metadata["total_tokens"] == 0
    assert records[-1].cache_level is not None
    assert records[-1].cost_usd == 0
    clock.pass_s(200)
    with pytest.raises(ConnectionError):
        await ask(both)
    assert (await ask(both)).text == "new"


@each_way
async def test_an_answer_past_its_time_is_no_answer_to_a_wrong_request(make, clock, ask) -> None:
    model = ScriptedModel("old", ModelInvalidRequestError("wrong"))
    both = cached(model, cache=make(l2_s=10, l1_s=10, stale_s=100))
    await ask(both)
    clock.pass_s(20)
    with pytest.raises(ModelInvalidRequestError):
        await ask(both)


@each_stream
async def test_two_answers_are_never_mixed(make, clock, ask) -> None:
    model = ScriptedModel("old", [chunk("ne"), ConnectionError("down")])
    both = cached(model, cache=make(l2_s=10, l1_s=10, stale_s=100))
    await ask(both)
    clock.pass_s(20)
    with pytest.raises(ConnectionError):
        await ask(both)
