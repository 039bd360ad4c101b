"""The checkpointer's events as series."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from langchain_llmops.core.events import (
    CacheLooked,
    CheckpointsStored,
    ConversationArchived,
    ConversationGrown,
)
from langchain_llmops.telemetry.conversations import ConversationMetrics


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def metrics(registry):
    return ConversationMetrics(registry)


def test_commits_sizes_and_warnings_are_counted(metrics, registry):
    value = registry.get_sample_value
    metrics(CheckpointsStored(3, 0.004, (5_000, 70), "t"))
    metrics(CheckpointsStored(1, 0.002, (6_000,), "t"))
    metrics(ConversationArchived(900, "t"))
    metrics(ConversationGrown("thread-1", 6_000, 5_500, "t"))
    metrics(CacheLooked("miss"))
    assert value("llmops_checkpoint_commit_seconds_count") == 2
    assert value("llmops_checkpoint_commit_seconds_sum") == pytest.approx(0.006)
    assert value("llmops_checkpoint_commit_writes_sum") == 4
    assert value("llmops_checkpoint_commit_writes_bucket", {"le": "1.0"}) == 1
    assert value("llmops_conversation_bytes_sum", {"tier": "warm"}) == 11_070
    assert value("llmops_conversation_bytes_count", {"tier": "cold"}) == 1
    assert value("llmops_conversations_grown_total") == 1


def test_what_a_journal_brought_to_the_warm_tier_is_no_commit_of_a_caller(metrics, registry):
    metrics(CheckpointsStored(0, 0.0, (700,), "t"))
    assert registry.get_sample_value("llmops_checkpoint_commit_seconds_count") == 0
    assert registry.get_sample_value("llmops_conversation_bytes_count", {"tier": "warm"}) == 1


def test_no_label_names_a_user_or_a_conversation(metrics, registry):
    metrics(ConversationGrown("thread-1", 6_000, 5_500, "tenant-1"))
    metrics(CheckpointsStored(3, 0.004, (5_000,), "tenant-1"))
    labels = {label for metric in registry.collect() for sample in metric.samples for label in sample.labels}
    assert labels == {"le", "tier"}
