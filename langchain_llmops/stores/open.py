"""A URL to a store: which driver, and what is wrong with a URL that names none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, unquote

from langchain_llmops.core.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from langchain_llmops.stores.base import Store

__all__ = ["open_url"]

KNOWN: Final = (
    "memory://, sqlite:///path, redis://, rediss://, redis+cluster://, postgresql://, file:///path, s3://, gs://, az://"
)


def open_url(url: str, *, setting: str = "url", blocking: bool = False, timeout_s: float = 5.0) -> Store:
    """Open a store; see `stores.base.open_store`."""
    scheme, separator, _ = url.strip().partition("://")
    # each driver is imported by who asks for it, so that nobody pays for one that is not used
    match scheme.lower() if separator else "":
        case "memory":
            from langchain_llmops.stores.memory import MemoryStore  # noqa: PLC0415 - loaded by who asks for it

            return MemoryStore(setting=setting, blocking=blocking, timeout_s=timeout_s)
        case "sqlite":
            return _sqlite(url.strip(), setting, blocking=blocking, timeout_s=timeout_s)
        case "redis" | "rediss" | "redis+cluster" | "rediss+cluster":
            from langchain_llmops.stores.redis import RedisStore  # noqa: PLC0415 - loaded by who asks for it

            return RedisStore(url.strip(), setting=setting, blocking=blocking, timeout_s=timeout_s)
        case "postgresql" | "postgres":
            return _postgres(url.strip(), setting, blocking=blocking, timeout_s=timeout_s)
        case "file" | "s3" | "gs" | "az":
            from langchain_llmops.stores.objects import open_objects  # noqa: PLC0415 - loaded by who asks for it

            return open_objects(url.strip(), setting=setting, blocking=blocking, timeout_s=timeout_s)
    shown = f"{scheme[:40]}://" if separator and "@" not in scheme else "this"
    raise ConfigurationError(f"{setting}: {shown} is no store we know; use one of {KNOWN}")


def _sqlite(url: str, setting: str, *, blocking: bool, timeout_s: float) -> Store:
    from langchain_llmops.stores.sqlite import IN_MEMORY, SqliteStore  # noqa: PLC0415 - loaded by who asks for it

    location, _, query = url.partition("://")[2].partition("?")
    path = unquote(location.removeprefix("/"))
    options = dict(parse_qsl(query, keep_blank_values=True))
    synchronous = options.pop("synchronous", "full").lower()
    if not location.startswith("/") or path in ("", IN_MEMORY) or path.endswith("/") or options or "\x00" in path:
        raise ConfigurationError(
            f"{setting}: {url} names no SQLite file; it must look like sqlite:///file.db or sqlite:////absolute/file.db,"
            " with ?synchronous=normal at most; for memory use memory://"
        )
    return SqliteStore(path, setting=setting, blocking=blocking, timeout_s=timeout_s, synchronous=synchronous)


def _postgres(url: str, setting: str, *, blocking: bool, timeout_s: float) -> Store:
    try:
        from langchain_llmops.stores.postgres import PostgresStore  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise MissingExtraError(f"{setting}: PostgreSQL", "postgres") from error
    return PostgresStore(url, setting=setting, blocking=blocking, timeout_s=timeout_s)
