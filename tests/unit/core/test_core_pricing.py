"""Usage to money: prices worked out by hand, the library's own sums, and the price of the hour and the tier."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.types import Money, Unpriced, Usage

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
M = 1_000_000


# model, provider, usage, dollars in, dollars out: per million tokens times tokens, by hand
PRICES: dict[str, tuple[str, str | None, Usage, str, str]] = {
    "plain": ("gpt-4o", "openai", Usage(1000, 500), "0.0025", "0.005"),
    "small": ("gpt-4o-mini", "openai", Usage(1, 1), "0.00000015", "0.0000006"),
    "nothing": ("gpt-4o", "openai", Usage(), "0", "0"),
    "cached input": ("gpt-4o", "openai", Usage(1000, 0, cache_read_tokens=400), "0.002", "0"),  # 600*2.5 + 400*1.25
    "all cached": ("gpt-4o-mini", "openai", Usage(M, 0, cache_read_tokens=M), "0.075", "0"),
    "reasoning is output": ("o3", "openai", Usage(0, 1000, reasoning_tokens=900), "0", "0.008"),
    "cache written": ("claude-3-5-haiku-latest", "anthropic", Usage(M, 0, cache_write_tokens=M), "1", "0"),
    "cache written for 1 h": ("claude-3-5-haiku-latest", "anthropic", Usage(M, 0, cache_write_1h_tokens=M), "1.6", "0"),
    "both writes and a read": (
        "claude-3-5-haiku-latest",
        "anthropic",
        # 100*0.8 + 200*0.08 + 300*1 + 400*1.6 = 80 + 16 + 300 + 640 per million
        Usage(1000, 100, cache_read_tokens=200, cache_write_tokens=300, cache_write_1h_tokens=400),
        "0.001036",
        "0.0004",
    ),
    "below the tier": ("gemini-2.5-pro", "google", Usage(200_000, 1000), "0.25", "0.01"),
    "above the tier": ("gemini-2.5-pro", "google", Usage(200_001, 1000), "0.5000025", "0.015"),
    "above the tier, cached": (
        "gemini-2.5-pro",
        "google",
        Usage(300_000, 0, cache_read_tokens=100_000),  # 200k*2.5 + 100k*0.25
        "0.525",
        "0",
    ),
    "audio": (
        "gpt-realtime",
        "openai",
        Usage(1000, 1000, audio_input_tokens=600, audio_output_tokens=500),  # 400*4 + 600*32; 500*16 + 500*64
        "0.0208",
        "0.04",
    ),
    "a dated name": ("gpt-4o-2024-08-06", "openai", Usage(M, M), "2.5", "10"),
    "an older dated name": ("gpt-4o-2024-05-13", "openai", Usage(M, M), "5", "15"),
    "a dated name without provider": ("gpt-4o-mini-2024-07-18", None, Usage(M, M), "0.15", "0.6"),
    "fine-tuned": ("ft:gpt-4o-mini-2024-07-18:acme::abc123", "openai", Usage(M, M), "0.3", "1.2"),
    "fine-tuned, cached": ("ft:gpt-4o:acme:name:id", None, Usage(M, 0, cache_read_tokens=M), "1.875", "0"),
    "azure/": ("azure/gpt-4o", None, Usage(M, M), "2.5", "10"),
    "azure by provider": ("gpt-4o-mini", "azure_openai", Usage(M, M), "0.15", "0.6"),
    "openai/": ("openai/gpt-4o", None, Usage(M, M), "2.5", "10"),
    "openai:": ("openai:gpt-4o", None, Usage(M, M), "2.5", "10"),
    "models/": ("models/gemini-2.5-flash", "google_genai", Usage(M, M), "0.3", "2.5"),
    "vertex": ("gemini-2.5-flash", "vertex_ai", Usage(M, M), "0.3", "2.5"),
    "bedrock": ("anthropic.claude-3-haiku-20240307-v1:0", "bedrock", Usage(M, M), "0.25", "1.25"),
    "bedrock without a provider": ("anthropic.claude-3-haiku-20240307-v1:0", None, Usage(M, M), "0.25", "1.25"),
    "bedrock in a region": (
        "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "bedrock_converse",
        Usage(M, M),
        "3.3",
        "16.5",
    ),
    "amazon's own": ("amazon.nova-pro-v1:0", "bedrock", Usage(M, M), "0.8", "3.2"),
    "capitals": ("GPT-4o", "OpenAI", Usage(M, M), "2.5", "10"),
}


@pytest.mark.parametrize("row", PRICES.values(), ids=PRICES)
def test_a_published_price_is_charged_to_the_last_digit(row, book) -> None:
    model, provider, usage, dollars_in, dollars_out = row
    price = book.price(model, usage, provider=provider, at=NOON)
    assert (price.input_usd, price.output_usd) == (Decimal(dollars_in), Decimal(dollars_out))
    assert price.total_usd == Decimal(dollars_in) + Decimal(dollars_out)


def raw(usage: Usage) -> genai_prices.Usage:
    return genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens + usage.cache_write_1h_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        input_audio_tokens=usage.audio_input_tokens,
        output_audio_tokens=usage.audio_output_tokens,
    )


def random_usage(draw: random.Random) -> Usage:
    total, out = draw.choice((100, 5_000, 150_000, 250_000, 400_000)), draw.randrange(5_000)

    def part() -> int:
        return draw.randrange(total // 4)

    if draw.random() < 0.25:  # audio that was also cached is a kind of its own, which we do not carry
        return Usage(total, out, audio_input_tokens=part(), audio_output_tokens=draw.randrange(out + 1))
    return Usage(total, out, cache_read_tokens=part(), cache_write_tokens=part(), cache_write_1h_tokens=part())


def listed() -> list[tuple[str, str]]:
    """(provider, model) of everything the library prices by tokens and finds by its own name."""
    found = []
    for provider in get_snapshot().providers:
        for model in provider.models:
            try:
                price = genai_prices.calc_price(raw(Usage(1, 1)), model.id, provider_id=provider.id)
            except LookupError:
                continue
            by_token = any(key.endswith("_mtok") for key, value in vars(price.model_price).items() if value is not None)
            if by_token and not model.id.startswith("ft:"):  # fine-tuned names have our own prices
                found.append((provider.id, model.id))
    return found


def test_a_hundred_models_cost_what_genai_prices_says(book) -> None:
    draw = random.Random(20261121)
    wrong = {}
    for provider, model in draw.sample(listed(), 100):
        at = datetime(2026, draw.randrange(1, 12), draw.randrange(1, 28), draw.randrange(24), tzinfo=UTC)
        usage = random_usage(draw)
        expected = genai_prices.calc_price(raw(usage), model, provider_id=provider, genai_request_timestamp=at)
        price = book.price(model, usage, provider=provider, at=at)
        if isinstance(price, Unpriced) or abs(price.total_usd - expected.total_price) > Decimal("1e-12"):
            wrong[provider, model] = (price, expected.total_price)
    assert wrong == {}


def test_a_resellers_price_is_its_own_and_not_the_vendors(book) -> None:
    """`deepseek/…` at a reseller is a name in the reseller's list."""
    usage = Usage(M, M)
    expected = genai_prices.calc_price(
        raw(usage), "deepseek/deepseek-v4-pro", provider_id="arcee", genai_request_timestamp=NOON
    )
    price = book.price("deepseek/deepseek-v4-pro", usage, provider="arcee", at=NOON)
    assert price == Money(expected.input_price, expected.output_price)


