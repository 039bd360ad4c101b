"""Where commands look, and how long they wait there."""

from __future__ import annotations

import os

import pytest

from langchain_llmops import LLMOps
from langchain_llmops.cli import scope
from langchain_llmops.cli.scope import open_ledger, settings_for
from langchain_llmops.cli.traces import traces
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.recorder import running


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty current folder, and another for the platform's data."""
    for name in list(os.environ):
        if name.upper().startswith("LLMOPS_"):
            monkeypatch.delenv(name)
    here, home = tmp_path / "here", tmp_path / "home"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("XDG_DATA_HOME", str(home))
    return home


@pytest.fixture
def opened(monkeypatch):
    """What is opened, instead of opening it."""
    calls = []

    def open_store(url, **options):
        calls.append((url, options))
        raise ConfigurationError("not now")

    for module in (scope, running):
        monkeypatch.setattr(module, "open_store", open_store)
    return calls


POSTGRES = "postgresql://h/d"


@pytest.mark.parametrize("postgres", [None, POSTGRES])
def test_reports_and_the_recorder_wait_for_a_store_as_long_as_is_set(tmp_path, monkeypatch, opened, postgres) -> None:
    monkeypatch.setenv("LLMOPS_STORE_TIMEOUT_S", "0.25")
    (tmp_path / "ledger.db").touch()
    with pytest.raises(ConfigurationError, match="not now"):
        open_ledger(settings_for(tmp_path, postgres))
    if postgres is not None:
        monkeypatch.setenv("LLMOPS_POSTGRES_URL", postgres)
    with pytest.raises(ConfigurationError, match="not now"):
        traces(port=0, host="127.0.0.1", state=tmp_path)
    assert [options["timeout_s"] for _, options in opened] == [0.25, 0.25]


def test_an_empty_folder_variable_means_the_platform_s_folder_and_not_the_current_one(
    tmp_path, home, monkeypatch, opened
) -> None:
    monkeypatch.setenv("LLMOPS_STATE_DIR", "")
    with pytest.raises(ConfigurationError, match=f"there is no ledger in {home}"):
        open_ledger(settings_for(None, None))
    with pytest.raises(ConfigurationError, match="not now"):
        traces(port=0, host="127.0.0.1", state=None)
    assert str(home) in opened[0][0]
    with LLMOps.from_env() as ops:
        ops.ledger.outcome("s", True)
    assert list((tmp_path / "here").iterdir()) == []
    assert [file.name for file in home.rglob("ledger.db")] == ["ledger.db"]
