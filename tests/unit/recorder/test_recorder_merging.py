"""Posts and patches of a run make one row, in whatever order and however often they come."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_llmops.core.errors import StoreError
from langchain_llmops.recorder.intake import Intake
from langchain_llmops.recorder.schema import COLUMNS
from langchain_llmops.recorder.storage import TraceStore
from langchain_llmops.stores.base import open_store
from tests.support.traces import child, run, spent, uuid

END = "2026-11-21T10:00:02+00:00"


def intake(*operations) -> Intake:
    taken = Intake()
    for kind, fields in operations:
        taken.add_run(kind, fields)
    assert taken.refused == []
    return taken


async def stored(requests, url="memory://") -> dict[str, dict]:
    """The rows after these requests, by id."""
    store = open_store(url)
    try:
        traces = TraceStore(store, lambda: 1e9)
        await traces.prepare()
        for request in requests:
            await traces.take(request)
        rows = await traces.sql.fetch(f"SELECT {', '.join(COLUMNS)} FROM llmops_recorder_runs")
        begun = dict(await traces.sql.fetch("SELECT id, started_us FROM llmops_recorder_traces"))
        return {row[0]: dict(zip(COLUMNS, row, strict=True)) | {"trace_us": begun.get(row[0])} for row in rows}
    finally:
        await store.aclose()


def life(run_id) -> list[tuple[str, dict]]:
    """A post, its repetition, and two patches of which the second says less."""
    posted = run(id=run_id, extra=spent(3, user_id="u1"))
    end = {"id": run_id, "trace_id": run_id, "outputs": {"output": "done"}, "end_time": END}
    return [
        ("post", posted),
        ("post", posted),
        ("patch", {**end, "extra": spent(9, 0.25, user_id="u1", session_id="s1")}),
        ("patch", {"id": run_id, "trace_id": run_id, "outputs": None, "error": "late", "extra": None}),
    ]


@pytest.fixture(params=["memory", "postgresql"])
def url(request):
    return "memory://" if request.param == "memory" else request.getfixturevalue("postgres_url")


async def test_every_order_and_grouping_of_the_operations_makes_the_same_row(url):
    requests, ids = [], []
    for order in itertools.permutations(range(4)):
        for cuts in itertools.product([True, False], repeat=3):
            run_id = uuid()
            ids.append(run_id)
            operations = [life(run_id)[index] for index in order]
            groups = [[operations[0]]]
            for cut, operation in zip(cuts, operations[1:], strict=True):
                groups += [[operation]] if cut else []
                groups[-1] += [] if cut else [operation]
            requests += [intake(*group) for group in groups]
    rows = await stored(requests, url)
    assert len(rows) == len(ids) == 192
    same = {"id", "trace_id", "dotted_order"}
    shapes = {repr({name: value for name, value in row.items() if name not in same}) for row in rows.values()}
    assert len(shapes) == 1
    row = rows[ids[0]]
    assert (row["name"], row["error"], row["total_tokens"], row["cost_pico"]) == ("root", "late", 9, 250_000_000_000)
    assert (row["user_id"], row["session_id"], row["project"]) == ("u1", "s1", "tests")
    assert row["outputs"] == '{"output": "done"}'
    assert row["trace_us"] == row["started_us"]


values = st.one_of(st.none(), st.text(max_size=8), st.integers(), st.floats(), st.booleans(), st.just({"a": [1]}))
fields = st.dictionaries(
    st.sampled_from(["name", "inputs", "outputs", "error", "extra", "events", "tags", "run_type", "session_name", "x"]),
    values,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(["post", "patch"]), fields), min_size=1, max_size=6))
def test_a_field_once_told_is_never_erased(operations):
    run_id = uuid()
    told = [(kind, {"id": run_id, **told}) for kind, told in operations]
    row = asyncio.run(stored([intake(one) for one in told]))[run_id]
    for name in ("inputs", "outputs", "extra", "events", "tags"):
        assert (row[name] is None) == all(each.get(name) is None for _, each in operations)
    for name in ("name", "error", "run_type"):
        assert (row[name] is None) == all(each.get(name) in (None, "") for _, each in operations)


async def test_writers_at_the_same_time_lose_nothing(postgres_url):
    store = open_store(postgres_url)
    try:
        traces = TraceStore(store, lambda: 1e9)
        await traces.prepare()
        root = run()
        below = [child(root, order % 60) for order in range(300)]
        ends = [("patch", {"id": one["id"], "end_time": END}) for one in below]
        await traces.take(intake(("post", root)))
        requests = [intake(*(("post", one) for one in below)), intake(*ends), intake(*reversed(ends)), intake(*ends)]
        await asyncio.gather(*(traces.take(request) for request in requests))
        ended = "SELECT COUNT(*) FROM llmops_recorder_runs WHERE ended_us IS NOT NULL AND name IS NOT NULL"
        assert await traces.sql.fetch(ended) == [(300,)]
    finally:
        await store.aclose()


async def test_a_request_that_cannot_be_stored_whole_is_not_stored_at_all(url):
    store = open_store(url)
    try:
        traces = TraceStore(store, lambda: 1e9)
        await traces.prepare()
        request = intake(("post", run()))
        request.feedback.append(("id", None, None, None, 1, "a feedback without its key"))
        with pytest.raises(StoreError):
            await traces.take(request)
        for table in ("runs", "traces", "projects", "feedback"):
            assert await traces.sql.fetch(f"SELECT COUNT(*) FROM llmops_recorder_{table}") == [(0,)]
    finally:
        await store.aclose()


@pytest.mark.parametrize(
    ("cost", "kept"),
    [
        (0.1, 10**11),
        ("0.000001", 10**6),
        (0, 0),
        (-1, None),
        (float("nan"), None),
        ("much", None),
        (1e300, None),
        (None, None),
    ],
)
async def test_a_cost_is_exact_or_no_cost(cost, kept):
    posted = run(extra={"metadata": {"usage_metadata": {"total_tokens": 10**40, "total_cost": cost}}})
    row = (await stored([intake(("post", posted))]))[posted["id"]]
    assert (row["cost_pico"], row["total_tokens"]) == (kept, None)


@pytest.mark.parametrize("count", [True, False, -1, 1.5, "7", [1]])
async def test_what_counts_no_tokens_is_no_count(count):
    posted = run(extra={"metadata": {"usage_metadata": {"input_tokens": count, "total_tokens": 3}}})
    row = (await stored([intake(("post", posted))]))[posted["id"]]
    assert (row["input_tokens"], row["total_tokens"]) == (None, 3)
