"""Secrets out of what people read."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["redact", "redact_url"]

# up to the last @ before a blank: a password that was pasted unquoted may hold any of @ / ? #
_USERINFO = re.compile(r"(?<=://)[^\s]*@")
_KEY_VALUE = re.compile(
    r"(?i)(?<![\w-])([\w-]*(?:password|passwd|secret|token|api[_-]?key|access[_-]?key|account[_-]?key))=[^&\s'\"]+"
)
_API_KEY = re.compile(r"\b(sk|lsv2|pk|rk)[-_][A-Za-z0-9_\-]{8,}")


def redact(text: str) -> str:
    """The text with URL credentials, `password=…` pairs and provider keys masked."""
    text = _USERINFO.sub("***@", text)
    text = _KEY_VALUE.sub(r"\1=***", text)
    return _API_KEY.sub(r"\1-***", text)


def redact_url(url: str) -> str:
    """A URL with user info and secrets of its query masked; one that cannot be parsed is masked whole."""
    try:
        urlsplit(url)
    except ValueError:
        return url.split(":", 1)[0] + "://***"
    return redact(url)
