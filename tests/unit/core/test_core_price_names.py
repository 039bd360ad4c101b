"""Whose price a name has: as the list writes it, at gateways, on one's own machine, and never a silent zero."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from importlib.resources import files

import pytest

from langchain_llmops.core.catalogue import Catalogue
from langchain_llmops.core.model_names import ModelNames
from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.types import Money, Unpriced, Usage

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
M = 1_000_000
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
