"""The `llmops` command within the test process, ledgers for it, and an application in a folder of its own."""

from __future__ import annotations

import os
import sys

import pytest

from langchain_llmops import LLMOps, Settings
from langchain_llmops.cli.app import app, main
from tests.support.commands import RECORDS, fill, filled
from tests.support.recorded import URLS


@pytest.fixture
def clean(monkeypatch):
    """No settings but the test's own, and a narrow terminal."""
    for name in list(os.environ):
        if name.startswith(("LLMOPS_", "OPENAI_", "LANGSMITH_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def llmops(clean, monkeypatch, capsys):
    """Run a command; its exit code, output and errors."""

    def run(*arguments):
        monkeypatch.setattr(app, "registered_groups", [])
        monkeypatch.setattr(app, "registered_commands", [])  # each run registers them, as each process does once
        monkeypatch.setattr(sys, "argv", ["llmops", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return ended.value.code, out, err

    return run


@pytest.fixture
def state(tmp_path):
    fill(f"sqlite:///{tmp_path / 'ledger.db'}", RECORDS, outcomes=[("s1", True)], feedback=[("turn-1", 1)])
    return tmp_path


@pytest.fixture(params=URLS)
def where(request, tmp_path):
    """The option that names a filled ledger."""
    return filled(request, tmp_path, RECORDS)


@pytest.fixture
def settings(tmp_path):
    return Settings(state_dir=tmp_path, log_calls="off", retry_base_s=0.001, retry_max_s=0.01)


@pytest.fixture
def ops(settings):
    with LLMOps(settings) as ops:
        yield ops
