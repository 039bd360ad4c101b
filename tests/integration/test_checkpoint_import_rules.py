"""What an import refuses, keeps, completes and replaces; nothing is brought in part, and nothing is run."""

from __future__ import annotations

import copy
import dataclasses
import sqlite3
from pathlib import Path

import ormsgpack
import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import ThreadOwnerMismatch
from tests.support.checkpoints import checkpoint, config
from tests.support.peers import SCENARIOS, importing, peer_named

TOLD = {"source": "loop", "step": 1, "parents": {}}


@dataclasses.dataclass
class Order:
    number: int


@pytest.fixture
def peer(request, tmp_path):
    with peer_named("sqlite", request, tmp_path) as made:
        yield made


@pytest.fixture
def postgres(request, tmp_path):
    with peer_named("postgres", request, tmp_path) as made:
        yield made


@pytest.fixture
def saver(tmp_path):
    with TieredCheckpointSaver.from_urls(warm=f"sqlite:///{tmp_path}/ours.db") as made:
        yield made


def put(saver, thread="t", values=None, parent=None, user=None, **more) -> str:
    made = checkpoint(values or {"a": "1"}, **more)
    told = TOLD if user is None else {**TOLD, "user_id": user}
    at: RunnableConfig = config(thread, "", parent)
    saver.put(at, made, told, made["channel_versions"])
    return made["id"]


def bring(peer, saver, *allowed, thread="t", **options):
    with importing(peer, saver, *allowed, **options) as importer:
        return importer.bring(thread)


def ids(saver, thread="t") -> set[str]:
    return {found.config["configurable"]["checkpoint_id"] for found in saver.list(config(thread, None))}


def stored(saver, checkpoint_id):
    return saver.get_tuple(config("t", "", checkpoint_id))


def test_a_class_nobody_trusts_refuses_its_whole_thread(peer, saver, tmp_path) -> None:
    first = put(peer.saver, values={"a": "1"})
    put(peer.saver, values={"order": Order(7)}, parent=first)
    outcome = bring(peer, saver)
    assert outcome.state == "refused"
    assert "channel 'order' holds a " in outcome.reason
    assert f"--allow {__name__}:Order" in outcome.reason
    assert ids(saver) == set()
    trusting = TieredCheckpointSaver.from_urls(warm=f"sqlite:///{tmp_path}/trusting.db", allowed_types=[Order])
    with trusting:
        assert bring(peer, trusting, Order).state == "imported"
        assert trusting.get_tuple(config("t")).checkpoint["channel_values"] == {"order": Order(7)}


def test_a_class_in_a_pending_write_refuses_the_thread_too(peer, saver) -> None:
    first = put(peer.saver)
    peer.saver.put_writes(config("t", "", first), [("order", [Order(7)])], "task")
    outcome = bring(peer, saver)
    assert (outcome.state, ids(saver)) == ("refused", set())
    assert "a pending write to channel 'order'" in outcome.reason


def test_a_class_that_can_no_longer_be_built_is_no_plain_data(peer, saver, monkeypatch) -> None:
    put(peer.saver, values={"order": Order(7)})
    monkeypatch.setattr(f"{__name__}.Order.__init__", lambda self: None)
    outcome = bring(peer, saver, Order)
    assert (outcome.state, ids(saver)) == ("refused", set())
    assert "cannot be built of what is stored" in outcome.reason


def change(peer, kind: str, data: bytes) -> None:
    with sqlite3.connect(peer.url) as connection:
        connection.execute("UPDATE checkpoints SET type = ?, checkpoint = ?", (kind, data))
    connection.close()


def test_a_forged_blob_runs_nothing(peer, saver, tmp_path) -> None:
    put(peer.saver)
    ran = tmp_path / "ran"
    call = ormsgpack.packb(["os", "system", f"touch {ran}"])
    change(peer, "msgpack", ormsgpack.packb({"channel_values": {"a": ormsgpack.Ext(0, call)}, "channel_versions": {}}))
    outcome = bring(peer, saver)
    assert (outcome.state, ids(saver), ran.exists()) == ("refused", set(), False)
    assert "os.system" in outcome.reason
    JsonPlusSerializer().loads_typed(("msgpack", ormsgpack.packb(ormsgpack.Ext(0, call))))
    assert ran.exists(), "the blob is harmless, and this test shows nothing"


@pytest.mark.parametrize(
    ("kind", "words"), [("pickle", "is pickled"), ("msgpack+aes", "is encrypted"), ("msgpack", "cannot be read")]
)
def test_what_cannot_be_read_says_so(peer, saver, kind, words) -> None:
    put(peer.saver)
    change(peer, kind, b"\xc1 no msgpack")
    outcome = bring(peer, saver)
    assert (outcome.state, ids(saver)) == ("refused", set())
    assert words in outcome.reason


def test_a_broken_off_import_is_completed(peer, saver) -> None:
    scenario = SCENARIOS["two ways by hand"]
    scenario.begin(scenario.graph(peer.saver), config("t", None))
    whole = ids(peer.saver)
    asked = iter(range(1000))
    with pytest.raises(InterruptedError):
        bring(peer, saver, stopping=lambda: next(asked) == len(whole) + 5)
    assert ids(saver) < whole
    assert ids(saver)
    assert [bring(peer, saver).state for _ in range(2)] == ["completed", "here"]
    assert ids(saver) == whole


