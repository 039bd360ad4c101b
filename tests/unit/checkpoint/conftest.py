from __future__ import annotations

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.stores.base import open_store
from tests.support.checkpoints import COLOURS, Caller, FaultyStore


@pytest.fixture
def urls(tmp_path):
    return {"hot": "memory://", "warm": f"sqlite:///{tmp_path}/ck.db", "cold": f"file://{tmp_path}/cold"}


@pytest.fixture
def tiers(urls):
    """The three stores, hot and cold ones with faults to order."""
    opened = {tier: open_store(url) for tier, url in urls.items()}
    return opened | {"hot": FaultyStore(opened["hot"]), "cold": FaultyStore(opened["cold"])}


@pytest.fixture
async def saver(tiers):
    async with TieredCheckpointSaver(**tiers, hot_timeout_s=30.0) as made:
        yield made


@pytest.fixture(params=COLOURS)
def caller(request, saver):
    return Caller(saver, request.param)
