"""The only reader of the environment: every `LLMOPS_*` variable, its default and its meaning."""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from platformdirs import user_data_path
from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.redaction import redact

__all__ = ["Ack", "CacheScope", "Fencing", "Settings", "TooLong"]

Seconds = Annotated[float, Field(gt=0)]
CacheScope = Literal["shared", "user", "session"]
SemanticMode = Literal["off", "shadow", "serve"]
Ack = Literal["durable", "replicated", "cached"]
Fencing = Literal["off", "strict"]
TooLong = Literal["refuse", "trim"]
PREFIX = "LLMOPS_"
TESTS = "LLMOPS_TEST_"
SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{1,19}")
TOOL: Final = re.compile(r"[\w.-]{1,128}")
KEY_BYTES: Final = 32
URL_SAFE: Final = str.maketrans("-_", "+/")
WORDS: Final = frozenset(("0", "off", "f", "false", "n", "no", "1", "on", "t", "true", "y", "yes"))
URLS: Final = {
    "redis_url": (("redis", "rediss", "redis+cluster", "rediss+cluster"), "redis://host:6379/0"),
    "postgres_url": (("postgresql", "postgres"), "postgresql://host/db"),
    "objects_url": (("s3", "gs", "az", "file"), "s3://bucket/prefix, gs://…, az://… or file:///folder"),
}


