"""What LangGraph expects of a saver beyond its conformance suite: order, repetition, lateness, filters, names."""

from __future__ import annotations

import os

import pytest
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, RESUME, TASKS
from langgraph.types import Send

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import CheckpointError, ThreadOwnerMismatch
from tests.support.checkpoints import COLOURS, Caller, checkpoint, config


@pytest.fixture(params=[f"{backend} {colour}" for backend in ("embedded", "servers") for colour in COLOURS])
async def caller(request, tmp_path):
    """Both colours, on embedded tiers and on real servers."""
    backend, colour = request.param.split()
    urls = {"hot": "memory://", "warm": f"sqlite:///{tmp_path}/ck.db", "cold": f"file://{tmp_path}/cold"}
    if backend == "servers":
        fixtures = {"hot": "clean_redis_url", "warm": "postgres_url", "cold": "s3_url"}
        urls = {tier: request.getfixturevalue(name) for tier, name in fixtures.items()}
    async with TieredCheckpointSaver.from_urls(**urls) as saver:
        yield Caller(saver, colour)


def ids(found):
    return [one.checkpoint["id"] for one in found]


async def test_the_head_is_the_greatest_id_whatever_came_last(caller):
    older, newer = checkpoint({"a": 1}), checkpoint({"a": 2}, {"a": "2"})
    await caller.put("t", made=newer)
    await caller.put("t", made=older)

    assert (await caller.get(config("t"))).checkpoint["channel_values"] == {"a": 2}
    assert ids(await caller.list(config("t"))) == [newer["id"], older["id"]]


async def test_a_repeated_put_replaces_what_it_put_and_stays_one(caller):
    made = checkpoint({"a": 1})
    await caller.put("t", made=made, metadata={"step": 1})
    await caller.put("t", made=made, metadata={"step": 2})

    found = await caller.list(config("t"))
    assert [one.metadata["step"] for one in found] == [2]
    assert (await caller.get(config("t"))).metadata["step"] == 2


async def test_a_late_repetition_never_rolls_the_head_back(caller):
    first, second = checkpoint({"a": 1}), checkpoint({"a": 2}, {"a": "2"})
    for made in (first, second, first):
        await caller.put("t", made=made)
        await caller.get(config("t"))

    assert (await caller.get(config("t"))).checkpoint["id"] == second["id"]


async def test_writes_may_come_before_their_checkpoint(caller):
    made = checkpoint({"a": 1})
    await caller.write("t", made["id"], ("a", "early"))
    assert await caller.get(config("t")) is None

    await caller.put("t", made=made)
    assert (await caller.get(config("t"))).pending_writes == [("t", "a", "early")]


async def test_the_first_write_wins_and_a_special_one_is_replaced(caller):
    made = await caller.put("t", {"a": 1})
    await caller.write("t", made, ("a", "first"), ("b", "kept"))
    await caller.write("t", made, ("a", "second"), ("b", "not this"), ("c", "added"))
    for channel in (ERROR, INTERRUPT, RESUME):
        await caller.write("t", made, (channel, "old"))
        await caller.write("t", made, (channel, "new"))

    found = (await caller.get(config("t"))).pending_writes
    plain = [("t", "a", "first"), ("t", "b", "kept"), ("t", "c", "added")]
    assert [write for write in found if not write[1].startswith("__")] == plain
    assert {write[1:] for write in found if write[1].startswith("__")} == {
        (channel, "new") for channel in (ERROR, INTERRUPT, RESUME)
    }


async def test_pending_writes_come_in_the_order_of_live_execution(caller):
    made = await caller.put("t", {"a": 1})
    arrivals = [("z", "~2"), ("a", "~10"), ("m", "~1"), ("b", "~1"), ("x", "")]
    for task, path in arrivals:
        await caller.write("t", made, ("a", f"{task}0"), ("a", f"{task}1"), task=task, path=path)

    tasks = [task for task, _ in sorted(arrivals, key=lambda one: (one[1], one[0]))]
    expected = [(task, "a", f"{task}{place}") for task in tasks for place in (0, 1)]
    assert (await caller.get(config("t"))).pending_writes == expected
    assert (await caller.list(config("t")))[0].pending_writes == expected
    assert (await caller.get(config("t"))).pending_writes == expected  # now from the hot tier


async def test_a_channel_that_did_not_change_is_found_in_every_later_checkpoint(caller):
    first = checkpoint({"big": "x" * 5000, "small": 1}, {"big": "1", "small": "1"})
    second = checkpoint({"big": "x" * 5000, "small": 2}, {"big": "1", "small": "2"})
    gone = checkpoint({"big": "x" * 5000}, {"big": "1", "small": "3"})
    told = {"source": "loop", "step": 1, "parents": {}}
    await caller.call("put", config("t"), first, told, first["channel_versions"])
    await caller.call("put", config("t", "", first["id"]), second, told, {"small": "2"})
    await caller.call("put", config("t", "", second["id"]), gone, told, {"small": "3"})

    assert (await caller.get(config("t"))).checkpoint["channel_values"] == gone["channel_values"]
    found = [one.checkpoint["channel_values"] for one in await caller.list(config("t"))]
    assert found == [gone["channel_values"], second["channel_values"], first["channel_values"]]


