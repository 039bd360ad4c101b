"""The README says what is true: its commands, its settings table, its code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from langchain_llmops import Settings
from langchain_llmops.simulator import running

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_two_lines_of_set_up_stand_on_the_first_screen():
    first_screen = "\n".join(README.splitlines()[:48])
    assert "pip install '.[serve]' && llmops demo\n" in first_screen
    assert "pip install -e '.[test]' && pytest\n" in first_screen


def test_every_setting_is_listed_as_the_code_has_it():
    rows = [f"| `{name}` | {default} | {meaning} |" for name, default, meaning in Settings.table()]
    missing = [row for row in rows if row not in README]
    assert missing == []
    listed = set(re.findall(r"^\| `(LLMOPS_\w+)`", README, re.MULTILINE))
    assert listed == {name for name, _, _ in Settings.table()}


def test_every_command_of_the_cli_is_documented():
    shown = subprocess.run(
        [sys.executable, "-m", "langchain_llmops", "--help"], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    commands = re.findall(r"^[│ ] *(\w[\w-]*)  +\w", shown.split("Commands", 1)[1], re.MULTILINE)
    assert commands
    assert [command for command in commands if f"llmops {command}" not in README] == []


@pytest.mark.parametrize("block", blocks("python"), ids=range(len(blocks("python"))))
def test_every_python_block_runs(block, tmp_path, monkeypatch):
    """Against the simulator, with the tools and the files that the text speaks of."""
    with running(models=None) as simulator:
        for name in [name for name in os.environ if name.startswith(("LLMOPS_", "LANGSMITH_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("OPENAI_API_KEY", "simulated")
        monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
        monkeypatch.setenv("LLMOPS_STATE_DIR", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        exec(compile(PREAMBLE + block, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102 - that is the test


PREAMBLE = '''
def lookup_order(order_id: str) -> str:
    """Look up an order."""
    return f"{order_id} is shipped"
'''
