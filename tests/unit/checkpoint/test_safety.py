"""Stored bytes are data, never code; encrypted ones say nothing and stay where they were put; threads stay apart."""

from __future__ import annotations

import dataclasses
import enum
import sqlite3
from pathlib import Path

import ormsgpack
import pydantic
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import EnvelopeError
from langchain_llmops.stores.base import open_store
from tests.support.checkpoints import Caller, config

KEYS = {"k1": b"1" * 32}


@dataclasses.dataclass
class Order:
    number: int
    lines: list[str]


class Customer(pydantic.BaseModel):
    name: str
    orders: list[int] = []


class Mood(enum.Enum):
    GOOD = "good"


VALUES = {"order": Order(1, ["a"]), "customer": Customer(name="Ann", orders=[1]), "mood": Mood.GOOD}


class Forger:
    """A serializer that writes what an attacker would store, and reads as the saver's own does."""

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._reader = JsonPlusSerializer(allowed_msgpack_modules=None)

    def dumps_typed(self, obj):
        return "msgpack", self._blob

    def loads_typed(self, data):
        return self._reader.loads_typed(data)


def naming_a_command(target: Path) -> dict[str, bytes]:
    call = ("os", "system", f"touch {target}")
    method = ("pathlib", "Path", str(target), "touch")
    forged = {f"constructor {code}": ormsgpack.Ext(code, ormsgpack.packb(call)) for code in (0, 4, 5)}
    forged["arguments"] = ormsgpack.Ext(1, ormsgpack.packb(("os", "system", (f"touch {target}",))))
    forged["keywords"] = ormsgpack.Ext(2, ormsgpack.packb(("os", "system", {"command": f"touch {target}"})))
    forged["method"] = ormsgpack.Ext(3, ormsgpack.packb(method))
    return {name: ormsgpack.packb({"inner": [blob]}) for name, blob in forged.items()}


async def test_a_forged_blob_is_never_executed(caller, tmp_path, urls, caplog):
    target = tmp_path / "executed"
    for name in naming_a_command(target):
        await caller.put(name, {"a": 1})
    await caller.saver.aclose()
    caller.saver.__enter__()
    envelope = Envelope()
    with sqlite3.connect(tmp_path / "ck.db") as raw:
        for name, blob in naming_a_command(target).items():
            await forge(raw, name, envelope.seal(b"msgpack\0" + blob))
    raw.close()

    for name in naming_a_command(target):
        found = await caller.get(config(name))
        assert list(found.checkpoint["channel_values"]) == ["a"]
        assert len(await caller.list(config(name))) == 1
        await caller.call("archive", name)
        await caller.get(config(name))
    assert not target.exists()


async def forge(raw: sqlite3.Connection, thread: str, stored: bytes) -> None:
    from langchain_llmops.checkpoint.codec import digest

    changed = raw.execute("UPDATE llmops_blob SET body = ? WHERE thread = ?", (stored, digest(thread))).rowcount
    assert changed == 1
    raw.execute("UPDATE llmops_thread SET stamp = stamp + 1")


async def test_pickle_is_refused(caller, tmp_path):
    await caller.put("t", {"a": 1})
    await caller.saver.aclose()
    caller.saver.__enter__()
    with sqlite3.connect(tmp_path / "ck.db") as raw:
        await forge(raw, "t", Envelope().seal(b"pickle\0cos\nsystem\n(S'true'\ntR."))
    raw.close()
    with pytest.raises(EnvelopeError, match="cannot be read back"):
        await caller.get(config("t"))


async def test_messages_of_langchain_need_no_permission(caller):
    messages = [
        SystemMessage("s", id="0"),
        HumanMessage([{"type": "text", "text": "hi\0there"}], id="1"),
        AIMessage(
            "x",
            id="2",
            tool_calls=[{"name": "f", "args": {"a": 1}, "id": "c", "type": "tool_call"}],
            usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        ),
        ToolMessage("y", tool_call_id="c", id="3", artifact={"z": 1}),
    ]
    await caller.put("t", {"messages": messages})
    assert (await caller.get(config("t"))).checkpoint["channel_values"]["messages"] == messages


