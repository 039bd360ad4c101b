from __future__ import annotations

import httpx
import pytest

from langchain_llmops.recorder.running import running


@pytest.fixture(scope="module")
def recorder():
    """One recorder for a file of tests: each test uses runs of its own."""
    with running(max_body_bytes=1_000_000) as recorder:
        yield recorder


@pytest.fixture(scope="module")
def http(recorder):
    with httpx.Client(base_url=recorder.url) as client:
        yield client
