"""Nothing of an erased user is left in any tier, nothing of anybody else is touched, and the receipt says what was."""

from __future__ import annotations

import json
import uuid

import pytest

from langchain_llmops.checkpoint.names import digest
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import CheckpointError, UserErased
from tests.support.checkpoints import COLOURS, Caller, checkpoint, config
from tests.support.remains import Remains

KEYS = {"k1": b"1" * 32}
HOMES = ("embedded", "servers")
OPTIONS = ({}, {"keys": KEYS}, {"keys": KEYS, "user_keys": True})


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=HOMES)
def urls(request, tmp_path):
    if request.param == "embedded":
        return {"warm": f"sqlite:///{tmp_path}/ck.db", "hot": "memory://", "cold": f"file://{tmp_path}/cold"}
    names = {"warm": "postgres_url", "hot": "clean_redis_url", "cold": "s3_url"}
    return {tier: request.getfixturevalue(name) for tier, name in names.items()}


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def opened(urls, clock):
    """Opens a checkpointer over the three tiers; all are closed after the test."""
    savers = []

    def make(**options):
        savers.append(TieredCheckpointSaver.from_urls(**{**urls, "clock": clock, **options}))
        return savers[-1]

    yield make
    for saver in savers:
        saver.close()


class Person:
    """A user with unique words everywhere a word can be."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.words = {place: f"canary-{name}-{place}-{uuid.uuid4().hex}" for place in PLACES}

    @property
    def thread(self) -> str:
        return self.words["thread"]

    async def write(self, caller: Caller, threads: int = 2) -> None:
        """Checkpoints and writes in two namespaces of some threads."""
        for number in range(threads):
            thread = f"{self.thread}-{number}"
            at = {"metadata": {"user_id": self.words["user"], "run_id": self.words["run"]}}
            values = {"long": self.words["long"] * 40, "short": self.words["short"], self.words["channel"]: [1]}
            for ns in ("", self.words["namespace"]):
                made = checkpoint(values)
                told = {"source": "loop", "step": 1, "note": self.words["metadata"]}
                await caller.call("put", config(thread, ns, **at), made, told, made["channel_versions"])
                await caller.write(
                    thread, made["id"], ("a", self.words["write"] * 40), ("b", self.words["write"]),
                    task=self.words["task"], ns=ns, **at,
                )  # fmt: skip


PLACES = ("user", "thread", "namespace", "long", "short", "channel", "metadata", "write", "task", "run")
SEALED = {*PLACES} - {"user", "run"}  # those are stored in metadata only, which is the same


async def fill(caller: Caller, urls, *people: Person) -> None:
    """What people write, with copies in the hot tier and archives in the cold one."""
    saver = caller.saver
    saver._engine.hot.close()  # no copies but those made here
    for person in people:
        await person.write(caller)
        await plant_archive(saver, person)
    engine = saver._engine
    engine.hot.fill([place.thread for person in people for place in places(saver, person)])
    remains = Remains(engine, urls)
    assert len(remains.hot()) == 2 * len(people)
    assert len(remains.objects()) == 3 * len(people)


def places(saver, person: Person):
    return [saver._engine.place(f"{person.thread}-{number}") for number in range(2)]


async def plant_archive(saver, person: Person) -> None:
    """Objects as a mover leaves them: live, dead, and one that no row knows."""
    engine, place = saver._engine, places(saver, person)[0]
    sql, objects = await engine.warm.sql(), engine.eraser._cold
    columns = [name for name, _ in OBJECT_COLUMNS]
    for state in ("live", "dead", None):
        path = f"{engine.tenant.hex()}/{place.thread.hex()}/{uuid.uuid4().hex}.head"
        codec = engine.codec.of(digest(engine.options.tenant, person.words["user"]))
        await objects.put(path, codec.seal_object(b"x", codec.pack(person.words["long"])))
        if state is not None:
            values = {"path": path, "thread": place.thread, "state": state}
            row = [values.get(name, default) for name, default in OBJECT_COLUMNS]
            marks = ", ".join("?" for _ in columns)
            await sql.execute(f"INSERT INTO llmops_ck_object ({', '.join(columns)}) VALUES ({marks})", row)


OBJECT_COLUMNS = (
    *(("path", ""), ("thread", b""), ("state", ""), ("bytes", 10), ("stamp", 1), ("since", 1.0)),
    *(("attempt", 1), ("until", 0.0), ("errors", 0)),
)


@pytest.fixture(params=COLOURS)
def colour(request):
    return request.param


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "encrypted", "user-keys"])
async def test_no_byte_of_an_erased_user_is_left_and_none_of_another_is_gone(opened, urls, options, colour):
    saver = opened(**options)
    caller, remains = Caller(saver, colour), Remains(saver._engine, urls)
    ann, ben = Person("ann"), Person("ben")
    await fill(caller, urls, ann, ben)
    before = remains.words(*ann.words.values())
    assert before == set(ann.words.values())

    receipt = await caller.call("delete_user", ann.words["user"])

    assert remains.words(*ann.words.values()) == set()
    assert remains.words(*ben.words.values()) == set(ben.words.values())
    assert len(remains.hot()) == 2
    assert len(remains.objects()) == 3
    assert (receipt.state, receipt.left) == ("done", ())
    assert (receipt.threads, receipt.checkpoints, receipt.writes, receipt.hot_keys) == (2, 4, 8, 2)
    assert receipt.chunks >= 4
    assert receipt.warm_bytes > 0
    assert len(receipt.objects) == 3
    assert min(receipt.objects.values()) > 0
    assert len(receipt.keys) == int("user_keys" in options)
    assert receipt.residues
    assert not set(ann.words.values()) & set(json.dumps(receipt.as_dict()).split('"'))
    for place in places(saver, ann):
        assert await caller.get(config(place.thread_id)) is None
        assert await caller.get(config(place.thread_id, ann.words["namespace"])) is None
    for place in places(saver, ben):
        assert (await caller.get(config(place.thread_id))).checkpoint["channel_values"]["short"] == ben.words["short"]
    assert len(await caller.list(None)) == 4


@pytest.mark.parametrize("options", OPTIONS, ids=["plain", "encrypted", "user-keys"])
async def test_archived_threads_go_with_their_objects(opened, urls, options, colour):
    caller = Caller(opened(**options), colour)
    ann, ben = Person("ann"), Person("ben")
    remains = Remains(caller.saver._engine, urls)
    for person in (ann, ben):
        await person.write(caller)
        assert await caller.call("archive", f"{person.thread}-0")
    paths = {path for path in remains.objects() if caller.saver._engine.place(f"{ann.thread}-0").thread.hex() in path}
    assert 0 < len(paths) < len(remains.objects())
    assert remains.rows("llmops_ck_cold_run")

    receipt = await caller.call("delete_user", ann.words["user"])

    assert set(receipt.objects) == paths
    assert remains.words(*ann.words.values()) == set()
    thread = caller.saver._engine.place(f"{ben.thread}-0").thread
    assert {bytes(row[1]) for row in remains.rows("llmops_ck_cold_run")} == {thread}
    assert {bytes(row[0]) for row in remains.rows("llmops_ck_object", "thread")} == {thread}
    assert len(await caller.list(config(f"{ben.thread}-0", None))) == 2


async def test_a_mover_that_read_a_thread_before_it_was_erased_writes_nothing_of_it(opened, urls, monkeypatch):
    saver = opened()
    caller, archive = Caller(saver), saver._engine.tiers.archive
    await caller.put("t", {"a": "canary" * 100}, user="ann")
    gathered = archive._gathered

    async def overtaken(*args):
        rows = await gathered(*args)
        assert (await saver._engine.eraser.erase(digest("default", "ann"))).state == "done"
        return rows

    written = []
    monkeypatch.setattr(archive, "_gathered", overtaken)
    monkeypatch.setattr(archive._cold, "store", lambda *args: written.append(args))
    assert not await caller.call("archive", "t")
    assert not written
    assert Remains(saver._engine, urls).objects() == {}
    assert Remains(saver._engine, urls).words("canary") == set()


async def test_an_erasure_asked_for_again_returns_its_receipt(opened, urls, clock, colour):
    caller = Caller(opened(), colour)
    ann = Person("ann")
    await fill(caller, urls, ann)
    first = await caller.call("delete_user", ann.words["user"])
    clock.now += 60

    again = await Caller(opened(), colour).call("delete_user", ann.words["user"])

    assert again.as_dict() | {"finished_at": 0, "until": 0} == first.as_dict() | {"finished_at": 0, "until": 0}
    assert again.until == clock.now + 3600


async def test_writes_of_an_erased_user_are_refused_until_the_time_of_grace_is_over(opened, clock, colour):
    caller = Caller(opened(erase_grace_s=100.0), colour)
    made = await caller.put("t", {"a": 1}, user="ann")
    await caller.call("delete_user", "ann")

    clock.now += 99
    with pytest.raises(UserErased):
        await caller.put("t", {"a": 2}, user="ann")
    with pytest.raises(UserErased):
        await caller.put("other", {"a": 2}, user="ann")
    with pytest.raises(UserErased):
        await caller.write("t", made, ("a", 3), metadata={"user_id": "ann"})
    with pytest.raises(UserErased):  # a run that goes on and names nobody
        await caller.put("t", {"a": 2}, parent=made)
    await caller.put("t", {"a": "ben's"}, user="ben")
    await caller.put("new", {"a": 2})

    clock.now += 2
    await caller.put("u", {"a": 4}, user="ann")
    assert (await caller.get(config("u"))).checkpoint["channel_values"] == {"a": 4}
    receipt = await caller.call("delete_user", "ann")
    assert (receipt.threads, receipt.checkpoints) == (1, 1)
    assert await caller.get(config("u")) is None
    assert (await caller.get(config("t"))).checkpoint["channel_values"] == {"a": "ben's"}


async def test_another_process_that_knew_the_thread_reads_and_revives_nothing(opened, urls):
    one, two = Caller(opened()), Caller(opened())
    made = await one.put("t", {"a": "canary" * 100}, user="ann")
    assert await two.get(config("t")) is not None
    engine = two.saver._engine
    place = engine.place("t")

    await one.call("delete_user", "ann")
    assert await two.get(config("t")) is None
    with pytest.raises(UserErased):
        await two.put("t", {"a": "canary" * 100, "b": 2}, parent=made, user="ann")
    engine.hot.fill([place.thread])
    assert Remains(engine, urls).hot() == {}
    assert Remains(engine, urls).words("canary") == set()


async def test_a_copied_thread_goes_with_its_owner_and_nothing_is_copied_while_they_are_erased(opened, urls):
    caller = Caller(opened())
    await caller.put("t", {"a": "canary" * 100}, user="ann")
    await caller.call("copy_thread", "t", "copy")
    receipt = await caller.call("delete_user", "ann")
    assert receipt.threads == 2
    assert Remains(caller.saver._engine, urls).words("canary") == set()


async def test_users_of_the_same_name_in_another_tenant_stay(opened):
    one, two = Caller(opened(tenant="one")), Caller(opened(tenant="two"))
    for caller in (one, two):
        await caller.put("t", {"a": 1}, user="ann")
    await one.call("delete_user", "ann")
    assert await one.get(config("t")) is None
    assert await two.get(config("t")) is not None
    await two.put("t", {"a": 2}, user="ann")


async def test_a_user_nobody_knows_is_erased_at_once(opened, colour):
    caller = Caller(opened(), colour)
    receipt = await caller.call("delete_user", "nobody")
    assert (receipt.state, receipt.threads, receipt.objects, receipt.keys) == ("done", 0, {}, ())
    with pytest.raises(CheckpointError, match="name the user"):
        await caller.call("delete_user", None)


@pytest.mark.parametrize("user", ["", None])
def test_nobody_is_no_user_to_erase(tmp_path, user):
    with (
        TieredCheckpointSaver.from_urls(warm=f"sqlite:///{tmp_path}/ck.db") as saver,
        pytest.raises(CheckpointError, match="name the user"),
    ):
        saver.delete_user(user)
