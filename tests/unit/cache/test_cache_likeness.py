"""The shipped likeness, the hashed embeddings, and the rows that hold nearest."""

from __future__ import annotations

import json
import math
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_llmops.cache import nearest
from langchain_llmops.cache.hashing import HashingEmbeddings
from langchain_llmops.cache.likeness import features, likeness, shipped
from langchain_llmops.cache.words import read
from langchain_llmops.core.errors import ConfigurationError
from tests.support.pairs import Pair, halves, threshold_within

SOME = ("how", "do", "I", "you", "a", "b", "cat", "dog", "cats", "eat", "why", "10", "best")
texts = st.text(max_size=60) | st.lists(st.sampled_from(SOME), max_size=12).map(" ".join)


@given(texts, texts)
@settings(deadline=None)
def test_likeness_is_a_share_and_does_not_care_which_came_first(one, other) -> None:
    first, second = read(one), read(other)
    assert 0 <= likeness(first, second) <= 1
    assert features(first, second) == features(second, first)


def test_repeated_words_do_not_make_likeness_depend_on_which_came_first() -> None:
    one, other = read("a fish a"), read("fish dog a")  # for these, difflib depends on it
    assert features(one, other) == features(other, one)


def test_the_same_question_in_other_words_is_likelier_than_another_question() -> None:
    asked = read("How do I reset my account password?")
    same, other = read("How can I reset my account password?"), read("How do I open an account?")
    assert likeness(asked, same) >= shipped().threshold > likeness(asked, other)


def test_the_same_words_are_the_same_question_whatever_their_case_and_marks() -> None:
    assert likeness(read("Where is my parcel now?"), read("where is my parcel, now")) == 1


def test_the_shipped_trees_fit_the_features_they_are_given() -> None:
    table = json.loads((files("langchain_llmops.cache") / "data" / "likeness.json").read_text("utf-8"))
    assert table["features"] == len(features(read("one thing"), read("another thing")))
    for tree in table["trees"]:
        for place, node in enumerate(tree):
            assert len(node) in (1, 4)
            if len(node) == 4:
                assert 0 <= node[0] < table["features"]
                assert place < node[2] < len(tree)
                assert place < node[3] < len(tree)


@given(texts, st.integers(1, 512))
def test_hashed_embeddings_are_unit_vectors_and_the_same_every_time(text, dimensions) -> None:
    vector = HashingEmbeddings(dimensions).embed_query(text)
    assert len(vector) == dimensions
    assert math.sqrt(sum(x * x for x in vector)) == pytest.approx(1)
    assert vector == HashingEmbeddings(dimensions).embed_query(text)


async def test_both_colours_and_both_forms_embed_alike() -> None:
    embeddings = HashingEmbeddings()
    assert [await embeddings.aembed_query("hi there")] == embeddings.embed_documents(["hi there"])
    assert await embeddings.aembed_documents(["hi there"]) == [embeddings.embed_query("hi there")]


def test_an_embedding_never_changes_between_versions_and_machines() -> None:
    vector = HashingEmbeddings(8).embed_query("reset my password")
    assert [round(x, 3) for x in vector] == [-0.187, 0.0, 0.652, -0.019, -0.662, 0.193, 0.253, 0.0]


def test_no_dimensions_are_refused() -> None:
    with pytest.raises(ConfigurationError):
        HashingEmbeddings(0)


KINDS = [nearest.PlainRows] + ([nearest.NumpyRows] if nearest.np is not None else [])
steps = st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.integers(0, 999)), max_size=40)


@pytest.mark.parametrize("kind", KINDS)
@given(steps)
@settings(deadline=None)
def test_rows_find_the_nearest_of_what_they_hold(kind, steps) -> None:
    rows, held = kind(), {}
    for name, drops, seed in steps:
        vector = nearest.unit([math.sin(seed), math.cos(seed), 0.5])
        if drops and name in held:
            rows.drop(name)
            del held[name]
        elif not drops:
            rows.put(name, vector)
            held[name] = vector
    asked = nearest.unit([1.0, 0.0, 0.0])
    best = sorted((sum(x * y for x, y in zip(row, asked, strict=True)) for row in held.values()), reverse=True)
    found = rows.nearest(asked, 3)
    assert [cosine for cosine, _ in found] == pytest.approx(best[:3], abs=1e-6)
    assert {name for _, name in found} <= held.keys()


# the yardstick of the benchmark

SCORED = [(0.9, True), (0.8, False), (0.8, True), (0.7, True), (0.5, False), (0.4, False), (0.3, False)]


@pytest.mark.parametrize(("budget", "lowest"), [(0.0, 0.9), (0.24, 0.9), (0.25, 0.7), (0.5, 0.5), (1.0, 0.3)])
def test_a_threshold_is_the_lowest_that_keeps_within_the_budget(budget, lowest) -> None:
    assert threshold_within(SCORED, budget) == lowest


def test_the_halves_share_no_question(tmp_path) -> None:
    import gzip

    rows = [(f"q{n}", f"q{n + 1 + n % 3}", n % 2) for n in range(0, 200, 2)]
    path = tmp_path / "pairs.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps({"text_a": a, "text_b": b, "label": c}) + "\n" for a, b, c in rows)
    first, second = ({text for pair in half for text in (pair.one, pair.other)} for half in halves(path))
    assert first
    assert second
    assert not first & second
    assert sum(map(len, halves(path))) == len(rows)
    assert isinstance(halves(path)[0][0], Pair)
