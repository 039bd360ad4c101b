"""Secrets out of the facts of a call, at a cost that every call can bear."""

from __future__ import annotations

from typing import Any, Final

from langchain_llmops.core.redaction import redact

__all__ = ["mask_secrets", "may_hold_secret"]

# Every secret that `core.redaction` finds has one of these in it, and looking for them is twenty times cheaper.
MARKS: Final = ("=", "://", "sk-", "sk_", "pk-", "pk_", "rk-", "rk_", "lsv2")


def may_hold_secret(text: str) -> bool:
    """Whether it is worth a closer look; False means that `redact` would change nothing."""
    for mark in MARKS:  # noqa: SIM110 - half the cost of any(), for every call
        if mark in text:
            return True
    return False


def mask_secrets(fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with secrets masked in every text, also in lists and mappings."""
    return {key: _masked(value) for key, value in fields.items()}


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value) if may_hold_secret(value) else value
    if isinstance(value, dict):
        return mask_secrets(value)
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return value
