"""Threads that LangGraph's own savers wrote are here what they were there, and go on the same."""

from __future__ import annotations

from typing import Any

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.support.peers import PEERS, SCENARIOS, importing, peer_named, plain

AT = {"configurable": {"thread_id": "t/1:ü", "user_id": "ada"}}
THREAD = AT["configurable"]["thread_id"]
# that saver forgets pending writes, of which a delta channel is made
WRONG_THERE = [("redis", SCENARIOS["a delta channel"])]


@pytest.fixture
def saver(tmp_path):
    with TieredCheckpointSaver.from_urls(warm=f"sqlite:///{tmp_path}/ours.db") as made:
        yield made


@pytest.fixture(params=PEERS)
def peer(request, tmp_path):
    with peer_named(request.param, request, tmp_path) as made:
        yield made


def as_read(found: Any, kind: str) -> Any:
    """What a saver gives for a checkpoint; the one for Redis adds two fields of its own."""
    checkpoint = dict(found.checkpoint)
    writes = [tuple(write) for write in found.pending_writes or []]
    if kind == "redis":  # it forgets writes that come before their checkpoint, though they are stored
        for field in ("type", "pending_sends"):
            checkpoint.pop(field, None)
        writes = []
    if kind == "valkey":  # it gives them as they came
        writes = sorted(writes, key=repr)
    parent = found.parent_config and found.parent_config["configurable"]["checkpoint_id"]
    return checkpoint, found.metadata, parent, writes


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_a_thread_is_equal_here_and_goes_on_as_there(scenario, peer, saver) -> None:
    theirs = scenario.graph(peer.saver)
    scenario.begin(theirs, AT)
    with importing(peer, saver) as importer:
        outcome = importer.bring(THREAD)
        assert (outcome.state, outcome.reason) == ("imported", "")
        assert importer.bring(THREAD).state == "here"
    found = list(saver.list({"configurable": {"thread_id": THREAD}}))
    assert len(found) == outcome.checkpoints > 2
    for one in found:
        assert as_read(one, peer.kind) == as_read(peer.saver.get_tuple(one.config), peer.kind)
    if (peer.kind, scenario) in WRONG_THERE:
        return
    ours = scenario.graph(saver)
    assert plain(scenario.go_on(ours, AT)) == plain(scenario.go_on(theirs, AT))
    assert ours.get_state(AT).next == theirs.get_state(AT).next
