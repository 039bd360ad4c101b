"""Personal data and secrets out of what leaves for a trace."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.core.redaction import MASK, names_secret, redact

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Anonymizer"]

# Beginning with what is quickly found, and only then looking at what stands before it: see `core.redaction`.
PATTERNS: Final[Mapping[str, str]] = {
    "iban": r"[A-Z]{2}\d{2}(?<!\w....)(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b",
    "phone": r"\+(?<![\w.].)\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,5}(?!\w)",
}
_DOMAIN: Final = re.compile(r"@[\w-]+(?:\.[\w-]+)+")
_DIGITS: Final = re.compile(r"\d(?<![\w.-].)(?:[ -]?\d){12,18}(?![\w.-])")
DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)  # each digit twice, and the digits of that added
IDENTITY_KEYS: Final = frozenset({"user_id", "session_id", "thread_id", "request_id"})
LONGEST_TEXT: Final = 500_000  # a caller's event loop waits: some 50 ms for prose of that length, and 0.2 s at worst
EDGE: Final = 256  # what a cut may have halved: the beginning of an address or of a number is found by no pattern


class Anonymizer:
    """Masks e-mail addresses, IBANs, card and phone numbers and secrets in strings, lists and mappings of them.

    An identity (`user_id`, `session_id`, …) that would be masked becomes `anon-` and a hash instead, so that traces
    can still be grouped by it. What a text has beyond half a million characters is left out and never sent: it must be
    searched, and the caller waits for that.

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
        """One text, masked; a longer one than `LONGEST_TEXT` ends a little before that, with `…`."""
        if len(text) > LONGEST_TEXT:
            return self._masked(text[: LONGEST_TEXT - 1])[:-EDGE] + "…"
        return self._masked(text)

    def _masked(self, text: str) -> str:
        masked = _without_emails(redact(text))
        for pattern, name in self._patterns:
            masked = pattern.sub(name, masked)
        return _DIGITS.sub(_card, masked)

    def _named(self, key: Any, value: Any) -> Any:
        if key in IDENTITY_KEYS and isinstance(value, str) and self.text(value) != value:
            return "anon-" + hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
        return MASK if names_secret(key, value) else self(value)


def _without_emails(text: str) -> str:
    """Walks back from each domain, once over every character, where a pattern would try each word of the text."""
    kept, done = list[str](), 0
    for domain in _DOMAIN.finditer(text):
        start = domain.start()
        while start > done and (text[start - 1].isalnum() or text[start - 1] in "._+-"):
            start -= 1
        if start < domain.start():
            kept += text[done:start], "<email>"
            done = domain.end()
    return "".join((*kept, text[done:]))


def _card(digits: re.Match[str]) -> str:
    """A number that ends in its check digit (ISO/IEC 7812-1, Luhn) is a card's; others may be ids or times."""
    numbers = digits.group().replace(" ", "").replace("-", "")[::-1]
    total = sum(map(int, numbers[::2])) + sum(map(DOUBLED.__getitem__, map(int, numbers[1::2])))
    return digits.group() if total % 10 else "<card>"