async def test_a_dict_comes_back_in_the_order_in_which_it_was_put(caller):
    first = checkpoint({"doc": {"a": 1, "b": 2}, "log": ["x" * 900]}, {"doc": "1", "log": "1"})
    second = checkpoint({"doc": {"b": 2, "a": 1}, "log": ["x" * 900]}, {"doc": "2", "log": "1"})
    told = {"source": "loop", "step": 1, "parents": {}}
    await caller.call("put", config("t"), first, told, first["channel_versions"])
    await caller.call("put", config("t", "", first["id"]), second, told, {"doc": "2"})

    found = await caller.list(config("t"))
    assert [list(one.checkpoint["channel_values"]["doc"]) for one in found] == [["b", "a"], ["a", "b"]]


async def test_an_older_checkpoint_put_again_replaces_its_own_content_and_no_other(caller):
    told = {"source": "loop", "step": 1, "parents": {}}
    versions = {"log": "1", "gone": "1"}
    made = [checkpoint({"log": ["x" * 900, step]}, {**versions, "log": str(step)}) for step in range(1, 5)]
    parents = [None, *(one["id"] for one in made)]
    for parent, one in zip(parents, made, strict=False):
        await caller.call("put", config("t", "", parent), one, told, {"log": one["channel_versions"]["log"]})
    again = {**made[1], "channel_values": {"log": ["y" * 900]}, "channel_versions": {**versions, "log": "9"}}
    await caller.call("put", config("t", "", made[0]["id"]), again, {**told, "step": 7}, {"log": "9"})

    found = await caller.list(config("t"))
    assert [one.checkpoint["channel_values"] for one in found] == [
        one["channel_values"] for one in (made[3], made[2], again, made[0])
    ]
    assert [one.metadata["step"] for one in found] == [1, 1, 7, 1]


async def test_a_thread_copied_again_holds_what_its_source_holds_now(caller):
    told = {"source": "loop", "step": 1, "parents": {}}
    made = [checkpoint({"log": ["x" * 900] * step}, {"log": str(step)}) for step in (1, 2, 3)]
    for parent, one in zip([None, *(one["id"] for one in made)], made, strict=False):
        await caller.call("put", config("t", "", parent), one, told, one["channel_versions"])
        await caller.call("copy_thread", "t", "u")
    own = await caller.put("u", {"log": ["x" * 900] * 4}, parent=made[1]["id"])
    again = checkpoint({"log": ["y" * 900]}, {"log": "9"}, id=made[1]["id"])
    await caller.call("put", config("t", "", made[0]["id"]), again, told, {"log": "9"})
    await caller.write("t", made[0]["id"], (INTERRUPT, "now"))
    await caller.call("copy_thread", "t", "u")

    found = await caller.list(config("u"))
    assert ids(found) == [own, *ids(await caller.list(config("t")))]
    assert [len(one.checkpoint["channel_values"]["log"]) for one in found] == [4, 3, 1, 1]
    assert found[-1].pending_writes == [("t", INTERRUPT, "now")]


async def test_a_thread_that_lost_a_value_is_an_error_and_never_empty(caller):
    made = await caller.put("t", {"log": ["x" * 900]})
    engine = caller.saver._engine
    async with (await engine.warm.sql()).transaction() as transaction:
        await transaction.execute("DELETE FROM llmops_ck_chunk")
    engine.recent.clear()

    for call in (caller.get(config("t", "", made)), caller.list(config("t")), caller.list(None)):
        with pytest.raises(CheckpointError, match="thread 't' has lost a stored value"):
            await call


async def test_a_filter_wants_exactly_equal_values_however_nested(caller):
    nested = {"who": {"name": "a?b%c'\"", "tags": [1, {"deep": None}]}}
    wanted = await caller.put("t", {"a": 1}, metadata={"extra": nested, "n": 1})
    await caller.put("t", {"a": 1}, metadata={"extra": {"who": {"name": "a"}}, "n": 1})
    await caller.put("t", {"a": 1}, metadata={"extra": {**nested, "more": 1}, "n": 2})

    assert ids(await caller.list(config("t"), filter={"extra": nested})) == [wanted]
    assert ids(await caller.list(config("t"), filter={"extra": nested, "n": 2})) == []
    assert ids(await caller.list(config("t"), filter={"extra": {"who": {}}})) == []
    assert len(await caller.list(config("t"), filter={"n": 1})) == 2
    assert len(await caller.list(config("t"), filter={"absent": None})) == 3
    assert len(await caller.list(None, filter={"' OR 1=1 --": 1})) == 0


