"""The combinations of databases that a checkpointer runs on, and the URLs of each."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["COMBINATIONS", "HOMES", "Combination", "from_fixtures"]

FIXTURES = {"postgresql": "postgres_url", "redis": "clean_redis_url", "s3": "s3_url"}


class Combination(NamedTuple):
    """A database for each tier."""

    warm: str
    hot: str
    cold: str = "file"

    def __str__(self) -> str:
        return "+".join(self)

    def urls(self, folder: Path, server: Callable[[str], str]) -> dict[str, str]:
        """Arguments of `from_urls`; `server` gives the URL of a database that is one."""
        embedded = {"sqlite": f"sqlite:///{folder}/ck.db", "memory": "memory://", "file": f"file://{folder}/cold"}
        return {tier: embedded.get(kind) or server(kind) for tier, kind in self._asdict().items()}


COMBINATIONS = [Combination(*kinds) for kinds in product(("sqlite", "postgresql"), ("memory", "redis"), ("file", "s3"))]
HOMES = [one for one in COMBINATIONS if one.cold == "file"]


def from_fixtures(combination: Combination, request, tmp_path: Path) -> dict[str, str]:
    """The URLs of a combination for one test: a schema, an emptied Redis, a prefix of its own."""
    return combination.urls(tmp_path, lambda kind: request.getfixturevalue(FIXTURES[kind]))
