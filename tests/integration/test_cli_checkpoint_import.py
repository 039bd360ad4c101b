"""`llmops checkpoints import` as a user runs it."""

from __future__ import annotations

import dataclasses
import json
import sqlite3

import pytest

from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from tests.support.checkpoints import checkpoint, config
from tests.support.commands import asked, table
from tests.support.peers import peer_named

COMMAND = ("checkpoints", "import")


@dataclasses.dataclass
class Order:
    number: int


def one_line(outcome) -> str:
    """The error of a command: exit code 2, one line, nothing on stdout."""
    code, out, err = outcome
    assert (code, out, len(err.strip().splitlines())) == (2, "", 1), err
    return err


@pytest.fixture
def file(request, tmp_path):
    """A file of `SqliteSaver` with the threads a and b, of which b holds an `Order`."""
    with peer_named("sqlite", request, tmp_path) as peer:
        for thread, value in {"a": "text", "b": Order(7)}.items():
            made = checkpoint({"order": value})
            peer.saver.put(config(thread), made, {"source": "loop", "step": 1}, made["channel_versions"])
            peer.saver.put_writes(config(thread, "", made["id"]), [("order", "later")], "task")
        yield peer.url


def here(state) -> set[str]:
    with TieredCheckpointSaver.from_urls(warm=f"sqlite:///{state}/checkpoints.db") as saver:
        return {found.config["configurable"]["thread_id"] for found in saver.list(None)}


def test_threads_are_brought_and_counted(llmops, file, tmp_path) -> None:
    state = tmp_path / "state"
    out = asked(llmops, *COMMAND, "--from", "sqlite", file, "--thread", "a", "--state", state)
    assert table(out)["imported"][:3] == ["1", "1", "1"]
    assert "1 thread was read" in out
    assert here(state) == {"a"}
    again = asked(llmops, *COMMAND, "--from", "sqlite", f"sqlite:///{file}", "--thread", "a", "--state", state)
    assert table(again)["here"][0] == "1"
    assert "Nothing was written." in again


def test_a_refused_thread_is_named_with_its_fix_and_the_others_come(llmops, file, tmp_path) -> None:
    state = tmp_path / "state"
    code, out, _ = llmops(*COMMAND, "--from", "sqlite", file, "--state", state, "--json")
    found = json.loads(out)
    assert code == 1
    assert [(one["thread"], one["state"]) for one in found["threads"]] == [("a", "imported"), ("b", "refused")]
    assert f"--allow {__name__}:Order" in found["refused"][0]["reason"]
    assert found["bytes_here"] > 0
    assert here(state) == {"a"}
    asked(llmops, *COMMAND, "--from", "sqlite", file, "--state", state, "--allow", f"{__name__}:Order")
    assert here(state) == {"a", "b"}


def test_a_dry_run_writes_nothing(llmops, file, tmp_path) -> None:
    state = tmp_path / "state"
    code, out, _ = llmops(*COMMAND, "--from", "sqlite", file, "--state", state, "--dry-run")
    assert (code, table(out)["imported"][0], table(out)["refused"][0]) == (1, "1", "1")
    assert not state.exists()
    asked(llmops, *COMMAND, "--from", "sqlite", file, "--state", state, "--thread", "a")
    asked(llmops, *COMMAND, "--from", "sqlite", file, "--state", state, "--thread", "a", "--dry-run")
    assert here(state) == {"a"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--from", "mongo", "x"), "--from takes postgres, sqlite, redis, valkey"),
        (("--from", "sqlite", "/nowhere/x.db"), "there is no file /nowhere/x.db"),
        (("--from", "sqlite", "redis://localhost"), "--from sqlite takes sqlite://"),
        (("--from", "redis", "redis+cluster://localhost"), "--from redis takes redis://"),
        (("--from", "postgres", "localhost"), "--from postgres takes postgresql://"),
        (("--from", "redis", "redis://127.0.0.1:1"), "cannot be reached"),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line(llmops, tmp_path, arguments, words) -> None:
    assert words in one_line(llmops(*COMMAND, *arguments, "--state", tmp_path))


@pytest.mark.parametrize(
    ("allowed", "words"),
    [("Order", "takes MODULE:CLASS"), ("no_such_module:Order", "PYTHONPATH=."), ("json:dumps", "is no class")],
)
def test_a_class_that_is_not_there_is_one_line(llmops, file, tmp_path, allowed, words) -> None:
    told = one_line(llmops(*COMMAND, "--from", "sqlite", file, "--state", tmp_path, "--allow", allowed))
    assert words in told


def test_a_file_of_something_else_is_one_line_and_stays_as_it_is(llmops, tmp_path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE checkpoints (thread_id TEXT)")
    connection.close()
    assert "has no tables of langgraph-checkpoint-sqlite" in one_line(
        llmops(*COMMAND, "--from", "sqlite", file, "--state", tmp_path)
    )


def test_a_database_without_its_tables_is_one_line(llmops, postgres_url, tmp_path) -> None:
    told = one_line(llmops(*COMMAND, "--from", "postgres", postgres_url, "--state", tmp_path))
    assert "has no tables of langgraph-checkpoint-postgres" in told


@pytest.mark.parametrize("kind", ["redis", "valkey", "postgres"])
def test_each_kind_of_saver_is_read(llmops, request, tmp_path, kind) -> None:
    with peer_named(kind, request, tmp_path) as peer:
        made = checkpoint({"text": "x", "list": [1]})
        peer.saver.put(config("t"), made, {"source": "loop", "step": 1}, made["channel_versions"])
        url = peer.url.replace("redis://", "valkey://") if kind == "valkey" else peer.url
        out = asked(llmops, *COMMAND, "--from", kind, url, "--state", tmp_path / "state")
    assert table(out)["imported"][0] == "1"
    assert here(tmp_path / "state") == {"t"}
