"""One table of all backends; every behaviour runs over every backend that has the capability, in both colours."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

import pytest

from langchain_llmops.core.concurrency import drive
from langchain_llmops.stores.base import Store, open_store

_numbers = itertools.count()


@dataclass(frozen=True)
class Backend:
    """How to reach a backend: the fixture that gives its URL, and what it can do."""

    name: str
    fixture: str
    capabilities: frozenset[str]


def _backend(name: str, fixture: str, *capabilities: str) -> Backend:
    return Backend(name, fixture, frozenset(capabilities))


BACKENDS = (
    _backend("memory", "memory_url", "kv", "maps", "journal", "sql", "objects"),
    _backend("sqlite", "sqlite_url", "kv", "sql"),
    _backend("redis", "redis_url", "kv", "maps", "journal"),
    _backend("redis-cluster", "redis_cluster_url", "kv", "maps", "journal"),
    _backend("postgresql", "postgres_url", "kv", "sql"),
    _backend("file", "file_url", "objects"),
    _backend("s3-rclone", "s3_url", "objects"),
    _backend("s3-moto", "moto_prefix_url", "objects"),
)


class Opened:
    """A store in one colour, and how to run its coroutines."""

    def __init__(self, url: str, *, blocking: bool) -> None:
        self.url = url
        self.blocking = blocking
        self.store: Store = open_store(url, setting="LLMOPS_TEST_URL", blocking=blocking)
        self._runner = None if blocking else asyncio.Runner()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return drive(coroutine) if self._runner is None else self._runner.run(coroutine)

    def close(self) -> None:
        self.run(self.store.aclose())
        if self._runner is not None:
            self._runner.close()

    def key(self, text: str = "") -> str:
        """A key that no other test uses."""
        return f"{uuid.uuid4().hex}:{next(_numbers)}:{text}"


def pytest_generate_tests(metafunc):
    for capability in ("kv", "maps", "journal", "sql", "objects"):
        if capability in metafunc.fixturenames:
            able = [backend for backend in BACKENDS if capability in backend.capabilities]
            if metafunc.definition.get_closest_marker("between_processes"):
                able = [backend for backend in able if backend.name != "memory"]
            colours = (False,) if metafunc.definition.get_closest_marker("async_only") else (False, True)
            cases = [(backend, blocking) for backend in able for blocking in colours]
            names = [f"{backend.name}-{'blocking' if blocking else 'async'}" for backend, blocking in cases]
            metafunc.parametrize("case", cases, ids=names)


@pytest.fixture
def memory_url():
    return "memory://"


@pytest.fixture
def sqlite_url(tmp_path):
    return f"sqlite:///{tmp_path / 'folder' / 'contract.db'}"


@pytest.fixture
def file_url(tmp_path):
    return f"file://{tmp_path / 'objects'}"


@pytest.fixture
def moto_prefix_url(moto_url):
    head, _, query = moto_url.partition("?")
    return f"{head}/{uuid.uuid4().hex[:12]}?{query}"


@pytest.fixture
def opened(case, request):
    backend, blocking = case
    opened = Opened(request.getfixturevalue(backend.fixture), blocking=blocking)
    yield opened
    opened.close()


@pytest.fixture
def kv(opened):
    return opened.store.kv


@pytest.fixture
def maps(opened):
    return opened.store.maps


@pytest.fixture
def journal(opened):
    return opened.store.journal


@pytest.fixture
def sql(opened):
    return opened.store.sql


@pytest.fixture
def objects(opened):
    return opened.store.objects
