"""The counts of a checkpointer as series for a metrics reader, which never waits for a database."""

from __future__ import annotations

import logging
import os
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from langchain_llmops.core.concurrency import drive
from langchain_llmops.core.errors import LLMOpsError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from typing import Any

__all__ = ["Standing", "watch_checkpointer"]

_log = logging.getLogger(__name__)

Counts = dict[str, float]

EVERY_S: Final = 30.0
AT_MOST: Final = 0.05  # share of the time that may go into reading
CLOSING_S: Final = 10.0
CONVERSATIONS, BYTES, HOT, MOVER = "conversations:", "bytes:", "hot:", "mover:"


class Standing:
    """What is stored, as of some seconds ago, read on a thread of its own when somebody asks for it.

    Args:
        read: the figures; may take as long as it likes, and is then asked less often.
        clock: monotonic seconds.
    """

    def __init__(
        self, read: Callable[[], Coroutine[Any, Any, Counts]], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._clock = clock
        self._found: Counts = {}
        self.errors = 0
        self._closed = False
        self._due = float("-inf")
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def now(self) -> Counts:
        """The latest figures, none before the first were read."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            if self._thread is None and not self._closed and self._clock() >= self._due:
                self._thread = threading.Thread(target=self._work, name="llmops-figures", daemon=True)
                self._thread.start()
        return self._found

    def wait(self) -> None:
        """Until nothing is being read."""
        thread = self._thread
        if thread is not None:
            thread.join(CLOSING_S)

    def open(self) -> None:
        """Read again."""
        self._closed = False

    def close(self) -> None:
        """Read no more; a reading that is under way ends first."""
        with self._lock:
            self._closed = True
        self.wait()

    def _work(self) -> None:
        began = self._clock()
        try:
            self._found = drive(self._read())
        except LLMOpsError as error:
            self.errors += 1
            if self.errors == 1:
                _log.warning("figures of the checkpoints could not be read (counted from now on): %s", error)
        finally:
            now = self._clock()
            with self._lock:
                self._due = now + max(EVERY_S, (now - began) / AT_MOST)
                self._thread = None


def watch_checkpointer(watch: Callable[..., None], counts: Callable[[], Mapping[str, float]]) -> None:
    """Have `PrometheusReader.watch` export what `TieredCheckpointSaver.counts` returns, at every scrape."""

    def series(name: str, documentation: str, prefix: str, label: str, **how: bool) -> None:
        watch(f"llmops_{name}", documentation, lambda: _below(prefix, counts()), label=label, **how)

    number = partial(_number, counts)
    series("conversations_stored", "Conversations by tier, as of some seconds ago.", CONVERSATIONS, "tier")
    series("conversation_bytes_stored", "Bytes of all conversations by tier.", BYTES, "tier")
    watch("llmops_checkpoint_orphans_stored", "Archive objects that are still to be deleted.", number("orphans"))
    series("checkpoint_hot", "Hot copies asked for: hit, miss or error.", HOT, "outcome", counter=True)
    series("checkpoint_mover", "What the mover did: archived, deleted, errors …", MOVER, "what", counter=True)
    refused = "Writes that Redis had acknowledged and the warm tier refused."
    watch("llmops_checkpoint_refused_writes", refused, number("refused"), counter=True)


def _below(prefix: str, found: Mapping[str, float]) -> Counts:
    return {name.removeprefix(prefix): float(value) for name, value in found.items() if name.startswith(prefix)}


def _number(counts: Callable[[], Mapping[str, float]], name: str) -> Callable[[], float]:
    return lambda: float(counts().get(name, 0.0))
