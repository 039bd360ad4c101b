"""Usage to money: published prices worked out by hand, the library's own sums, and never a silent zero."""

from __future__ import annotations

import json
import logging
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.resources import files

import genai_prices
import pytest
from genai_prices.data_snapshot import get_snapshot
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core.catalogue import Catalogue
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.model_names import ModelNames
from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.types import Money, Unpriced, Usage

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
M = 1_000_000


@pytest.fixture(scope="module")
def book() -> PriceBook:
    return PriceBook()


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


NAMES = {
    ("gpt-4o", None): (None, "gpt-4o"),
    ("gpt-4o", "openai"): ("openai", "gpt-4o"),
    ("azure/gpt-4o", "openai"): ("azure", "gpt-4o"),
    ("bedrock/anthropic.claude-3-haiku-20240307-v1:0", None): ("aws", "anthropic.claude-3-haiku-20240307-v1:0"),
    ("eu.anthropic.claude-3-haiku-20240307-v1:0", None): ("aws", "eu.anthropic.claude-3-haiku-20240307-v1:0"),
    ("models/gemini-2.5-pro", "google_genai"): ("google", "gemini-2.5-pro"),
    ("ft:gpt-4o:acme::1", None): ("openai", "ft:gpt-4o"),
    ("arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-pro-v1:0", None): (
        "aws",
        "us.amazon.nova-pro-v1:0",
    ),
    ("llama3.1:8b", "ollama"): ("ollama", "llama3.1:8b"),
    ("grok-4", "xai"): ("x-ai", "grok-4"),
    ("my-model", "MistralAI"): ("mistral", "my-model"),
}


@pytest.mark.parametrize(("named", "expected"), NAMES.items())
def test_names_are_read_as_genai_prices_writes_them(named, expected) -> None:
    assert ModelNames(Catalogue().providers).split(*named) == expected


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


UNKNOWN = {
    "a name nobody knows": ("my-own-model", "vllm"),
    "no name": ("", None),
    "a future model": ("gpt-99", "openai"),
    "an azure deployment": ("azure/my-deployment", None),
    "fine-tuned from something unknown": ("ft:gpt-99:acme", "openai"),
    "a local model": ("llama3.1:8b", "ollama"),
    "priced by the hour of audio": ("whisper-large-v3", "groq"),
    "listed without any price": ("gpt-4o", "github-copilot"),
}


@pytest.mark.parametrize(("model", "provider"), UNKNOWN.values(), ids=UNKNOWN)
def test_an_unknown_price_is_unpriced_and_never_zero(model, provider, book) -> None:
    assert book.price(model, Usage(1000, 1000), provider=provider) == Unpriced(model)


def test_an_unpriced_model_is_counted_at_every_call_and_warned_about_once(caplog) -> None:
    book = PriceBook()
    with caplog.at_level(logging.WARNING, "langchain_llmops"):
        for _ in range(5):
            book.price("nobody-knows", Usage(1, 1))
        book.price("nor-this", Usage(1, 1))
    assert book.unpriced == {"nobody-knows": 5, "nor-this": 1}
    assert [("nobody-knows" in r.getMessage(), "LLMOPS_PRICES_FILE" in r.getMessage()) for r in caplog.records] == [
        (True, True),
        (False, True),
    ]


def test_made_up_names_fill_no_memory(caplog) -> None:
    book = PriceBook()
    with caplog.at_level(logging.WARNING, "langchain_llmops"):
        for number in range(6000):
            book.price(f"made-up-{number}", Usage(1, 1), provider="openai")
    assert sum(book.unpriced.values()) == 6000
    assert len(book.unpriced) == len(caplog.records) == 1001
    assert book.unpriced["(other models)"] == 5000
    assert len(book._memo) <= 4096


def test_a_name_of_a_megabyte_is_unpriced_and_kept_short() -> None:
    book = PriceBook()
    assert isinstance(book.price("claude-3-opus" + "x" * M, Usage(1, 1)), Unpriced)
    assert max(map(len, book.unpriced)) == 256


LOCAL = ["ollama", "vllm", "LM-Studio", "lm_studio", "llama.cpp", "LlamaCpp", "llama_cpp", "huggingface", "sglang"]


@pytest.mark.parametrize("provider", LOCAL)
@pytest.mark.parametrize("model", ["gpt-4o", "deepseek-chat", "mistral-large-latest", "openai/gpt-4o"])
def test_a_famous_name_on_ones_own_machine_is_not_the_makers(model, provider, book) -> None:
    assert book.price(model, Usage(M, M), provider=provider) == Unpriced(model)
    assert book.price(f"{provider}/{model}", Usage(M, M)) == Unpriced(f"{provider}/{model}")


