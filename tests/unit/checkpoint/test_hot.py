"""Whatever the hot tier lost or brought back, a reader is given the state that the warm row says, or a newer one."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from langchain_llmops.checkpoint import hot as hot_tier
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import StoreUnavailableError
from langchain_llmops.stores.base import open_store
from tests.support.checkpoints import Caller, facts, until
from tests.support.checkpoints import config as named

LONG = "x" * 400


class Maps:
    """A hot store that a test can look into, set back, damage or fail."""

    def __init__(self, inner) -> None:
        self.inner = inner
        self.items: dict[str, dict[bytes, bytes]] = {}
        self.reads = self.writes = 0
        self.fails = False

    async def read_map(self, key):
        self.reads += 1
        self._stand()
        return dict(self.items.get(key, {}))

    async def write_maps(self, changes):
        self.writes += 1
        self._stand()
        for change in changes:
            held = {} if change.whole else self.items.get(change.key, {})
            self.items[change.key] = {
                name: value for name, value in {**held, **change.fields}.items() if name not in set(change.gone)
            }

    async def drop_maps(self, *keys):
        self._stand()
        for key in keys:
            self.items.pop(key, None)

    def _stand(self) -> None:
        if self.fails:
            raise StoreUnavailableError("the test made it fail")


class Hot:
    """The store around it."""

    url = "memory://"

    def __init__(self) -> None:
        self.maps = Maps(None)

    async def ping(self) -> float:
        return 0.0

    async def aclose(self) -> None:
        pass


@pytest.fixture
def hot():
    return Hot()


@pytest.fixture
def opened(hot, tmp_path):
    """Savers as processes have them: over the same stores, with memories of their own."""
    made = []

    def open_one(**options) -> Caller:
        warm = open_store(f"sqlite:///{tmp_path}/ck.db", blocking=True)
        made.append(TieredCheckpointSaver(warm, hot, **options))
        return Caller(made[-1])

    yield open_one
    for saver in made:
        saver.close()


def filled(caller: Caller, thread: str) -> None:
    """Copies are made behind the callers' backs: now."""
    engine = caller.saver._engine
    engine.hot.fill([engine.place(thread).thread])


async def test_another_process_reads_the_copy(opened, hot):
    ours, theirs = opened(), opened()
    checkpoint_id = await ours.put("t", {"messages": [LONG + "1", LONG + "2"]})
    await ours.write("t", checkpoint_id, ("messages", LONG + "3"))
    filled(ours, "t")

    found = await theirs.get(named("t"))

    assert facts(found) == facts(await ours.get(named("t")))
    assert (await theirs.call("stats")).hot_hits == 1


async def test_the_process_that_wrote_asks_no_hot_store(opened, hot):
    ours = opened()
    await ours.put("t", {"a": LONG})
    for _ in range(5):
        await ours.get(named("t"))

    assert hot.maps.reads == 0


async def test_copies_come_by_themselves(opened, hot):
    ours = opened()
    await ours.put("t", {"a": LONG})

    async with asyncio.timeout(30):
        while not hot.maps.items:  # made by a thread, some tenths of a second later
            await asyncio.sleep(0.01)


async def test_a_conversation_that_goes_on_sends_only_what_is_new(opened, hot):
    ours, parent = opened(), None
    sizes = []
    for turn in range(6):
        parent = await ours.put("t", {"messages": [LONG + str(n) for n in range(turn + 1)]}, parent=parent)
        before = {name for fields in hot.maps.items.values() for name in fields}
        filled(ours, "t")
        (fields,) = hot.maps.items.values()
        sizes.append(len(fields.keys() - before))

    assert sizes[1:] == [1] * 5
    assert (await opened().get(named("t"))).checkpoint["channel_values"]["messages"][-1] == LONG + "5"


async def test_what_a_head_no_longer_needs_leaves_its_copy(opened, hot):
    ours = opened()
    parent = await ours.put("t", {"messages": [LONG + str(n) for n in range(9)]})
    filled(ours, "t")
    await ours.put("t", {"messages": [LONG + "8"]}, parent=parent)
    filled(ours, "t")

    (fields,) = hot.maps.items.values()
    assert len(fields) == 2