class Settings(BaseSettings):
    """Everything that can be set; each field is also the variable `LLMOPS_<FIELD>`. An empty variable is an unset one.

    Raises `ConfigurationError` with one line that names the variable.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    state_dir: Path = Field(
        default_factory=lambda: user_data_path("langchain-llmops"),
        description="Folder of the embedded ledger, cache, checkpoints and archive.",
    )
    redis_url: SecretStr | None = Field(None, description="Shared cache and hot checkpoints: `redis://host:6379/0`.")
    postgres_url: SecretStr | None = Field(
        None, description="Ledger and durable checkpoints: `postgresql://user:password@host/db` (extra `postgres`)."
    )
    objects_url: SecretStr | None = Field(
        None, description="Archive of closed sessions: `s3://bucket/prefix`, `gs://…`, `az://…` or `file:///folder`."
    )
    tenant: str = Field("default", min_length=1, description="Tenant of this process; part of every cache key.")
    log_content: bool = Field(default=False, description="Store prompts and answers in the ledger and in log lines.")
    log_calls: str = Field(
        "logging",
        description="JSON line per call: `logging` (logger `langchain_llmops.calls`), `stderr`, `off` or a file path.",
    )
    otel: bool = Field(
        default=False, description="OpenTelemetry spans and metrics through the global providers (extra `otel`)."
    )
    trace_project: str | None = Field(None, description="LangSmith project; `LANGSMITH_PROJECT` when unset.")
    trace_sample_rate: float | None = Field(
        None, ge=0, le=1, description="Share of traces that are sent to LangSmith, whole traces; all when unset."
    )
    trace_retention: str | None = Field(
        None, description="Tag `retention:…` on every traced run, for LangSmith's retention rules."
    )
    trace_anonymize: bool = Field(
        default=False, description="Mask e-mail, phone, card and bank numbers and secrets in traces, tags included."
    )
    prices_file: Path | None = Field(None, description="JSON file of price overrides, US dollars per million tokens.")
    cache: bool = Field(default=True, description="Whether models built by `LLMOps` use the cache.")
    cache_scope: CacheScope = Field("shared", description="Who may share a cached answer: `shared`, `user`, `session`.")
    cache_namespace: str = Field("", description="Answers of one namespace are never those of another.")
    cache_prompt_version: str = Field(
        "", description="Part of every key: another one leaves all cached answers behind."
    )
    cache_tool_calls: bool | frozenset[str] = Field(
        default=False, description="Whether answers that call tools are cached too, or which tools: `lookup,search`."
    )
    cache_warm: bool = Field(default=False, description="Whether answers at a temperature above 0 are cached too.")
    cache_unset_temperature: bool = Field(
        default=True, description="Whether answers of models whose temperature nobody set are cached."
    )
    cache_l1_ttl_s: float = Field(30.0, gt=0, description="Seconds an answer stays in process memory.")
    cache_l1_max_bytes: int = Field(64 * 1024 * 1024, gt=0, description="Bytes of answers kept in process memory.")
    cache_l2_ttl_s: float = Field(300.0, gt=0, description="Seconds an answer stays in Redis.")
    cache_l3_ttl_s: float = Field(3600.0, gt=0, description="Seconds an answer stays in PostgreSQL or SQLite.")
    cache_tag_ttls: Mapping[str, Seconds] | None = Field(
        None, description="Less for answers with a tag, or a kind of tag: `prompt=600,doc:policy=60`."
    )
    cache_stale_s: float = Field(
        0.0, ge=0, description="Seconds an answer past its time may be served while it is asked for again or cannot be."
    )
    cache_max_entry_bytes: int = Field(1_000_000, gt=0, description="Longest answer that is cached, in bytes of JSON.")
    cache_timeout_s: float = Field(
        0.05, gt=0, description="Seconds after which a level of the cache that does not answer is left out."
    )
    cache_lease_s: float = Field(
        3.0, ge=0, description="Seconds other processes wait for one that asks and is not heard of; 0 for no waiting."
    )
    cache_semantic: SemanticMode = Field(
        "off", description="Answers to other wordings of a question: `off`, `shadow` (only counted) or `serve`."
    )
    cache_semantic_false_hits: float = Field(
        0.01, gt=0, lt=1, description="Share of wrong semantic hits above which that level switches itself off."
    )
    request_timeout_s: float = Field(60.0, gt=0, description="Timeout of one attempt at a model.")
    max_attempts: int = Field(3, ge=1, le=20, description="Attempts per rung of a fallback chain, the first included.")
    retry_base_s: float = Field(
        0.5, gt=0, description="First pause before a retry; doubles each time, with full jitter."
    )
    retry_max_s: float = Field(20.0, gt=0, description="Longest pause before a retry.")
    router_max_simple_tokens: int = Field(
        600, gt=0, description="Longest last user message, in tokens, that a simple model may answer."
    )
    hot_ttl_s: float = Field(
        300.0, gt=0, description="Seconds a conversation stays in the hot tier after its last turn."
    )
    checkpoint_warm_s: float = Field(
        86_400.0, gt=0, description="Seconds after its last turn that a conversation moves to the cold tier."
    )
    checkpoint_ack: Ack = Field(
        "durable", description="When a checkpoint counts as stored: `durable`, `replicated` or `cached`."
    )
    checkpoint_replicas: int = Field(
        1, ge=0, description="Replicas of Redis that must have a checkpoint, with `replicated`."
    )
    checkpoint_fencing: Fencing = Field(
        "off", description="`strict` refuses a writer that another one has overtaken in a conversation."
    )
    checkpoint_keys: SecretStr | None = Field(
        None, description="Keys that encrypt conversations, the first seals: `id=base64,older=base64` (32 bytes each)."
    )
    checkpoint_user_keys: bool = Field(
        default=False, description="A key for each user, destroyed when they are erased; needs LLMOPS_CHECKPOINT_KEYS."
    )
    checkpoint_timeout_s: float | None = Field(
        None, gt=0, description="Seconds without a turn after which a conversation has ended and takes no more."
    )
    checkpoint_retention_days: float | None = Field(
        None, gt=0, description="Days a conversation is kept after its last turn; for ever when unset."
    )
    checkpoint_max_length: int | None = Field(
        None, gt=0, description="Longest conversation that is stored, in messages."
    )
    checkpoint_on_max_length: TooLong = Field(
        "refuse", description="What happens to a longer one: `refuse`, or `trim` its oldest messages."
    )
    checkpoint_warn_bytes: int | None = Field(
        None, gt=0, description="Stored bytes of a conversation at which a warning is logged and an event told."
    )
    ledger_buffer: int = Field(
        10_000, gt=0, description="Records buffered before the ledger drops (and counts) new ones."
    )
    ledger_retention_days: float | None = Field(
        None, gt=0, description="Days the ledger keeps what happened; older rows are removed, once an hour."
    )
    store_timeout_s: float = Field(5.0, gt=0, description="Timeout of one operation on Redis, PostgreSQL or objects.")

    @field_validator("*", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: object, info: ValidationInfo) -> object:
        """Of what is given, as of a variable that `${DATABASE:-}` leaves empty; an empty path would be this folder."""
        field = cls.model_fields[str(info.field_name)]
        unset = value == "" and (field.default is None or info.field_name in ("state_dir", "log_calls"))
        return field.get_default(call_default_factory=True) if unset else value

    @field_validator("cache_tool_calls", mode="before")
    @classmethod
    def _yes_no_or_names(cls, value: object) -> object:
        if not isinstance(value, str) or value.strip().lower() in WORDS:
            return value
        names = frozenset(filter(None, map(str.strip, value.split(","))))
        if not names or not all(map(TOOL.fullmatch, names)):
            raise ValueError("it takes true, false or names of tools, as in lookup,search")
        return names

    @field_validator("checkpoint_keys")
    @classmethod
    def _keys_of_32_bytes(cls, value: SecretStr | None) -> SecretStr | None:
        _keys(value)
        return value

    @field_validator("cache_tag_ttls", mode="before")
    @classmethod
    def _tags_with_seconds(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.rpartition("=") for pair in value.split(",") if pair.strip()]
        if not pairs or not all(tag.strip() for tag, _, _ in pairs):
            raise ValueError("it takes tags with seconds, as in prompt=600,doc:policy=60")
        return {tag.strip(): seconds for tag, _, seconds in pairs}

    def __init__(self, **values: Any) -> None:
        unknown = sorted(name for name in values if name not in type(self).model_fields and not name.startswith("_"))
        if unknown:
            raise ConfigurationError(f"Settings has no {', '.join(unknown)}; `llmops settings` lists what can be set")
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigurationError(_one_line(error)) from None
        for name, (schemes, example) in URLS.items():
            _check_scheme(name, getattr(self, name), schemes, example)

    def encryption_keys(self) -> dict[str, bytes]:
        """`checkpoint_keys` by their ids, the one that seals first."""
        return _keys(self.checkpoint_keys)

    def misspelt_variables(self, environment: Mapping[str, str] = os.environ) -> list[str]:
        """`LLMOPS_*` variables that nothing reads."""
        known = {PREFIX + name.upper() for name in type(self).model_fields}
        return sorted(
            name
            for name in environment
            if name.upper().startswith(PREFIX) and not name.upper().startswith(TESTS) and name.upper() not in known
        )

    @classmethod
    def table(cls) -> list[tuple[str, str, str]]:
        """Every variable as `(name, default, meaning)`, for the README and `llmops settings`."""
        return [
            (PREFIX + name.upper(), _default(name, field.default), field.description or "")
            for name, field in cls.model_fields.items()
        ]


def _keys(given: SecretStr | None) -> dict[str, bytes]:
    keys: dict[str, bytes] = {}
    for pair in given.get_secret_value().split(",") if given else ():
        name, _, encoded = pair.strip().partition("=")
        try:
            key = base64.b64decode(encoded.strip().translate(URL_SAFE), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not name.strip() or name.strip() in keys or len(key) != KEY_BYTES:
            raise ValueError(
                "it takes ids with 32 bytes in base64 each, as in 2026=…,2025=…; `openssl rand -base64 32` makes a key"
            )
        keys[name.strip()] = key
    return keys


def _check_scheme(name: str, url: SecretStr | None, schemes: tuple[str, ...], example: str) -> None:
    """Here, as a part that finds out at its first use would find out too late."""
    scheme, separator, _ = (url.get_secret_value() if url else "").strip().partition("://")
    if url and not (separator and scheme.lower() in schemes):
        given = f"{scheme}://" if separator and SCHEME.fullmatch(scheme) else "what was given"
        raise ConfigurationError(f"{PREFIX}{name.upper()}: it takes {example}, not {given}")


def _default(name: str, value: object) -> str:
    if name == "state_dir":
        return "platform data folder"
    return "unset" if value in (None, "") else str(value)


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_input=False, include_url=False)[0]
    name = PREFIX + str(first["loc"][0]).upper()  # what follows is where in a list or which of several kinds
    return redact(f"{name}: {first['msg'].lower()} (see the settings table in the README)")
