"""A listing of checkpoints, page by page, that holds no connection between pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.checkpoint.codec import metadata_place
from langchain_llmops.checkpoint.schema import Place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from langchain_llmops.checkpoint.schema import Row, ThreadRows
    from langchain_llmops.checkpoint.tiers import Snapshot, Tiers
    from langchain_llmops.checkpoint.warm import Listed

__all__ = ["Listing", "Query"]

PAGE_ROWS: Final = 50
NOTHING: Final = (b"", b"", b"")


@dataclass(frozen=True, slots=True)
class Query:
    """What to list; `place` is None for the whole store and its `ns` counts only with `one_ns`."""

    place: Place | None = None
    one_ns: bool = False
    id: bytes | None = None
    before: bytes | None = None
    filter: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    user: str | None = None

    def accepts(self, metadata: Mapping[str, Any]) -> bool:
        """Whether every key of the filter has exactly this value; a missing key counts as None."""
        return all(metadata.get(key) == value for key, value in self.filter.items())
