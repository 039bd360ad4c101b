"""Token counts without a vocabulary: close to the real encoder on the texts that agents meet."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core.tokens import O200K_FILE, HeuristicTokenCounter, TiktokenCounter, default_token_counter

SAMPLES = Path(__file__).parent / "token_samples"
# Counted once with tiktoken's o200k_base; the texts were written for this test.
O200K = {
    "compact.json": 1033,
    "english.txt": 640,
    "indented.json": 1037,
    "program.py.txt": 782,
    "service_log.txt": 1341,
}
WITHIN = 0.10
COUNTER = HeuristicTokenCounter()


def test_every_sample_has_a_count() -> None:
    assert {path.name for path in SAMPLES.iterdir()} == set(O200K)


@pytest.mark.parametrize("name", O200K)
def test_the_estimate_is_within_a_tenth_of_the_encoder(name) -> None:
    counted = COUNTER.count((SAMPLES / name).read_text("utf-8"))
    assert abs(counted - O200K[name]) <= WITHIN * O200K[name], (counted, O200K[name])


@pytest.mark.parametrize("name", O200K)
def test_a_part_is_estimated_about_as_well_as_the_whole(name) -> None:
    """Halves add up: there is no fixed offset that only a long text hides."""
    text = (SAMPLES / name).read_text("utf-8")
    cut = text.rindex("\n", 0, len(text) // 2) + 1 if "\n" in text[: len(text) // 2] else len(text) // 2
    halves = COUNTER.count(text[:cut]) + COUNTER.count(text[cut:])
    assert abs(halves - COUNTER.count(text)) <= 3


FEW = [("", 0), ("a", 1), (" ", 1), ("hello", 1), ("hello world", 2), ("12345", 2), ("\n", 1), ("日本", 1), ("!", 1)]


@pytest.mark.parametrize(("text", "least"), FEW)
def test_a_short_text_is_at_least_its_pieces(text, least) -> None:
    assert least <= COUNTER.count(text) <= 2 * least + 1


@given(st.text(), st.text())
def test_any_text_has_a_count_and_more_text_never_has_less_than_half(one, other) -> None:
    assert (COUNTER.count(one) == 0) == (one == "")
    assert COUNTER.count(one + other) >= COUNTER.count(one) / 2
    assert COUNTER.count(one) <= 3 * len(one) + 1


def test_a_text_of_one_kind_grows_with_its_length() -> None:
    for unit in ("word ", "x", "7", "日", "한", "é", "{", "\n", "🙂", "\x00"):
        short, long = COUNTER.count(unit * 100), COUNTER.count(unit * 10_000)
        assert short <= long, unit


def test_without_the_vocabulary_the_estimate_counts(monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    assert isinstance(default_token_counter(), HeuristicTokenCounter)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    assert isinstance(default_token_counter(), HeuristicTokenCounter)


@pytest.mark.skipif(
    not os.path.isfile(os.path.join(os.environ.get("TIKTOKEN_CACHE_DIR", ""), O200K_FILE)),
    reason="the o200k vocabulary is a download; set TIKTOKEN_CACHE_DIR to compare with it",
)
def test_with_the_vocabulary_the_counts_above_are_exact() -> None:
    counter = default_token_counter()
    assert isinstance(counter, TiktokenCounter)
    counted = {name: counter.count((SAMPLES / name).read_text("utf-8")) for name in O200K}
    assert counted == O200K
    assert counter.count("<|endoftext|>") > 1  # text of a user, not a control token
