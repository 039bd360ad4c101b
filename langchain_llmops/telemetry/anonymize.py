"""Personal data and secrets out of what leaves for a trace."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.redaction import MASK, names_secret, redact

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Anonymizer"]

PATTERNS: Final[Mapping[str, str]] = {
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "phone": r"(?<![\w.])\+\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?!\w)",
}
# with its address or without one, so that a long word is walked through once and not again from each of its letters
_WORD: Final = re.compile(r"[\w.+-]+(@[\w-]+(?:\.[\w-]+)+)?")
_DIGITS: Final = re.compile(r"(?<![\w.-])\d(?:[ -]?\d){12,18}(?![\w.-])")
IDENTITY_KEYS: Final = frozenset({"user_id", "session_id", "thread_id", "request_id"})
LONGEST_TEXT: Final = 1_000_000


class Anonymizer:
    """Masks e-mail addresses, IBANs, card and phone numbers and secrets in strings, lists and mappings of them.

    An identity (`user_id`, `session_id`, …) that would be masked becomes `anon-` and a hash instead, so that traces
    can still be grouped by it. Text beyond a million characters is cut, as nobody reads it and it must be searched.

    Args:
        patterns: more regular expressions by name; a match becomes `<name>`.
    """

    def __init__(self, patterns: Mapping[str, str] | None = None) -> None:
        named = {**PATTERNS, **(patterns or {})}
        self._patterns = [(re.compile(pattern), f"<{name}>") for name, pattern in named.items()]

    def __call__(self, value: Any) -> Any:
        """A copy with everything masked; what is neither text nor a container stays as it is."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self(key): self._named(key, item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(self, value)) if type(value) in (list, tuple) else [self(item) for item in value]
        return value

    def text(self, text: str) -> str:
        """One text, masked."""
        masked = redact(text[:LONGEST_TEXT])
        if "@" in masked:
            masked = _WORD.sub(_email, masked)
        for pattern, name in self._patterns:
            masked = pattern.sub(name, masked)
        return _DIGITS.sub(_card, masked)

    def _named(self, key: Any, value: Any) -> Any:
        if key in IDENTITY_KEYS and isinstance(value, str) and self.text(value) != value:
            return "anon-" + hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        return MASK if names_secret(key, value) else self(value)


def _email(word: re.Match[str]) -> str:
    return word.group() if word[1] is None else "<email>"


def _card(digits: re.Match[str]) -> str:
    """A number that ends in its check digit (ISO/IEC 7812-1, Luhn) is a card's; others may be ids or times."""
    numbers = [int(digit) for digit in reversed(digits.group()) if digit.isdigit()]
    doubled = [sum(divmod(2 * number, 10)) for number in numbers[1::2]]
    return "<card>" if (sum(numbers[::2]) + sum(doubled)) % 10 == 0 else digits.group()
