"""Records that wait for the database."""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeAlias

from langchain_llmops.core.types import CallRecord

if TYPE_CHECKING:
    from langchain_llmops.core.events import FellBack, Retried

__all__ = ["Buffer", "Entry"]

_log = logging.getLogger(__name__)

Entry: TypeAlias = "CallRecord | tuple[Retried | FellBack, float]"

MAX_CONTENT: Final = 2**20
CUT_MARK: Final = "… [{} characters cut by the ledger]"


class Buffer:
    """A queue that any thread fills and one empties; what was taken counts as waiting until it is released.

    Args:
        max_rows: past it, what comes is dropped, counted in `dropped` and logged once.
        max_characters: the same for the content of all records that wait. One record's content is cut to 1 Mi
            characters with a mark at its end, and counted in `cut`.
    """

    def __init__(self, max_rows: int, max_characters: int) -> None:
        self._max_rows = max_rows
        self._max_characters = max_characters
        self.dropped = 0
        self.cut = 0
        self.forget()

    def __len__(self) -> int:
        return len(self._waiting) + self._taken

    def forget(self) -> None:
        """Be empty, and count nothing: for a forked child, whose parent writes what was here."""
        self._lock = threading.Lock()
        self._waiting: deque[Entry] = deque()
        self._taken = 0
        self._characters = 0

    def put(self, entry: Entry) -> int:
        """Add one; how many have not been taken yet, 0 when it was dropped."""
        waiting = self._waiting
        if len(waiting) + self._taken >= self._max_rows:
            self.drop("its buffer is full" if self._max_rows else "it is closed")
            return 0
        if entry.__class__ is CallRecord and entry.content is not None:
            entry = self._fitted(entry)
            if not self._has_room(entry):
                self.drop("its buffer is full of content")
                return 0
        waiting.append(entry)
        return len(waiting)

    def close(self) -> None:
        """Drop what comes from now on."""
        self._max_rows = 0

    def take(self, limit: int) -> list[Entry]:
        """The oldest ones, at most `limit`."""
        taken = [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]
        self._taken += len(taken)
        return taken

    def release(self, rows: int, characters: int) -> None:
        """What was taken is written or given up."""
        self._taken -= rows
        if characters:
            with self._lock:
                self._characters -= characters

    def drop(self, reason: object, count: int = 1) -> None:
        """Count what is lost, and log the first."""
        with self._lock:
            first, self.dropped = not self.dropped, self.dropped + count
        if first:
            _log.error("the ledger loses records, which are only counted from now on: %s", reason)

    def give_up(self, reason: object) -> int:
        """Drop everything; how many there were."""
        lost = len(self)
        self.forget()
        if lost:
            self.drop(reason, lost)
        return lost

    def _fitted(self, record: CallRecord) -> CallRecord:
        content = record.content or ""
        if len(content) <= MAX_CONTENT:
            return record
        with self._lock:
            first, self.cut = not self.cut, self.cut + 1
        if first:
            _log.warning("content of more than %d characters is cut in the ledger, and counted", MAX_CONTENT)
        mark = CUT_MARK.format(len(content) - MAX_CONTENT)
        return replace(record, content=content[:MAX_CONTENT] + mark)

    def _has_room(self, record: CallRecord) -> bool:
        size = len(record.content or "")
        with self._lock:
            fits = self._characters + size <= self._max_characters
            self._characters += size if fits else 0
        return fits
