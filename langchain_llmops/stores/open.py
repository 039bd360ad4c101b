"""A URL to a store: which driver, and what is wrong with a URL that names none."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from langchain_llmops.core.errors import ConfigurationError, MissingExtraError
from langchain_llmops.core.redaction import redact_url

if TYPE_CHECKING:
    from langchain_llmops.stores.base import Store

__all__ = ["open_url"]

KNOWN = (
    "memory://, sqlite:///path, redis://, rediss://, redis+cluster://, postgresql://, file:///path, s3://, gs://, az://"
)


def open_url(url: str, *, setting: str, blocking: bool, timeout_s: float) -> Store:
    """Open a store; see `stores.base.open_store`."""
    try:
        scheme = urlsplit(url).scheme.lower()
    except ValueError as error:
        raise ConfigurationError(f"{setting}: {redact_url(url)} is not a URL; use one of {KNOWN}") from error
    # each driver is imported by who asks for it, so that nobody pays for one that is not used
    match scheme:
        case "memory":
            from langchain_llmops.stores.memory import MemoryStore  # noqa: PLC0415

            return MemoryStore(setting=setting, blocking=blocking, clock=time.monotonic)
        case "sqlite":
            return _sqlite(url, setting, blocking=blocking, timeout_s=timeout_s)
        case "redis" | "rediss" | "redis+cluster":
            from langchain_llmops.stores.redis import RedisStore  # noqa: PLC0415

            return RedisStore(url, setting=setting, blocking=blocking, timeout_s=timeout_s)
        case "postgresql" | "postgres":
            return _postgres(url, setting, blocking=blocking, timeout_s=timeout_s)
        case "file" | "s3" | "gs" | "az":
            from langchain_llmops.stores.objects import open_objects  # noqa: PLC0415

            return open_objects(url, setting=setting, blocking=blocking, timeout_s=timeout_s)
    raise ConfigurationError(f"{setting}: {redact_url(url)[:80]!r} names no store we know; use one of {KNOWN}")


def _sqlite(url: str, setting: str, *, blocking: bool, timeout_s: float) -> Store:
    from langchain_llmops.stores.sqlite import SqliteStore  # noqa: PLC0415 - as above

    parts = urlsplit(url)
    path = unquote(parts.path[1:])
    options = dict(parse_qsl(parts.query))
    synchronous = options.pop("synchronous", "full")
    if parts.netloc or not path or options:
        raise ConfigurationError(
            f"{setting}: {url} is no SQLite URL; it must look like sqlite:///file.db, or sqlite:////absolute/file.db"
        )
    return SqliteStore(path, setting=setting, blocking=blocking, timeout_s=timeout_s, synchronous=synchronous)


def _postgres(url: str, setting: str, *, blocking: bool, timeout_s: float) -> Store:
    try:
        from langchain_llmops.stores.postgres import PostgresStore  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError(f"{setting}: PostgreSQL", "postgres") from error
    return PostgresStore(url, setting=setting, blocking=blocking, timeout_s=timeout_s)
