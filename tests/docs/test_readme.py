"""The README says what is true: its commands, its settings table, its code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import langchain_llmops
from langchain_llmops import LLMOps, Settings
from langchain_llmops.cli.app import app, main
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


def test_every_option_of_every_command_is_documented(monkeypatch, capsys):
    monkeypatch.setattr(app, "registered_groups", [])
    monkeypatch.setattr(app, "registered_commands", [])  # `main` registers them
    monkeypatch.setattr(sys, "argv", ["llmops", "--version"])
    with pytest.raises(SystemExit):
        main()
    commands = dict(leaves(typer.main.get_command(app), ()))
    assert ("cache", "warm") in commands
    options = {name: [opt for param in found.params for opt in param.opts] for name, found in commands.items()}
    assert sum(map(len, options.values())) > 50
    missing = {
        name: [opt for opt in found if opt.startswith("--") and opt not in README] for name, found in options.items()
    }
    assert {name: found for name, found in missing.items() if found} == {}
    assert [name for name in commands if f"llmops {' '.join(name)}" not in README] == []


def leaves(command, path):
    """Commands by their words, those of groups too."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
    for name, one in (below or {}).items():
        yield from leaves(one, (*path, name))


def test_every_metric_is_listed_as_the_code_has_it(tmp_path):
    with LLMOps(Settings(state_dir=tmp_path, log_calls=str(tmp_path / "calls.log"))) as ops:
        rows = [metric_row(ops.registry, metric) for metric in ops.registry.collect()]
    assert [row for row in rows if row not in README] == []
    assert len(re.findall(r"^\| `llmops_\w+` \|", README, re.MULTILINE)) == len(rows)


def metric_row(registry, metric):
    """Labels stand in the collector: a metric has none before its first sample."""
    collector = registry._names_to_collectors[metric.name]
    labels = getattr(collector, "_labelnames", None) or getattr(collector, "_labels", ())
    ending = "_total" if metric.type == "counter" else ""
    return f"| `{metric.name}{ending}` | {', '.join(labels)} | {metric.documentation} |"


def test_every_public_name_is_documented():
    members = [name for name in dir(LLMOps) if not name.startswith("_")]
    public = [name for name in langchain_llmops.__all__ if not name.startswith("_")]
    assert [name for name in (*members, *public) if re.search(rf"\b{name}\b", README) is None] == []


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a block against the simulator, with the tools and the files that the text speaks of."""
    with running(models=None) as simulator:
        for name in [name for name in os.environ if name.startswith(("LLMOPS_", "LANGSMITH_"))]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("OPENAI_API_KEY", "simulated")
        monkeypatch.setenv("OPENAI_BASE_URL", simulator.base_url)
        monkeypatch.setenv("LLMOPS_STATE_DIR", str(tmp_path))
        monkeypatch.chdir(tmp_path)

        def run(block: str) -> int:
            """How many requests the provider got."""
            exec(compile(PREAMBLE + block, "README.md", "exec"), {"__name__": "readme"})  # noqa: S102 - that is the test
            return simulator.stats.requests

        yield run


@pytest.mark.parametrize("block", blocks("python"), ids=range(len(blocks("python"))))
def test_every_python_block_runs(block, run):
    run(block)


CACHED = {"print(ops.cache.stats())": 3, "print(search.stats())": 2, "set_llm_cache(cache)": 1}


@pytest.mark.parametrize("line", CACHED)
def test_the_examples_of_the_cache_ask_the_provider_no_more_often_than_they_say(line, run):
    (block,) = [block for block in blocks("python") if line in block]
    assert run(block) == CACHED[line]


PREAMBLE = '''
def lookup_order(order_id: str) -> str:
    """Look up an order."""
    return f"{order_id} is shipped"
'''
