"""LangGraph's own conformance suite for checkpointers, every capability, on every combination of databases."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.conformance.delta_history import CLAUSES, NAME, run_delta_history_clauses
from tests.conformance.suite import CAPABILITIES, TESTS, conform
from tests.conformance.table import main, rows_of
from tests.support.checkpoints import COLOURS, SyncTwin
from tests.support.combinations import COMBINATIONS, Combination, from_fixtures


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("combination", COMBINATIONS, ids=str)
async def test_every_test_passes_on_every_combination(combination, colour, request, tmp_path):
    urls = from_fixtures(combination, request, tmp_path)

    @asynccontextmanager
    async def opened():
        async with TieredCheckpointSaver.from_urls(**urls) as saver:
            yield saver if colour == "async" else SyncTwin(saver)

    score = await conform(str(combination), opened)

    assert score.failures == []
    assert set(score.total) == set(CAPABILITIES)
    assert sum(score.passed.values()) >= TESTS


def test_the_sync_twin_answers_every_async_method_by_a_sync_one():
    asynchronous = {
        name for name in vars(BaseCheckpointSaver) if name.startswith("a") and name[1:] in vars(BaseCheckpointSaver)
    }
    assert "aget_delta_channel_history" in asynchronous
    assert asynchronous - {"aget"} <= set(vars(SyncTwin))  # `aget` is made of `aget_tuple`


async def test_langgraphs_own_saver_keeps_our_clauses_and_a_wrong_one_breaks_each():
    assert await run_delta_history_clauses(InMemorySaver()) == []

    class Wrong(InMemorySaver):
        async def aget_delta_channel_history(self, *, config, channels):
            found = await super().aget_delta_channel_history(config=config, channels=channels)
            writes = {name: [*reversed(entry["writes"]), ("t", name, 0)] for name, entry in found.items()}
            return {name: {"writes": writes[name]} for name in channels} or {"": {"writes": []}}

    assert len(await run_delta_history_clauses(Wrong())) == len(CLAUSES)


def test_the_table_shows_a_row_for_each_saver_and_tells_what_failed(capsys):
    assert main(["--combinations", str(Combination("sqlite", "memory"))]) == 0
    printed = capsys.readouterr().out
    assert f"{TESTS}/{TESTS}" in printed
    assert "InMemorySaver" in printed
    assert all(name in printed for name in CAPABILITIES)


async def test_a_failed_clause_is_counted_and_a_capability_the_saver_lacks_is_not():
    class Forgetful(InMemorySaver):
        async def aget_delta_channel_history(self, *, config, channels):
            return {}

    @asynccontextmanager
    async def opened():
        yield Forgetful()

    score = await conform("forgetful", opened)

    row = rows_of([score])[0]
    assert row[1 + CAPABILITIES.index(NAME)] == "1/8"
    assert row[1 + CAPABILITIES.index("prune")] == "-"
    assert row[-1] == f"{58 + 1}/{TESTS}"
