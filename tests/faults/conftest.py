"""Servers that a module's tests may kill, and a process that makes their clients."""

from __future__ import annotations

import os

import pytest

from tests.faults.checkpoint_clients import CLIENT
from tests.support.faulty import Servers
from tests.support.forked import forge


@pytest.fixture(scope="module")
def fault_servers():
    with Servers() as made:
        try:
            assert made.postgres.port
        except (RuntimeError, OSError) as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"no PostgreSQL: {error}")
        yield made


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    with forge(CLIENT, tmp_path_factory.mktemp("clients")) as made:
        yield made
