"""The remembering parts as the settings say: which store each one uses, and which setting to blame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from langchain_llmops.cache.hashing import HashingEmbeddings
from langchain_llmops.cache.policy import Policy, Ttl
from langchain_llmops.cache.semantic import SemanticLevel
from langchain_llmops.cache.tiered import TieredCache
from langchain_llmops.checkpoint.saver import TieredCheckpointSaver
from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.ledger.writer import Ledger
from langchain_llmops.stores.base import open_store

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_core.embeddings import Embeddings

    from langchain_llmops.core.events import Bus
    from langchain_llmops.core.pricing import PriceBook
    from langchain_llmops.core.settings import Settings
    from langchain_llmops.stores.base import Store

__all__ = ["build_cache", "build_checkpointer", "build_ledger", "cache_places"]

DAY_S: Final = 86_400.0
STATE: Final = "LLMOPS_STATE_DIR"
REDIS: Final = "LLMOPS_REDIS_URL"
POSTGRES: Final = "LLMOPS_POSTGRES_URL"
OBJECTS: Final = "LLMOPS_OBJECTS_URL"
ACK: Final = "LLMOPS_CHECKPOINT_ACK"


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


def cache_places(settings: Settings) -> dict[str, tuple[str, str]]:
    """Of each level below memory, its URL and the setting to blame: Redis and PostgreSQL, or SQLite without them."""
    s = settings
    places = {"L2": (s.redis_url.get_secret_value(), REDIS)} if s.redis_url else {}
    if s.postgres_url or not places:
        places["L3"] = _database(s, "cache.db", "?synchronous=normal")
    return places


def build_cache(
    settings: Settings,
    bus: Bus,
    prices: PriceBook | None,
    *,
    namespace: str | None = None,
    timeout_s: float | None = None,
    embeddings: Embeddings | None = None,
) -> TieredCache:
    """Process memory over `cache_places`; `namespace` and `timeout_s` in place of those of the settings.

    `embeddings` are for the semantic level, in place of those that see spelling alone.
    """
    s = settings
    places = cache_places(s)
    timeout_s = s.cache_timeout_s if timeout_s is None else timeout_s
    return TieredCache(
        *(_level(*places[level], timeout_s) if level in places else None for level in ("L2", "L3")),
        scope=s.cache_scope,
        tenant=s.tenant,
        namespace=s.cache_namespace if namespace is None else namespace,
        prompt_version=s.cache_prompt_version,
        l1_max_bytes=s.cache_l1_max_bytes,
        ttl=Ttl(s.cache_l1_ttl_s, s.cache_l2_ttl_s, s.cache_l3_ttl_s, s.cache_stale_s, s.cache_tag_ttls or {}),
        policy=Policy(
            warm=s.cache_warm,
            unset_temperature=s.cache_unset_temperature,
            tool_calls=s.cache_tool_calls,
            max_bytes=s.cache_max_entry_bytes,
        ),
        lease_s=s.cache_lease_s,
        semantic=_semantic(s, embeddings),
        prices=prices,
        bus=bus,
    )


def _level(url: str, setting: str, timeout_s: float) -> tuple[Store, Store]:
    """A store for async and one for blocking callers."""
    store = open_store(url, setting=setting, timeout_s=timeout_s)
    return store, open_store(url, setting=setting, timeout_s=timeout_s, blocking=True)


def _semantic(settings: Settings, embeddings: Embeddings | None) -> SemanticLevel | None:
    mode = settings.cache_semantic
    if mode == "off":
        return None
    chosen = HashingEmbeddings() if embeddings is None else embeddings
    return SemanticLevel(chosen, mode=mode, max_false_hit_rate=settings.cache_semantic_false_hits)


def build_checkpointer(
    settings: Settings, allowed_types: tuple[type | tuple[str, ...], ...], bus: Bus | None = None
) -> TieredCheckpointSaver:
    """Hot in Redis or memory, durable in PostgreSQL or SQLite, idle conversations in objects."""
    s = settings
    _check_choices(s)
    warm, warm_setting = _database(s, "checkpoints.db")
    days = s.checkpoint_retention_days
    return TieredCheckpointSaver.from_urls(
        hot=s.redis_url.get_secret_value() if s.redis_url else "memory://",
        warm=warm,
        cold=s.objects_url.get_secret_value() if s.objects_url else f"file://{quote(str(_folder(s, 'archive')))}",
        settings=(warm_setting, REDIS, OBJECTS if s.objects_url else STATE),
        timeout_s=s.store_timeout_s,
        allowed_types=allowed_types,
        tenant=s.tenant,
        ack=s.checkpoint_ack,
        replicas=s.checkpoint_replicas,
        fencing=s.checkpoint_fencing,
        keys=s.encryption_keys(),
        user_keys=s.checkpoint_user_keys,
        hot_s=s.hot_ttl_s,
        warm_s=s.checkpoint_warm_s,
        conversation_timeout_s=s.checkpoint_timeout_s,
        retention_s=None if days is None else days * DAY_S,
        max_length=s.checkpoint_max_length,
        on_max_length=s.checkpoint_on_max_length,
        warn_bytes=s.checkpoint_warn_bytes,
        bus=bus,
    )


def _check_choices(settings: Settings) -> None:
    """What needs another variable, in the words of variables."""
    s = settings
    if s.checkpoint_ack != "durable" and s.redis_url is None:
        raise ConfigurationError(f"{ACK}={s.checkpoint_ack} keeps checkpoints in Redis: set {REDIS}, or {ACK}=durable")
    if s.checkpoint_ack != "durable" and s.checkpoint_fencing == "strict":
        raise ConfigurationError(f"LLMOPS_CHECKPOINT_FENCING=strict needs {ACK}=durable")
    if s.checkpoint_user_keys and s.checkpoint_keys is None:
        raise ConfigurationError("LLMOPS_CHECKPOINT_USER_KEYS needs LLMOPS_CHECKPOINT_KEYS: they seal the users' keys")


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
