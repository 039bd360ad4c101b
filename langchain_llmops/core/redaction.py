"""Secrets out of what people read."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["MASK", "STARTS", "is_redacted", "names_secret", "redact", "redact_url"]

MASK = "***"
SHORTEST_NAMED = 4

_WORD = re.compile(r"\S+")
_NAMED = r"(?i)(?<![\w-])([\w-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|account[_-]?key))"
_NAME = re.compile(_NAMED)
_KEY_VALUE = re.compile(_NAMED + r"=[^&\s'\"<>\\]+")
_KEY_COLON_VALUE = re.compile(_NAMED + r"([\"']?:[ \t]{0,4}[\"']?)[^\s'\",;<>\\}\]]{4,}")
_BEARER = re.compile(r"(?i)\b(bearer )[A-Za-z0-9._~+/=-]{8,}")
# how well-known secrets begin: GitHub, GitLab, Slack, AWS, Google, JSON web tokens, Hugging Face, Groq, xAI
STARTS = (
    "ghp_", "gho_", "ghs_", "ghu_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "AKIA", "ASIA", "AIza", "eyJ", "hf_",
    "gsk_", "xai-",
)  # fmt: skip
_STARTS = re.compile(rf"\b({'|'.join(STARTS)})[A-Za-z0-9_.-]{{12,}}")
_API_KEY = re.compile(r"\b(sk|lsv2|pk|rk)[-_][A-Za-z0-9_\-]{8,}")
_REDACTED = re.compile(
    rf"{_NAMED}(=|[\"']?:[ \t]{{0,4}}[\"']?)\*\*\*|://\*\*\*@|\b(bearer |(sk|lsv2|pk|rk)-|{'|'.join(STARTS)})\*\*\*"
)


def redact(text: str) -> str:
    """The text with URL credentials, `password=…` and `"password": "…"` pairs, bearer tokens and known keys masked."""
    if "://" in text:
        text = _WORD.sub(_without_userinfo, text)
    text = _KEY_VALUE.sub(r"\1=***", text)
    text = _KEY_COLON_VALUE.sub(r"\1\2***", text)
    text = _STARTS.sub(r"\1***", _BEARER.sub(r"\1***", text))
    return _API_KEY.sub(r"\1-***", text)


def names_secret(key: object, value: object) -> bool:
    """Whether a mapping's key says that its text is a secret, as `redact` reads it off `"key": "value"`."""
    long_enough = isinstance(value, str) and len(value) >= SHORTEST_NAMED
    return long_enough and isinstance(key, str) and _NAME.fullmatch(key) is not None


def is_redacted(text: str) -> bool:
    """Whether `redact` has masked something in it, or somebody who writes the same."""
    return text == MASK or (MASK in text and _REDACTED.search(text) is not None)


def _without_userinfo(word: re.Match[str]) -> str:
    """Up to the last @ of the word: a password that was pasted unquoted may hold any of @ / ? #."""
    text = word.group()
    start, end = text.find("://"), text.rfind("@")
    return f"{text[: start + 3]}***{text[end:]}" if 0 <= start < end else text


def redact_url(url: str) -> str:
    """A URL with user info and secrets of its query masked; one that cannot be parsed is masked whole."""
    try:
        urlsplit(url)
    except ValueError:
        return url.split(":", 1)[0] + "://***"
    return redact(url)
