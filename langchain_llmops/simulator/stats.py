"""What a server did so far."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Counters", "Stats"]


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts since the start, without `/healthz` and `/__stats`; `in_flight` has whatever is open now.

    `by_path` has the known paths and "other", `by_code` the error bodies by code. A request that hangs has no status.
    """

    requests: int = 0
    in_flight: int = 0
    by_path: dict[str, int] = field(default_factory=dict)
    by_status: dict[int, int] = field(default_factory=dict)
    by_model: dict[str, int] = field(default_factory=dict)
    by_code: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON can hold them."""
        return asdict(self)


class Counters:
    """Counts from the server's thread, snapshots from any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._paths: Counter[str] = Counter()
        self._statuses: Counter[int] = Counter()
        self._models: Counter[str] = Counter()
        self._faults: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()

    def came(self, path: str) -> None:
        """A request came in."""
        with self._lock:
            self._paths[path] += 1

    def answered(self, status: int) -> None:
        """An answer with this status is about to leave."""
        with self._lock:
            self._statuses[status] += 1

    def failed(self, code: str | None) -> None:
        """An error with this code is about to leave."""
        with self._lock:
            self._codes[code or "none"] += 1

    def asked(self, model: str) -> None:
        """A well-formed request named this model."""
        with self._lock:
            self._models[model] += 1

    def injected(self, kind: str) -> None:
        """A fault took effect."""
        with self._lock:
            self._faults[kind] += 1

    def snapshot(self, in_flight: int) -> Stats:
        """The counts now."""
        with self._lock:
            return Stats(
                requests=self._paths.total(),
                in_flight=in_flight,
                by_path=dict(self._paths),
                by_status=dict(self._statuses),
                by_model=dict(self._models),
                by_code=dict(self._codes),
                faults=dict(self._faults),
            )
