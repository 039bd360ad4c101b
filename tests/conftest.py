"""Fixtures for the whole suite: real servers, started once a session when first asked for."""

from __future__ import annotations

import contextlib
import os
import uuid
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.support import servers

WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def _server(start, variable: str, own=str):
    """The user's own server when the variable names one, else a child; one that cannot start is a failure in CI.

    `own` makes of the user's URL that of this test process.
    """
    given = os.environ.get(variable)
    if given:
        yield own(given)
        return
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(start())
        except (RuntimeError, OSError) as error:
            if os.environ.get("CI"):
                raise
            pytest.skip(f"{start.__name__}: {error}")
        yield getattr(server, "url", server)


def redis_database_of_its_own(url: str) -> str:
    """Test processes empty Redis before a test: the first takes the named database, the next the next one."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{int(parts.path.strip('/') or 0) + WORKER}"))


@pytest.fixture(scope="session")
def redis_url():
    yield from _server(servers.redis_server, "LLMOPS_TEST_REDIS_URL", redis_database_of_its_own)


@pytest.fixture(scope="session")
def redis_cluster_url():
    yield from _server(servers.redis_cluster, "LLMOPS_TEST_REDIS_CLUSTER_URL")


@pytest.fixture(scope="session")
def postgres_cluster_url():
    yield from _server(servers.postgres_server, "LLMOPS_TEST_POSTGRES_URL")


@pytest.fixture(scope="session")
def rclone_url():
    yield from _server(servers.rclone_s3, "LLMOPS_TEST_S3_URL")


@pytest.fixture(scope="session")
def moto_url():
    yield from _server(servers.moto_s3, "LLMOPS_TEST_S3_URL")


@pytest.fixture
def postgres_url(postgres_cluster_url):
    """A schema of the test's own, a hundred times cheaper than a database of its own."""
    import psycopg

    name = f"llmops_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_cluster_url, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    joint = "&" if "?" in postgres_cluster_url else "?"
    yield f"{postgres_cluster_url}{joint}options=-csearch_path%3D{name}"
    with psycopg.connect(postgres_cluster_url, autocommit=True, options="-clock_timeout=10s") as connection:
        connection.execute(f"DROP SCHEMA {name} CASCADE")


@pytest.fixture
def s3_url(rclone_url):
    """A prefix of the test's own."""
    head, _, query = rclone_url.partition("?")
    return f"{head}/{uuid.uuid4().hex[:12]}?{query}"


@pytest.fixture
def clean_redis_url(redis_url):
    """Redis with nothing in it."""
    import redis

    with contextlib.closing(redis.Redis.from_url(redis_url)) as client:
        client.flushdb()
    return redis_url