def test_a_price_by_the_hour_follows_the_hour(book) -> None:
    """DeepSeek is half the price at night: a price remembered by day would be wrong for half of the day."""
    usage = Usage(M, 0)
    noon, night = (book.price("deepseek-chat", usage, provider="deepseek", at=NOON.replace(hour=h)) for h in (12, 20))
    assert (noon.total_usd, night.total_usd) == (Decimal("0.27"), Decimal("0.135"))


def test_a_price_is_that_of_the_day(book) -> None:
    before, after = (
        book.price("claude-sonnet-4-6", Usage(300_000, 0), provider="anthropic", at=datetime(2026, 3, day, tzinfo=UTC))
        for day in (12, 14)
    )
    assert (before.total_usd, after.total_usd) == (Decimal("1.8"), Decimal("0.9"))


def test_a_fee_per_request_is_charged(book) -> None:
    expected = genai_prices.calc_price(raw(Usage(1000, 100)), "sonar", provider_id="perplexity").total_price
    assert book.price("sonar", Usage(1000, 100), provider="perplexity").total_usd == expected


# service tiers


NOVEMBER = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("model", "tier", "dollars"),
    [
        ("gpt-5", "flex", "5.625"),
        ("gpt-5", "priority", "22.5"),
        ("gpt-5", "batch", "5.625"),
        ("gpt-4o", "flex", "12.5"),
        ("gpt-4o", "scale", "12.5"),
        ("claude-haiku-4-5", "batch", "3"),
    ],
)
def test_a_tier_has_its_price_where_one_is_listed(model, tier, dollars, book) -> None:
    assert book.price(model, Usage(M // 10, M // 10), at=NOVEMBER, tier=tier).total_usd == Decimal(dollars) / 10


def test_a_moment_without_a_zone_is_in_utc_and_others_are_brought_there(book) -> None:
    moments = (datetime(2026, 3, 12, 23, 30), datetime.fromisoformat("2026-03-13T01:30:00+02:00"))  # noqa: DTZ001 - a moment without a zone is what is tested
    for moment in moments:
        assert book.price("claude-sonnet-4-6", Usage(300_000, 0), at=moment).total_usd == Decimal("1.8")


def test_without_a_moment_the_clock_says_the_day() -> None:
    book = PriceBook(clock=lambda: datetime(2025, 6, 9, tzinfo=UTC).timestamp())
    assert book.price("o3", Usage(M, 0)).total_usd == 10


def test_the_price_list_is_read_once_a_day_and_model(monkeypatch) -> None:
    book = PriceBook()
    reads = []
    find = book._find
    monkeypatch.setattr(book, "_find", lambda *asked: reads.append(asked) or find(*asked))
    for hour in (0, 12, 23, 24):
        at = datetime(2026, 6, 1, tzinfo=UTC) + timedelta(hours=hour)
        book.price("gpt-4o", Usage(1, 1), at=at)
    assert len(reads) == 2


@given(st.builds(Usage, *[st.integers(0, 10**6)] * 8))
def test_the_parts_for_the_cache_are_parts_of_the_input(usage) -> None:
    for model in ("claude-sonnet-4-5", "gpt-realtime"):
        price = BOOK.price(model, usage, at=NOON)
        assert price.cache_read_usd >= 0 <= price.cache_write_usd
        assert price.cache_read_usd + price.cache_write_usd <= price.input_usd


def test_the_parts_for_the_cache_are_reads_and_both_writes(book) -> None:
    usage = Usage(1000, 0, cache_read_tokens=200, cache_write_tokens=300, cache_write_1h_tokens=400)
    price = book.price("claude-3-5-haiku-latest", usage, at=NOON)  # 200*0.08; 300*1 + 400*1.60 per million
    assert (price.cache_read_usd, price.cache_write_usd) == (Decimal("0.000016"), Decimal("0.00094"))


BOOK = PriceBook()
counts = st.integers(0, 10**7)


@given(
    st.sampled_from(["gpt-4o", "claude-sonnet-4-5", "gemini-2.5-pro", "gpt-realtime"]), st.builds(Usage, *[counts] * 8)
)
def test_no_usage_however_odd_raises_or_earns_money(model, usage) -> None:
    """Providers have reported more cached tokens than tokens."""
    price = BOOK.price(model, usage, at=NOON)
    assert isinstance(price, Money)
    assert price.input_usd >= 0
    assert price.output_usd >= 0


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_cached_tokens_never_cost_more_than_fresh_ones(total, cached) -> None:
    cached = min(total, cached)
    one, other = (BOOK.price("gpt-4o", Usage(total, 0, cache_read_tokens=c)) for c in (cached, 0))
    assert one.total_usd <= other.total_usd
