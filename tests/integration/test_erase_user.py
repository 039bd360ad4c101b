"""A user is erased from the ledger, the cache and every tier of the checkpointer, by a program and from a shell."""

from __future__ import annotations

import io
import json

import pytest

from langchain_llmops import LLMOps, Settings
from langchain_llmops.core.errors import UserErased
from langchain_llmops.parts import build_checkpointer
from tests.support.checkpoints import checkpoint, config
from tests.support.commands import table


@pytest.fixture
def stored(clean, tmp_path):
    """Conversations of u1, one of them cold, and one of u2's."""
    with build_checkpointer(Settings(state_dir=tmp_path), ()) as saver:
        for thread, user in (("a", "u1"), ("b", "u1"), ("c", "u2")):
            made = checkpoint({"items": ["said in confidence " * 40, "x"]})
            at = config(thread, metadata={"user_id": user})
            saver.put(at, made, {"source": "loop", "step": 1}, made["channel_versions"])
        saver.archive("b")
    return tmp_path


def found(state, thread):
    with build_checkpointer(Settings(state_dir=state), ()) as saver:
        return saver.get_tuple(config(thread))


def test_the_suite_erases_a_user_everywhere_and_returns_the_receipt(stored):
    with LLMOps(Settings(state_dir=stored)) as ops:
        rows = ops.erase_user("u1")
        receipt = rows.pop("conversations")
        assert (receipt.state, receipt.threads, len(receipt.objects)) == ("done", 2, 1)
        assert set(rows.values()) == {0}, "the ledger had nothing of them"
        made = checkpoint({"v": "x"})
        with pytest.raises(UserErased):
            ops.checkpointer.put(config("a", metadata={"user_id": "u1"}), made, {}, made["channel_versions"])
        assert ops.checkpointer.stats().checkpoints == 1
    assert (found(stored, "a"), found(stored, "b")) == (None, None)
    assert found(stored, "c") is not None
    assert not [path for path in (stored / "archive").rglob("*") if path.is_file()]


async def test_async_callers_get_the_same(stored):
    async with LLMOps(Settings(state_dir=stored)) as ops:
        assert (await ops.aerase_user("u1"))["conversations"].threads == 2
        assert (await ops.aerase_user("u1"))["conversations"].state == "done"


def test_the_command_prints_the_receipt(llmops, stored):
    code, out, err = llmops("checkpoints", "erase", "u1", "--yes", "--state", stored)
    assert (code, err) == (0, "")
    told = table(out)
    assert (told["state"][0], told["threads"][0]) == ("done", "2")
    assert "What disks may still hold" in out
    assert "u1" not in out, "a receipt names no user"
    assert found(stored, "a") is None
    assert found(stored, "c") is not None


def test_the_receipt_in_json_is_the_same_the_second_time(llmops, stored):
    first, second = (
        json.loads(llmops("checkpoints", "erase", "u1", "--yes", "--state", stored, "--json")[1]) for _ in range(2)
    )
    assert (first["threads"], second["threads"], second["state"]) == (2, 2, "done")
    assert first["owner"] == second["owner"]


def test_nothing_is_erased_without_being_asked(llmops, stored, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = llmops("checkpoints", "erase", "u1", "--state", stored)
    assert (code, "nothing was erased; --yes does not ask" in err) == (2, True)
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert llmops("checkpoints", "erase", "u1", "--state", stored)[0] == 1
    assert found(stored, "a") is not None


def test_an_erasure_that_a_tier_refuses_prints_what_is_left_with_exit_code_1_and_goes_on_later(
    llmops, stored, tmp_path
):
    nowhere = "s3://bucket/x?endpoint=http://127.0.0.1:1&access_key_id=a&secret_access_key=b&region=us-east-1"
    code, out, err = llmops("checkpoints", "erase", "u1", "--yes", "--state", stored, "--objects", nowhere)
    assert code == 1
    assert "Not erased yet" in out
    assert err.startswith("llmops: the erasure is not finished: the cold tier")
    assert found(stored, "a") is None
    code, out, _ = llmops("checkpoints", "erase", "u1", "--yes", "--state", stored)
    assert (code, table(out)["state"][0]) == (0, "done")
