"""Where cached bytes are kept, as the parts of the cache that keep them see it."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Found", "Shelves", "epoch_or_none", "read_or_miss", "write_or_not"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Found:
    """A stored entry; `stale` when it is past its time to live and only better than nothing."""

    data: bytes
    level: str
    age_s: float
    stale: bool


class Shelves(Protocol):
    """All levels of a cache, for callers of one colour; a level that fails is a miss.

    Keys are lower-case hex digests, or `prefix:` and one. The blocking kind never suspends, so that
    `core.concurrency.drive` finishes it.
    """

    async def read(self, keys: Sequence[str]) -> list[Found | None]:
        """Entries in the order of the keys; None where there is none, or one whose tags were invalidated."""
        ...

    async def epoch(self) -> int | None:
        """A number that changes with every invalidation, whoever makes it; None where that cannot be known."""
        ...

    async def write(
        self,
        items: Mapping[str, bytes],
        *,
        ttl_s: float | None = None,
        tags: Sequence[str] = (),
        since: int | None = None,
    ) -> None:
        """Keep entries until their time, or the invalidation of one of their tags; None is the shelves' own time.

        Nothing is kept when the epoch is not `since` any more: what was found before an invalidation may be what it was
        meant to be rid of.
        """
        ...


async def read_or_miss(shelves: Shelves, keys: Sequence[str]) -> list[Found | None]:
    """What is there; nothing when the shelves themselves fail, for a cache never raises into a call."""
    try:
        found = await shelves.read(keys)
    except Exception as error:  # noqa: BLE001 - as said above
        _log.warning("the cache could not be read, and goes on as if it were empty: %s", type(error).__name__)
        return [None] * len(keys)
    return found if len(found) == len(keys) else [None] * len(keys)


async def epoch_or_none(shelves: Shelves) -> int | None:
    """The epoch at which a search begins; None when it cannot be known, and then the result is not to be kept."""
    try:
        return await shelves.epoch()
    except Exception as error:  # noqa: BLE001 - as said above
        _log.warning("the cache could not be read, and keeps nothing for now: %s", type(error).__name__)
        return None


async def write_or_not(
    shelves: Shelves, items: Mapping[str, bytes], *, ttl_s: float | None, tags: Sequence[str], since: int | None
) -> bool:
    """Whether the entries were handed over; an answer that is paid for is never lost to a cache that fails."""
    if since is None:
        return False
    try:
        await shelves.write(items, ttl_s=ttl_s, tags=tags, since=since)
    except Exception as error:  # noqa: BLE001 - as said above
        _log.warning("the cache could not be written: %s", type(error).__name__)
        return False
    return True
