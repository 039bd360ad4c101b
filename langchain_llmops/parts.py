"""The remembering parts as the settings say: which store each one uses, and which setting to blame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.ledger.writer import Ledger
from langchain_llmops.stores.base import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_llmops.core.events import Bus
    from langchain_llmops.core.settings import Settings

__all__ = ["build_cache", "build_checkpointer", "build_ledger"]

DAY_S: Final = 86_400.0
STATE: Final = "LLMOPS_STATE_DIR"
REDIS: Final = "LLMOPS_REDIS_URL"
POSTGRES: Final = "LLMOPS_POSTGRES_URL"
OBJECTS: Final = "LLMOPS_OBJECTS_URL"


def build_ledger(settings: Settings) -> Ledger:
    """The ledger in PostgreSQL, or in SQLite."""
    url, setting = _database(settings, "ledger.db", "?synchronous=normal")
    store = open_store(url, setting=setting, timeout_s=settings.store_timeout_s)
    days = settings.ledger_retention_days
    return Ledger(
        store,
        max_buffered=settings.ledger_buffer,
        tenant=settings.tenant,
        retention_s=None if days is None else days * DAY_S,
    )


def build_cache(settings: Settings, bus: Bus) -> TieredCache:
    """Process memory over Redis, or over SQLite when embedded."""
    s = settings
    url = s.redis_url.get_secret_value() if s.redis_url else _sqlite(s, "cache.db") + "?synchronous=normal"
    return TieredCache.from_urls(
        url,
        setting=REDIS if s.redis_url else STATE,
        scope=s.cache_scope,
        tenant=s.tenant,
        l1_max_bytes=s.cache_l1_max_bytes,
        l1_ttl_s=s.cache_l1_ttl_s,
        l2_ttl_s=s.cache_l2_ttl_s,
        tool_calls=s.cache_tool_calls,
        bus=bus,
    )


def build_checkpointer(settings: Settings, allowed_types: tuple[type, ...]) -> TieredCheckpointSaver:
    """Hot in Redis or memory, durable in PostgreSQL or SQLite, closed conversations in objects."""
    s = settings
    warm, warm_setting = _database(s, "checkpoints.db")
    return TieredCheckpointSaver.from_urls(
        hot=s.redis_url.get_secret_value() if s.redis_url else "memory://",
        warm=warm,
        cold=s.objects_url.get_secret_value() if s.objects_url else f"file://{quote(str(_folder(s, 'archive')))}",
        settings=(warm_setting, REDIS, OBJECTS if s.objects_url else STATE),
        allowed_types=allowed_types,
        hot_ttl_s=s.hot_ttl_s,
        timeout_s=s.store_timeout_s,
    )


def _database(settings: Settings, file: str, options: str = "") -> tuple[str, str]:
    url = settings.postgres_url
    return (url.get_secret_value(), POSTGRES) if url else (_sqlite(settings, file) + options, STATE)


def _sqlite(settings: Settings, file: str) -> str:
    return f"sqlite:///{quote(str(_folder(settings) / file))}"


def _folder(settings: Settings, *below: str) -> Path:
    folder = settings.state_dir.absolute().joinpath(*below)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{STATE}: cannot create {folder} ({error.strerror}); set it to a folder you can write"
        ) from error
    return folder