async def test_a_damaged_copy_is_a_counted_miss(opened, hot):
    ours, theirs = opened(), opened()
    await ours.put("t", {"a": LONG})
    filled(ours, "t")
    (fields,) = hot.maps.items.values()
    for name in fields:
        fields[name] = fields[name][:-3] + b"odd"

    assert (await theirs.get(named("t"))).checkpoint["channel_values"] == {"a": LONG}
    stats = await theirs.call("stats")
    assert (stats.hot_hits, stats.hot_errors) == (0, 1)


async def test_a_copy_that_lost_a_part_is_made_whole_again(opened, hot):
    ours, theirs = opened(), opened()
    parent = await ours.put("t", {"messages": [LONG, LONG + "2"]})
    filled(ours, "t")
    (fields,) = hot.maps.items.values()
    del fields[max(fields, key=len)]
    assert (await theirs.get(named("t"))).checkpoint["channel_values"]["messages"] == [LONG, LONG + "2"]
    filled(theirs, "t")

    third = opened()
    assert (await third.get(named("t"))).checkpoint["id"] == parent
    assert (await third.call("stats")).hot_hits == 1


async def test_a_hot_store_that_fails_is_left_alone_for_a_while(opened, hot):
    ours = opened()
    await ours.put("t", {"a": LONG})
    theirs = opened()
    hot.maps.fails = True
    for _ in range(5):
        theirs.saver._engine.recent.clear()
        assert (await theirs.get(named("t"))).checkpoint["channel_values"] == {"a": LONG}

    assert (await theirs.call("stats")).hot_errors == 1


async def test_a_deleted_thread_leaves_no_copy(opened, hot):
    ours = opened()
    await ours.put("t", {"a": LONG})
    filled(ours, "t")
    await ours.call("delete_thread", "t")

    assert hot.maps.items == {}


STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "write", "read", "fill", "save", "back", "lose", "swap"]), st.integers(0, 1)),
    max_size=30,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_no_reader_goes_back_in_time(steps, tmp_path_factory):
    hot, saved = Hot(), {}
    folder = tmp_path_factory.mktemp("hot")
    stores = [open_store(f"sqlite:///{folder}/ck.db", blocking=True) for _ in range(2)]
    callers = [Caller(TieredCheckpointSaver(store, hot)) for store in stores]
    head, writes, count = None, [], 0
    for step, who in steps:
        caller, count = callers[who], count + 1
        match step:
            case "put":
                head, writes = await caller.put("t", {"n": count, "long": LONG + str(count % 3)}, parent=head), []
            case "write" if head is not None:
                await caller.write("t", head, ("n", count), task=f"task{count:03}")
                writes.append(count)
            case "read":
                found = await caller.get(named("t"))
                assert (found and found.checkpoint["id"]) == head
                assert [value for _, _, value in (found.pending_writes if found else [])] == writes
            case "fill":
                filled(caller, "t")
            case "save":
                saved = {key: dict(fields) for key, fields in hot.maps.items.items()}
            case "back":
                hot.maps.items = {key: dict(fields) for key, fields in saved.items()}
            case "lose":
                hot.maps.items = {}
            case "swap":
                caller.saver._engine.recent.clear()
    for caller in callers:
        caller.saver.close()


async def test_a_copy_that_fails_in_any_way_keeps_no_later_one_from_being_made(tmp_path, monkeypatch):
    hot = Hot()
    with TieredCheckpointSaver(open_store(f"sqlite:///{tmp_path}/ck.db", blocking=True), hot) as saver:
        made, failed = saver._engine.hot.fill, []

        def failing_once(threads):
            if not failed:
                failed.append(threads)
                raise ValueError("a fault of its own")
            made(threads)

        monkeypatch.setattr(saver._engine.hot, "fill", failing_once)
        await Caller(saver).put("t", {"n": 1})
        await until(lambda: failed)
        await Caller(saver).put("u", {"n": 1})
        await until(lambda: hot.maps.items)


def test_the_rule_is_written_where_it_is_kept():
    assert "uses a copy only if the stamps are equal" in (hot_tier.__doc__ or "")
