"""A client killed before or after any operation of its stores loses nothing it was told is stored, and can go on."""

from __future__ import annotations

import random

import pytest

from tests.faults.checkpoint_killed import census, killed_at, phases

SEED = 5
POINTS = {"embedded": 3, "rclone": 1}  # of some fifty a phase: all of them are killed by `checkpoint_faults.py`
LEAST_KINDS = 4


@pytest.mark.parametrize("kind", POINTS)
@pytest.mark.parametrize("phase", phases())
async def test_a_client_killed_anywhere_loses_nothing_acknowledged_and_does_the_same_again(
    fault_servers, clients, tmp_path, phase, kind
):
    draw = random.Random(f"{SEED} {phase} {kind}")
    seed = draw.randrange(1000)
    points = census(fault_servers, tmp_path, clients, kind, phase, seed)
    assert len({(point.kind, point.side) for point in points}) >= LEAST_KINDS
    runs = [
        await killed_at(fault_servers, tmp_path, clients, kind, point, seed)
        for point in draw.sample(points, POINTS[kind])
    ]
    assert [bad for run in runs for bad in run.checked.bad] == []
    assert phase == "delete_user" or all(run.checked.checked > 0 for run in runs)  # else nothing is left to check
    assert sum(run.counts["kills"] for run in runs) >= 1


async def test_a_saver_that_acknowledges_before_the_commit_is_caught(fault_servers, clients, tmp_path):
    """Else none of the above would mean anything."""
    points = census(fault_servers, tmp_path, clients, "embedded", "put", SEED, hasty=True)
    (before_commit,) = [one for one in points if (one.kind, one.side, one.nth) == ("sql commit", "before", 1)]
    run = await killed_at(fault_servers, tmp_path, clients, "embedded", before_commit, SEED, hasty=True)
    assert run.counts["kills"] == 1
    assert any("the head is" in one for one in run.checked.lost), run.checked