def test_an_override_prices_a_local_model() -> None:
    book = PriceBook({"ollama:gpt-oss:20b": {"input_mtok": 1, "output_mtok": 2}})
    assert book.price("gpt-oss:20b", Usage(M, M), provider="ollama") == Money(Decimal(1), Decimal(2))


@pytest.mark.parametrize("model", ["gpt-4o", "claude-haiku-4-5", "gemini-2.5-pro", "o3", "grok-4"])
def test_a_gateway_passes_the_makers_price_on_where_nobody_else_can_serve_the_model(model, book) -> None:
    own = book.price(model, Usage(1000, 1000), at=NOON)
    assert isinstance(own, Money)
    for gateway in ("acme-proxy", "litellm", "portkey", "groq"):
        assert book.price(model, Usage(1000, 1000), provider=gateway, at=NOON) == own


@pytest.mark.parametrize("model", ["mistral-large-latest", "deepseek-chat", "command-r-plus", "kimi-k2-0905-preview"])
def test_a_model_that_anyone_may_serve_has_no_price_at_a_gateway(model, book) -> None:
    assert isinstance(book.price(model, Usage(1, 1), at=NOON), Money)
    assert book.price(model, Usage(1, 1), provider="acme-proxy", at=NOON) == Unpriced(model)


# `ls_provider` of LangChain's packages, and of classes that do not say: their name in lower case
LS_PROVIDERS = {
    "openai": "gpt-4o",
    "azure": "gpt-4o",
    "azureaichatcompletionsmodel": "gpt-4o",
    "anthropic": "claude-haiku-4-5",
    "anthropicvertex": "claude-haiku-4-5",
    "google_anthropic_vertex": "claude-haiku-4-5",
    "google_genai": "gemini-2.5-flash",
    "google_vertexai": "gemini-2.5-flash",
    "amazon_bedrock": "amazon.nova-pro-v1:0",
    "anthropicbedrock": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    "mistral": "mistral-large-latest",
    "mistralai": "mistral-large-latest",
    "cohere": "command-r-plus",
    "groq": "llama-3.3-70b-versatile",
    "deepseek": "deepseek-chat",
    "xai": "grok-4",
    "perplexity": "sonar",
    "together": "meta-llama/Llama-3.3-70B-Instruct-Turbo",
    "openrouter": "openai/gpt-4o",
}


@pytest.mark.parametrize(("provider", "model"), LS_PROVIDERS.items())
def test_every_ls_provider_finds_its_list(provider, model, book) -> None:
    assert isinstance(book.price(model, Usage(1, 1), provider=provider), Money)


def test_the_names_we_ship_are_names_that_the_list_knows() -> None:
    known = json.loads(files("langchain_llmops.core").joinpath("data/providers.json").read_text("utf-8"))
    assert set(known["aliases"].values()) <= set(Catalogue().providers)
    for names in (list(known["aliases"]), known["local"]):
        assert all(name == "".join(filter(str.isalnum, name)).lower() for name in names)
    assert not set(known["aliases"]) & set(known["local"])


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


# overrides


OWN = {
    "my-model": {"input_mtok": 1.5, "output_mtok": 6, "cache_read_mtok": "0.15"},
    "openai:gpt-4o": {"input_mtok": 1, "output_mtok": 2},
    "full": {
        "input_mtok": 1, "output_mtok": 2, "cache_read_mtok": 3, "cache_write_mtok": 4, "cache_write_1h_mtok": 5,
        "audio_input_mtok": 6, "audio_output_mtok": 7,
    },
}  # fmt: skip


def test_ones_own_price_wins() -> None:
    book = PriceBook(OWN)
    cached = Decimal("0.15")
    assert book.price("my-model", Usage(M, M, cache_read_tokens=M)) == Money(cached, Decimal(6), cache_read_usd=cached)
    assert book.price("gpt-4o", Usage(M, M), provider="openai") == Money(Decimal(1), Decimal(2))
    assert book.price("gpt-4o-2024-08-06", Usage(M, M), provider="openai") == Money(Decimal(1), Decimal(2))
    assert book.price("gpt-4o", Usage(M, M), provider="azure") == Money(Decimal("2.5"), Decimal(10))


def test_every_kind_of_token_can_have_its_own_price() -> None:
    usage = Usage(
        5 * M, 2 * M, cache_read_tokens=M, cache_write_tokens=M, cache_write_1h_tokens=M, audio_input_tokens=M,
        audio_output_tokens=M,
    )  # fmt: skip
    assert PriceBook(OWN).price("full", usage) == Money(
        Decimal(1 + 3 + 4 + 5 + 6), Decimal(2 + 7), cache_read_usd=Decimal(3), cache_write_usd=Decimal(4 + 5)
    )


