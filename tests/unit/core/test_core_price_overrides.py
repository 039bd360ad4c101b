"""One's own prices win, to the last digit; a wrong file is one line that names what is wrong."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.pricing import PriceBook
from langchain_llmops.core.types import Money, Usage

M = 1_000_000


def test_an_override_prices_a_local_model() -> None:
    book = PriceBook({"ollama:gpt-oss:20b": {"input_mtok": 1, "output_mtok": 2}})
    assert book.price("gpt-oss:20b", Usage(M, M), provider="ollama") == Money(Decimal(1), Decimal(2))


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
