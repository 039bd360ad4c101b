"""What a hit tells: its key, and the dollars that asking had cost; the same wherever one looks."""

from __future__ import annotations

from decimal import Decimal

import pytest
from langchain_core.outputs import ChatGeneration

from langchain_llmops import PriceBook
from langchain_llmops.cache.codec import Entry, encode, rebuild
from langchain_llmops.core.errors import EnvelopeError
from langchain_llmops.telemetry.handler import OpsCallbackHandler
from tests.support.cache import KEPT, hearing, request
from tests.support.models import ScriptedModel, answer

PRICES = {"m": {"input_mtok": 1, "output_mtok": 2, "flex": {"input_mtok": 0.5, "output_mtok": 1}}}
NAMED = {"model_name": "m"}


@pytest.fixture
def prices() -> PriceBook:
    return PriceBook(PRICES)


def told(cache, message) -> dict:
    """What the second of two equal calls says of its answer."""
    model = ScriptedModel(message, cache=cache)
    model.invoke("hi")
    return model.invoke("hi").response_metadata["llmops_cache"]


def test_a_hit_tells_the_key_that_it_is_kept_under(make) -> None:
    model = ScriptedModel(cache=make())
    model.invoke("hi")
    key = model.invoke("hi").response_metadata["llmops_cache"]["key"]
    assert key == model.cache.asked(*request("hi", model=model)).key
    assert len(key) == 64


def test_a_hit_of_every_level_tells_what_asking_had_cost(make, prices) -> None:
    cache = make(prices=prices)
    assert told(cache, answer(response_metadata=NAMED))["saved_usd"] == 20e-6
    below = ScriptedModel(cache=make()).invoke("hi")  # another process, which knows no prices
    assert below.response_metadata["llmops_cache"]["level"] == "L2"
    assert below.response_metadata["llmops_cache"]["saved_usd"] == 20e-6


def test_a_model_without_a_price_tells_no_dollars_and_is_not_counted_twice(make, prices) -> None:
    assert "saved_usd" not in told(make(prices=prices), answer(response_metadata={"model_name": "nobody-s"}))
    assert not prices.unpriced


def test_an_answer_without_usage_saves_an_unknown_sum_in_the_hit_and_in_its_record(make, prices) -> None:
    handler, records = hearing(prices=prices)
    model = ScriptedModel(answer(usage=None, response_metadata=NAMED), cache=make(prices=prices))
    hits = [model.invoke("hi", {"callbacks": [handler]}).response_metadata.get("llmops_cache") for _ in range(2)]
    assert "saved_usd" not in hits[1]
    assert (records[1].cache_level, records[1].saved_usd, records[1].cost_usd) == ("L1", None, 0)


def test_without_prices_a_hit_tells_no_dollars(make) -> None:
    assert "saved_usd" not in told(make(), answer(response_metadata=NAMED))


def test_prices_that_fail_cost_the_answer_its_price_and_not_its_place(make, prices, monkeypatch) -> None:
    monkeypatch.setattr(prices, "rates", lambda *_, **__: 1 / 0)
    hit = told(make(prices=prices), answer(response_metadata=NAMED))
    assert (hit["level"], "saved_usd" in hit) == ("L1", False)


@pytest.mark.parametrize(
    ("usage", "usd"),
    [
        ((1_000_000, 0), "1"),
        ({"input_tokens": 10, "output_tokens": 5, "total_tokens": 15, "output_token_details": {"flex": 5}}, "0.00001"),
        ((7, 3), "0.000013"),
    ],
)
def test_what_a_hit_saves_is_what_the_miss_cost(make, prices, usage, usd) -> None:
    handler, records = hearing(prices=prices)
    message = answer(usage=usage, response_metadata=NAMED)
    model = ScriptedModel(message, cache=make(prices=prices))
    hits = [model.invoke("hi", {"callbacks": [handler]}).response_metadata.get("llmops_cache") for _ in range(2)]
    miss, hit = records
    assert hit.saved_usd == miss.cost_usd == Decimal(usd)
    assert hits[1]["saved_usd"] == float(usd)


def test_who_serves_the_model_decides_its_price_with_and_without_a_run_that_says_so(make) -> None:
    cache = make(prices=PriceBook())
    told_by_answer = {"model_name": "gpt-4o-mini", "model_provider": "ollama"}
    cache.update("p", "m", [ChatGeneration(message=answer(response_metadata=told_by_answer))])
    assert "saved_usd" not in cache.lookup("p", "m")[0].message.response_metadata["llmops_cache"]
    named = told(make(prices=PriceBook(), namespace="n"), answer(response_metadata={"model_name": "gpt-4o-mini"}))
    assert named["saved_usd"] > 0


@pytest.mark.parametrize("forged", ['"much"', "[1]", "{}"])
def test_a_forged_price_is_damage(forged) -> None:
    body = encode(KEPT, lambda _: 12345.0).replace(b"12345.0", forged.encode())
    with pytest.raises(EnvelopeError):
        rebuild(Entry(0.0, 1.0, 0.0, {}, body), {})


def test_a_price_out_of_this_world_is_not_believed(prices) -> None:
    handler, records = OpsCallbackHandler(prices=prices), []
    handler.bus.subscribe(lambda event: records.append(event.record))
    saved = answer().usage_metadata
    forged = {"level": "L2", "saved": saved, "saved_usd": 1e300}
    model = ScriptedModel(answer(response_metadata=NAMED | {"llmops_cache": forged}))
    model.invoke("hi", {"callbacks": [handler]})
    assert records[0].saved_usd == Decimal("0.00002")
