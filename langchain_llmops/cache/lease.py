"""One provider call for equal requests of several processes: who asks holds a lease, which ends when it does."""

from __future__ import annotations

import asyncio
import os
import secrets
from functools import partial
from typing import TYPE_CHECKING, Final

from langchain_llmops.cache.behind import Behind, at_exit

if TYPE_CHECKING:
    from langchain_llmops.cache.flight import Flight
    from langchain_llmops.cache.levels import Level

__all__ = ["FREE", "Leases"]

PREFIX: Final = "llmops:cache-lease:2:"
FREE: Final = b"-"
FREE_S: Final = 1.0
MOST_TRIES: Final = 3


class Leases:
    """Leases in the first level below memory, renewed while their holder works."""

    def __init__(self, level: Level, behind: Behind, lease_s: float) -> None:
        self._level = level
        self._behind = behind
        self._renewals = Behind(everywhere=True)  # they last as long as calls, and nobody waits for them
        self._lease_s = lease_s
        self._held: set[Flight] = set()
        self._pid = os.getpid()
        at_exit(self._end)

    async def take(self, flight: Flight, *, blocking: bool) -> bool:
        """Whether this process may ask the provider; without the level it may."""
        lease = secrets.token_hex(8).encode()
        taken = await self._claim(PREFIX + flight.key, lease, blocking=blocking)
        if taken is None:
            return True
        if taken:
            flight.lease = lease
            if self._pid != os.getpid():
                self._held, self._pid = set(), os.getpid()  # those of a parent are the parent's to end
            self._held.add(flight)
            self._renewals.do(partial(self._renew, flight), blocking=False)
        return taken

    async def _claim(self, key: str, lease: bytes, *, blocking: bool) -> bool | None:
        """A claim that was late is made again while others are answered: asking in vain costs more than waiting."""
        tries, taken, answers = 0, None, -1
        while taken is None and tries < MOST_TRIES and self._level.answers != answers:
            answers = self._level.answers
            taken = await self._level.claim(key, lease, self._lease_s, blocking=blocking)
            tries += 1
        if tries > 1 and taken is False:
            values = await self._level.read([key], blocking=blocking)
            return values is not None and values[0] == lease  # the first came through all the same
        return taken

    async def freed(self, key: str, *, blocking: bool) -> bool:
        """Whether the holder got an answer that may not be kept, so that all may ask, or nothing can be known of it.

        A level that was late once is no reason to ask: it is looked for again.
        """
        values = await self._level.read([PREFIX + key], blocking=blocking)
        return values[0] == FREE if values is not None else not self._level.usable(blocking=blocking)

    async def give_back(self, flight: Flight, *, unkept: bool, blocking: bool) -> None:
        """End a lease; `unkept` tells those who wait to ask for themselves."""
        lease, flight.lease = flight.lease, None
        self._held.discard(flight)
        if lease is None or await self._holder(flight, blocking=blocking) != lease:
            return  # who stalled for longer than a lease lasts must not end another's
        if unkept:
            await self._level.write({PREFIX + flight.key: FREE}, FREE_S, blocking=blocking)
        else:
            await self._level.remove(PREFIX + flight.key, blocking=blocking)

    def _end(self) -> None:
        """While the process ends: nobody is to wait for who no longer asks."""
        for flight in list(self._held) if self._pid == os.getpid() else ():
            if not flight.answered and not flight.leader.working():
                self._behind.do(partial(self.give_back, flight, unkept=False), blocking=False)

    async def _renew(self, flight: Flight, *, blocking: bool) -> None:
        """On the library's loop: for as long as the holder works; a holder that ended without a word loses it."""
        while flight.lease is not None:
            done = asyncio.wrap_future(flight.done)
            await asyncio.wait([done], timeout=self._lease_s / 3)
            lease = flight.lease
            if done.done() and flight.answered:
                return  # who brought the answer gives it back once that is written
            if done.done() or not flight.leader.working():
                unkept = done.done() and flight.done.result().unkept
                self._behind.do(partial(self.give_back, flight, unkept=unkept), blocking=blocking)
                return
            if lease is not None and not await self._keep(flight, lease, blocking=blocking):
                flight.lease = None
                self._held.discard(flight)

    async def _keep(self, flight: Flight, lease: bytes, *, blocking: bool) -> bool:
        """Make a lease last longer; False when another has it.

        It may end between the read and the write: then two processes ask, and the first to answer is believed.
        """
        key, holder = PREFIX + flight.key, await self._holder(flight, blocking=blocking)
        if holder == lease:
            await self._level.write({key: lease}, self._lease_s, blocking=blocking)
            return True
        return holder is None and await self._level.claim(key, lease, self._lease_s, blocking=blocking) is not False

    async def _holder(self, flight: Flight, *, blocking: bool) -> bytes | None:
        """Whose lease it is; None for nobody's, and when that cannot be told."""
        values = await self._level.read([PREFIX + flight.key], blocking=blocking)
        return None if values is None else values[0]
