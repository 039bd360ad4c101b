"""What a semantic cache finds, and what it wrongly takes for the same: labelled pairs of questions.

`python tests/benchmarks/cache_semantic.py [--quick] [--json FILE]`. Thresholds come from one half of the pairs and are
measured on the other, which shares no question with it. Peers are plain cosine at the thresholds others ship. All of it
is run for every embeddings that is installed: hashed n-grams always, MiniLM where a local copy can be loaded.
"""

from __future__ import annotations

import asyncio
import json
import operator
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from rich.console import Console
from rich.table import Table

from langchain_llmops.cache.gates import refused_by
from langchain_llmops.cache.hashing import HashingEmbeddings
from langchain_llmops.cache.likeness import likeness, shipped
from langchain_llmops.cache.nearest import unit
from langchain_llmops.cache.semantic import SemanticLevel
from langchain_llmops.cache.words import read
from langchain_llmops.core.stats import wilson
from tests.benchmarks.harness import arguments
from tests.support.pairs import Pair, halves, threshold_within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from langchain_core.embeddings import Embeddings

MAX_FALSE, MIN_RECALL = 0.01, 0.14


@dataclass(frozen=True)
class Scored:
    same: bool
    cosine: float
    gated: bool
    likeness: float


@dataclass(frozen=True)
class Question:
    group: str
    text: str


@dataclass(frozen=True)
class Row:
    """One way to decide, with its shares of hits among pairs that are the same and pairs that are not."""

    figure: str
    threshold: float
    recall: float
    false_hits: float
    low: float
    high: float
    precision: float
    target: str | None = None
    met: bool | None = None


def scored(pairs: Sequence[Pair], embeddings: Embeddings) -> list[Scored]:
    texts = list(dict.fromkeys(text for pair in pairs for text in (pair.one, pair.other)))
    vectors = dict(zip(texts, map(unit, embeddings.embed_documents(texts)), strict=True))
    found = []
    for pair in pairs:
        one, other = read(pair.one), read(pair.other)
        cosine = sum(map(operator.mul, vectors[pair.one], vectors[pair.other]))
        found.append(Scored(pair.same, cosine, refused_by(one, other) is None, likeness(one, other)))
    return found


def row(figure: str, threshold: float, hits: Sequence[tuple[bool, bool]], *, targeted: bool = False) -> Row:
    """From (hit, same) of every pair."""
    same = sum(label for _, label in hits)
    right = sum(hit and label for hit, label in hits)
    wrong = sum(hit and not label for hit, label in hits)
    low, high = wilson(wrong, len(hits) - same)
    recall, false_hits = right / same, wrong / (len(hits) - same)
    target = f"<= {MAX_FALSE:.0%} at >= {MIN_RECALL:.0%}" if targeted else None
    met = (false_hits <= MAX_FALSE and recall >= MIN_RECALL) if targeted else None
    return Row(figure, threshold, recall, false_hits, low, high, right / ((right + wrong) or 1), target, met)


def cosine_rows(name: str, first: Sequence[Scored], second: Sequence[Scored]) -> list[Row]:
    rows = []
    for gates in (False, True):
        label = f"{name}: cosine" + (" behind our gates" if gates else "")
        score = [(pair.cosine if pair.gated or not gates else 0.0, pair.same) for pair in first]
        best = threshold_within(score, MAX_FALSE)
        for threshold, chosen in ((0.80, ""), (0.90, ""), (0.95, ""), (best, ", chosen on the first half")):
            hits = [(pair.cosine >= threshold and (pair.gated or not gates), pair.same) for pair in second]
            rows.append(row(f"{label} >= {threshold:.3f}{chosen}", threshold, hits))
    return rows


async def through_the_level(pairs: Sequence[Pair], embeddings: Embeddings) -> list[tuple[bool, bool]]:
    """Every pair asked of a level of its own group: one text learnt, the other looked up."""
    level = SemanticLevel(embeddings, mode="serve", max_entries=10, clock=lambda: 0.0)
    hits = []
    for number, pair in enumerate(pairs):
        group = str(number)
        await level.learn(Question(group, pair.one), f"key{number}", 1.0)
        hits.append((await level.near(Question(group, pair.other)) is not None, pair.same))
    return hits


def installed() -> dict[str, Embeddings]:
    found: dict[str, Embeddings] = {"hashed n-grams": HashingEmbeddings()}
    try:
        from langchain_huggingface import HuggingFaceEmbeddings  # type: ignore[import-not-found,unused-ignore] # a peer, not installed with the tests

        found["MiniLM-L6-v2"] = HuggingFaceEmbeddings(model_name="sentence-transformers/all-MiniLM-L6-v2")
    except Exception as error:  # a peer that cannot run is named
        print(f"MiniLM-L6-v2 cannot run here: {type(error).__name__}: {error}")
    return found


def show(rows: Sequence[Row], file: Path | None) -> None:
    table = Table(title="Semantic cache on labelled pairs, second half", title_justify="left")
    for column in ("figure", "recall", "false hits", "95 % interval", "precision", "target", "met"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for found in rows:
        met = {None: "", True: "yes", False: "NO"}[found.met]
        cells = f"{found.recall:.1%}", f"{found.false_hits:.2%}", f"{found.low:.2%}-{found.high:.2%}"
        table.add_row(found.figure, *cells, f"{found.precision:.3f}", found.target or "", met)
    Console(width=140).print(table)
    if file is not None:
        file.write_text(json.dumps([vars(found) for found in rows], indent=1))


def measured(*, quick: bool) -> list[Row]:
    """All rows."""
    first, second = halves()
    if quick:
        first, second = first[:2000], second[:2000]
    print(f"{len(first):,} pairs to choose on, {len(second):,} to measure on")
    rows = []
    for name, embeddings in installed().items():
        chosen_on, held_out = scored(first, embeddings), scored(second, embeddings)
        rows += cosine_rows(name, chosen_on, held_out)
        threshold = shipped().threshold
        alone = [(pair.likeness >= threshold, pair.same) for pair in held_out]
        rows.append(row(f"{name}: likeness >= {threshold:.3f}, no gates", threshold, alone))
        hits = asyncio.run(through_the_level(second, embeddings))
        rows.append(row(f"{name}: SemanticLevel as shipped", threshold, hits, targeted=True))
    return rows


def main() -> None:
    options = arguments(__doc__ or "")
    show(measured(quick=options.quick), options.json)


if __name__ == "__main__":
    main()