def test_what_an_override_does_not_say_costs_as_plain_input_or_output() -> None:
    book = PriceBook({"m": {"input_mtok": 2, "output_mtok": 3}})
    usage = Usage(3 * M, M, cache_read_tokens=M, cache_write_tokens=M, cache_write_1h_tokens=M, audio_output_tokens=M)
    price = book.price("m", usage)
    assert (price.input_usd, price.output_usd) == (Decimal(6), Decimal(3))


def test_a_tier_of_ones_own_wins_and_what_it_does_not_say_costs_as_without() -> None:
    book = PriceBook({"m": {"input_mtok": 2, "output_mtok": 3, "flex": {"input_mtok": 1}}})
    dollars = [book.price("m", Usage(M, M), tier=tier).total_usd for tier in (None, "flex", "priority")]
    assert dollars == [5, 4, 5]


def test_a_price_in_a_file_is_exact(tmp_path) -> None:
    path = tmp_path / "prices.json"
    path.write_text('{"m": {"input_mtok": 0.1, "output_mtok": 0.3}}')
    assert PriceBook.from_file(path).price("m", Usage(3, 3)) == Money(Decimal("0.0000003"), Decimal("0.0000009"))


def test_no_file_is_the_built_in_prices() -> None:
    assert PriceBook.from_file(None).price("gpt-4o", Usage(M, 0)).total_usd == Decimal("2.5")


WRONG_FILES = {
    "not JSON": (b'{"m": \n}', r"not JSON \(line 2: "),
    "not text": (b"\xff\xfe{}", "not UTF-8|not JSON"),
    "a list": (b"[]", "expected an object of model names"),
    "an entry that is none": (b'{"m": 3}', "'m' needs input_mtok and output_mtok"),
    "no output": (b'{"m": {"input_mtok": 1}}', "'m' needs input_mtok and output_mtok"),
    "an unknown field": (b'{"m": {"input_mtok": 1, "output_mtok": 1, "input": 1}}', "'m' needs input_mtok"),
    "a text": (b'{"m": {"input_mtok": "cheap", "output_mtok": 1}}', "'m' input_mtok must be dollars per million"),
    "below zero": (b'{"m": {"input_mtok": 1, "output_mtok": -1}}', "'m' output_mtok must be dollars .* not"),
    "true": (b'{"m": {"input_mtok": true, "output_mtok": 1}}', "'m' input_mtok must be dollars"),
    "null": (b'{"m": {"input_mtok": null, "output_mtok": 1}}', "'m' input_mtok must be dollars"),
    "NaN": (b'{"m": {"input_mtok": NaN, "output_mtok": 1}}', "'m' input_mtok must be dollars"),
    "a tier that is no object": (
        b'{"m": {"input_mtok": 1, "output_mtok": 1, "flex": 2}}',
        "'m' flex must be an object",
    ),
    "a tier with an unknown field": (
        b'{"m": {"input_mtok": 1, "output_mtok": 1, "flex": {"input": 2}}}',
        "'m' flex must be an object of some of",
    ),
    "a tier below zero": (
        b'{"m": {"input_mtok": 1, "output_mtok": 1, "batch": {"input_mtok": -2}}}',
        "'m' batch input_mtok must be dollars",
    ),
    "infinite": (
        b'{"m": {"input_mtok": 1e999999999, "output_mtok": Infinity}}',
        "'m' (in|out)put_mtok must be dollars",
    ),
}


@pytest.mark.parametrize(("content", "told"), WRONG_FILES.values(), ids=WRONG_FILES)
def test_a_wrong_file_is_one_line_that_names_it_and_the_entry(content, told, tmp_path) -> None:
    path = tmp_path / "prices.json"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=told) as caught:
        PriceBook.from_file(path)
    assert str(caught.value).startswith(f"LLMOPS_PRICES_FILE {path}")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_one_line_that_names_it(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="^LLMOPS_PRICES_FILE: cannot read .*prices.json: No such file"):
        PriceBook.from_file(tmp_path / "prices.json")


def test_the_prices_we_ship_are_well_formed() -> None:
    """They are read by the same checks: an empty book would raise."""
    book = PriceBook()
    for base in ("gpt-3.5-turbo", "gpt-4.1", "gpt-4.1-mini", "gpt-4.1-nano", "gpt-4o", "gpt-4o-mini", "o4-mini"):
        assert isinstance(book.price(f"ft:{base}:org::id", Usage(1, 1)), Money), base
    assert json.loads(json.dumps(dict(book.unpriced))) == {}
