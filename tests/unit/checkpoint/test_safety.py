"""Stored bytes are data, never code: what is forged is refused or inert, what is damaged or lost is an error."""

from __future__ import annotations

import dataclasses
import enum

import pydantic
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.envelope import Envelope
from langchain_llmops.core.errors import CheckpointError, EnvelopeError
from langchain_llmops.stores.base import open_store
from tests.support.checkpoints import COLOURS, Caller, config
from tests.support.forging import CELLS, SHAPES, commands, read_all


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
PICKLE = b"cos\nsystem\n(S'true'\ntR."


@pytest.fixture(params=COLOURS)
async def caller(request):
    async with TieredCheckpointSaver.from_urls(warm="memory://", hot="memory://") as saver:
        yield Caller(saver, request.param)


async def written(caller: Caller, thread: str) -> str:
    made = await caller.put(thread, {"a": "x" * 400}, metadata={"run_id": "run"})
    await caller.write(thread, made, ("a", "y" * 400))
    return made


async def forge(caller: Caller, thread: str, table: str, column: str, stored: bytes) -> None:
    """As who can write to the database would; what processes and Redis know is no longer valid."""
    engine = caller.saver._engine
    sql, place = await engine.warm.sql(), engine.place(thread)
    assert await sql.execute(f"UPDATE llmops_ck_{table} SET {column} = ? WHERE thread = ?", (stored, place.thread))
    await sql.execute("UPDATE llmops_ck_thread SET stamp = stamp + 1, epoch = epoch + 1")
    engine.recent.clear()


@pytest.mark.parametrize(("table", "column"), CELLS)
async def test_a_forged_value_is_never_executed(caller, tmp_path, table, column):
    target = tmp_path / "executed"
    for number, blob in enumerate(commands(target)):
        made = await written(caller, f"t{number}")
        chunk = b"msgpack\0" if table == "chunk" else b""
        await forge(caller, f"t{number}", table, column, Envelope().seal(chunk + blob))
        results = await read_all(caller, f"t{number}", made)
        assert len(results) >= 10
        await caller.call("delete_thread", f"t{number}")
        await caller.call("delete_thread", f"t{number}-copy")
    assert not target.exists()


@pytest.mark.parametrize(("table", "column"), CELLS)
async def test_values_of_any_other_shape_are_refused_with_an_error_of_ours(caller, table, column):
    refused = 0
    for number, blob in enumerate(SHAPES):
        made = await written(caller, f"t{number}")
        await forge(caller, f"t{number}", table, column, Envelope().seal(blob))
        results = await read_all(caller, f"t{number}", made)
        refused += any(isinstance(one, EnvelopeError | CheckpointError) for one in results)
        await caller.call("delete_thread", f"t{number}")
        await caller.call("delete_thread", f"t{number}-copy")
    assert refused > len(SHAPES) // 2  # the others happen to be of the right shape


async def test_a_forged_copy_in_the_hot_tier_is_a_miss(caller, tmp_path):
    target = tmp_path / "executed"
    await written(caller, "t")
    engine, place = caller.saver._engine, caller.saver._engine.place("t")
    engine.hot.close()  # no copies but those made here
    for blob in [*commands(target), *SHAPES]:
        engine.hot.fill([place.thread])
        ((key, (fields, until)),) = engine.hot._maps._maps.items()
        engine.hot._maps._maps[key] = (dict.fromkeys(fields, Envelope().seal(blob)), until)
        engine.recent.clear()
        engine.hot._filled.clear()
        found = await caller.get(config("t"))
        assert found.checkpoint["channel_values"] == {"a": "x" * 400}
        assert found.pending_writes == [("t", "a", "y" * 400)]
    assert not target.exists()
    assert engine.hot.hits == 0


async def test_pickle_is_refused(caller):
    await written(caller, "t")
    await forge(caller, "t", "chunk", "body", Envelope().seal(b"pickle\0" + PICKLE))
    with pytest.raises(EnvelopeError, match="not those of their name"):
        await caller.get(config("t"))
    engine = caller.saver._engine
    place, chunk = engine.place("t"), b"pickle\0" + PICKLE
    name = engine.codec.name_of(chunk)
    sql = await engine.warm.sql()
    await sql.execute("DELETE FROM llmops_ck_chunk")
    await sql.execute(
        "INSERT INTO llmops_ck_chunk (thread, name, body) VALUES (?, ?, ?)",
        (place.thread, name, engine.codec.seal_chunk(place.thread, name, chunk)),
    )
    await forge(
        caller, "t", "step", "body", Envelope().seal(engine.codec.pack([1, {"v": 4}, {"a": "1"}, {}, {"a": name}]))
    )
    await sql.execute("DELETE FROM llmops_ck_write")
    with pytest.raises(EnvelopeError, match="cannot be read back"):
        await caller.get(config("t"))


@pytest.mark.parametrize(("table", "column"), CELLS)
async def test_damaged_bytes_are_an_error_wherever_they_are(caller, table, column):
    made = await written(caller, "t")
    engine = caller.saver._engine
    sql = await engine.warm.sql()
    ((stored,), *_) = await sql.fetch(f"SELECT {column} FROM llmops_ck_{table}")
    stored = bytes(stored)
    places = {0, 2, 3, 4, 8, len(stored) // 2, len(stored) - 1}
    for damaged in [stored[:at] + bytes((stored[at] ^ 1,)) + stored[at + 1 :] for at in sorted(places)] + [
        stored[:-1],
        b"",
    ]:
        await forge(caller, "t", table, column, damaged)
        results = [*await read_all(caller, "t", made)]
        assert [one for one in results if isinstance(one, EnvelopeError)], damaged
        assert all(
            one.checkpoint["channel_values"] in ({"a": "x" * 400}, {"a": 2})
            for one in results[:1]
            if one and not isinstance(one, Exception)
        )
        await caller.call("delete_thread", "t")
        made = await written(caller, "t")


async def test_a_lost_chunk_is_an_error_and_never_an_empty_conversation(caller):
    made = await written(caller, "t")
    engine = caller.saver._engine
    await (await engine.warm.sql()).execute("DELETE FROM llmops_ck_chunk")
    await forge(caller, "t", "thread", "tier", "warm")
    for asked in (config("t"), config("t", "", made)):
        with pytest.raises(CheckpointError, match="thread 't' has lost a stored value"):
            await caller.get(asked)
    for asked in (config("t"), None):
        with pytest.raises(CheckpointError, match="thread 't' has lost a stored value"):
            await caller.list(asked)


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


async def test_own_types_come_back_as_data_unless_they_are_allowed(caplog):
    stores = (open_store("memory://", blocking=True), None, None)
    async with TieredCheckpointSaver(*stores) as strict:
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
        allowed = TieredCheckpointSaver(*stores, allowed_types=[Order, Customer, Mood])
        assert (await allowed.aget_tuple(config("t"))).checkpoint["channel_values"] == VALUES
        chosen = TieredCheckpointSaver(*stores, serde=JsonPlusSerializer(allowed_msgpack_modules=True))
        assert (await chosen.aget_tuple(config("t"))).checkpoint["channel_values"] == VALUES
