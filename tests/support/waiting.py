"""Waiting, on a loop, for what other tasks and threads do."""

from __future__ import annotations

import asyncio

from tests.support.models import DEADLINE_S

__all__ = ["all_wait", "until"]


async def until(condition) -> None:
    """Wait until something that another task or thread does has happened."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def all_wait(asked, tasks) -> None:
    """Until somebody has `asked`, and every task has come as far as it can."""
    await until(asked)
    for _ in range(200):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
