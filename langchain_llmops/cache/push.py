"""What one process invalidates, told to all others at once; while that works, no caller has to ask for the epoch."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import weakref
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from langchain_llmops.cache.tags import read_generation
from langchain_llmops.core.concurrency import DOOR
from langchain_llmops.core.errors import LLMOpsError
from langchain_llmops.stores.base import Channels

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from langchain_llmops.cache.tags import Tags
    from langchain_llmops.stores.base import KeyValue, Line, Store

__all__ = ["Push"]

VERSION: Final = 1
MOST_KEYS: Final = 1000
LONGEST_MESSAGE: Final = 128 * 1024
LARGEST: Final = 2**63
BEAT_S, ALIVE_S = 0.08, 0.2
LINGER_BEATS: Final = 25  # without a look, before it is quiet
QUIET_S: Final = 60.0
CANCEL_S: Final = 0.1
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 5.0

_log = logging.getLogger(__name__)


class Push:
    """Tells other processes what this one invalidates, and hears what they do.

    Args:
        stores: the first level's; without the capability `Channels` nobody is told, and callers ask.
        bad: told of every message that is not ours, and of every one that could not be sent.
    """

    def __init__(
        self,
        tags: Tags,
        stores: tuple[Store | None, Store | None] = (None, None),
        *,
        clock: Callable[[], float],
        bad: Callable[[], None],
    ) -> None:
        self._tags = tags
        self._bad = bad
        self._channels, self._blocking = map(_channels, stores)
        self._listener: Listener | None = None
        if self._channels is not None and stores[0] is not None:
            self._listener = Listener(tags, self._channels, stores[0].kv, clock=clock, bad=bad)

    async def tell(self, changed: Mapping[str, int], *, blocking: bool) -> None:
        """Tell the others; it never raises, as they find out by asking too."""
        channels = self._blocking if blocking else self._channels
        if channels is not None and len(changed) <= MOST_KEYS:
            try:
                await channels.publish(self._tags.channel, json.dumps({"v": VERSION, "changed": {**changed}}).encode())
            except LLMOpsError as error:
                self._bad()
                _log.info("other processes were not told what is invalid, and have to ask: %s", error)

    def wake(self) -> None:
        """A caller had to ask."""
        if self._listener is not None:
            self._listener.wake()

    async def aclose(self) -> None:
        """End the listener; a caller that has to ask starts it again."""
        if self._listener is not None:
            await DOOR.cross(self._listener.down())


class Listener:
    """One connection that hears what others invalidate, on the library's own loop.

    Callers ask for the epoch (see `Tags`) whenever nobody did a moment ago. While entries are looked at, the listener
    asks ahead of them, and pings its own connection: what it hears only makes things faster, and nothing depends on
    it. It starts when a caller had to ask, is quiet when nobody looks, and ends after a minute of that.
    """

    def __init__(
        self,
        tags: Tags,
        channels: Channels,
        kv: KeyValue,
        *,
        clock: Callable[[], float],
        bad: Callable[[], None],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._tags = tags
        self._channels = channels
        self._kv = kv
        self._clock = clock
        self._bad = bad
        self._chance = chance
        self._task: asyncio.Task[None] | None = None
        self._waking = False
        self._needed = asyncio.Event()
        self._pause_s = FIRST_PAUSE_S
        self._inherited: list[asyncio.Task[None] | None] = []
        forked = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: (begin := forked()) and begin())

    def wake(self) -> None:
        """A caller had to ask: from now on the listener does, until nobody looks any more."""
        if not self._waking:
            self._waking = True
            DOOR.loop().call_soon_threadsafe(self._up, context=Context())

    def _after_fork(self) -> None:
        """The parent's task is kept, as collecting it would complain; its connection is the parent's."""
        self._inherited.append(self._task)
        self._task, self._waking, self._needed = None, False, asyncio.Event()
        self._tags.distrust()

    # all below on the library's own loop

    def _up(self) -> None:
        self._waking = False
        self._needed.set()
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._live(), name="llmops-cache-push")

    async def down(self) -> None:
        """End."""
        await asyncio.sleep(0)  # a wake that came before this
        while self._task is not None and not self._task.done():
            self._task.cancel()  # which may be lost, as in `asyncio.wait_for` before Python 3.12
            await asyncio.wait([self._task], timeout=CANCEL_S)

    async def _live(self) -> None:
        while await self._lost():
            self._tags.used = False
            await asyncio.sleep(self._pause_s * (0.5 + self._chance() / 2))
            self._pause_s = min(self._pause_s * 2, LONGEST_PAUSE_S)
            if not self._tags.used and not await self._wanted():
                return

    async def _lost(self) -> bool:
        """Listen; whether the connection was lost, rather than needed no more."""
        try:
            await self._listen()
        except* (LLMOpsError, TimeoutError) as lost:
            _log.debug("callers ask what is invalid, as nobody listens: %s", lost.exceptions[0])
        else:
            return False
        finally:
            self._tags.distrust()
        return True

    async def _listen(self) -> None:
        """Over one connection; until it is lost, or nobody has looked for long."""
        async with self._channels.listen(self._tags.channel) as line, asyncio.TaskGroup() as tasks:
            answered = asyncio.Event()
            hearing = tasks.create_task(self._hear(line, answered))
            unused = 0
            while unused < LINGER_BEATS or await self._wanted():
                unused = 0 if self._tags.used or unused >= LINGER_BEATS else unused + 1
                self._tags.used = False
                await self._beat(line, answered)
                await asyncio.sleep(BEAT_S)
            hearing.cancel()

    async def _wanted(self) -> bool:
        """Wait for a caller that had to ask."""
        self._needed.clear()
        try:
            async with asyncio.timeout(QUIET_S):
                return await self._needed.wait()
        except TimeoutError:
            return False

    async def _beat(self, line: Line, answered: asyncio.Event) -> None:
        """Subscribed first and asked then, so that no invalidation falls between the two."""
        asked_at = self._clock()
        answered.clear()
        async with asyncio.timeout(ALIVE_S):
            await line.ping()
            value = await self._kv.get(self._tags.epoch)
        async with asyncio.timeout(ALIVE_S):
            await answered.wait()
        epoch = None if value is None else read_generation(value)
        if value is not None and epoch is None:
            self._bad()
        self._tags.saw_epoch(epoch, asked_at + ALIVE_S)
        self._pause_s = FIRST_PAUSE_S

    async def _hear(self, line: Line, answered: asyncio.Event) -> None:
        while True:
            message = await line.receive()
            if message is None:
                answered.set()
            elif (changed := _read(message)) is None:
                self._bad()
            else:
                self._tags.heard(changed)


def _channels(store: object) -> Channels | None:
    return store if isinstance(store, Channels) else None


def _read(message: bytes) -> dict[str, int] | None:
    """What a message says is changed; None for one that is not ours."""
    try:
        read: Any = json.loads(message) if len(message) <= LONGEST_MESSAGE else None
    except (ValueError, RecursionError):
        return None
    changed = read.get("changed") if isinstance(read, dict) and read.get("v") == VERSION else None
    if not isinstance(changed, dict) or len(changed) > MOST_KEYS:
        return None
    return changed if all(type(one) is int and 0 <= one < LARGEST for one in changed.values()) else None
