"""Every example is a program that runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_runs_as_written(example, tmp_path):
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("LLMOPS_", "LANGSMITH_", "OPENAI_"))
    }
    done = subprocess.run(
        [sys.executable, str(example)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "saved" in done.stdout
