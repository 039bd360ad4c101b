"""`llmops checkpoints` as a user runs it: embedded, and over real servers."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3

import pytest

from langchain_llmops import Settings
from langchain_llmops.parts import build_checkpointer
from tests.support.checkpoints import checkpoint, config
from tests.support.commands import table

TEXT = "said in confidence"


@pytest.fixture(params=["embedded", "servers"])
def place(request, tmp_path):
    """Settings of a checkpointer, and the options that name it."""
    if request.param == "embedded":
        return {"state_dir": tmp_path}, ("--state", tmp_path)
    urls = {name: request.getfixturevalue(f"{name}_url") for name in ("postgres", "redis")}
    urls["objects"] = request.getfixturevalue("s3_url")
    options = [part for name, url in urls.items() for part in (f"--{name}", url)]
    return {"state_dir": tmp_path, **{f"{name}_url": url for name, url in urls.items()}}, options


@pytest.fixture
def stored(clean, place):
    """Three conversations of three checkpoints, one of them u1's, and the settings they are stored with."""
    settings = Settings(log_calls="off", **place[0])
    with build_checkpointer(settings, ()) as saver:
        for thread, user in (("a", "u1"), ("b", None), ("c", None)):
            items: list[str] = []
            parent = None
            for turn in range(3):
                items.append(f"{turn} {TEXT} " * 20)
                made = checkpoint({"items": list(items)})
                at = config(thread, "", parent, metadata={"user_id": user} if user else {})
                saver.put(at, made, {"source": "loop", "step": turn}, made["channel_versions"])
                parent = made["id"]
    return settings


@pytest.fixture
def run(llmops, place, stored):
    def run(*arguments):
        return llmops("checkpoints", *arguments, *place[1])

    return run