async def test_before_is_strict_and_compares_any_id(caller):
    made = [await caller.put("t", {"a": place}) for place in range(3)]
    foreign = await caller.put("other", {"a": 1})
    later = await caller.put("t", {"a": 9})

    assert ids(await caller.list(config("t"), before=config("t", "", made[2]))) == [made[1], made[0]]
    assert ids(await caller.list(config("t"), before=config("t", "", foreign))) == made[::-1]
    assert ids(await caller.list(config("t"), before=config("t", "", str(uuid6())), limit=1)) == [later]
    assert ids(await caller.list(config("t"), before=config("t"))) == [later, *made[::-1]]


async def test_a_missing_namespace_lists_all_and_an_empty_one_the_root(caller):
    root = await caller.put("t", {"a": 1})
    child = await caller.put("t", {"a": 1}, ns="child:1")

    assert ids(await caller.list(config("t", None))) == [child, root]
    assert ids(await caller.list(config("t", ""))) == [root]
    assert ids(await caller.list(config("t", "child:1"))) == [child]
    assert ids(await caller.list(config("t", None, root))) == [root]


async def test_a_long_listing_is_whole_and_keeps_its_order_over_pages(caller):
    made = [await caller.put("t", {"a": place}, ns="" if place % 3 else "child") for place in range(120)]

    assert ids(await caller.list(config("t", None))) == made[::-1]
    assert ids(await caller.list(config("t", None), limit=77)) == made[::-1][:77]
    assert await caller.list(config("t", None), limit=0) == []


async def test_the_whole_store_is_listed_newest_first_from_warm_and_cold(caller):
    made = [await caller.put(f"t{place % 7}", {"a": place}, metadata={"odd": place % 2}) for place in range(70)]
    await caller.call("copy_thread", "t0", "t0 copy")
    before = await caller.list(None)
    assert sorted(set(ids(before)), reverse=True) == made[::-1]

    for thread in ("t0", "t0 copy", "t3", "t6"):
        assert await caller.call("archive", thread)

    assert await caller.list(None) == before
    assert await caller.list(None, filter={"odd": 1}) == [one for one in before if one.metadata["odd"]]
    assert await caller.list(None, limit=13) == before[:13]
    assert await caller.list(None, before=config("t", "", made[35])) == [
        one for one in before if one.checkpoint["id"] < made[35]
    ]
    assert (await caller.call("stats")).threads_by_tier == {"warm": 4, "mixed": 0, "cold": 4}


async def test_packets_of_formats_before_4_are_found_with_the_parent(caller):
    parent = await caller.put("t", {"a": 1})
    await caller.write("t", parent, (TASKS, Send("n", 2)), task="2")
    await caller.write("t", parent, (TASKS, Send("n", 1)), ("a", 5), task="1")
    await caller.put("t", parent=parent, made=checkpoint({"a": 2}, {"a": "2"}, v=3))

    for found in (await caller.get(config("t")), (await caller.list(config("t")))[0]):
        assert found.checkpoint["channel_values"] == {"a": 2, TASKS: [Send("n", 1), Send("n", 2)]}
        assert found.checkpoint["channel_versions"] == {"a": "2", TASKS: "2"}


async def test_a_thread_has_one_owner(caller):
    made = await caller.put("t", {"a": 1}, user="ann")
    ben = {"metadata": {"user_id": "ben"}}

    for attempt in (
        caller.put("t", {"a": 2}, user="ben"),
        caller.write("t", made, ("a", 2), **ben),
        caller.get(config("t", **ben)),
        caller.get({"configurable": {"thread_id": "t", "user_id": "ben"}}),
        caller.list(config("t", **ben)),
    ):
        with pytest.raises(ThreadOwnerMismatch, match="'t' belongs to another user"):
            await attempt
    assert ids(await caller.list(config("t", metadata={"user_id": "ann"}))) == [made]
    assert (await caller.get(config("t"))).checkpoint["id"] == made


async def test_an_owner_is_remembered_over_archive_and_copy(caller):
    await caller.put("t", {"a": 1}, user="ann")
    await caller.call("copy_thread", "t", "copied")
    await caller.call("archive", "t")

    for thread in ("t", "copied"):
        with pytest.raises(ThreadOwnerMismatch):
            await caller.get(config(thread, metadata={"user_id": "ben"}))
    await caller.put("mine", {"a": 1}, user="ben")
    with pytest.raises(ThreadOwnerMismatch):
        await caller.call("copy_thread", "t", "mine")


