"""Secrets out of the facts of a call, at a cost that every call can bear."""

from __future__ import annotations

from typing import Any, Final

from langchain_llmops.core.context import text_from
from langchain_llmops.core.redaction import MASK, STARTS, names_secret, redact

__all__ = ["described", "mask_secrets", "masked", "may_hold_secret"]

# Every secret that `core.redaction` finds has one of these in it, and looking for them is twenty times cheaper.
MARKS: Final = (
    "=",
    "://",
    "sk-",
    "sk_",
    "pk-",
    "pk_",
    "rk-",
    "rk_",
    "lsv2",
    *STARTS,
    "earer ",
    "EARER ",
    "-----BEGIN ",
)
WORDS: Final = (
    "assw", "ASSW", "ecret", "ECRET", "oken", "OKEN", "key", "Key", "KEY", "pwd", "Pwd", "PWD", "phras", "Phras",
    "PHRAS", "redential", "REDENTIAL", "asic", "ASIC",
)  # fmt: skip


def may_hold_secret(text: str) -> bool:
    """Whether it is worth a closer look; False means that `redact` would change nothing."""
    for mark in MARKS:  # half the cost of any(), for every call
        if mark in text:
            return True
    if ":" in text:
        for word in WORDS:
            if word in text:
                return True
    return False


def described(error: Exception) -> str:
    """An error on one line of a log."""
    return redact(" ".join(f"{type(error).__name__}: {text_from(error)}".split()))


def mask_secrets(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with secrets masked in every text, also in lists and mappings."""
    return {key: masked(value) for key, value in fields.items()}


def masked(value: Any, longest: int | None = None) -> Any:
    """A copy with secrets masked in every text; what a text has beyond `longest` characters is left out, and said."""
    if isinstance(value, str):
        if longest is not None and len(value) > longest:
            value = f"{value[:longest]}… [{len(value) - longest} characters left out]"
        return redact(value) if may_hold_secret(value) else value
    if isinstance(value, dict):
        return {key: MASK if names_secret(key, item) else masked(item, longest) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [masked(item, longest) for item in value]
    return value
