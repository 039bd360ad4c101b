"""What entries depend on: tags with generations, so that invalidating one costs the same however much carries it.

A generation is a random number, kept in each level beside the entries. An entry holds those of its tags, and is valid
while all of them are there and the same. One that is missing (expired, or the store was emptied) is one that changed.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Final

from langchain_llmops.core.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["GENERATION_TTL_S", "Tags", "new_generation", "read_generation"]

GENERATION_TTL_S: Final = 7 * 86_400.0
TRUSTED_S: Final = 0.1
LONGEST_TRUST_S: Final = 0.25
LONGEST_NUMBER: Final = 20
MOST_KNOWN: Final = 100_000
PREFIX: Final = "llmops:cache-tag:2:"
EVERYTHING: Final = "everything (cleared)"


def new_generation() -> int:
    """A number that no generation had."""
    return secrets.randbits(62)


def read_generation(value: bytes) -> int | None:
    """A generation as a level keeps it; None for what is none."""
    return int(value) if value.isdigit() and len(value) <= LONGEST_NUMBER else None


class Tags:
    """The tags of one tenant and namespace, and their generations as this process knows them.

    What is known is trusted for `TRUSTED_S`; then the epoch is asked for, which changes with every invalidation.
    `changes` counts what this process changed itself: what was asked for before is not to be learnt after it.
    `used` is set with every look at an entry, for who asks ahead of callers (see `push`).
    """

    def __init__(self, tenant: str, namespace: str, clock: Callable[[], float]) -> None:
        self.tenant = tenant
        self._namespace = namespace
        self._clock = clock
        self._below: dict[str, set[str]] = {}
        self._known: dict[str, int] = {}
        self._keys: dict[tuple[str, str | None], str] = {}
        self._epoch: int | None = None
        self._trusted_until = float("-inf")
        self.used = False
        self.changes = 0
        self.everything = self._place("everything")
        self.epoch = self._place("epoch")
        self.channel = self._place("channel")

    def key(self, tag: str, tenant: str | None = None) -> str:
        """Where a tag's generation is kept: that of the cache's own tenant, or of one that runs name."""
        found = self._keys.get((tag, tenant))
        if found is None:
            found = self._place("tag", tag, tenant=tenant)
            if len(self._keys) < MOST_KNOWN:
                self._keys[tag, tenant] = found
        return found

    def user(self, user: str, tenant: str | None) -> str:
        """Where the generation of all that is a user's own is kept."""
        return self._place("user", user, tenant=tenant)

    def epochs(self, tenant: str | None) -> list[str]:
        """What processes ask for that have this tenant's answers: this cache's, and those whose own tenant it is."""
        return list(dict.fromkeys((self.epoch, self._place("epoch", tenant=tenant))))

    def all_of(self, tenant: str | None) -> str:
        """Where the generation of all that is a tenant's is kept."""
        return self.everything if tenant in (None, self.tenant) else self._place("everything", tenant=tenant)

    def depend(self, tag: str, on: Iterable[str]) -> None:
        """What carries `tag` goes with each of `on` too; raises `ConfigurationError` when that goes in a circle."""
        below = {*on}
        if tag in below or any(tag in self._closure((one,)) for one in below):
            raise ConfigurationError(f"tag {tag!r} would depend on itself")
        self._below.setdefault(tag, set()).update(below)

    def keys_of(self, tags: Iterable[str], tenant: str | None = None) -> list[str]:
        """Where the generations of tags, of all that they depend on, and of everything are kept.

        What runs of another tenant bring goes with that tenant's tags, and with those of the cache as well.
        """
        names = sorted(self._closure(tags))
        keys = [self.everything, *map(self.key, names)]
        if tenant not in (None, self.tenant):
            keys += [self.all_of(tenant), *(self.key(name, tenant) for name in names)]
        return keys

    def hold(self, generations: Mapping[str, int]) -> bool:
        """Whether all of these are what this process knows."""
        return generations.items() <= self._known.items()

    def known(self, keys: Sequence[str]) -> dict[str, int] | None:
        """What these are, if all are known."""
        found = {key: generation for key in keys if (generation := self._known.get(key)) is not None}
        return found if len(found) == len(keys) else None

    def changed_since(self, generations: Mapping[str, int]) -> bool:
        """Whether one of these is known to be another one now; not knowing says nothing."""
        known = self._known
        return any(known.get(key, generation) != generation for key, generation in generations.items())

    def names(self, keys: Iterable[str]) -> list[str | None]:
        """Of the tags whose generations are kept there; None for one that was not named in this process."""
        known = {key: tag for (tag, _), key in self._keys.items()} | {self.everything: EVERYTHING}
        return [known.get(key) for key in keys]

    def local(self, keys: Iterable[str]) -> dict[str, int]:
        """Generations of this process alone, where no level below could be asked."""
        return {key: self._known.setdefault(key, new_generation()) for key in keys}

    def changed(self, generations: Mapping[str, int]) -> None:
        """What this process itself changed is known here at once; the epoch is not, as in `heard`."""
        self.changes += 1
        self._known.update(generations)

    def heard(self, generations: Mapping[str, int]) -> None:
        """What another process says that it changed; what is not known here need not be learnt.

        The epoch is not taken from there: it would hide an earlier change that was not heard of.
        """
        known = self._known
        known.update((key, generation) for key, generation in generations.items() if key in known)

    @property
    def last_epoch(self) -> int | None:
        """The one that was seen last; where the level is away, that stays the truth until entries are too old."""
        return self._known.get(self.epoch) if self._epoch is None else self._epoch

    def trusted(self) -> bool:
        """Whether the epoch was asked for a moment ago; a clock that was set back makes it be asked for again."""
        self.used = True
        return 0 < self._trusted_until - self._clock() < LONGEST_TRUST_S

    def distrust(self) -> None:
        """Have the epoch asked for at the next look."""
        self._trusted_until = float("-inf")

    def saw_epoch(self, epoch: int | None, until: float | None = None) -> None:
        """Whenever it is another one, all that was known is forgotten; trusted `until` then, or for `TRUSTED_S`.

        A trust counts from when the epoch was asked for.
        """
        if epoch != self._epoch:
            self._known.clear()
            self._epoch = epoch
        until = self._clock() + TRUSTED_S if until is None else until
        if not 0 < self._trusted_until - until < LONGEST_TRUST_S:  # who asked ahead may have made it longer
            self._trusted_until = until

    def saw(self, generations: Mapping[str, int]) -> None:
        """Learn generations that the first level below has."""
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        self._known.update(generations)

    def _place(self, *name: str, tenant: str | None = None) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.tenant if tenant is None else tenant, self._namespace, *name):
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big") + data)
        return PREFIX + digest.hexdigest()

    def _closure(self, tags: Iterable[str]) -> set[str]:
        found = set[str]()
        waiting = list(tags)
        while waiting:
            tag = waiting.pop()
            if tag not in found:
                found.add(tag)
                waiting.extend(self._below.get(tag, ()))
        return found
