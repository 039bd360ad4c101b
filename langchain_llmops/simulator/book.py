"""The conversations a recording proxy has seen, each once and in its longest form."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.simulator.canonical import chain
from langchain_llmops.simulator.recordings import Recording

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from langchain_llmops.simulator.types import Message

__all__ = ["Book", "without_keys"]

_KEY: Final = re.compile(r"\bsk-[A-Za-z0-9_-]{6,}|(?<=Bearer )[A-Za-z0-9._~+/=-]{8,}")
STRIPPED: Final = "[key removed]"


class Book:
    """Collects recordings. A turn that goes on from a recorded conversation takes its place and its id."""

    def __init__(self, recordings: Iterable[Recording] = ()) -> None:
        self._by_digest: dict[bytes, Recording] = {}
        self._prefixes: set[bytes] = set()
        for recording in recordings:
            digests = list(chain(recording.messages))
            self._prefixes.update(digests)
            self._by_digest[digests[-1]] = recording

    @property
    def recordings(self) -> list[Recording]:
        """Every conversation, oldest first."""
        return list(self._by_digest.values())

    def add(self, messages: Sequence[Message]) -> bool:
        """Note a conversation that ends with an answer; False when it is the beginning of one already there."""
        digests = list(chain(messages))
        if digests[-1] in self._prefixes:
            return False
        begun = [self._by_digest.pop(digest) for digest in digests[:-1] if digest in self._by_digest]
        # The beginning stays as the provider said it: a client spells it anew (null as "", no refusal, other spaces).
        known = begun[-1].messages if begun else ()
        name = begun[-1].conversation_id if begun else f"rec-{digests[-1].hex()[:16]}"
        self._prefixes.update(digests)
        self._by_digest[digests[-1]] = Recording(name, (*known, *messages[len(known) :]))
        return True


def without_keys(value: Any, secrets: tuple[str, ...] = ()) -> Any:
    """A JSON value with these secrets, and everything that looks like a key, replaced in every text."""
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, STRIPPED)
        return _KEY.sub(STRIPPED, value)
    if isinstance(value, list):
        return [without_keys(member, secrets) for member in value]
    if isinstance(value, dict):
        return {name: without_keys(member, secrets) for name, member in value.items()}
    return value