@pytest.fixture
def found(run):
    """The JSON of a command that must not fail."""

    def found(*arguments):
        code, out, err = run(*arguments, "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return found


def test_stats_count_by_tier(run, found):
    tiers = {row["tier"]: row for row in found("stats")["tiers"]}
    assert {tier: row["conversations"] for tier, row in tiers.items()} == {"warm": 3, "mixed": 0, "cold": 0}
    assert tiers["warm"]["bytes"] > 0
    assert found("stats")["checkpoints"] == 9
    code, out, _ = run("stats")
    assert code == 0
    assert table(out)["warm"][0] == "3"
    assert "9 checkpoints of tenant 'default'" in out


def test_a_conversation_goes_cold_and_comes_back(run, found):
    assert found("archive", "a") == {"archived": 1, "tier": "cold"}
    assert found("archive", "a") == {"archived": 0, "tier": "cold"}
    told = found("show", "a")
    assert (told["tier"], told["cold_checkpoints"], told["checkpoints"]) == ("cold", 3, [])
    assert told["bytes_by_tier"]["cold"] > 0
    assert len(told["objects"]) == 2
    assert found("verify")["read"] == [{"threads": 3, "checkpoints": 9, "writes": 0, "chunks": 9}]
    assert found("restore", "a") == {"restored": 1, "tier": "warm"}
    assert found("restore", "a") == {"restored": 0, "tier": "warm"}
    assert len(found("show", "a")["checkpoints"]) == 3
    assert "a is warm already" in run("restore", "a")[1]


def test_idle_conversations_are_archived_together(found):
    assert found("archive", "--idle", "1h") == {"archived": 0}
    assert found("archive", "--idle", "0") == {"archived": 3}
    assert found("stats")["tiers"][2]["conversations"] == 3


def test_show_names_no_word_of_what_was_said(run):
    code, out, err = run("show", "a")
    assert (code, err) == (0, "")
    assert TEXT not in out
    assert table(out)["owned by a user"] == ["yes"]
    assert table(out)["checkpoints"] == ["3 warm, 0 cold"]


def test_histories_are_shortened(run, found):
    assert found("prune", "a", "b", "--keep-last", "2")["pruned"] == [
        {"thread": "a", "before": 3, "after": 2},
        {"thread": "b", "before": 3, "after": 2},
    ]
    assert found("prune", "a")["pruned"][0]["after"] == 1
    assert (
        found("prune", "c", "--max-age", "1d")["pruned"][0]["after"] == 1
    )  # made in January 2026, all but the newest go
    assert found("prune", "b", "--strategy", "delete", "--yes")["pruned"][0]["after"] is None
    assert found("verify")["read"][0]["threads"] == 2


def test_a_cold_history_is_shortened_too(found):
    found("archive", "a")
    assert found("prune", "a")["pruned"] == [{"thread": "a", "before": 3, "after": 1}]


def test_conversations_are_not_deleted_without_being_asked(run, found, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, out, err = run("prune", "a", "--strategy", "delete")
    assert (code, out.strip()) == (2, "")
    assert "nothing was deleted; --yes does not ask" in err
    assert found("stats")["checkpoints"] == 9


def test_a_sweep_archives_what_is_idle_and_deletes_what_is_past_its_time(run, found, monkeypatch):
    swept = {row["what"]: row["number"] for row in found("sweep")["swept"]}
    assert swept["archived"] == swept["deleted"] == 0
    monkeypatch.setenv("LLMOPS_CHECKPOINT_WARM_S", "0.000001")
    assert table(run("sweep")[1])["archived"][0] == "3"
    monkeypatch.setenv("LLMOPS_CHECKPOINT_RETENTION_DAYS", "0.00000001")
    swept = {row["what"]: row["number"] for row in found("sweep")["swept"]}
    assert (swept["deleted"], found("stats")["checkpoints"]) == (3, 0)


@pytest.mark.parametrize("command", ["show", "archive", "restore", "verify", "prune"])
def test_a_conversation_that_is_not_there_is_said_with_exit_code_1(run, command):
    code, _, err = run(command, "nobody")
    assert code == 1
    assert err.startswith("llmops: tenant 'default' has no conversation 'nobody' in ")


def test_conversations_of_another_tenant_are_not_there(run):
    code, out, _ = run("stats", "--tenant", "other")
    assert code == 0
    assert "0 checkpoints of tenant 'other'" in out
    assert run("show", "a", "--tenant", "other")[0] == 1


def test_what_cannot_be_read_is_named_with_exit_code_1(llmops, clean, tmp_path):
    with build_checkpointer(Settings(state_dir=tmp_path), ()) as saver:
        made = checkpoint({"items": ["x" * 500]})
        saver.put(config("a"), made, {}, made["channel_versions"])
    with contextlib.closing(sqlite3.connect(tmp_path / "checkpoints.db")) as connection:
        connection.execute("DELETE FROM llmops_ck_chunk")
        connection.commit()
    code, out, _ = llmops("checkpoints", "verify", "--state", tmp_path)
    assert code == 1
    assert "'a': 1 of the chunks it needs are missing" in out
    assert json.loads(llmops("checkpoints", "verify", "a", "--state", tmp_path, "--json")[1])["faults"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("archive",), "archive takes a THREAD, or --idle"),
        (("archive", "a", "--idle", "1h"), "archive takes a THREAD, or --idle"),
        (("archive", "--idle", "soon"), "--idle takes a length like"),
        (("archive", "--idle", "nan"), "--idle takes seconds, or a length like 7d"),
        (("prune", "a", "--strategy", "some"), "unknown prune strategy 'some'"),
        (("prune", "a", "--strategy", "keep_last"), "keep_last=N"),
        (("prune", "a", "--strategy", "max_age", "--keep-last", "2"), "keep_last=N"),
        (("show", "a\x00"), "THREAD must be valid UTF-8"),
        (("stats", "--objects", ""), "--objects takes s3://"),
        (("stats", "--objects", "ftp://h"), "LLMOPS_OBJECTS_URL: it takes s3://"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_fix(llmops, clean, tmp_path, arguments, words):
    with build_checkpointer(Settings(state_dir=tmp_path), ()) as saver:
        saver.stats()
    code, out, err = llmops("checkpoints", *arguments, "--state", tmp_path)
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1), err
    assert words in err


def test_a_checkpointer_that_does_not_exist_is_not_made(llmops, tmp_path):
    code, _, err = llmops("checkpoints", "stats", "--state", tmp_path / "none")
    assert (code, "there are no conversations in" in err) == (2, True)
    assert not (tmp_path / "none").exists()


def test_a_database_that_cannot_be_reached_is_one_line(llmops):
    code, out, err = llmops("checkpoints", "stats", "--postgres", "postgresql://127.0.0.1:1/x")
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1)
