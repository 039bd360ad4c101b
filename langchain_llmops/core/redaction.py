"""Secrets out of what people read."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

__all__ = ["redact", "redact_url"]

_USERINFO = re.compile(r"(?<=://)[^/@\s]*@")
_KEY_VALUE = re.compile(r"(?i)\b(password|passwd|secret|token|api[_-]?key|secret_access_key)=[^&\s'\"]+")
_API_KEY = re.compile(r"\b(sk|lsv2|pk|rk)[-_][A-Za-z0-9_\-]{8,}")


def redact(text: str) -> str:
    """The text with URL credentials, `password=…` pairs and provider keys masked."""
    text = _USERINFO.sub("***@", text)
    text = _KEY_VALUE.sub(lambda m: f"{m.group(1)}=***", text)
    return _API_KEY.sub(lambda m: f"{m.group(1)}-***", text)


def redact_url(url: str) -> str:
    """The URL with user info and query secrets masked; unparsable input is masked whole after its scheme."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url.split(":", 1)[0] + "://***"
    netloc = parts.netloc.rsplit("@", 1)
    host = f"***@{netloc[1]}" if len(netloc) == 2 else parts.netloc  # noqa: PLR2004 - user info and host
    return redact(urlunsplit(parts._replace(netloc=host)))
