"""Where the shared data lies: beside the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

__all__ = ["shared_data"]

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def shared_data(relative: str) -> Path:
    """A file of the shared data; without it the test fails in CI and is skipped elsewhere."""
    path = SHARED / relative
    if path.exists():
        return path
    message = f"../shared/data/{relative} is missing"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
