"""What must agree before two questions may share an answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.cache.gates import GATES, refused_by
from langchain_llmops.cache.words import english, read

APART = [
    ("content_words", "Should I sell my Tesla stock?", "Should I buy my Tesla stock?"),
    ("content_words", "Is it safe to mix bleach and ammonia?", "Is it unsafe to mix bleach and ammonia?"),
    ("content_words", "How do I enable two-factor login?", "How do I disable two-factor login?"),
    ("content_words", "Is this mushroom legal to sell?", "Is this mushroom illegal to sell?"),
    ("content_words", "What is the best laptop for gaming?", "What is the worst laptop for gaming?"),
    ("content_words", "What is the fee before the trial?", "What is the fee after the trial?"),
    ("content_words", "Do most people like cats?", "Do most people dislike cats?"),
    ("content_words", "can I pay with a card", "can I pay without a card"),
    ("content_words", "Who is the most hated actor?", "Who is the most hated politician?"),
    ("numbers", "Convert 10 USD to EUR", "Convert 100 USD to EUR"),
    ("numbers", "Where is order 12345?", "Where is order 12354?"),
    ("numbers", "How do I move from version 2 to 3?", "How do I move from version 3 to 2?"),
    ("numbers", "Give me two ideas for lunch", "Give me three ideas for lunch"),
    ("numbers", "Does the plan cost $9.99?", "Does the plan cost $99.9?"),
    ("negation", "Can I eat this raw?", "Can I not eat this raw?"),
    ("negation", "Why does my phone charge?", "Why doesn't my phone charge?"),
    ("negation", "Which fruits are good and not expensive?", "Which fruits are not good and expensive?"),
    ("symbols", "What is the best way to learn C?", "What is the best way to learn C++?"),
    ("symbols", "is 500 € a lot of money", "is 500 $ a lot of money"),
    ("entities", "How do I get a visa for India?", "How do I get a visa for Chile?"),
    ("entities", "How would Netherlands beat Chile?", "How would Chile beat Netherlands?"),
    ("entities", "Show flights from London to Paris", "Show flights from Paris to London"),
    ("direction", "show flights from london to paris", "show flights to london from paris"),
    ("length", "refund", "how do I get a refund for a broken item that came last week"),
    ("length", "what is it", "what is this"),
    ("length", "", "hello"),
]
TOGETHER = [
    ("How do I reset my password?", "How can I reset my password"),
    ("What's the refund policy?", "what is the Refund Policy?"),
    ("How do I kill a process in Linux?", "How can I kill Linux processes?"),
    ("Does it cost 1,000 dollars?", "does it cost 1000 dollars"),
    ("I can't log in", "I cannot log in"),
    ("Where can I buy a movie ticket?", "Where can I purchase a film ticket?"),
    ("How do I cancel my subscription?", "How do I cancel my subscripton?"),
    ("Ten ways to save water", "10 ways to save water"),
]
SOME = (
    "how",
    "do",
    "I",
    "not",
    "sell",
    "buy",
    "10",
    "London",
    "Paris",
    "from",
    "to",
    "safe",
    "unsafe",
    "c++",
    "€",
    "don't",
)
texts = st.text(max_size=60) | st.lists(st.sampled_from(SOME), max_size=8).map(" ".join)


@pytest.mark.parametrize(("gate", "one", "other"), APART)
def test_a_dangerous_pair_is_refused_by_its_gate_from_either_side(gate, one, other) -> None:
    first, second = read(one), read(other)
    assert not GATES[gate](first, second)
    assert not GATES[gate](second, first)
    assert refused_by(first, second) is not None


@pytest.mark.parametrize(("one", "other"), TOGETHER)
def test_other_words_for_the_same_question_pass_every_gate(one, other) -> None:
    assert refused_by(read(one), read(other)) is None
    assert refused_by(read(other), read(one)) is None


def test_every_gate_has_been_seen_to_refuse() -> None:
    assert {gate for gate, _, _ in APART} == set(GATES)


@given(texts, texts)
def test_gates_take_any_text_and_do_not_care_which_came_first(one, other) -> None:
    first, second = read(one), read(other)
    for name, passes in GATES.items():
        assert passes(first, second) == passes(second, first), name


@given(texts)
def test_a_text_is_kept_from_itself_only_for_its_length(text) -> None:
    words = read(text)
    assert [name for name, passes in GATES.items() if not passes(words, words)] in ([], ["length"])


def test_the_tables_hold_no_word_that_is_its_own_opposite() -> None:
    assert [pair for pair in english().opposites if len(pair) != 2] == []
    assert {word for word in english().kinds if word != word.casefold()} == set()