async def test_deleting_runs_reaches_archived_threads(caller):
    await caller.put("t", {"a": 1}, metadata={"run_id": "r1"})
    kept = await caller.put("t", {"a": 2}, metadata={"run_id": "r2"})
    await caller.call("archive", "t")

    await caller.call("delete_for_runs", ["r1"])

    assert ids(await caller.list(config("t"))) == [kept]


async def test_pruned_values_are_gone_and_kept_ones_are_not(caller):
    told = {"source": "loop", "step": 1, "parents": {}}
    for step in range(5):
        made = checkpoint({"log": os.urandom(2000), "profile": "p"}, {"log": str(step), "profile": "1"})
        new = made["channel_versions"] if step == 0 else {"log": str(step)}
        await caller.call("put", config("t"), made, told, new)
    before = (await caller.call("stats")).bytes_by_tier["warm"]

    await caller.call("prune", ["t", "nobody"])

    assert (await caller.get(config("t"))).checkpoint["channel_values"] == made["channel_values"]
    after = await caller.call("stats")
    assert after.checkpoints == 1
    assert after.bytes_by_tier["warm"] < before / 4
    with pytest.raises(CheckpointError, match="use 'keep_latest', 'keep_last', 'max_age', 'delete'"):
        await caller.call("prune", ["t"], strategy="keep_some")


@pytest.mark.parametrize(
    ("threads", "options", "told"),
    [
        ("t", {}, r"takes a list of thread ids, as in \['t'\]"),
        (["t"], {"strategy": "keep_last", "keep_last": "3"}, "keep_last=N, one or more"),
        (["t"], {"strategy": "max_age", "max_age_s": "1d"}, "max_age_s=seconds"),
        (["t"], {"strategy": "max_age", "max_age_s": 1, "keep_last": 3}, "give one of them"),
    ],
)
async def test_prune_removes_nothing_for_words_it_does_not_understand(caller, threads, options, told):
    await caller.put("t", {"a": 1})
    await caller.put("t", {"a": 2})
    with pytest.raises(CheckpointError, match=told):
        await caller.call("prune", threads, **options)
    assert len(await caller.list(config("t"))) == 2


async def test_names_of_any_text_are_told_apart_and_come_back(caller):
    names = [
        "*",
        "?",
        "{a}",
        "{a}:b",
        "a:b",
        "%",
        "_",
        "nul\0nul",
        "\ud800lone",
        "é",
        "e\u0301",
        "日本",
        " ",
        "x" * 10_240,
    ]
    for name in names:
        await caller.put(name, {"who": name.encode("utf-8", "surrogatepass")})
        await caller.write(name, (await caller.get(config(name))).checkpoint["id"], ("who", 1), task="t\0\ud800")
    for name in names:
        found = await caller.get(config(name))
        assert found.config["configurable"]["thread_id"] == name
        assert found.checkpoint["channel_values"]["who"] == name.encode("utf-8", "surrogatepass")
        assert found.pending_writes == [("t\0\ud800", "who", 1)]
    assert {one.config["configurable"]["thread_id"] for one in await caller.list(None)} == set(names)

    await caller.call("delete_thread", "*")
    assert len(await caller.list(None)) == len(names) - 1


async def test_a_config_or_name_that_cannot_work_is_one_clear_error(caller):
    with pytest.raises(CheckpointError, match="needs a thread_id"):
        await caller.get({"configurable": {}})
    with pytest.raises(CheckpointError, match=r"checkpoint_id .* is longer than 256 bytes"):
        await caller.get(config("t", "", "i" * 257))
    with pytest.raises(CheckpointError, match="lone surrogate"):
        await caller.put("t", {"\ud800": 1})
    with pytest.raises(CheckpointError, match="needs config"):
        await caller.call("put_writes", config("t"), [("a", 1)], "task")
    assert await caller.list(None) == []


async def test_the_longest_names_fit_every_database(caller):
    ns, task = "n" * 10_000, "k" * 10_000
    made = checkpoint({"c" * 5000: 1}, id="i" * 256)
    await caller.put("t", made=made, ns=ns)
    await caller.write("t", "i" * 256, ("c" * 5000, 2), task=task, ns=ns)

    found = await caller.get(config("t", ns))
    assert found.checkpoint["channel_values"] == {"c" * 5000: 1}
    assert found.pending_writes == [(task, "c" * 5000, 2)]


async def test_versions_grow_and_two_forks_never_share_one(caller):
    saver = caller.saver
    first = saver.get_next_version(None, None)
    left, right = saver.get_next_version(first, None), saver.get_next_version(first, None)

    assert first < left
    assert first < right
    assert left != right
    assert left.startswith("0000000002.")
    theirs = f"{1:032}.{0.84:016}"  # as LangGraph's own savers make them, in threads that were imported
    assert theirs < saver.get_next_version(theirs, None)
