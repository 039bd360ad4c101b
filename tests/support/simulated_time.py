"""Hours of traffic in seconds: coroutines that sleep on a clock which jumps to whatever is due next."""

from __future__ import annotations

import asyncio
import heapq
import itertools

__all__ = ["SimulatedTime"]


class SimulatedTime:
    """Seconds that pass as fast as everything that is due has run."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, asyncio.Future[None]]] = []
        self._order = itertools.count()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        future = asyncio.get_running_loop().create_future()
        heapq.heappush(self._due, (self.now + seconds, next(self._order), future))
        await future

    async def run(self) -> None:
        """Until nobody sleeps any more."""
        await self._settle()
        while self._due:
            self.now, _, future = heapq.heappop(self._due)
            if not future.done():
                future.set_result(None)
                await self._settle()

    async def _settle(self) -> None:
        for _ in range(6):
            await asyncio.sleep(0)
