"""LangGraph's own conformance suite for checkpointers, every capability, on every combination we ship."""

from __future__ import annotations

import pytest
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.support.checkpoints import COLOURS, SyncTwin

TESTS = 81  # of the suite's version 0.0.2; later versions have more


@pytest.fixture(params=["embedded", "servers"])
def urls(request, tmp_path):
    if request.param == "embedded":
        return {"hot": "memory://", "warm": f"sqlite:///{tmp_path}/ck.db", "cold": f"file://{tmp_path}/cold"}
    fixtures = {"hot": "clean_redis_url", "warm": "postgres_url", "cold": "s3_url"}
    return {tier: request.getfixturevalue(name) for tier, name in fixtures.items()}


@pytest.mark.parametrize("colour", COLOURS)
async def test_every_capability_passes_whole(urls, colour):
    @checkpointer_test(name=f"tiered {colour}")
    async def made():
        async with TieredCheckpointSaver.from_urls(**urls) as saver:
            yield saver if colour == "async" else SyncTwin(saver)

    report = await validate(made)

    assert {name: result.failures for name, result in report.results.items() if not result.passed} == {}
    assert set(report.results) == {capability.value for capability in Capability}
    assert sum(result.tests_passed for result in report.results.values()) >= TESTS