def test_a_thread_that_grew_there_is_completed(peer, saver) -> None:
    first = put(peer.saver)
    bring(peer, saver)
    peer.saver.put_writes(config("t", "", first), [("a", 1)], "task")
    put(peer.saver, parent=first)
    assert [bring(peer, saver).state for _ in range(2)] == ["completed", "here"]
    assert len(stored(saver, first).pending_writes) == 1


def test_a_thread_that_has_gone_on_here_is_left_alone(peer, saver) -> None:
    first = put(peer.saver)
    bring(peer, saver)
    second = put(saver, parent=first)
    assert bring(peer, saver, replace=True).state == "continued"
    assert ids(saver) == {first, second}
    saver.put_writes(config("t", "", first), [("a", 1)], "task")
    assert bring(peer, saver).state == "continued"


@pytest.mark.parametrize("what", ["values", "both went on"])
def test_other_content_is_replaced_on_demand_alone(peer, saver, what) -> None:
    first = put(peer.saver)
    bring(peer, saver)
    if what == "values":
        changed = copy.deepcopy(stored(saver, first).checkpoint)
        changed["channel_values"]["a"], changed["channel_versions"]["a"] = "2", "2"
        saver.put(config("t"), changed, TOLD, {"a": "2"})
    else:
        put(saver, parent=first)
        put(peer.saver, parent=first)
    before = list(saver.list(config("t", None)))
    outcome = bring(peer, saver)
    assert (outcome.state, "--replace" in outcome.reason) == ("refused", True)
    assert list(saver.list(config("t", None))) == before
    assert bring(peer, saver, replace=True, dry_run=True).state == "replaced"
    assert list(saver.list(config("t", None))) == before
    assert [bring(peer, saver, replace=True).state for _ in range(2)] == ["replaced", "here"]
    assert ids(saver) == ids(peer.saver)


def test_a_thread_keeps_its_owner(peer, saver) -> None:
    put(peer.saver, user="ada")
    bring(peer, saver)
    with pytest.raises(ThreadOwnerMismatch):
        saver.get_tuple(config("t", metadata={"user_id": "bob"}))
    assert saver.get_tuple(config("t", metadata={"user_id": "ada"})).metadata["user_id"] == "ada"


def test_a_thread_of_several_users_is_brought_without_an_owner_alone(peer, saver) -> None:
    first = put(peer.saver, user="ada")
    put(peer.saver, user="bob", parent=first)
    outcome = bring(peer, saver)
    assert (outcome.state, ids(saver)) == ("refused", set())
    assert "--unowned" in outcome.reason
    assert bring(peer, saver, unowned=True).state == "imported"
    assert saver.get_tuple(config("t", metadata={"user_id": "cyd"})).metadata["user_id"] == "bob"


def test_pending_sends_of_old_checkpoints_are_found_at_their_parents(postgres, saver) -> None:
    first = put(postgres.saver, v=3)
    peer_config = config("t", "", first)
    postgres.saver.put_writes(peer_config, [("__pregel_tasks", "second")], "b", "~2")
    postgres.saver.put_writes(peer_config, [("__pregel_tasks", "first"), ("a", 1)], "a", "~1")
    second = put(postgres.saver, parent=first, v=3)
    assert bring(postgres, saver).state == "imported"
    found, there = stored(saver, second), stored(postgres.saver, second)
    assert found.checkpoint["channel_values"]["__pregel_tasks"] == ["first", "second"]
    assert dict(found.checkpoint) == dict(there.checkpoint)


def test_values_that_stand_in_the_row_of_a_checkpoint_come_too(postgres, saver) -> None:
    values = {"s": "x", "i": 1, "f": 1.5, "b": True, "n": None, "list": [1]}
    put(postgres.saver, values=values)
    bring(postgres, saver)
    assert saver.get_tuple(config("t")).checkpoint["channel_values"] == values


def test_what_reads_back_otherwise_is_no_success(peer, saver, monkeypatch) -> None:
    put(peer.saver, values={"a": "1"})
    real = TieredCheckpointSaver.get_tuple

    def changed(self, at):
        found = real(self, at)
        found.checkpoint["channel_values"]["a"] = "2"
        return found

    monkeypatch.setattr(TieredCheckpointSaver, "get_tuple", changed)
    outcome = bring(peer, saver)
    assert outcome.state == "failed"
    assert "is not the source's" in outcome.reason


def test_an_unknown_thread_is_refused(peer, saver) -> None:
    assert bring(peer, saver, thread="nobody's").reason == "the source has no such thread"


@pytest.mark.parametrize("kind", ["postgres", "sqlite"])
async def test_threads_of_async_savers_are_the_same(kind, request, tmp_path, saver) -> None:
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

    url = request.getfixturevalue("postgres_url") if kind == "postgres" else str(Path(tmp_path) / "async.db")
    opened = (AsyncPostgresSaver if kind == "postgres" else AsyncSqliteSaver).from_conn_string(url)
    async with opened as theirs:
        await theirs.setup()
        graph = SCENARIOS["many turns of an agent"].graph(theirs)
        for question in ("order 5", "two"):
            await graph.ainvoke({"messages": [("user", question)]}, config("t", None))
        from tests.support.peers import Peer

        assert bring(Peer(kind, url, theirs), saver).state == "imported"
        assert stored(saver, None).checkpoint == (await theirs.aget_tuple(config("t"))).checkpoint
