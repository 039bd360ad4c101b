from __future__ import annotations

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.stores.base import open_store
from tests.support.checkpoints import COLOURS, Caller, FaultyStore
from tests.support.combinations import Combination, from_fixtures
from tests.support.graphs import Runner


@pytest.fixture
def urls(tmp_path):
    return {"hot": "memory://", "warm": f"sqlite:///{tmp_path}/ck.db", "cold": f"file://{tmp_path}/cold"}


@pytest.fixture
def tiers(urls):
    """The three stores, hot and cold ones with faults to order."""
    opened = {tier: open_store(url, blocking=True) for tier, url in urls.items()}
    return opened | {"hot": FaultyStore(opened["hot"]), "cold": FaultyStore(opened["cold"])}


@pytest.fixture
async def saver(tiers):
    async with TieredCheckpointSaver(**tiers) as made:
        yield made


@pytest.fixture(params=COLOURS)
def caller(request, saver):
    return Caller(saver, request.param)


EMBEDDED, SERVERS = Combination("sqlite", "memory"), Combination("postgresql", "redis")
KINDS = [  # every home with every colour, every home and colour with every durability
    (EMBEDDED, "async", "sync", "off"),
    (EMBEDDED, "async", "async", "off"),
    (EMBEDDED, "sync", "exit", "off"),
    (SERVERS, "async", "exit", "off"),
    (SERVERS, "sync", "sync", "off"),
    (SERVERS, "sync", "async", "off"),
]
KINDS += [
    (EMBEDDED, "async", "exit", "strict"),
    (EMBEDDED, "sync", "sync", "strict"),
    (SERVERS, "async", "async", "strict"),
]


@pytest.fixture(params=KINDS, ids=lambda kind: "-".join(map(str, kind)))
async def both(request, tmp_path):
    """The same graph over our saver and over LangGraph's in memory, called alike; fencing refuses no one writer."""
    home, colour, durability, fencing = request.param
    async with TieredCheckpointSaver.from_urls(**from_fixtures(home, request, tmp_path), fencing=fencing) as saver:
        yield lambda builder: [
            Runner(builder(checkpointer=one), colour, durability) for one in (saver, InMemorySaver())
        ]
