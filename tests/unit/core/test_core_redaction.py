"""Secrets never survive in what people read."""

from __future__ import annotations

import subprocess
import sys
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_llmops.core.redaction import MASK, STARTS, is_redacted, names_secret, redact, redact_url
from langchain_llmops.telemetry.masking import may_hold_secret

CANARY = "c4n4rySeCreT99"
SCHEMES = ("redis", "rediss", "redis+cluster", "postgresql", "s3", "gs", "az", "http")
# What object stores, databases and providers call a secret in a query or a connection string.
SECRET_NAMES = (
    "password", "passwd", "secret", "token", "api_key", "apikey", "api-key", "secret_access_key",
    "aws_secret_access_key", "session_token", "aws_session_token", "access_token", "client_secret", "sslpassword",
    "account_key", "azure_storage_account_key", "sas_token", "pwd", "db_pwd", "private_key", "privateKey", "passphrase",
    "credentials", "credential",
)  # fmt: skip
names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=8)
# Anything a password may hold, as a careful user writes it into a URL.
passwords = st.text(min_size=0, max_size=8).map(lambda tail: CANARY + quote(tail, safe=""))


@given(st.sampled_from(SCHEMES), names, passwords, names)
def test_a_password_in_a_url_never_survives(scheme, user, password, host) -> None:
    url = f"{scheme}://{user}:{password}@{host}/0"
    for told in (redact_url(url), redact(url), redact(f"cannot reach {url} today")):
        assert CANARY not in told
        assert host in told


@given(st.sampled_from(SCHEMES), names)
def test_a_password_alone_before_the_host_never_survives(scheme, host) -> None:
    assert CANARY not in redact_url(f"{scheme}://:{CANARY}@{host}/0")
    assert CANARY not in redact_url(f"{scheme}://{CANARY}@{host}/0")


@pytest.mark.parametrize("raw", ["@", "/", "#", "?", "@@", "a@b/c", "[", ":"])
def test_a_password_pasted_unquoted_never_survives(raw) -> None:
    url = f"redis://user:{raw}{CANARY}{raw}{CANARY}@host:6379/0"
    assert CANARY not in redact_url(url)


@pytest.mark.parametrize("raw", ["@", "/", "a@b", ":"])
def test_an_unquoted_password_in_a_sentence_never_survives(raw) -> None:
    assert CANARY not in redact(f"cannot reach redis://user:{raw}{CANARY}@host:6379/0 today")


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_in_a_query_never_survives(name) -> None:
    for spelled in (name, name.upper()):
        url = f"s3://bucket/prefix?region=eu&{spelled}={CANARY}&endpoint=http://h"
        assert CANARY not in redact_url(url)
        assert "region=eu" in redact_url(url)
        assert CANARY not in redact(f"host=h {spelled}={CANARY} dbname=d")


@pytest.mark.parametrize("prefix", ["sk-", "sk-proj-", "lsv2_pt_", "pk-lf-", "sk_live_"])
def test_a_providers_key_never_survives(prefix) -> None:
    told = redact(f"Incorrect API key provided: {prefix}{CANARY}. See the manual")
    assert CANARY not in told
    assert told.startswith("Incorrect API key provided: ")
    assert told.endswith(". See the manual")


@given(st.text())
def test_any_text_can_be_redacted_twice(text) -> None:
    assert redact(redact(text)) == redact(text)
    redact_url(text)


@pytest.mark.parametrize(
    "text",
    ["redis://host:6379/0", "s3://bucket/prefix?region=eu", "sqlite:////srv/a.db", "tokens: 5", "a risk-averse user"],
)
def test_what_holds_no_secret_stays_as_it_is(text) -> None:
    assert redact(text) == text
    assert redact_url(text) == text


def test_a_url_that_cannot_be_parsed_is_masked_whole() -> None:
    assert redact_url(f"redis://[{CANARY}") == "redis://***"


HOSTILE = (
    "://",
    "a://b",
    "token=",
    "sk-",
    "://a:b",
    "password",
    "a@",
    "?sig=",
    "https://",
    "x" * 10,
    ":",
    "=",
    "cookie:",
    "cookie: a=b;",
    'cookie: a="',
    "authorization: basic ",
    "-----BEGIN PRIVATE KEY-----",
    "-----BEGIN ",
    'token: "abcd',
    "token: 'a\\",
)


