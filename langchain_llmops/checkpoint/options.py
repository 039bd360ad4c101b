"""What can be chosen of a checkpointer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_llmops.core.events import Bus
    from langchain_llmops.stores.base import Store

__all__ = ["Ack", "Fencing", "Options"]

LEAST_GRACE_S = 600.0
POSITIVE = (
    "hot_s",
    "warm_s",
    "erase_grace_s",
    "mover_interval_s",
    "conversation_timeout_s",
    "retention_s",
    "max_length",
    "warn_bytes",
)
Ack = Literal["durable", "replicated", "cached"]
Fencing = Literal["off", "strict"]
CHOICES = {
    "ack": ("durable", "replicated", "cached"),
    "fencing": ("off", "strict"),
    "on_max_length": ("refuse", "trim"),
}


@dataclass(frozen=True, kw_only=True)
class Options:
    """See `TieredCheckpointSaver` for their meaning; raises `ConfigurationError` for a choice there is not."""

    ack: Ack = "durable"
    replicas: int = 1
    fencing: Fencing = "off"
    tenant: str = "default"
    keys: Mapping[str, bytes] = field(default_factory=dict)
    key_id: str | None = None
    user_keys: bool = False
    key_store: Store | str | None = None
    erase_grace_s: float = 3600.0
    hot_s: float = 300.0
    warm_s: float = 86_400.0
    mover_interval_s: float | None = 60.0
    conversation_timeout_s: float | None = None
    retention_s: float | None = None
    max_length: int | None = None
    on_max_length: Literal["refuse", "trim"] = "refuse"
    warn_bytes: int | None = None
    bus: Bus | None = None
    clock: Callable[[], float] = time.time

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                given: Any = getattr(self, name)
                raise ConfigurationError(f"{name} takes {' or '.join(map(repr, choices))}, not {given!r}")
        if self.ack != "durable" and self.fencing == "strict":
            raise ConfigurationError("fencing='strict' needs ack='durable': only the warm tier knows who was first")
        if self.replicas < 0:
            raise ConfigurationError(f"replicas takes a number of Redis replicas, 0 or more, not {self.replicas!r}")
        for name in POSITIVE:
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and value > 0):
                raise ConfigurationError(f"{name} takes a number above 0, not {value!r}")
        self._check_keys()

    def _check_keys(self) -> None:
        if not isinstance(self.keys, Mapping) or not all(isinstance(key, bytes) for key in self.keys.values()):
            raise ConfigurationError("keys takes {'id': 32 bytes}, as in {'k1': base64.b64decode(…)}; the first seals")
        if self.key_store is not None and not self.user_keys:
            raise ConfigurationError("key_store is where keys of users are kept; set user_keys=True too")
        if self.user_keys and not self.keys:
            raise ConfigurationError("user_keys needs keys={'id': 32 bytes}: they seal the keys of users")
        if self.user_keys and self.erase_grace_s < LEAST_GRACE_S:
            raise ConfigurationError(
                f"with user_keys, erase_grace_s takes {LEAST_GRACE_S:g} or more, not {self.erase_grace_s!r}:"
                " other processes may hold a destroyed key until then"
            )
