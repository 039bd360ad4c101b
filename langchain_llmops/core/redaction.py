"""Secrets out of what people read."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["MASK", "STARTS", "is_redacted", "names_secret", "redact", "redact_url"]

MASK = "***"
SHORTEST_NAMED = 4

# Each pattern begins with what is rare and quickly found, and looks back from there for what it belongs to: a megabyte
# is searched in some milliseconds, where a pattern that begins with `\b` or `\w*` is tried at every character.
QUOTES = "\"'"
QUOTE = f"[{QUOTES}]"
_NAMES = (
    "password", "passwd", "secret", "token", "apikey", "api[_-]key", "accesskey", "access[_-]key", "accountkey",
    "account[_-]key", "privatekey", "private[_-]key", "pwd", "passphrase", "credential", "credentials",
)  # fmt: skip
_BARE = r"[^\s'\",;<>\\}\]]"
_ENDS = "[dtnyels]"  # of the names: nearly every `=` and `:` is told by it to be of no interest


def _behind_a_name(mark: str) -> str:
    return rf"(?<={_ENDS}{mark})(?:{'|'.join(f'(?<={name}{mark})' for name in _NAMES)})"


def _between(quote: str) -> str:
    r"""Four characters or more up to the same quote, `\"` among them."""
    inside = rf"(?:[^{quote}\\\r\n]|\\.)"
    return rf"({quote})(?={_BARE})(?={inside}{{4}}){inside}++(?={quote})"


_NAMED = rf"(?i)(?<![\w-])([\w-]*(?:{'|'.join(_NAMES)}))"
_NAME = re.compile(_NAMED)
_AUTHORITY = re.compile(r"://\S*")
_KEY_VALUE = re.compile(rf"(?i)={_behind_a_name('=')}[^&\s'\"<>\\]+")
_KEY_COLON_VALUE = re.compile(
    rf"(?i)(:(?:{_behind_a_name(':')}|{_behind_a_name(QUOTE + ':')})[ \t]{{0,4}})"
    rf"(?:{_between(QUOTES[0])}|{_between(QUOTES[1])}|({QUOTE}?){_BARE}{{4,}})"
)
# `name=value` as in RFC 6265, so that a `cookie: a small cake` is none
_COOKIE = r"[\w!#$%&*+.^`|~-]+=(?:\\?\"[^\",;:{}\\\r\n]*\\?\")?[^;\"'\\\r\n]*"
_COOKIES = re.compile(
    rf"(?i)(:(?:(?<=cookie:)|(?<=cookie{QUOTE}:))[ \t]{{0,4}}{QUOTE}?)"
    rf"{_COOKIE}(?:;[ \t]{{0,4}}(?:{_COOKIE}|[\w-]+))*"
)
# and credentials that are no word, so that `authorization: basic access` is none
_BASIC = r"((?i:basic)[ \t]{1,4})(?![A-Za-z][a-z]{0,15}(?![\w+/=.~-]))[\w+/=.~-]{4,}"
_AUTHORIZATION = re.compile(
    rf"([:=](?i:(?<=authorization[:=])|(?<=authorization{QUOTE}:))[ \t]{{0,4}}{QUOTE}?){_BASIC}"
)
HEADERS = {
    "authorization": re.compile(_BASIC), "proxy-authorization": re.compile(_BASIC), "cookie": re.compile(_COOKIE),
    "set-cookie": re.compile(_COOKIE),
}  # fmt: skip
_PRIVATE_KEY = re.compile(
    r"(-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----)(?=[^-\"'<>{}]{16})(?:[^-\"'<>{}]|-(?!----))++"
)
_BEARER = re.compile(r"([bB](?<!\w.)(?i:earer ))(?i:[A-Z0-9._~+/=-]{8,})")
# how well-known secrets begin: GitHub, GitLab, Slack, AWS, Google, JSON web tokens, Hugging Face, Groq, xAI
STARTS = (
    "ghp_", "gho_", "ghs_", "ghu_", "github_pat_", "glpat-", "xoxb-", "xoxp-", "AKIA", "ASIA", "AIza", "eyJ", "hf_",
    "gsk_", "xai-",
)  # fmt: skip
_STARTS = re.compile(rf"\b({'|'.join(STARTS)})[A-Za-z0-9_.-]{{12,}}")
_API_KEY = re.compile(r"[-_](?<=[k2].)(?:(?<=\b[spr]k.)|(?<=\blsv2.))[A-Za-z0-9_\-]{8,}")
_REDACTED = re.compile(
    rf"{_NAMED}(=|{QUOTE}?:[ \t]{{0,4}}{QUOTE}?)\*\*\*|://\*\*\*@|cookie{QUOTE}?:[ \t]{{0,4}}{QUOTE}?\*\*\*"
    r"|KEY(?: BLOCK)?-----\*\*\*"
    rf"|authorization{QUOTE}?[:=][ \t]{{0,4}}{QUOTE}?basic[ \t]{{1,4}}\*\*\*"
    rf"|\b(bearer |(sk|lsv2|pk|rk)-|{'|'.join(STARTS)})\*\*\*"
)


def redact(text: str) -> str:
    """The text without its secrets: `***` in their place.

    URL credentials, `password=…` and `"password": "…"` pairs, cookies, basic and bearer authorization, known keys.
    """
    text = _AUTHORITY.sub(_without_userinfo, text)
    text = _PRIVATE_KEY.sub(r"\1***", text)
    text = _COOKIES.sub(r"\1***", text)
    text = _AUTHORIZATION.sub(r"\1\2***", text)
    text = _KEY_VALUE.sub("=***", text)
    text = _KEY_COLON_VALUE.sub(r"\1\2\3\4***", text)
    text = _BEARER.sub(r"\1***", text)
    if any(start in text for start in STARTS):
        text = _STARTS.sub(r"\1***", text)
    return _API_KEY.sub("-***", text)


def names_secret(key: object, value: object) -> bool:
    """Whether a mapping's key says that its text is a secret, as `redact` reads it off `"key": "value"`."""
    if not (isinstance(key, str) and isinstance(value, str) and len(value) >= SHORTEST_NAMED):
        return False
    header = HEADERS.get(key.lower())
    return _NAME.fullmatch(key) is not None if header is None else header.match(value) is not None


def is_redacted(text: str) -> bool:
    """Whether `redact` has masked something in it, or somebody who writes the same."""
    return text == MASK or (MASK in text and _REDACTED.search(text) is not None)


def _without_userinfo(rest: re.Match[str]) -> str:
    """Up to the last @ of the word: a password that was pasted unquoted may hold any of @ / ? #."""
    text = rest.group()
    end = text.rfind("@")
    return text if end < 0 else f"://***{text[end:]}"


def redact_url(url: str) -> str:
    """A URL with user info and secrets of its query masked; one that cannot be parsed is masked whole."""
    try:
        urlsplit(url)
    except ValueError:
        return url.split(":", 1)[0] + "://***"
    return redact(url)