async def test_own_types_come_back_as_data_unless_they_are_allowed(tiers, caplog):
    async with TieredCheckpointSaver(**tiers) as strict:
        await Caller(strict).put("t", VALUES)
        plain = (await strict.aget_tuple(config("t"))).checkpoint["channel_values"]
        assert plain == {
            "order": {"number": 1, "lines": ["a"]},
            "customer": {"name": "Ann", "orders": [1]},
            "mood": "good",
        }
        assert "Blocked deserialization of" in caplog.text

        module = Order.__module__
        names = [(module, "Order"), (module, "Customer"), (module, "Mood")]
        copied = strict.with_allowlist(names)
        assert copied is not strict
        assert (await copied.aget_tuple(config("t"))).checkpoint["channel_values"] == VALUES
        allowed = TieredCheckpointSaver(**tiers, allowed_types=[Order, Customer, Mood])
        assert (await allowed.aget_tuple(config("t"))).checkpoint["channel_values"] == VALUES
        chosen = TieredCheckpointSaver(**tiers, serde=JsonPlusSerializer(allowed_msgpack_modules=True))
        assert (await chosen.aget_tuple(config("t"))).checkpoint["channel_values"] == VALUES


async def test_encrypted_nothing_of_what_was_said_is_on_disk(tmp_path, urls):
    canary = "canary-4242"
    async with TieredCheckpointSaver.from_urls(
        **{**urls, "hot": f"sqlite:///{tmp_path}/hot.db"}, envelope=Envelope(keys=KEYS)
    ) as saver:
        caller = Caller(saver)
        made = await caller.put("t", {"a": canary, "n": 4242}, metadata={"note": canary})
        await caller.write("t", made, ("a", canary), ("__error__", canary))
        await caller.put("archived", {"a": canary}, metadata={"note": canary})
        await saver.aarchive("archived")
        found = await caller.get(config("t"))
        assert found.checkpoint["channel_values"] == {"a": canary, "n": 4242}
        assert found.metadata["note"] == canary

        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert len(files) >= 3
        assert not [path for path in files if canary.encode() in path.read_bytes()]


async def test_encrypted_rows_open_only_where_they_were_put(tmp_path, urls):
    for table, columns in (("blob", "body"), ("checkpoint", "body"), ("checkpoint", "metadata"), ("write", "body")):
        place = tmp_path / f"{table}-{columns}"
        stores = (open_store(f"sqlite:///{place}.db"), None, None)
        async with TieredCheckpointSaver(*stores, envelope=Envelope(keys=KEYS)) as saver:
            caller = Caller(saver)
            for thread in ("mine", "yours"):
                made = await caller.put(thread, {"a": thread})
                await caller.write(thread, made, ("a", thread))
        with sqlite3.connect(f"{place}.db") as raw:
            one, two = raw.execute(f"SELECT {columns} FROM llmops_{table} ORDER BY thread").fetchall()
            low = raw.execute(f"SELECT MIN(thread) FROM llmops_{table}").fetchone()[0]
            raw.execute(
                f"UPDATE llmops_{table} SET {columns} = CASE WHEN thread = ? THEN ? ELSE ? END", (low, *two, *one)
            )
        raw.close()
        async with TieredCheckpointSaver(*stores, envelope=Envelope(keys=KEYS)) as saver:
            with pytest.raises(EnvelopeError, match="failed authentication"):
                await saver.aget_tuple(config("mine"))


async def test_plaintext_is_refused_once_keys_are_given(urls):
    async with TieredCheckpointSaver.from_urls(**urls) as saver:
        await Caller(saver).put("t", {"a": 1})
    async with TieredCheckpointSaver.from_urls(**urls, envelope=Envelope(keys=KEYS)) as saver:
        with pytest.raises(EnvelopeError, match="plaintext"):
            await saver.aget_tuple(config("t"))


ANY_TEXT = st.text(st.characters(), max_size=30) | st.sampled_from(
    ["*", "t", "T", "{t}", "t:", ":t", "t\0", "\0", "t%", "../t"]
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    names=st.lists(ANY_TEXT.filter(bool), min_size=2, max_size=6, unique=True),
    namespaces=st.lists(ANY_TEXT, min_size=1, max_size=3, unique=True),
)
async def test_hostile_thread_ids_and_namespaces_stay_isolated(names, namespaces):
    async with TieredCheckpointSaver(*(open_store("memory://") for _ in range(3))) as saver:
        caller = Caller(saver)
        expected = {}
        for name in names:
            for ns in namespaces:
                expected[name, ns] = await caller.put(name, {"who": f"{name!a}{ns!a}"}, ns=ns)
        await saver.aarchive(names[0])
        await saver.adelete_thread(names[1])
        await saver.aprune([names[1]])

        for (name, ns), made in expected.items():
            found = await saver.aget_tuple(config(name, ns))
            if name == names[1]:
                assert found is None
            else:
                assert found.checkpoint["id"] == made
                assert found.config["configurable"]["checkpoint_ns"] == ns
                assert found.checkpoint["channel_values"] == {"who": f"{name!a}{ns!a}"}
        assert {one.config["configurable"]["thread_id"] for one in await caller.list(None)} == set(names) - {names[1]}
