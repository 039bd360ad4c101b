"""Secrets out of what people read."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["redact", "redact_url"]

_WORD = re.compile(r"\S+")
_KEY_VALUE = re.compile(
    r"(?i)(?<![\w-])([\w-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|account[_-]?key))=[^&\s'\"]+"
)
_API_KEY = re.compile(r"\b(sk|lsv2|pk|rk)[-_][A-Za-z0-9_\-]{8,}")


def redact(text: str) -> str:
    """The text with URL credentials, `password=…` pairs and provider keys masked."""
    if "://" in text:
        text = _WORD.sub(_without_userinfo, text)
    text = _KEY_VALUE.sub(r"\1=***", text)
    return _API_KEY.sub(r"\1-***", text)


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