def test_a_hostile_text_is_redacted_in_time_that_grows_with_its_length_only() -> None:
    """Prompts and error texts come from outside; a pattern that looks back and forth would stop the event loop.

    A child with a deadline: quadratic work on these texts takes many minutes.
    """
    code = (
        "from langchain_llmops.core.redaction import redact, redact_url\n"
        f"for part in {HOSTILE!r}:\n"
        "    redact(part * (500_000 // len(part)))\n"
        "    redact_url('redis://' + part * (500_000 // len(part)))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=20)


LEAKS = {
    "Authorization: Bearer abcdef0123456789": "abcdef0123456789",
    "authorization: bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln": "eyJhbGciOiJIUzI1NiJ9",
    "the key hf_abcdefghijklmnopqrstuvwxyzABCDEFGH": "abcdefghijklmnop",
    "the key gsk_abcdefghijklmnopqrstuvwxyzABCDEF": "abcdefghijklmnop",
    "the key xai-abcdefghijklmnopqrstuvwxyzABCDEF": "abcdefghijklmnop",
    "aws AKIAIOSFODNN7EXAMPLE": "IOSFODNN7EXAMPLE",
    "ghp_16C7e42F292c6912E7710c838347Ae178B4a": "16C7e42F292c6912",
    "AIzaSyD-1234567890abcdefghijk": "1234567890abcdefghijk",
    "password: hunter22": "hunter22",
    '{"api_key": "abcd-efgh"}': "abcd-efgh",
    "{'client_secret': 'abcdefgh'}": "abcdefgh",
    "Authorization: Basic dXNlcjpwYXNz": "dXNlcjpwYXNz",
    "-H 'proxy-authorization: basic dXNlcjpwYXNz'": "dXNlcjpwYXNz",
    '{"Authorization": "Basic dXNlcjpwYXNz"}': "dXNlcjpwYXNz",
    "authorization=Basic dXNlcjpwYXNz": "dXNlcjpwYXNz",
    "Cookie: theme=dark; sid=abcdef": "abcdef",
    "cookie:sid=abcdef": "abcdef",
    "Cookie: session_token=ab; sid=abcdef": "abcdef",
    'Cookie: sid="ab cdef"; a=b': "cdef",
    "Set-Cookie: sid=abcdef; Expires=Wed, 21 Oct 2015 07:28:00 GMT; HttpOnly": "abcdef",
    "{'Set-Cookie': 'sid=abcdef', 'status': 200}": "abcdef",
    '{"passphrase": "correct horse battery"}': "battery",
    '{"password": "ab\\"cd efgh"}': "efgh",
    '{"private_key": "-----BEGIN PRIVATE KEY-----\\nMIIEvQIBADAN\\n-----END PRIVATE KEY-----"}': "MIIEvQIBADAN",
    "private_key: |\n  -----BEGIN RSA PRIVATE KEY-----\n  MIIEvQIBADANBgkq\n": "MIIEvQIBADAN",
}
PLAIN = [
    *("tokens: 12", "the key: to success", "max_tokens: 4096", '{"total_tokens": 15}', "bearer of news", "token: 5"),
    *("the basic plan", "basic YWJjZGVm", "authorization: basic access only", "a cookie recipe", "Cookies: two a day"),
    *("cookie: a small cake", "my credentials are good", "pwd", "the secret: 'tis easy", "-----BEGIN PRIVATE KEY-----"),
]


@pytest.mark.parametrize(("text", "secret"), LEAKS.items())
def test_secrets_in_the_ways_people_write_them_are_masked(text, secret) -> None:
    assert secret not in redact(text)
    assert may_hold_secret(text)


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_key_that_names_a_secret_is_known_wherever_its_text_stands(name) -> None:
    assert names_secret(name, CANARY)
    assert names_secret(name.upper(), CANARY)
    assert is_redacted(MASK)


HEADERS = [("Authorization", "Basic dXNlcjpwYXNz"), ("Cookie", "sid=abcdef"), ("set-cookie", "sid=abcdef; Secure")]


@pytest.mark.parametrize(("key", "value"), HEADERS)
def test_a_header_that_holds_a_secret_is_known_by_its_name_and_its_value(key, value) -> None:
    assert names_secret(key, value)


SOUNDS = [("max_tokens", "4096"), ("token", "5"), ("token", 12345), (1, CANARY), ("cookie", "chocolate chip"),
          ("authorization", "basic access"), ("plan", "Basic dXNlcjpwYXNz")]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), SOUNDS)
def test_a_key_that_only_sounds_like_a_secret_is_none(key, value) -> None:
    assert not names_secret(key, value)


@pytest.mark.parametrize("text", PLAIN)
def test_what_only_sounds_like_a_secret_is_left(text) -> None:
    assert redact(text) == text


MASKED = [
    *(f"{name}{mark}{CANARY}" for name in SECRET_NAMES for mark in ("=", ": ", '": "')),
    *(f"{start}{CANARY}" for start in (*STARTS, "sk-", "lsv2_pt_", "pk-lf-", "sk_live_", "Bearer ", "bearer ")),
    f"redis://user:{CANARY}@host",
    f"Authorization: Basic {CANARY}",
    f"Cookie: sid={CANARY}",
    f"-----BEGIN PRIVATE KEY-----\\n{CANARY}{CANARY}",
]


@pytest.mark.parametrize("text", MASKED)
def test_what_was_masked_is_seen_afterwards(text) -> None:
    told = redact(f"so: {text} and more")
    assert CANARY not in told
    assert is_redacted(told)


@given(st.text(st.characters(codec="utf-8")))
def test_a_text_without_a_mask_is_never_said_to_be_masked(text) -> None:
    assert is_redacted(redact(text)) or redact(text) == text
    assert not is_redacted(text.replace("***", ""))


@pytest.mark.parametrize("text", ["***bold***", "2 *** 3", "token", "passwords are ***", "http://host/***"])
def test_stars_alone_are_no_mask(text) -> None:
    assert not is_redacted(text)
