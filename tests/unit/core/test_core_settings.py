"""Settings: the environment read once, and one clear line when it is wrong."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from langchain_llmops.core.errors import ConfigurationError
from langchain_llmops.core.settings import Settings

CANARY = "c4n4rySeCreT99"
KEYS = {"new": bytes(range(32)), "old": b"\xfb" * 32}
KEYS_TEXT = ",".join(f"{name}={base64.b64encode(key).decode()}" for name, key in KEYS.items())


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("LLMOPS_"):
            monkeypatch.delenv(name)


def test_every_field_is_documented_and_named_after_its_variable() -> None:
    table = Settings.table()
    assert [name for name, _, _ in table] == [f"LLMOPS_{field.upper()}" for field in Settings.model_fields]
    for name, default, meaning in table:
        assert default, name
        assert meaning.endswith("."), name
        assert len(meaning) > 10, name


def test_everything_has_a_default() -> None:
    settings = Settings()
    assert settings.redis_url is settings.postgres_url is settings.objects_url is None
    assert settings.cache_scope == "shared"
    assert settings.log_content is False
    assert settings.state_dir.is_absolute()


READ = {
    "STATE_DIR": ("/var/lib/ops", lambda s: s.state_dir, Path("/var/lib/ops")),
    "REDIS_URL": ("redis://h", lambda s: s.redis_url.get_secret_value(), "redis://h"),
    "POSTGRES_URL": ("postgresql://h/d", lambda s: s.postgres_url.get_secret_value(), "postgresql://h/d"),
    "OBJECTS_URL": ("s3://b", lambda s: s.objects_url.get_secret_value(), "s3://b"),
    "TENANT": ("acme", lambda s: s.tenant, "acme"),
    "LOG_CONTENT": ("1", lambda s: s.log_content, True),
    "LOG_CALLS": ("off", lambda s: s.log_calls, "off"),
    "PRICES_FILE": ("p.json", lambda s: s.prices_file, Path("p.json")),
    "CACHE": ("false", lambda s: s.cache, False),
    "CACHE_SCOPE": ("session", lambda s: s.cache_scope, "session"),
    "CACHE_TOOL_CALLS": ("true", lambda s: s.cache_tool_calls, True),
    "CACHE_L1_TTL_S": ("1.5", lambda s: s.cache_l1_ttl_s, 1.5),
    "CACHE_L1_MAX_BYTES": ("1000", lambda s: s.cache_l1_max_bytes, 1000),
    "CACHE_L2_TTL_S": ("9", lambda s: s.cache_l2_ttl_s, 9.0),
    "CACHE_L3_TTL_S": ("99", lambda s: s.cache_l3_ttl_s, 99.0),
    "CACHE_TAG_TTLS": ("prompt=600, doc:policy=.5", lambda s: s.cache_tag_ttls, {"prompt": 600.0, "doc:policy": 0.5}),
    "CACHE_STALE_S": ("60", lambda s: s.cache_stale_s, 60.0),
    "CACHE_NAMESPACE": ("v2", lambda s: s.cache_namespace, "v2"),
    "CACHE_PROMPT_VERSION": ("7", lambda s: s.cache_prompt_version, "7"),
    "CACHE_WARM": ("1", lambda s: s.cache_warm, True),
    "CACHE_UNSET_TEMPERATURE": ("0", lambda s: s.cache_unset_temperature, False),
    "CACHE_MAX_ENTRY_BYTES": ("1000", lambda s: s.cache_max_entry_bytes, 1000),
    "CACHE_TIMEOUT_S": ("0.2", lambda s: s.cache_timeout_s, 0.2),
    "CACHE_LEASE_S": ("0", lambda s: s.cache_lease_s, 0.0),
    "CACHE_SEMANTIC": ("shadow", lambda s: s.cache_semantic, "shadow"),
    "CACHE_SEMANTIC_FALSE_HITS": ("0.05", lambda s: s.cache_semantic_false_hits, 0.05),
    "REQUEST_TIMEOUT_S": ("3", lambda s: s.request_timeout_s, 3.0),
    "MAX_ATTEMPTS": ("5", lambda s: s.max_attempts, 5),
    "RETRY_BASE_S": ("0.1", lambda s: s.retry_base_s, 0.1),
    "RETRY_MAX_S": ("2", lambda s: s.retry_max_s, 2.0),
    "ROUTER_MAX_SIMPLE_TOKENS": ("50", lambda s: s.router_max_simple_tokens, 50),
    "HOT_TTL_S": ("60", lambda s: s.hot_ttl_s, 60.0),
    "CHECKPOINT_WARM_S": ("7200", lambda s: s.checkpoint_warm_s, 7200.0),
    "CHECKPOINT_ACK": ("replicated", lambda s: s.checkpoint_ack, "replicated"),
    "CHECKPOINT_REPLICAS": ("2", lambda s: s.checkpoint_replicas, 2),
    "CHECKPOINT_FENCING": ("strict", lambda s: s.checkpoint_fencing, "strict"),
    "CHECKPOINT_KEYS": (KEYS_TEXT, lambda s: list(s.encryption_keys().items()), list(KEYS.items())),
    "CHECKPOINT_USER_KEYS": ("1", lambda s: s.checkpoint_user_keys, True),
    "CHECKPOINT_TIMEOUT_S": ("3600", lambda s: s.checkpoint_timeout_s, 3600.0),
    "CHECKPOINT_RETENTION_DAYS": ("90", lambda s: s.checkpoint_retention_days, 90.0),
    "CHECKPOINT_MAX_LENGTH": ("100", lambda s: s.checkpoint_max_length, 100),
    "CHECKPOINT_ON_MAX_LENGTH": ("trim", lambda s: s.checkpoint_on_max_length, "trim"),
    "CHECKPOINT_WARN_BYTES": ("1000000", lambda s: s.checkpoint_warn_bytes, 1_000_000),
    "LEDGER_BUFFER": ("10", lambda s: s.ledger_buffer, 10),
    "LEDGER_RETENTION_DAYS": ("30", lambda s: s.ledger_retention_days, 30.0),
    "OTEL": ("1", lambda s: s.otel, True),
    "TRACE_PROJECT": ("p", lambda s: s.trace_project, "p"),
    "TRACE_SAMPLE_RATE": ("0.5", lambda s: s.trace_sample_rate, 0.5),
    "TRACE_RETENTION": ("long", lambda s: s.trace_retention, "long"),
    "TRACE_ANONYMIZE": ("1", lambda s: s.trace_anonymize, True),
    "STORE_TIMEOUT_S": ("2", lambda s: s.store_timeout_s, 2.0),
}


def test_the_table_of_readings_is_complete() -> None:
    assert {f"LLMOPS_{name}" for name in READ} == {name for name, _, _ in Settings.table()}


@pytest.mark.parametrize("name", READ)
def test_every_variable_is_read_from_the_environment(name, monkeypatch) -> None:
    text, read, value = READ[name]
    assert Settings(**{name.lower(): None} if name.endswith("_URL") else {}) is not None
    monkeypatch.setenv(f"LLMOPS_{name}", text)
    assert read(Settings()) == value


def test_an_argument_wins_over_the_environment(monkeypatch) -> None:
    monkeypatch.setenv("LLMOPS_TENANT", "acme")
    assert Settings(tenant="mine").tenant == "mine"


WRONG = {
    "CACHE": "perhaps",
    "CACHE_SCOPE": "everyone",
    "CACHE_TOOL_CALLS": "7",
    "CACHE_L1_TTL_S": "0",
    "CACHE_L1_MAX_BYTES": "-1",
    "CACHE_L2_TTL_S": "soon",
    "CACHE_L3_TTL_S": "inf",
    "CACHE_TAG_TTLS": "prompt",
    "CACHE_STALE_S": "-1",
    "CACHE_WARM": "hot",
    "CACHE_UNSET_TEMPERATURE": "perhaps",
    "CACHE_MAX_ENTRY_BYTES": "0",
    "CACHE_TIMEOUT_S": "0",
    "CACHE_LEASE_S": "nan",
    "CACHE_SEMANTIC": "on",
    "CACHE_SEMANTIC_FALSE_HITS": "1",
    "CHECKPOINT_WARM_S": "0",
    "CHECKPOINT_ACK": "sometimes",
    "CHECKPOINT_REPLICAS": "-1",
    "CHECKPOINT_FENCING": "loose",
    "CHECKPOINT_KEYS": "secret",
    "CHECKPOINT_USER_KEYS": "perhaps",
    "CHECKPOINT_TIMEOUT_S": "0",
    "CHECKPOINT_RETENTION_DAYS": "-1",
    "CHECKPOINT_MAX_LENGTH": "0",
    "CHECKPOINT_ON_MAX_LENGTH": "cut",
    "CHECKPOINT_WARN_BYTES": "0",
    "HOT_TTL_S": "-5",
    "LEDGER_BUFFER": "1.5",
    "LEDGER_RETENTION_DAYS": "0",
    "LOG_CONTENT": "perhaps",
    "MAX_ATTEMPTS": "21",
    "REQUEST_TIMEOUT_S": "0",
    "RETRY_BASE_S": "0",
    "RETRY_MAX_S": "x",
    "ROUTER_MAX_SIMPLE_TOKENS": "0",
    "STORE_TIMEOUT_S": "0",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_one_line_that_names_the_variable(name, monkeypatch) -> None:
    monkeypatch.setenv(f"LLMOPS_{name}", WRONG[name])
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    told = str(caught.value)
    assert told.startswith(f"LLMOPS_{name}: ")
    assert "\n" not in told
    assert not isinstance(caught.value.__cause__, ValidationError), "a traceback would show the value"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("name", WRONG)
def test_a_secret_put_into_the_wrong_variable_is_not_shown(name, monkeypatch) -> None:
    monkeypatch.setenv(f"LLMOPS_{name}", f"redis://u:{CANARY}@h")
    with pytest.raises(ConfigurationError) as caught:
        Settings()
    assert CANARY not in str(caught.value)
    assert CANARY not in repr(caught.value)


@pytest.mark.parametrize("text", ["=5", ",", "doc=", "doc=0", "doc=-1", "doc=inf", "doc=soon", "{}x", "[1]"])
def test_tags_without_a_time_above_0_are_refused(text, monkeypatch) -> None:
    monkeypatch.setenv("LLMOPS_CACHE_TAG_TTLS", text)
    with pytest.raises(ConfigurationError, match=r"^LLMOPS_CACHE_TAG_TTLS: .*$"):
        Settings()


@pytest.mark.parametrize(
    ("text", "meant"),
    [("YES", True), ("0", False), ("search", {"search"}), ("search, lookup.v2,", {"search", "lookup.v2"})],
)
def test_answers_that_call_tools_are_cached_for_all_tools_none_or_some(text, meant, monkeypatch) -> None:
    monkeypatch.setenv("LLMOPS_CACHE_TOOL_CALLS", text)
    assert Settings().cache_tool_calls == meant


@pytest.mark.parametrize(
    "text",
    [
        "new",
        f"new={base64.b64encode(b'short').decode()}",
        f"={base64.b64encode(bytes(32)).decode()}",
        f"{KEYS_TEXT},new={base64.b64encode(bytes(32)).decode()}",
        f"{KEYS_TEXT},",
        f"new={CANARY}!",
    ],
)
def test_keys_that_are_no_32_bytes_each_with_an_id_of_its_own_are_refused_and_not_shown(text, monkeypatch) -> None:
    monkeypatch.setenv("LLMOPS_CHECKPOINT_KEYS", text)
    with pytest.raises(ConfigurationError, match=r"^LLMOPS_CHECKPOINT_KEYS: .*openssl rand -base64 32.*$") as caught:
        Settings()
    assert CANARY not in str(caught.value)


def test_keys_may_be_written_for_urls_too_and_are_never_in_a_repr() -> None:
    settings = Settings(checkpoint_keys=f" new = {base64.urlsafe_b64encode(KEYS['old']).decode()} ")
    assert settings.encryption_keys() == {"new": KEYS["old"]}
    assert Settings().encryption_keys() == {}
    assert base64.urlsafe_b64encode(KEYS["old"]).decode() not in repr(settings) + settings.model_dump_json()


WRONG_URLS = {
    "redis_url": ("localhost:6379", "http://h", "postgresql://h/d", "s3://b"),
    "postgres_url": ("h/d", "redis://h", "mysql://u:p@h/d", "sqlite:///l.db"),
    "objects_url": ("bucket", "redis://h", "ftp://h", "https://s3.example"),
}


@pytest.mark.parametrize(("name", "url"), [(name, url) for name, urls in WRONG_URLS.items() for url in urls])
def test_a_url_of_another_kind_of_store_is_refused_at_once(name, url) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(**{name: url})
    scheme, separator, _ = url.partition("://")
    assert str(caught.value).startswith(f"LLMOPS_{name.upper()}: it takes ")
    assert str(caught.value).endswith(f"not {scheme}://" if separator else "not what was given")


@pytest.mark.parametrize("url", [f"u:{CANARY}@h", f"{CANARY}://h", f"http://u:{CANARY}@h", f"{CANARY}"])
def test_a_refused_url_is_not_shown(url) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Settings(postgres_url=url)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("name", WRONG_URLS)
def test_an_empty_url_is_none(name) -> None:
    assert not getattr(Settings(**{name: ""}), name)


@pytest.mark.parametrize("name", READ)
def test_an_empty_variable_is_an_unset_one(monkeypatch, name) -> None:
    unset = Settings()
    monkeypatch.setenv(f"LLMOPS_{name}", "")
    assert Settings() == unset
    assert not Settings().model_fields_set


@pytest.mark.parametrize("field", ["state_dir", "log_calls", "prices_file", "trace_project"])
def test_a_path_or_name_that_is_given_and_empty_is_not_given(field) -> None:
    assert getattr(Settings(**{field: ""}), field) == getattr(Settings(), field)


def test_an_empty_tenant_that_is_given_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="^LLMOPS_TENANT: "):
        Settings(tenant="")


def test_passwords_never_appear_in_a_repr(monkeypatch) -> None:
    for name, scheme in {"REDIS": "rediss", "POSTGRES": "postgresql", "OBJECTS": "s3"}.items():
        monkeypatch.setenv(f"LLMOPS_{name}_URL", f"{scheme}://u:{CANARY}@h?password={CANARY}")
    settings = Settings()
    assert CANARY not in repr(settings)
    assert CANARY not in str(settings)
    assert CANARY not in str(settings.model_dump())
    assert CANARY not in settings.model_dump_json()


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().tenant = "other"


def test_variables_of_others_are_left_alone(monkeypatch) -> None:
    monkeypatch.setenv("LLMOPS_TEST_REDIS_URL", "redis://h")
    monkeypatch.setenv("LLMOPS_NOT_YET_KNOWN", "1")
    monkeypatch.setenv("TENANT", "nobody")
    assert Settings().tenant == "default"


def test_a_misspelt_setting_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="Settings has no state_dirr"):
        Settings(state_dirr="x")
