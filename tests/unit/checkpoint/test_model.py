"""Whatever is done to a checkpointer and its tiers, it answers as LangGraph's own saver in memory does."""

from __future__ import annotations

import os

import pytest

from langchain_llmops.checkpoint import hot
from tests.support.checkpoint_tiers import Embedded, Servers
from tests.support.checkpoint_walk import KINDS, walk

STEPS = int(os.environ.get("LLMOPS_TEST_MODEL_STEPS", "10000"))
STEPS_ON_SERVERS = max(STEPS // 10, 1)
SERVERS = ("postgres_cluster_url", "clean_redis_url", "rclone_url")


@pytest.fixture(autouse=True)
def copies_are_made_when_a_walk_says_so(monkeypatch):
    monkeypatch.setattr(hot, "FILL_AFTER_S", 3_600.0)


def test_any_walk_over_embedded_tiers_is_read_as_the_model_reads_it(tmp_path) -> None:
    _check(walk(lambda: Embedded(tmp_path), STEPS), STEPS, "SQLite, memory and a folder")


def test_any_walk_over_servers_is_read_as_the_model_reads_it(request) -> None:
    urls = [request.getfixturevalue(name) for name in SERVERS]
    _check(walk(lambda: Servers(*urls), STEPS_ON_SERVERS), STEPS_ON_SERVERS, "PostgreSQL, Redis and S3")


def _check(counts: dict[str, int], promised: int, where: str) -> None:
    print(f"{sum(counts.values())} steps over {where}: {counts}")
    assert sum(counts.values()) >= promised
    assert counts.keys() == KINDS, "a kind of step was left out"
